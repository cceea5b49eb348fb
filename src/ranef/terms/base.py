"""Base classes of the terms of a predictor: `Term`, its `Design`, and `LinearTerm`.

To add a term, write a class with the methods below in a file of its own under ``terms/``, and add a
line to ``registry.TERMS``. A term that is linear in coefficients with a Gaussian prior derives from
`LinearTerm`; every inference method supports it then.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import ColumnMoments, Scale
from ranef.formula.equation import Summand
from ranef.formula.formula import TermCall
from ranef.lazy import Array, pytree
from ranef.priors import Prior
from ranef.terms.blocks import Bilinear, LinearBlock

# A term's eta (m,) as a function of completed columns, (m,) by name, and the places of these m rows
# among all rows.
Curve = Callable[[Mapping[str, Array], Any], Array]


@pytree(data=["arrays"], meta=["new"])
@dataclass(frozen=True)
class Design:
    """The data of a term on some rows.

    Attributes:
        arrays: arrays by name. Each has the rows as its leading axis, so that a minibatch is
            ``jax.tree.map(lambda a: a[rows], design)``.
        new: for each grouping, in the order of `Term.level_sites`, the levels that are not in the
            training rows. Their codes follow those of the known levels.
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
    made: dict[str, Any] = field(default_factory=dict, compare=False)


_State = TypeVar("_State")


@dataclass(frozen=True)
class Run(Generic[_State]):
    """What a term gets to know in one run of the NumPyro program.

    Attributes:
        state: state of the term.
        design: the rows.
        priors: prior of every parameter of the program, by name.
        scale: location and sd of the predictor, for starting values and step sizes.
        options: options of the run.
    """

    state: _State
    design: Design
    priors: Mapping[str, Prior]
    scale: Scale
    options: RunOptions = field(default_factory=RunOptions)


# Suffix of the sds and correlations of group effects in centred coordinates, on which their default
# priors are set.
CENTRED = "/centred"


class Constant(Enum):
    """What carries the constant of a predictor, its part that is the same in all rows.

    Attributes:
        PREDICTOR: a term, such as an intercept.
        OUTSIDE: parameters outside the predictor, such as thresholds, whose default prior refers
            to the means of the columns.
        FIXED: such parameters with a prior by the user, which refers to a predictor of zero.
        NOTHING: nothing; the predictor goes through the origin.
    """

    PREDICTOR = "predictor"
    OUTSIDE = "outside"
    FIXED = "fixed"
    NOTHING = "nothing"


