"""Capabilities: what some terms do beside the core of `Term`.

A term derives from the capabilities that it has, as in ``class Group(LinearTerm[GroupScan,
GroupState], Measured[GroupState], ...)``. The program asks for the terms with a capability
(`Program.terms_with`) and never for the class of a term. Each docstring says which terms have the
capability, and who calls it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from functools import cached_property
from typing import ClassVar, Generic, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import ColumnMoments, Scale
from ranef.formula.term_call import TermCall
from ranef.lazy import Array, ArrayLike
from ranef.numerics.shapes import Float
from ranef.priors import Prior
from ranef.terms.base import Design, LevelSites, Run, StateT
from ranef.terms.blocks import Bilinear, LinearBlock, RowPlaces

# Columns (n, k) of training rows, and draws of a site with the draws as leading axis.
Columns = Float[NDArray[np.float64], "n k"]
Sites = Mapping[str, ArrayLike]

# One number for each draw, or one number for sites without an axis of draws.
PerDraw = NDArray | np.floating


# A term's eta (m,) as a function of completed columns, (m,) by name, and the places of these m rows
# among all rows.
Curve = Callable[[Mapping[str, Array], RowPlaces], Array]

# State that the program carries from one run to the next, such as batch-norm averages, by site and
# by name within the site.
MutableState = Mapping[str, Mapping[str, ArrayLike]]

# Substitutes known point estimates in a NumPyro program.
Substitution = Callable[[Callable], Callable]


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


class Capability(ABC, Generic[StateT]):
    """What some terms do beside the core of `Term`; they derive from both.

    Attributes:
        call: the term as parsed from the formula.
        label: unique name of the term.
    """

    call: TermCall
    label: str


class Measured(Capability[StateT]):
    """The term needs the moments of its columns over the training rows.

    common, group, mi and nn have it; the preprocessing of the rows calls it (`program.learning`).

    Attributes:
        needs_covariance: whether `measured` needs the covariance matrix of the columns.
    """

    needs_covariance: ClassVar[bool] = False

    @abstractmethod
    def columns(self, state: StateT, frame: Frame) -> Columns:
        """Columns whose moments `measured` takes; rows with NaN are left out of these."""

    @abstractmethod
    def measured(self, state: StateT, measures: ColumnMoments) -> StateT:
        """The state once the moments of `columns` over the training rows are known."""


class KnownSummand(Capability[StateT]):
    """The term is a known part of the predictor.

    offset has it. `program.offsets` sums these parts, because default priors refer to the predictor
    without them, and plots of the predictor's columns leave them out.
    """

    @abstractmethod
    def values(self, state: StateT, frame: Frame) -> Float[NDArray[np.float64], "n"]:
        """The known part on the rows of `frame`."""


class Renamed(Capability[StateT]):
    """The names of the term's variables can clash with those of another term of the same kind.

    group has it, as two terms may have correlations by one grouping; `program.learning` calls it
    after `finish`.
    """

    @abstractmethod
    def renamed(self, state: StateT, taken: Collection[str]) -> StateT:
        """The state with distinct names for variables that clash with those of other terms.

        Args:
            state: as returned by `finish`.
            taken: names that variables of more than one term have.
        """


class SpansConstant(Capability[StateT]):
    """The term may be able to add the same number to the predictor of every row.

    common and nn have it; `program.learning` asks it for what carries each predictor's constant.
    """

    @abstractmethod
    def carries_constant(self, state: StateT) -> bool:
        """Whether the term can add the same number to the predictor of every row."""


class Reparametrized(Capability[StateT]):
    """Parameters with default priors are held in other coordinates than those of the formula.

    common and group have it for orthogonal coordinates, and mi for a centred column.
    `program.learning` calls `placed` once the moments of the columns are known, and `as_written`
    for what concerns the formula's own columns; `Program` calls the others for the posterior.
    """

    @abstractmethod
    def placed(
        self, state: StateT, has_prior: Callable[[str, str], bool], constant: Constant
    ) -> StateT:
        """The state once it is known which parameters have a prior by the user.

        Args:
            state: as returned by `Measured.measured`.
            has_prior: function of a parameter's name and alias: whether the user set its prior.
            constant: what carries the constant of the predictor.
        """

    @abstractmethod
    def as_written(self, state: StateT) -> StateT:
        """The state with all parameters in the coordinates of the formula."""

    def design_as_written(self, state: StateT, design: Design) -> Design:
        """The design that belongs to `as_written(state)`, from the design of `state`."""
        return design

    def stated(self, state: StateT, priors_: Mapping[str, Prior]) -> dict[str, Prior]:
        """Priors of the formula's parameters that are implied by priors on other coordinates."""
        return {}

    def site_labels(self, state: StateT) -> dict[str, tuple[str, ...]]:
        """Labels of the elements of sites that are no variables of the posterior, for messages."""
        return {}

    def derived(self, state: StateT, sites: Sites) -> dict[str, NDArray]:
        """Variables of the posterior that are computed from the sites.

        Arrays have a leading axis of draws.
        """
        return {}


