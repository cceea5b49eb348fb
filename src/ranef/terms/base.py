"""What a term of the predictor is: `Term`, its `Design`, and `LinearTerm`.

How to add one: a class with the methods below in a file of its own under ``terms/``, and
a line in ``registry.TERMS``. A term that is linear in coefficients with a Gaussian prior
derives from `LinearTerm` and is then understood by every method.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import ColumnMoments, Scale
from ranef.formula.equation import Summand
from ranef.formula.formula import TermCall
from ranef.lazy import Array, pytree
from ranef.priors import Prior
from ranef.terms.blocks import Bilinear, LinearBlock

# Columns without gaps, (m,) by name, and places of their rows among all, to eta (m,).
Curve = Callable[[Mapping[str, Array], Any], Array]


@pytree(data=["arrays"], meta=["new"])
@dataclass(frozen=True)
class Design:
    """What a term needs of each row.

    Attributes:
        arrays: every array has the rows as its leading axis, so a minibatch is
            ``jax.tree.map(lambda a: a[rows], design)``.
        new: levels that training did not see, of each grouping in the order of `Term.grouped`;
            their codes follow the known ones.
    """

    arrays: Mapping[str, Any]
    new: tuple[tuple[str, ...], ...] = ()

    def unseen(self, place: int = 0) -> int:
        """How many levels of a grouping training did not see."""
        return len(self.new[place]) if self.new else 0


@dataclass(frozen=True)
class Parameter:
    """A parameter that takes a prior: its default one, where it lives, and under which
    further name (such as "common") users may set it together with others."""

    prior: Prior
    support: str = "real"
    alias: str = ""
    size: int = 1


@dataclass(frozen=True)
class Variable:
    """A variable of the posterior.

    Attributes:
        role: "common" (a common effect), "group" (one value per level, the design's array
            ``codes`` saying which level a row has), "sd", "correlation", "family" (a
            parameter of the response distribution), "scale" (that of a network's weights), or
            "weight" (these, which like single levels no summary lists).
        dims: names of its dimensions beyond chain and draw.
        coords: the coordinates of each.
        factor: the grouping it belongs to.
        title: its name in tables where that is another, as the formula writes it; "" where it
            is not.
    """

    role: str = "common"
    dims: tuple[str, ...] = ()
    coords: tuple[tuple[str, ...], ...] = ()
    factor: str = ""
    title: str = ""

    def elements(self, name: str) -> list[tuple[str, int]]:
        """Name and flat place of each element that says something, such as `f[b]`.

        Of a correlation matrix those are the ones above the diagonal.
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
    """What of a term varies by the levels of one grouping.

    Attributes:
        sites: that have one value for each known level.
        levels: how many those are.
        new: the site of standard normal numbers, (u, width), behind the effects of u new levels.
        width: effects of a level.
        codes: the design's array that says the level of each row.
    """

    sites: tuple[str, ...]
    levels: int
    new: str
    width: int
    codes: str = "codes"


@dataclass(frozen=True)
class RunOptions:
    """How the program runs.

    Attributes:
        training: whether networks update what they learn from batches.
        new_levels: "sample" draws a new level's coefficients from their prior, "zero" sets
            them to zero. ("error" is dealt with before the program runs.)
        rows: how many rows the minibatch at hand stands for.
        made: what terms that share a network have made of it in this run, by its name.
    """

    training: bool = True
    new_levels: str = "sample"
    rows: int = 1
    made: dict[str, Any] = field(default_factory=dict, compare=False)


# Follows the name of an sd or correlation in the coordinates that its default prior is stated in.
CENTRED = "/centred"


class Constant(Enum):
    """What carries the part of a predictor that all rows have in common.

    PREDICTOR: a term of it, such as an intercept. OUTSIDE: a parameter beside it whose default
    prior is about the training rows' mean, as thresholds are. FIXED: such a parameter with a prior
    of the user's, about zero of the predictor. NOTHING: the predictor goes through the origin.
    """

    PREDICTOR = "predictor"
    OUTSIDE = "outside"
    FIXED = "fixed"
    NOTHING = "nothing"


class Term(ABC):
    """One summand of a predictor.

    The order of calls: `scan` each batch of training rows, `finish`, `columns` of each batch
    to be measured, `measured`, `placed`; then `parameters` for the default
    priors, and `sample` within the NumPyro program. `state` is what `finish` learned;
    the term itself keeps none.

    Args:
        call: the term as the formula has it.
        prefix: of its names: "" for the mean, "sigma_" for sigma.
        networks: Keras models by name.
        main: whether it is of what the formula's first part predicts, or of one of several.

    Attributes:
        needs_covariance: whether `measured` needs the covariances of the columns.
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
        """Its network is that of several terms, `users` by their labels, this one among them."""

    @abstractmethod
    def needs(self) -> dict[str, str]:
        """Columns it reads, with "number", "level", or "any" for what the table says."""

    @abstractmethod
    def scan(self, accumulator: Any, frame: Frame) -> Any:
        """Take in one batch of training rows; `accumulator` is None at first."""

    @abstractmethod
    def finish(self, accumulator: Any) -> Any:
        """The state: all that is learned from the training rows before the fit."""

    @abstractmethod
    def design(self, state: Any, frame: Frame) -> Design:
        """What the program needs of the rows of `frame`, training or new."""

    def columns(self, state: Any, frame: Frame) -> NDArray[np.float64]:
        """(n, k) columns whose mean and sd the state should know; NaN where a row has none."""
        return np.zeros((0, 0))

    def measured(self, state: Any, measures: ColumnMoments) -> Any:
        """The state with the measures of its columns."""
        return state

    def renamed(self, state: Any, taken: Collection[str]) -> Any:
        """The state with names of its own for those that several terms would have.

        Args:
            state: as finished.
            taken: names of variables that more than one term has.
        """
        return state

    def carries_constant(self, state: Any) -> bool:
        """Whether the term can add one number to the predictor of every row."""
        return False

    def placed(self, state: Any, given: Callable[[str, str], bool], constant: Constant) -> Any:
        """The state once it is known which of its parameters have a prior by the user.

        A parameter with a default prior may be held in other coordinates than the formula's.

        Args:
            state: as measured.
            given: whether the user has given a prior to a parameter, by its name and its alias.
            constant: what carries the constant of the predictor.
        """
        return state

    def as_written(self, state: Any) -> Any:
        """The state with all parameters in the formula's own coordinates."""
        return state

    def design_as_written(self, state: Any, design: Design) -> Design:
        """The design of `as_written`, from that of the state."""
        return design

    def parameters(self, state: Any, scale: Scale) -> dict[str, Parameter]:
        """Names that take a prior, with the weakly informative default for this scale."""
        return {}

    def stated(self, state: Any, priors_: Mapping[str, Prior]) -> dict[str, Prior]:
        """What the priors say of the parameters as the formula has them, where those are others."""
        return {}

    def taken_off(self, state: Any, sites: Mapping[str, Any]) -> Any:
        """What the term leaves to the constant of the predictor, by draw, or None."""
        return None

    def put_back(self, state: Any, variables: Mapping[str, Any], known: Any) -> dict[str, Any]:
        """Those of its variables that carry the constant, less what other terms leave to it."""
        return {}

    def site_labels(self, state: Any) -> dict[str, tuple[str, ...]]:
        """What messages call the elements of sites that are no variables of the posterior."""
        return {}

    def shift(self, state: Any, sites: Mapping[str, Any]) -> Any:
        """What its coordinates leave to the constant outside of the predictor, by draw, or None."""
        return None

    @abstractmethod
    def sample(
        self,
        state: Any,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: RunOptions,
    ) -> Array:
        """Eta (n,), within a NumPyro program."""

    def incomplete(self) -> tuple[str, ...]:
        """Columns whose missing values are integrated over; eta is linear in them.

        Its design holds, for the first of them, `value` and `missing`, both (n,).
        """
        return ()

    def sample_given(
        self,
        state: Any,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: RunOptions,
    ) -> Curve:
        """Its sites, within a NumPyro program; then eta as a function of those columns."""
        eta = self.sample(state, design, priors_, scale, replay)
        return lambda completed, rows: eta[rows]

    def linear_block(
        self, state: Any, design: Design, priors_: Mapping[str, Prior], scale: Scale
    ) -> LinearBlock | None:
        """The term as a block, within a NumPyro program; None where it is not linear."""
        return None

    def basis(self, state: Any, design: Design, scale: Scale, replay: RunOptions) -> Array | None:
        """(n, k) columns that point estimates shape, within a NumPyro program.

        Given them the term is linear in its coefficients, as `structure` says. None for a
        term that needs no point estimates to be linear.
        """
        return None

    def settled(
        self, state: Any, design: Design, scale: Scale, given: Callable[[Callable], Callable]
    ) -> dict[str, Any]:
        """What the program carries from the end of a search on, by site.

        `given` makes a NumPyro program one in which point estimates are known.
        """
        return {}

    def structure(
        self, state: Any, design: Design, priors_: Mapping[str, Prior], basis: Any = None
    ) -> LinearBlock | None:
        """The block at scales of one and without correlations, in NumPy: nothing is compiled.

        A known part of the predictor is a column whose coefficient has no variance. `basis`
        holds the columns of that name where they are known; without them a term that has
        them is not linear, and returns None.
        """
        return None

    def bilinear(self, state: Any, design: Design) -> Bilinear | None:
        """The term as products of two sets of coefficients, each linear given the other.

        None for a term that is not.
        """
        return None

    def features(self, state: Any, design: Design, replay: RunOptions) -> Array | None:
        """(n, k) what the last layer of its network gets, within a NumPyro program.

        None for a term without a network, and for one that does not end with a linear layer.
        """
        return None

    def moved(
        self,
        state: Any,
        scale: Scale,
        points: Mapping[str, Any],
        change: tuple[NDArray[np.float64], float],
    ) -> dict[str, Any]:
        """Point estimates with which a network with `features` adds something more, by site.

        Args:
            state: of the term.
            scale: of its predictor.
            points: all estimates as they are.
            change: coefficients (k,) of the features, and a constant.
        """
        return {}

    def free_function_of(self) -> frozenset[str] | None:
        """Columns of the table of which it can be any function, a constant too; None for none."""
        return None

    def varying_columns(self, state: Any) -> tuple[frozenset[str], ...]:
        """Of each column of its block that varies by level, the table's columns it is made of."""
        return ()

    def without(self) -> Mapping[str, Mapping[str, Any]]:
        """What the program carries, by site, where the term is left out; empty where it cannot."""
        return {}

    def trained(
        self, state: Any, draws: Any, scales: Mapping[str, Scale]
    ) -> tuple[Any, dict[str, NDArray]] | None:
        """The term's Keras network and the values that a fit's draws give its variables.

        Weights with a posterior are at their mean. None for a term without a network. `scales`
        are those of the predictors, by the labels of their terms.
        """
        return None

    def level_sites(self, state: Any) -> tuple[LevelSites, ...]:
        """What of it varies by level, grouping by grouping."""
        return ()

    def narrowed(self, state: Any, levels: tuple[int, ...]) -> Any:
        """The state of a program that has so many levels of each grouping, and no others."""
        return state

    def equation(self, state: Any) -> Summand:
        """The term as its users write it on paper."""
        return Summand((self.call.label,))

    def variables(self, state: Any) -> dict[str, Variable]:
        """Variables it contributes to the posterior."""
        return {}

    def derived(self, state: Any, sites: Mapping[str, Any]) -> dict[str, Any]:
        """Values of those variables that are not sites themselves, from draws of the sites.

        Arrays have a leading axis of draws.
        """
        return {}

    def diagnostics(
        self, state: Any, sites: Mapping[str, Any]
    ) -> Iterable[tuple[str, str, str, str]]:
        """What speaks against its approximations, from draws of the sites.

        Sign, meaning, remedy and weight of each symptom, as `check.Symptom` has them.
        """
        return ()

    def variances(
        self, state: Any, design: Design, values: Mapping[str, Any]
    ) -> dict[str, NDArray[np.float64]]:
        """Variance of eta over rows that each grouping contributes, by grouping, one per draw.

        What all rows share stands under "".
        """
        return {}


class LinearTerm(Term):
    """A term linear in its coefficients: write `hyperparameters`, `block`, `coefficients`."""

    @abstractmethod
    def hyperparameters(
        self, state: Any, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        """Sites of the scales and correlations, within a NumPyro program."""

    @abstractmethod
    def block(
        self,
        state: Any,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, Array],
    ) -> LinearBlock:
        """The columns and the Gaussian prior given the hyperparameters."""

    @abstractmethod
    def coefficients(
        self,
        state: Any,
        block: LinearBlock,
        priors_: Mapping[str, Prior],
        scale: Scale,
        design: Design,
        replay: RunOptions,
    ) -> Array:
        """Sites of the coefficients, (k,) or (levels, k), within a NumPyro program."""

    def structure(
        self, state: Any, design: Design, priors_: Mapping[str, Prior], basis: Any = None
    ) -> LinearBlock | None:
        return self.block(state, design, priors_, {})

    def linear_block(
        self, state: Any, design: Design, priors_: Mapping[str, Prior], scale: Scale
    ) -> LinearBlock:
        hyperparameters = self.hyperparameters(state, priors_, scale)
        return self.block(state, design, priors_, hyperparameters)

    def sample(
        self,
        state: Any,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: RunOptions,
    ) -> Array:
        block = self.linear_block(state, design, priors_, scale)
        return block.predict(self.coefficients(state, block, priors_, scale, design, replay))


def clean_name(text: str) -> str:
    """`text` as a variable of the posterior: a DataTree refuses "/" in a name."""
    return text.replace("/", "_over_")
