"""Block coordinate ascent: networks and matrix factors, with the linear terms in closed form."""