class Centred(Capability[StateT]):
    """Centring of the term's columns moves a constant from one parameter to another.

    mi takes a constant off its predictor; common holds the intercept, and can move a constant to
    thresholds. `posterior_variables.derived` moves these constants back in the draws.
    """

    def taken_off(self, state: StateT, sites: Sites) -> PerDraw | None:
        """What centring in the term has added to the constant of its predictor, by draw, or None.

        It has to be subtracted from the intercept, as `put_back` does.
        """
        return None

    def put_back(self, state: StateT, variables: Sites, known: ArrayLike) -> dict[str, NDArray]:
        """The variables that carry the constant, less `known`, the sum of all `taken_off`."""
        return {}

    def shift(self, state: StateT, sites: Sites) -> PerDraw | None:
        """What centring moves to a constant outside the predictor, by draw, or None.

        It has to be added to thresholds.
        """
        return None


class VariesByLevel(Capability[StateT]):
    """The term has coefficients for each level of a grouping.

    group, gp(by=...) and mf have it. Predictions call `level_sites` and `narrowed`, to hold the
    draws of few levels at a time, and leave out terms by their `groupings`. `Problem.carriable` is
    made of `varying_columns`.
    """

    @property
    @abstractmethod
    def groupings(self) -> tuple[str, ...]:
        """The groupings by which the term varies, as the formula writes them."""

    @abstractmethod
    def level_sites(self, state: StateT) -> tuple[LevelSites, ...]:
        """The sites that vary by level, one entry per grouping."""

    @abstractmethod
    def narrowed(self, state: StateT, levels: tuple[int, ...]) -> StateT:
        """The state cut to the first `levels` levels of each grouping."""

    def varying_columns(self, state: StateT) -> tuple[frozenset[str], ...]:
        """The table's columns behind each column of a block that varies by level."""
        return ()


class HasBilinear(Capability[StateT]):
    """The term is a product of two sets of coefficients.

    mf has it; `Problem.bilinear` hands its blocks to the inference methods, and `Fit.recommend`
    asks which terms have one.
    """

    @abstractmethod
    def bilinear(self, state: StateT, design: Design) -> Bilinear:
        """The term as a bilinear block."""


class Incomplete(Capability[StateT]):
    """The term takes a column whose missing values the program integrates out.

    mi has it; `Program` and `program.missing_values` call it. The term's eta is linear in the
    column, and its design holds `value` and `missing`, both (n,).
    """

    @property
    @abstractmethod
    def column(self) -> str:
        """Name of the incomplete column."""

    @abstractmethod
    def sample_given(self, run: Run[StateT]) -> Curve:
        """Sample the sites within a NumPyro program; return eta as a function of the column."""


@runtime_checkable
class FittedDraws(Protocol):
    """What a network needs of the draws of a fit (`inference.base.Draws`)."""

    @property
    def points(self) -> Mapping[str, ArrayLike]:
        """Point estimates by site."""
        ...

    @property
    def carried(self) -> MutableState:
        """Final state that the program updates, by site."""
        ...

    @cached_property
    def sites(self) -> Mapping[str, NDArray]:
        """Draws of every latent site, (chain, draw, ...)."""
        ...


