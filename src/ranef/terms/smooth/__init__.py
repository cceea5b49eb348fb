"""Smooth terms: Gaussian processes, gp(), and penalized splines, s()."""
