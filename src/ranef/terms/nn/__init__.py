"""The term nn(), a Keras network as a summand of the predictor."""
