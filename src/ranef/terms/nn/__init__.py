"""The term nn(): a Keras network in the predictor."""
