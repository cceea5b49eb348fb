"""Optional packages: which extra of ranef installs them, and the error where one is missing."""

import sys
from importlib.util import find_spec

from ranef.errors import PackageError

# Each optional package by the name of its module: what messages call it, and its extra.
PACKAGES = {
    "keras": ("Keras", "networks"),
    "matplotlib": ("matplotlib", "plots"),
    "arviz_plots": ("arviz-plots", "plots"),
    "jinja2": ("Jinja2", "plots"),
    "great_tables": ("great_tables", "tables"),
    "sklearn": ("scikit-learn", "sklearn"),
    "shtab": ("shtab", "completion"),
}
# What a report needs.
REPORT = ("matplotlib", "arviz_plots", "jinja2")


def require(what: str, *modules: str) -> None:
    """Refuse what needs optional packages, unless they are installed; none of them is imported.

    Args:
        what: the term, method or command that needs them, as messages call it.
        modules: names in `PACKAGES`.

    Raises:
        PackageError: naming the missing packages and the extras that install them.
    """
    missing = [module for module in modules if not _is_installed(module)]
    if not missing:
        return
    names = [PACKAGES[module][0] for module in missing]
    listed = " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])
    extras = ",".join(sorted({PACKAGES[module][1] for module in missing}))
    are, them = ("is", "it") if len(names) == 1 else ("are", "them")
    raise PackageError(
        f"{what} needs {listed}, which {are} not installed; install {them} with "
        f"pip install 'ranef[{extras}]'",
        name=missing[0],
    )


def _is_installed(module: str) -> bool:
    """Whether a module is loaded or can be found."""
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except ImportError:  # raised by a finder that blocks the module
        return False
