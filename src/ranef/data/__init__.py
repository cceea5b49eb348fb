"""Tables and files read as columns of numbers and levels, with missing values dropped."""
