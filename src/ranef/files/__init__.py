"""The archive format of saved fits, and atomic writing of files."""
