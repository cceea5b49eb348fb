"""Saving fits to files and loading them."""
