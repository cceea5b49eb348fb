"""Terms of the predictor, one a file."""
