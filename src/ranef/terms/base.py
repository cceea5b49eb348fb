"""Base classes of the terms of a predictor: `Term`, its `Design`, and `LinearTerm`.

To add a term, write a class with the methods below in a file of its own under ``terms/``, and add a
line to ``registry.TERMS``. A term that is linear in coefficients with a Gaussian prior derives from
`LinearTerm`; every inference method supports it then. What only some terms do is a capability
(``terms/capabilities.py``).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.formula.equation import Summand
from ranef.formula.term_call import TermCall
from ranef.lazy import Array, pytree
from ranef.numerics.shapes import Float
from ranef.priors import Prior
from ranef.terms.blocks import AnyArray, LinearBlock

ScanT = TypeVar("ScanT")
StateT = TypeVar("StateT")


@pytree(data=["arrays"], meta=["new"])
@dataclass(frozen=True)
class Design:
    """The data of a term on some rows.

    Attributes:
        arrays: arrays by name. Each has the rows as its leading axis, so that a minibatch is
            ``jax.tree.map(lambda a: a[rows], design)``.
        new: for each grouping, in the order of `VariesByLevel.level_sites`, the levels that are
            not in the training rows. Their codes follow those of the known levels.
    """

    arrays: Mapping[str, Any]
    new: tuple[tuple[str, ...], ...] = ()

    def unseen(self, place: int = 0) -> int:
        """Number of levels of a grouping that are not in the training rows."""
        return len(self.new[place]) if self.new else 0


@dataclass(frozen=True)
class Parameter:
    """A parameter that takes a prior.

    Attributes:
        prior: its default prior.
        support: its support: "real", "positive", "unit", "ordered" or "correlation".
        alias: a further name, such as "common", under which users may set its prior together with
            others; "" for none.
        size: its number of elements.
    """

    prior: Prior
    support: str = "real"
    alias: str = ""
    size: int = 1


@dataclass(frozen=True)
class Variable:
    """A variable of the posterior.

    Attributes:
        role: "common" (a common or fixed effect), "group" (one value per level, the level of a row
            being in the array ``codes`` of the design), "sd", "correlation", "family" (a parameter
            of the response distribution), "scale" (a scale of weights, or a length scale) or
            "weight" (weights of a network or basis, which summaries leave out as they do levels).
        dims: names of its dimensions beyond chain and draw.
        coords: coordinates along each dimension.
        factor: the grouping it belongs to; "" for none.
        title: its name in tables, as the formula writes it; "" where that is its own name.
    """

    role: str = "common"
    dims: tuple[str, ...] = ()
    coords: tuple[tuple[str, ...], ...] = ()
    factor: str = ""
    title: str = ""

    def elements(self, name: str) -> list[tuple[str, int]]:
        """Label, such as `f[b]`, and flat index of each element.

        Of a correlation matrix only the elements above the diagonal are listed.
        """
        name = self.title or name
        if not self.coords:
            return [(name, 0)]
        out = []
        for flat, index in enumerate(np.ndindex(*(len(coord) for coord in self.coords))):
            if self.role == "correlation" and index[0] >= index[1]:
                continue
            labels = (coord[i] for coord, i in zip(self.coords, index, strict=True))
            out.append((f"{name}[{', '.join(labels)}]", flat))
        return out


@dataclass(frozen=True)
class LevelSites:
    """The sites of a term that vary by the levels of one grouping.

    Attributes:
        sites: the sites with one value for each known level.
        levels: number of known levels.
        new: site of the standard normal variables, (u, width), from which the effects of u new
            levels are computed.
        width: number of effects of a level.
        codes: name of the array of the design that holds the level of each row.
    """

    sites: tuple[str, ...]
    levels: int
    new: str
    width: int
    codes: str = "codes"


@dataclass(frozen=True)
class RunOptions:
    """Options of one run of the program.

    Attributes:
        training: whether networks run in training mode, with dropout and updates of batch-norm
            statistics.
        new_levels: "sample" draws the coefficients of a new level from their prior, "zero" sets
            them to zero. (The option "error" is handled before the program runs.)
        rows: number of rows that the minibatch stands for.
        made: outputs of networks that several terms share, by site, cached for this run.
    """

    training: bool = True
    new_levels: str = "sample"
    rows: int = 1
    made: dict[str, Array] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Run(Generic[StateT]):
    """What a term gets to know in one run of the NumPyro program.

    Attributes:
        state: state of the term.
        design: the rows.
        priors: prior of every parameter of the program, by name.
        scale: location and sd of the predictor, for starting values and step sizes.
        options: options of the run.
    """

    state: StateT
    design: Design
    priors: Mapping[str, Prior]
    scale: Scale
    options: RunOptions = field(default_factory=RunOptions)


# Suffix of the sds and correlations of group effects in centred coordinates, on which their default
# priors are set.
CENTRED = "/centred"


class Term(ABC, Generic[ScanT, StateT]):
    """One summand of a predictor, with the methods that every term has.

    Before a fit its methods are called in this order: `scan` on each batch of training rows,
    `finish`, and `parameters` for the default priors. `eta` then runs within the NumPyro program.
    What is learned is passed around as `state`; the term itself is not changed by it. What some
    terms do beside this, such as measuring columns, is in ``terms/capabilities.py``.

    Args:
        call: the term as parsed from the formula.
        prefix: prefix of its names, "" for the location and "sigma_" for sigma.
        networks: Keras models by name.
        main: whether the first part of the formula is about the parameter that the term predicts.

    Attributes:
        takes_factors: whether its arguments may be factors, as in nn(C(x)), which it codes itself.
        adds_lines: whether its arguments are common effects too, and the term is the deviation
            from these lines.
        models_column: whether it takes one column and may be the left-hand side of a further part
            of the formula, as in mi(x) ~ z. That part is the model of the column; its family is
            gaussian unless an option names another.
        label: unique name of the term, its prefix followed by the text of the formula.
    """

    takes_factors: ClassVar[bool] = False
    adds_lines: ClassVar[bool] = False
    models_column: ClassVar[bool] = False

    def __init__(
        self,
        call: TermCall,
        prefix: str = "",
        networks: Mapping[str, object] | None = None,
        *,
        main: bool = True,
    ) -> None:
        self.call = call
        self.prefix = prefix
        self.main = main
        self.networks = networks or {}
        self.label = prefix + call.label

    @abstractmethod
    def needs(self) -> dict[str, str]:
        """Columns that it reads, each with its use.

        A use is "number", "level", "date", "any" (as the type of the column says), or "gaps" (a
        number whose missing values are kept).
        """

    @abstractmethod
    def scan(self, accumulator: ScanT | None, frame: Frame) -> ScanT:
        """Accumulate one batch of training rows; `accumulator` is None for the first."""

    @abstractmethod
    def finish(self, accumulator: ScanT) -> StateT:
        """The state that the term has learned from all batches that were scanned."""

    @abstractmethod
    def design(self, state: StateT, frame: Frame) -> Design:
        """The data of the term on the rows of `frame`, training or new."""

    def parameters(self, state: StateT, scale: Scale) -> dict[str, Parameter]:
        """Parameters that take a prior, with weakly informative defaults.

        Args:
            state: state of the term.
            scale: location and sd of the predictor.
        """
        return {}

    @abstractmethod
    def eta(self, run: Run[StateT]) -> Float[Array, "n"]:
        """Sample the sites of the term within a NumPyro program and return its eta."""

    def linear_block(self, run: Run[StateT]) -> LinearBlock | None:
        """The term as a linear block, within a NumPyro program; None if it is not linear."""
        return None

    def structure(
        self, state: StateT, design: Design, priors_: Mapping[str, Prior]
    ) -> LinearBlock | None:
        """The linear block at unit scales and without correlations, in NumPy, so uncompiled.

        A known part of the predictor is a column whose coefficient has variance zero.

        Args:
            state: state of the term.
            design: the rows.
            priors_: prior of every parameter, by name.

        Returns:
            The block, or None for a term that is not linear.
        """
        return None

    def variables(self, state: StateT) -> dict[str, Variable]:
        """Variables that the term contributes to the posterior, by name."""
        return {}

    def equation(self, state: StateT) -> Summand:
        """The term in mathematical notation, with the distributions of its effects."""
        return Summand((self.call.label,))


class LinearTerm(Term[ScanT, StateT]):
    """A term that is linear in its coefficients, with a Gaussian prior given hyperparameters.

    A subclass implements `hyperparameters`, `block` and `coefficients`; the other methods of the
    term follow from these.
    """

    @abstractmethod
    def hyperparameters(
        self, state: StateT, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        """Sample the scales and correlations within a NumPyro program, by name."""

    @abstractmethod
    def block(
        self,
        state: StateT,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, AnyArray],
    ) -> LinearBlock:
        """The columns, and the prior of the coefficients given the hyperparameters."""

    @abstractmethod
    def coefficients(self, run: Run[StateT], block: LinearBlock) -> Float[Array, "*levels k"]:
        """Sample the coefficients, (k,) or (levels, k), within a NumPyro program."""

    def structure(
        self, state: StateT, design: Design, priors_: Mapping[str, Prior]
    ) -> LinearBlock | None:
        return self.block(state, design, priors_, {})

    def linear_block(self, run: Run[StateT]) -> LinearBlock:
        hyperparameters = self.hyperparameters(run.state, run.priors, run.scale)
        return self.block(run.state, run.design, run.priors, hyperparameters)

    def eta(self, run: Run[StateT]) -> Float[Array, "n"]:
        block = self.linear_block(run)
        return block.predict(self.coefficients(run, block))


def clean_name(text: str) -> str:
    """`text` as the name of a variable; a "/" is replaced, because a DataTree does not allow it."""
    return text.replace("/", "_over_")
