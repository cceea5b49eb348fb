"""Large libraries, each imported when an attribute of it is first asked for.

A Gaussian mixed model needs none of them, and importing them takes several times as long as its
fit. Every module takes them from here, as in ``from ranef.lazy import Array, jax, jnp``. Importing
a module then loads them only where it uses one at its top level.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    import arviz_base
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    import optax
    import xarray as xr
    from jax import Array
    from jax.flatten_util import ravel_pytree
    from jax.scipy import special as jsp
    from jax.typing import ArrayLike
    from numpyro.distributions import constraints
    from numpyro.infer.util import log_density
    from numpyro.primitives import mutable
    from scipy import interpolate, optimize, stats

__all__ = [
    "Array",
    "ArrayLike",
    "arviz_base",
    "constraints",
    "dist",
    "interpolate",
    "jax",
    "jnp",
    "jsp",
    "lazily",
    "log_density",
    "mutable",
    "numpyro",
    "optax",
    "optimize",
    "pytree",
    "ravel_pytree",
    "stats",
    "xr",
]

_Class = TypeVar("_Class", bound=type)
_Function = TypeVar("_Function", bound=Callable[..., object])


class LazyModule(ModuleType):
    """Stands for a module until an attribute of it is asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __getattr__(self, attribute: str) -> object:
        module = import_module(self.name)
        register_pytrees()
        value = getattr(module, attribute)
        # From now on the attribute is found without coming here.
        setattr(self, attribute, value)
        return value

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        return import_module, (self.name,)


@dataclass(frozen=True)
class LazyFunction:
    """Stands for a function of a module until it is called."""

    module: str
    name: str

    def __call__(self, *args: object, **kwargs: object) -> object:
        module = import_module(self.module)
        register_pytrees()
        return getattr(module, self.name)(*args, **kwargs)


class _ArrayType(type):
    """What is a `jax.Array` can be asked, and answered, before JAX is loaded."""

    def __instancecheck__(cls, instance: object) -> bool:
        loaded = sys.modules.get("jax")
        return loaded is not None and isinstance(instance, loaded.Array)


def lazily(transform: Callable[[Any], Any]) -> Callable[[_Function], _Function]:
    """Decorates a function with a transformation of JAX that is applied at its first call.

    Args:
        transform: such as ``lambda f: jax.jit(f, static_argnums=0)``.
    """

    def wait(function: _Function) -> _Function:
        built = cache(lambda: transform(function))

        @wraps(function)
        def call(*args: object, **kwargs: object) -> object:
            return built()(*args, **kwargs)

        return cast(_Function, call)

    return wait


@dataclass
class _Pytrees:
    """Dataclasses that are registered with JAX once it is loaded."""

    waiting: list[tuple[type, list[str], list[str]]] = field(default_factory=list)


_PYTREES = _Pytrees()


def pytree(data: list[str], meta: list[str]) -> Callable[[_Class], _Class]:
    """Makes a dataclass a JAX pytree, as ``jax.tree_util.register_dataclass`` does.

    Args:
        data: fields that hold arrays.
        meta: fields that are part of the structure.
    """

    def wait(cls: _Class) -> _Class:
        _PYTREES.waiting.append((cls, data, meta))
        if "jax" in sys.modules:
            register_pytrees()
        return cls

    return wait


def register_pytrees() -> None:
    """Register the dataclasses that wait for JAX with it, if it is loaded."""
    if "jax" not in sys.modules:
        return
    from jax.tree_util import register_dataclass

    while _PYTREES.waiting:
        cls, data, meta = _PYTREES.waiting.pop()
        register_dataclass(cls, data_fields=data, meta_fields=meta)


if not TYPE_CHECKING:

    class Array(metaclass=_ArrayType):
        """`jax.Array` in annotations, without JAX."""

    # What JAX's functions take: an array of either library or a number.
    ArrayLike = Array | np.ndarray | np.generic | complex | float | int | bool

    jax = LazyModule("jax")
    jnp = LazyModule("jax.numpy")
    jsp = LazyModule("jax.scipy.special")
    numpyro = LazyModule("numpyro")
    dist = LazyModule("numpyro.distributions")
    constraints = LazyModule("numpyro.distributions.constraints")
    optax = LazyModule("optax")
    interpolate = LazyModule("scipy.interpolate")
    optimize = LazyModule("scipy.optimize")
    stats = LazyModule("scipy.stats")
    xr = LazyModule("xarray")
    arviz_base = LazyModule("arviz_base")
    ravel_pytree = LazyFunction("jax.flatten_util", "ravel_pytree")
    log_density = LazyFunction("numpyro.infer.util", "log_density")
    mutable = LazyFunction("numpyro.primitives", "mutable")
