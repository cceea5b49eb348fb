"""Penalized weighted least squares with nested and crossed groupings."""
