"""The second page of the Zillow study: models of small simulated tables."""
