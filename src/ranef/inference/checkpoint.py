"""Checkpoints: files from which an interrupted search resumes."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.errors import FileError, OptionError
from ranef.files import archive
from ranef.files.atomic_write import refuse_special
from ranef.lazy import ArrayLike, jax
from ranef.program.problem import Problem

Tree = TypeVar("Tree")

# Minimal seconds between two writes.
_EVERY = 2.0
# Minimal time between two writes, as a multiple of the time that the last write took.
_SHARE = 20.0


class Checkpoint:
    """The checkpoint file of one search.

    Args:
        path: path of the file. With None nothing is read or written.
        belongs: fingerprint of the search, from `belongs_to`.
    """

    def __init__(self, path: str | Path | None, belongs: str) -> None:
        self.path = None if path is None else Path(path)
        self.belongs = belongs
        self._next = 0.0

    def load(self) -> dict[str, NDArray] | None:
        """The arrays that were written last, by name; None if there is no file.

        Raises:
            FileError: for a file that cannot be read or belongs to another search.
        """
        if self.path is None or not os.path.exists(self.path):
            return None
        refuse_special(self.path)
        try:
            content, arrays = archive.read(self.path)
        except FileError:
            raise FileError(
                f"{str(self.path)!r} is not a checkpoint, or is damaged; name another, or "
                "delete it, to start the fit anew"
            ) from None
        if content.get("belongs") != self.belongs:
            raise FileError(
                f"the checkpoint {str(self.path)!r} is of another fit: data, formula, priors, "
                "seed, options or versions differ; delete it, or name another, to start anew"
            )
        return arrays

    def offer(self, arrays: Mapping[str, ArrayLike]) -> None:
        """Writes the arrays, unless the last write was a short time ago.

        Args:
            arrays: the state of the search, by name.

        Raises:
            FileError: if the file cannot be written.
        """
        if self.path is None or time.monotonic() < self._next:
            return
        began = time.monotonic()
        whole = {name: np.asarray(value, order="C") for name, value in arrays.items()}
        archive.write(self.path, {"belongs": self.belongs, "versions": archive.versions()}, whole)
        now = time.monotonic()
        self._next = now + max(_EVERY, _SHARE * (now - began))


def flat(prefix: str, tree: object) -> dict[str, NDArray]:
    """The leaves of a tree as arrays, named "prefix/0", "prefix/1", ..."""
    leaves = jax.tree.leaves(tree)
    return {f"{prefix}/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}


def filled(prefix: str, like: Tree, arrays: Mapping[str, NDArray]) -> Tree:
    """A tree with the structure of `like`, from arrays named by `flat`."""
    leaves, form = jax.tree.flatten(like)
    found = [jax.numpy.asarray(arrays[f"{prefix}/{i}"]) for i in range(len(leaves))]
    return jax.tree.unflatten(form, found)


def belongs_to(problem: Problem, settings: Mapping[str, object], seed: int, moments: object) -> str:
    """A fingerprint (SHA-256) of a search: its rows, terms, priors, options, seed and versions.

    Args:
        problem: the model and its rows.
        settings: options of the method.
        seed: seed of the search.
        moments: state of the optimizer, whose structure identifies the optimizer.

    Returns:
        The fingerprint; "" if `settings` has no checkpoint.
    """
    if settings["checkpoint"] is None:
        return ""
    fingerprint = hashlib.sha256()
    plain = {
        name: str(v) for name, v in settings.items() if name not in ("checkpoint", "optimizer")
    }
    what = {
        "settings": plain,
        "optimizer": str(jax.tree.structure(moments)),
        "seed": seed,
        "rows": problem.n,
        "family": problem.family_name,
        "terms": dict(problem.predicts),
        "priors": {name: str(prior) for name, prior in problem.priors.items()},
        "versions": archive.versions(),
    }
    fingerprint.update(json.dumps(what, sort_keys=True).encode())
    for leaf in jax.tree.leaves(problem.data):
        fingerprint.update(np.ascontiguousarray(leaf).tobytes())
    return fingerprint.hexdigest()


def refuse_odd_path(path: object) -> None:
    """Checks that the option `checkpoint` is a path or None.

    Raises:
        OptionError: for anything else.
    """
    if path is not None and not isinstance(path, (str, Path)):
        raise OptionError(f"checkpoint must be a path, not {path!r:.60}")
