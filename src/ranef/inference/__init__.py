"""Methods of inference, one a file."""
