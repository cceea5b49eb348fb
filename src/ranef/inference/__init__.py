"""Methods of inference, one per file, and the algorithms that they use, one per folder."""
