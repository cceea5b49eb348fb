"""Block coordinate ascent: networks by minibatches, the linear rest in closed form."""
