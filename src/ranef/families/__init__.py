"""Response distributions, one a file."""