class HasNetwork(Capability[StateT]):
    """The term has a Keras network, some weights of which are point estimates.

    Given the columns of `basis`, which depend on point estimates, the term is linear in its
    coefficients. nn has it. `Program` calls it, mostly for the closures of `Problem` by which
    methods alternate between the weights of networks and the linear terms. `Model` copies networks
    with their `initial` values, from which every fit starts.
    """

    networks: Mapping[str, object]
    initial: Mapping[str, NDArray]

    @property
    @abstractmethod
    def has_point_weights(self) -> bool:
        """Whether all its weights are point estimates."""

    @abstractmethod
    def shared(self, users: tuple[str, ...]) -> None:
        """Tell the term that its network is shared by the terms labelled `users`, itself included.

        Terms that share a network are told so when the program is made.
        """

    @abstractmethod
    def basis(self, run: Run[StateT]) -> Float[Array, "n k"]:
        """Columns that depend on point estimates, within a NumPyro program."""

    @abstractmethod
    def structure_given(
        self, state: StateT, basis: Float[NDArray[np.float64], "n k"]
    ) -> LinearBlock:
        """The linear block at unit scales with the columns of `basis`, as `Term.structure`."""

    @abstractmethod
    def settled(
        self, state: StateT, design: Design, scale: Scale, given: Substitution
    ) -> MutableState:
        """State that the program carries once the search for point estimates has ended, by site.

        Args:
            state: state of the term.
            design: some training rows.
            scale: location and sd of the predictor.
            given: returns a NumPyro program with the point estimates substituted.
        """

    @abstractmethod
    def features(self, run: Run[StateT]) -> Float[Array, "n k"] | None:
        """Inputs of the last layer of its network, within a NumPyro program.

        None for a network that does not end with a linear layer.
        """

    @abstractmethod
    def moved(
        self,
        state: StateT,
        scale: Scale,
        points: Mapping[str, ArrayLike],
        change: tuple[NDArray[np.float64], float],
    ) -> dict[str, Array]:
        """Point estimates, by site, with which the output of the network changes by `change`.

        Args:
            state: state of the term.
            scale: location and sd of its predictor.
            points: all current point estimates.
            change: coefficients (k,) of `features`, and a constant.
        """

    @abstractmethod
    def free_function_of(self) -> frozenset[str]:
        """Columns of the table of which the term can be any function."""

    @abstractmethod
    def without(self) -> MutableState:
        """State that the program carries, by site, if the term is left out."""

    @abstractmethod
    def trained(
        self, state: StateT, draws: FittedDraws, scales: Mapping[str, Scale]
    ) -> tuple[object, dict[str, NDArray]]:
        """The term's Keras network and the values of its variables after a fit.

        Args:
            state: state of the term.
            draws: draws of the fit. Weights with a posterior are set to its mean.
            scales: location and sd of each term's predictor, by label.

        Returns:
            The network and its values by variable name.
        """


class Diagnosed(Capability[StateT]):
    """Draws can show that an approximation of the term is inadequate.

    gp and mf have it; `check.identifiability` calls it.
    """

    @abstractmethod
    def diagnostics(self, state: StateT, sites: Sites) -> Iterable[tuple[str, str, str, str]]:
        """Signs, in draws of the sites, that approximations of the term are inadequate.

        Returns:
            Sign, meaning, remedy and verdict of each symptom, as in `check.Symptom`.
        """


class HasVariances(Capability[StateT]):
    """The variance that the term adds to the predictor is known given its parameters.

    common, group and mf have it; `Posterior.shares` calls it.
    """

    @abstractmethod
    def variances(
        self, state: StateT, design: Design, values: Sites
    ) -> dict[str, Float[NDArray[np.float64], "draws"]]:
        """Variance of eta over rows that each grouping contributes, one value per draw.

        The variance of common effects is under "".
        """
