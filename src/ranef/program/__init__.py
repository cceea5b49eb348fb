"""The model as one NumPyro program, and its preprocessing of the training rows."""
