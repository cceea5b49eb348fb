"""Sampling the posterior of scales, correlations and the like."""
