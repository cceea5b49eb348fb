"""Data sets: preparation of published ones and generators."""