class Term(ABC):
    """One summand of a predictor.

    Before a fit its methods are called in this order: `scan` on each batch of training rows,
    `finish`, `renamed`, `columns` on each batch, `measured` with the moments of these columns,
    `placed`, and `parameters` for the default priors. `eta` then runs within the NumPyro
    program. What is learned is passed around as `state`; the term itself is not changed by it.

    Args:
        call: the term as parsed from the formula.
        prefix: prefix of its names, "" for the location and "sigma_" for sigma.
        networks: Keras models by name.
        main: whether the first part of the formula is about the parameter that the term predicts.

    Attributes:
        needs_covariance: whether `measured` needs the covariance matrix of the columns.
        label: unique name of the term, its prefix followed by the text of the formula.
    """

    needs_covariance: ClassVar[bool] = False

    def __init__(
        self,
        call: TermCall,
        prefix: str = "",
        networks: Mapping[str, Any] | None = None,
        *,
        main: bool = True,
    ) -> None:
        self.call = call
        self.prefix = prefix
        self.main = main
        self.networks = networks or {}
        self.label = prefix + call.label

    def shared(self, users: tuple[str, ...]) -> None:  # noqa: B027 for terms with a network
        """Tell a term that its network is shared by the terms labelled `users`, itself included."""

    @abstractmethod
    def needs(self) -> dict[str, str]:
        """Columns that it reads, each with its use.

        A use is "number", "level", "any" (as the type of the column says), or "gaps" (a number
        whose missing values are kept).
        """

    @abstractmethod
    def scan(self, accumulator: Any, frame: Frame) -> Any:
        """Accumulate one batch of training rows; `accumulator` is None for the first."""

    @abstractmethod
    def finish(self, accumulator: Any) -> Any:
        """The state that the term has learned from all batches that were scanned."""

    @abstractmethod
    def design(self, state: Any, frame: Frame) -> Design:
        """The data of the term on the rows of `frame`, training or new."""

    def columns(self, state: Any, frame: Frame) -> NDArray[np.float64]:
        """Columns (n, k) whose moments `measured` takes; rows with NaN are left out of these."""
        return np.zeros((0, 0))

    def measured(self, state: Any, measures: ColumnMoments) -> Any:
        """The state once the moments of `columns` over the training rows are known."""
        return state

    def renamed(self, state: Any, taken: Collection[str]) -> Any:
        """The state with distinct names for variables that clash with those of other terms.

        Args:
            state: as returned by `finish`.
            taken: names that variables of more than one term have.
        """
        return state

    def carries_constant(self, state: Any) -> bool:
        """Whether the term can add the same number to the predictor of every row."""
        return False

    def placed(self, state: Any, given: Callable[[str, str], bool], constant: Constant) -> Any:
        """The state once it is known which parameters have a prior by the user.

        Parameters with default priors may be held in other coordinates than those of the formula.

        Args:
            state: as returned by `measured`.
            given: function of a parameter's name and alias: whether the user set its prior.
            constant: what carries the constant of the predictor.
        """
        return state

    def as_written(self, state: Any) -> Any:
        """The state with all parameters in the coordinates of the formula."""
        return state

    def design_as_written(self, state: Any, design: Design) -> Design:
        """The design that belongs to `as_written(state)`, from the design of `state`."""
        return design

    def parameters(self, state: Any, scale: Scale) -> dict[str, Parameter]:
        """Parameters that take a prior, with weakly informative defaults.

        Args:
            state: state of the term.
            scale: location and sd of the predictor.
        """
        return {}

    def stated(self, state: Any, priors_: Mapping[str, Prior]) -> dict[str, Prior]:
        """Priors of the formula's parameters that are implied by priors on other coordinates."""
        return {}

    def taken_off(self, state: Any, sites: Mapping[str, Any]) -> Any:
        """What centring in the term has added to the constant of its predictor, by draw, or None.

        It has to be subtracted from the intercept, as `put_back` does.
        """
        return None

    def put_back(self, state: Any, variables: Mapping[str, Any], known: Any) -> dict[str, Any]:
        """The variables that carry the constant, less `known`, the sum of all `taken_off`."""
        return {}

    def site_labels(self, state: Any) -> dict[str, tuple[str, ...]]:
        """Labels of the elements of sites that are no variables of the posterior, for messages."""
        return {}

    def shift(self, state: Any, sites: Mapping[str, Any]) -> Any:
        """What centring moves to a constant outside the predictor, by draw, or None.

        It has to be added to thresholds.
        """
        return None

    @abstractmethod
    def eta(self, run: Run[Any]) -> Array:
        """Sample the sites of the term within a NumPyro program and return its eta, (n,)."""

    def sample(
        self,
        state: Any,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        options: RunOptions,
    ) -> Array:
        """`eta` of a run that is given by its parts."""
        return self.eta(Run(state, design, priors_, scale, options))

    def incomplete(self) -> tuple[str, ...]:
        """Columns whose missing values are integrated out; eta is linear in them.

        The design holds `value` and `missing` of the first one, both (n,).
        """
        return ()

    def sample_given(self, run: Run[Any]) -> Curve:
        """Sample the sites within a NumPyro program; return eta as a function of `incomplete`."""
        eta = self.eta(run)
        return lambda completed, rows: eta[rows]

    def linear_block(self, run: Run[Any]) -> LinearBlock | None:
        """The term as a linear block, within a NumPyro program; None if it is not linear."""
        return None

    def basis(self, run: Run[Any]) -> Array | None:
        """Columns (n, k) that depend on point estimates, within a NumPyro program.

        Given these columns the term is linear in its coefficients, and `structure` returns its
        block. None for a term without point estimates.
        """
        return None

    def settled(
        self, state: Any, design: Design, scale: Scale, given: Callable[[Callable], Callable]
    ) -> dict[str, Any]:
        """State that the program carries once the search for point estimates has ended, by site.

        Args:
            state: state of the term.
            design: some training rows.
            scale: location and sd of the predictor.
            given: returns a NumPyro program with the point estimates substituted.
        """
        return {}

    def structure(
        self, state: Any, design: Design, priors_: Mapping[str, Prior], basis: Any = None
    ) -> LinearBlock | None:
        """The linear block at unit scales and without correlations, in NumPy, so uncompiled.

        A known part of the predictor is a column whose coefficient has variance zero.

        Args:
            state: state of the term.
            design: the rows.
            priors_: prior of every parameter, by name.
            basis: the columns of `basis`, where point estimates are known.

        Returns:
            The block, or None for a term that is not linear, or only given its `basis`.
        """
        return None

    def bilinear(self, state: Any, design: Design) -> Bilinear | None:
        """The term as a bilinear block, or None if it is not bilinear."""
        return None

    def features(self, run: Run[Any]) -> Array | None:
        """Inputs (n, k) of the last layer of its network, within a NumPyro program.

        None for a term without a network, or whose network does not end with a linear layer.
        """
        return None

    def moved(
        self,
        state: Any,
        scale: Scale,
        points: Mapping[str, Any],
        change: tuple[NDArray[np.float64], float],
    ) -> dict[str, Any]:
        """Point estimates, by site, with which the output of the network changes by `change`.

        Args:
            state: state of the term.
            scale: location and sd of its predictor.
            points: all current point estimates.
            change: coefficients (k,) of `features`, and a constant.
        """
        return {}

    def free_function_of(self) -> frozenset[str] | None:
        """Columns of the table of which the term can be any function; None for other terms."""
        return None

    def varying_columns(self, state: Any) -> tuple[frozenset[str], ...]:
        """The table's columns behind each column of a block that varies by level."""
        return ()

    def without(self) -> Mapping[str, Mapping[str, Any]]:
        """State that the program carries, by site, if the term is left out; empty if impossible."""
        return {}

    def trained(
        self, state: Any, draws: Any, scales: Mapping[str, Scale]
    ) -> tuple[Any, dict[str, NDArray]] | None:
        """The term's Keras network and the values of its variables after a fit.

        Args:
            state: state of the term.
            draws: draws of the fit. Weights with a posterior are set to its mean.
            scales: location and sd of each term's predictor, by label.

        Returns:
            The network and its values by variable name; None for a term without a network.
        """
        return None

    def level_sites(self, state: Any) -> tuple[LevelSites, ...]:
        """The sites that vary by level, one entry per grouping."""
        return ()

    def narrowed(self, state: Any, levels: tuple[int, ...]) -> Any:
        """The state cut to the first `levels` levels of each grouping."""
        return state

    def equation(self, state: Any) -> Summand:
        """The term in mathematical notation, with the distributions of its effects."""
        return Summand((self.call.label,))

    def variables(self, state: Any) -> dict[str, Variable]:
        """Variables that the term contributes to the posterior, by name."""
        return {}

    def derived(self, state: Any, sites: Mapping[str, Any]) -> dict[str, Any]:
        """Variables of the posterior that are computed from the sites.

        Arrays have a leading axis of draws.
        """
        return {}

    def diagnostics(
        self, state: Any, sites: Mapping[str, Any]
    ) -> Iterable[tuple[str, str, str, str]]:
        """Signs, in draws of the sites, that approximations of the term are inadequate.

        Returns:
            Sign, meaning, remedy and verdict of each symptom, as in `check.Symptom`.
        """
        return ()

    def variances(
        self, state: Any, design: Design, values: Mapping[str, Any]
    ) -> dict[str, NDArray[np.float64]]:
        """Variance of eta over rows that each grouping contributes, one value per draw.

        The variance of common effects is under "".
        """
        return {}


