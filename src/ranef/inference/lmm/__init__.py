"""Gaussian linear mixed models, coefficients integrated out."""
