"""Data sets: preparation of published data, and generators."""

from importlib import import_module
from types import ModuleType

# Modules by their former names, which can still be imported.
_EARLIER = {
    "beyond_tables": "ranef.datasets.beyond.tables",
    "zillow_generator": "ranef.datasets.zillow.generator",
}


def __getattr__(name: str) -> ModuleType:
    if name in _EARLIER:
        return import_module(_EARLIER[name])
    raise AttributeError(f"module 'ranef.datasets' has no attribute {name!r}")
