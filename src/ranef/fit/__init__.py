"""What a user holds after a fit: `Fit`, and `load`, which reads a saved one."""

from ranef.fit.fit import Fit, load, restore_networks

__all__ = ["Fit", "load", "restore_networks"]
