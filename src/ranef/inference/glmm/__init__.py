"""Generalized linear mixed models: Gaussian approximations of the effects."""
