"""Terms, family and priors as one NumPyro program, and what it learns from rows."""
