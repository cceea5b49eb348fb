"""Imports Keras with the backend JAX, when a formula first has a network."""

import os
import sys
from types import ModuleType

from ranef.errors import BackendError
from ranef.extras import require


def keras_on_jax() -> ModuleType:
    """Import Keras and return the module.

    Raises:
        PackageError: if Keras is not installed.
        BackendError: if Keras has, or is configured to have, another backend than JAX.
    """
    require("nn()", "keras")
    chosen = os.environ.get("KERAS_BACKEND", "jax")
    if "keras" not in sys.modules and chosen != "jax":
        raise BackendError(
            f"KERAS_BACKEND is {chosen!r} and nn() needs 'jax'; set KERAS_BACKEND=jax before Keras "
            "is first imported"
        )
    import keras

    if keras.backend.backend() != "jax":
        raise BackendError(
            f"Keras was already imported with the backend {keras.backend.backend()!r} and nn() "
            "needs 'jax'; set KERAS_BACKEND=jax, or import ranef, before Keras is first imported"
        )
    return keras
