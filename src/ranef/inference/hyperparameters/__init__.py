"""Sampling the posterior of hyperparameters: scales, correlations and family parameters."""
