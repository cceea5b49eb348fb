"""Parts of the method NUTS: chains, coordinates and target densities."""
