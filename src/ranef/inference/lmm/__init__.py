"""Gaussian linear mixed models, with the coefficients integrated out in closed form."""
