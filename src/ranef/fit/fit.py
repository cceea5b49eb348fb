"""`Fit`: the posterior of a model given a table, with its summaries, checks and predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from ranef import extras
from ranef.errors import OptionError, suggestion
from ranef.files.atomic_write import StrPath
from ranef.fit.criticism import Criticism
from ranef.fit.predictions import Predictions
from ranef.fit.refits import Refits
from ranef.fit.residuals import Residuals
from ranef.fit.tables import Tables
from ranef.storage import fit_file
from ranef.terms.nn import variables

if TYPE_CHECKING:
    import keras

# Fields that a saved file does not hold as plain values: `fit_file` encodes the first three by
# itself, and the cache is not saved.
_PARTS = ("program", "training", "draws", "_cache")


class Fit(Tables, Predictions, Residuals, Criticism, Refits):
    """A fitted model: the posterior given a table. Made by `Model.fit` and `ranef.load`.

    Attributes:
        program: the model.
        training: the training rows, and what was learned from them before the fit, such as
            levels, column means and default priors.
        draws: the result of the method: posterior draws, point estimates and diagnostics.
        method: the name of the method: "exact", "laplace", "svi" or "nuts".
        why: why this method was used.
        seconds: how long the fit took, in seconds.
    """

    def report(self, path: StrPath) -> Path:
        """Write a report on this fit as one self-contained HTML page.

        The report begins with a sentence for each effect, with its 95% interval, and with the
        verdict of `check`. Data and dropped rows, checks of the model, figures of `rf.plots` with
        notes on how to read them, all parameters (and which of them are point estimates), and at
        last formula, equations, priors and method follow.

        Args:
            path: where to write the page.

        Returns:
            The path of the page.

        Raises:
            FileError: if the file cannot be written.
            PackageError: if a package of the extra `ranef[plots]` is not installed.
        """
        extras.require("fit.report()", *extras.REPORT)
        # Imported here because matplotlib and arviz-plots take seconds to load.
        from ranef import report

        return report.write(self, path)

    def save(self, path: StrPath) -> Path:
        """Write the fit to one file, which `ranef.load` reads.

        The file holds the model, the draws, and the training rows (of the columns that the model
        uses) with their index, so that a loaded fit gives the same results bit for bit. If the
        fit has read its rows in batches, the file holds the sample of rows that it has kept.

        An existing file is replaced only once the new one is complete, and keeps its permissions.
        If `path` is a symbolic link, the file that it leads to is replaced and the link stays.

        Args:
            path: where to write the file.

        Returns:
            The path of the file.

        Raises:
            OptionError: for a network with a layer of a kind that cannot be saved; Keras's
                common layers can.
            FileError: if the file cannot be written.
        """
        return fit_file.write(path, self.program, self.training, self.draws, self._record())

    def __reduce__(self) -> tuple[Callable[[bytes], Fit], tuple[bytes]]:
        """Copies and pickles hold the bytes of the file that `save` writes."""
        packed = fit_file.pack(self.program, self.training, self.draws, self._record())
        return _unpacked, (packed,)

    def _record(self) -> dict[str, object]:
        """The fields that a file holds as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _PARTS}

    def network(self, name: str) -> keras.Model:
        """The Keras network of that name, with the weights of this fit.

        This is the object that was passed to `Model` (or, for a loaded fit, the one read from the
        file). It therefore holds the weights of one fit at a time, and calling this method sets
        them to those of this fit. Weights with a posterior are set to their means: those of the
        last layer with weights="last". With weights="full" the weights are set to the point
        estimates around which the network is linearized.

        The inputs of the network are the arguments of nn(), with levels as their codes. If the
        network ends with a Dense layer without activation, its output is the nn() term of the
        linear predictor. Otherwise the term is the output times s / max(1, sd), where sd is
        that of the outputs before the fit and s the scale of the predictor on which default
        priors are based, such as the sd of a Gaussian response. If the outputs were already on
        that scale before the fit, the term is the output itself.

        Args:
            name: the name in nn(..., net=name).

        Returns:
            The Keras model.

        Raises:
            OptionError: if the formula has no network of that name.
        """
        network, weights = self._trained(name)
        variables.assign(network, weights)
        return network

    def _trained(self, name: str) -> tuple[keras.Model, Mapping[str, NDArray]]:
        """The network of that name, and the weights of this fit, which it may not hold now."""
        for _, term in self.program.all_terms():
            if term.call.options.get("net") == name and name is not None:
                return self.program.trained(self.training, self.draws)[term.label]
        hint = suggestion(str(name), self.program.networks)
        raise OptionError(f"the formula has no network {name!r} by net=; {hint}")


def load(path: StrPath) -> Fit:
    """Load a fit that `Fit.save` has written. No code from the file is executed.

    Args:
        path: path of the file.

    Returns:
        The fit, which gives the same results as the one that was saved.

    Raises:
        FileError: if the file does not exist, is not a saved fit, is damaged, or was written by a
            newer version.
    """
    kept = fit_file.read(path)
    try:
        return Fit(**kept)
    except TypeError as error:
        raise fit_file.damaged(path, str(error)) from None


def _unpacked(packed: bytes) -> Fit:
    """The fit that a copy or a pickle holds."""
    return Fit(**fit_file.unpack(packed))


def restore_networks(fit: Fit) -> None:
    """Sets the networks of the user's model to the weights of a fit."""
    for name in fit.program.networks:
        variables.assign(*fit._trained(name))
