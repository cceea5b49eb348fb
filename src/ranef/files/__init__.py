"""Files as such: archives, and writing whole files."""
