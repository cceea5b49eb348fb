"""What the NUTS method runs: chains, parametrizations, target densities."""