class LinearTerm(Term):
    """A term that is linear in its coefficients, with a Gaussian prior given hyperparameters.

    A subclass implements `hyperparameters`, `block` and `coefficients`; the other methods of the
    term follow from these.
    """

    @abstractmethod
    def hyperparameters(
        self, state: Any, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        """Sample the scales and correlations within a NumPyro program, by name."""

    @abstractmethod
    def block(
        self,
        state: Any,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, Array],
    ) -> LinearBlock:
        """The columns, and the prior of the coefficients given the hyperparameters."""

    @abstractmethod
    def coefficients(self, run: Run[Any], block: LinearBlock) -> Array:
        """Sample the coefficients, (k,) or (levels, k), within a NumPyro program."""

    def structure(
        self, state: Any, design: Design, priors_: Mapping[str, Prior], basis: Any = None
    ) -> LinearBlock | None:
        return self.block(state, design, priors_, {})

    def linear_block(self, run: Run[Any]) -> LinearBlock:
        hyperparameters = self.hyperparameters(run.state, run.priors, run.scale)
        return self.block(run.state, run.design, run.priors, hyperparameters)

    def eta(self, run: Run[Any]) -> Array:
        block = self.linear_block(run)
        return block.predict(self.coefficients(run, block))


def clean_name(text: str) -> str:
    """`text` as the name of a variable; a "/" is replaced, because a DataTree does not allow it."""
    return text.replace("/", "_over_")
