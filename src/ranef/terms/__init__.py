"""Terms of the predictor, one per file, and the blocks that inference methods see."""
