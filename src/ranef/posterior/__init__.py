"""From draws to named variables, predictions, LOO, imputations and groups."""
