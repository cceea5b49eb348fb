"""What is computed from posterior draws: variables, predictions, LOO, imputations and checks."""
