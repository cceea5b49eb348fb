"""Formulas: parsing of their text, evaluation of their expressions and model matrices."""
