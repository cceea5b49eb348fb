"""Smooth terms: gp() and s()."""
