"""The second page of the Zillow study: small generated tables."""
