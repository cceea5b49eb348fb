"""Automatic differentiation variational inference (Kucukelbir et al., 2017)."""
