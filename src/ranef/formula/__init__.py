"""From the text of a formula to terms, expressions and the model matrix."""
