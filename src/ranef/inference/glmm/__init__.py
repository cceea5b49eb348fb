"""Generalized linear mixed models: Gaussian approximation of the coefficients."""
