"""Base class of the methods of inference, `Method`, and their result, `Draws`.

To add a method, write a subclass of `Method` with `run` in a file of its own under ``inference/``,
and add a line to ``registry.METHODS``. A method that does not fit every problem says so by
`refuses`. It uses the sites and linear blocks of a problem, and never the class of a term.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.errors import OptionError, suggestion
from ranef.lazy import ArrayLike
from ranef.numerics.shapes import Int, Shaped
from ranef.program.networks import MutableState
from ranef.program.problem import Problem

if TYPE_CHECKING:
    from ranef.inference.lmm.model import LinearMixedModel

# Number of levels of which all draws are held at once before they are thinned.
_LEVELS = 10_000

# Numbers of levels.
Levels = Int[NDArray, "_"]


@runtime_checkable
class LevelDraws(Protocol):
    """Draws of sites that have a value for each level, made for some levels at a time."""

    def at(self, levels: Mapping[str, Levels]) -> Mapping[str, NDArray]:
        """Draws of the requested levels.

        The draws of a level do not depend on which other levels are requested.

        Args:
            levels: levels by site; all sites of a term must have the same.

        Returns:
            Draws (chain, draw, m, ...) by site.
        """
        ...


@dataclass(frozen=True)
class Draws:
    """The result of a method: the posterior, mostly as draws, and how the method ended.

    Attributes:
        draw: function that makes the draws of every latent site, (chain, draw, ...). It is called
            on the first request, and always returns the same draws.
        points: point estimates by site.
        carried: final state that the program updates, by site.
        converged: whether the method's own criterion was met.
        message: how the method ended, as a sentence.
        steps: number of steps or evaluations.
        elbo: the evidence lower bound in nats and its Monte Carlo standard error, or None.
        trace: records by step, such as the ELBO.
        analytic_moments: function that returns mean and sd by site, for the sites whose posterior
            moments are known in closed form. Moments of the others are those of their draws.
        lazy_sites: sites whose draws are large and made on request only.
        effect_sampler: function that returns a sampler of `lazy_sites` for some levels at a time,
            or None.
        k_hat: Pareto k-hat of the importance weights behind the draws, or None.
        statistics: sampler statistics by ArviZ's names.
        evidence: log p(y) in nats, by Laplace's approximation over the parameters that are not
            integrated out in closed form, or None.
        resumed_from: step at which a checkpoint was taken up; None without one.
        interrupted: whether the user ended the search early.
        settings: options of the method that define its likelihood criterion, and its guide.
        seed: seed of the method, which determines the held-out rows; None if not known.
    """

    draw: Callable[[], Mapping[str, NDArray]]
    points: Mapping[str, ArrayLike]
    carried: MutableState
    converged: bool
    message: str
    steps: int = 0
    elbo: tuple[float, float] | None = None
    trace: Mapping[str, NDArray] = field(default_factory=dict)
    analytic_moments: Callable[[], Mapping[str, tuple[NDArray, NDArray]]] = dict
    lazy_sites: tuple[str, ...] = ()
    effect_sampler: "Callable[[], LevelDraws | None]" = lambda: None
    k_hat: float | None = None
    statistics: Mapping[str, Shaped[NDArray, "chain draw"]] = field(default_factory=dict)
    evidence: float | None = None
    resumed_from: int | None = None
    interrupted: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = None

    @property
    def is_gaussian_guide(self) -> bool:
        """Whether the draws come from a guide, which is Gaussian in its own coordinates.

        Closed-form solutions can have an ELBO too, but their draws do not come from a guide.
        """
        return self.elbo is not None and self.evidence is None

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains and of draws in each; (1, 1) if the posterior has no site."""
        return next((v.shape[:2] for v in self.at({}).values()), (1, 1))

    def thinned(self, most: int) -> "Draws":
        """The same posterior with at most `most` draws, evenly spaced, in one chain."""

        def thin(value: NDArray) -> NDArray:
            flat = value.reshape(value.shape[0] * value.shape[1], *value.shape[2:])
            return flat[None, np.unique(np.linspace(0, len(flat) - 1, most).astype(int))]

        return self._thinned_by(thin)

    def of_each_chain(self, places: Levels) -> "Draws":
        """The same posterior with the draws of every chain at `places`."""
        return self._thinned_by(lambda value: value[:, places])

    def chosen(self, places: Levels) -> "Draws":
        """The draws at `places` among those of all chains, which may repeat, in one chain."""

        def thin(value: NDArray) -> NDArray:
            return value[places // value.shape[1], places % value.shape[1]][None]

        return self._thinned_by(thin)

    def _thinned_by(self, thin: Callable[[NDArray], NDArray]) -> "Draws":
        """The same posterior with some draws; `thin` takes them from the draws of a site."""

        def by_level() -> LevelDraws | None:
            return self.effects and _ThinnedLevelDraws(self.effects, thin)

        return replace(self, draw=lambda: _ThinnedSites(self.sites, thin), effect_sampler=by_level)

    def at(self, levels: Mapping[str, Levels]) -> dict[str, NDArray]:
        """Draws of every latent site; of the sites in `levels`, for the requested levels only.

        Args:
            levels: the m levels of each site.

        Returns:
            Draws by site, (chain, draw, m, ...) for the sites in `levels` and (chain, draw, ...)
            for all others.
        """
        # Sites shared by all rows have one level, without an axis for it.
        effects, only = self.effects, np.zeros(1, np.int64)
        made = effects.at({n: levels.get(n, only) for n in self.lazy_sites}) if effects else {}
        whole = {name: self.sites[name] for name in self.sites if name not in made}
        return {
            **{n: v[:, :, levels[n]] if n in levels else v for n, v in whole.items()},
            **made,
        }

    @cached_property
    def sites(self) -> Mapping[str, NDArray]:
        """Draws of every latent site, (chain, draw, ...); the mapping may make each on request."""
        return self.draw()

    @cached_property
    def effects(self) -> "LevelDraws | None":
        """A sampler of `lazy_sites` for some levels at a time, or None."""
        return self.effect_sampler()

    @cached_property
    def known_moments(self) -> Mapping[str, tuple[NDArray, NDArray]]:
        """Mean and sd by site, for the sites whose moments are known in closed form."""
        return self.analytic_moments()


class _ThinnedSites(Mapping[str, NDArray]):
    """Draws by site, each thinned on request."""

    def __init__(self, sites: Mapping[str, NDArray], thin: Callable[[NDArray], NDArray]) -> None:
        self._sites, self._thin = sites, thin

    def __getitem__(self, name: str) -> NDArray:
        return self._thin(self._sites[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


@dataclass(frozen=True)
class _ThinnedLevelDraws:
    """A sampler for some levels at a time, whose draws are thinned."""

    whole: LevelDraws
    thin: Callable[[NDArray], NDArray]

    def at(self, levels: Mapping[str, Levels]) -> Mapping[str, NDArray]:
        """As `LevelDraws.at`; all draws are made of a few levels at a time, then thinned."""
        out: dict[str, list[NDArray]] = {}
        for start in range(0, max(map(len, levels.values()), default=0) or 1, _LEVELS):
            # A site whose levels have all been made gets its first level again.
            some = {n: own[start : start + _LEVELS] for n, own in levels.items()}
            asked = {n: own if len(own) else levels[n][:1] for n, own in some.items()}
            for name, value in self.whole.at(asked).items():
                if start == 0 or len(some.get(name, ())):
                    out.setdefault(name, []).append(self.thin(value))
        return {n: np.concatenate(v, axis=2) if len(v) > 1 else v[0] for n, v in out.items()}


@runtime_checkable
class LikelihoodCriterion(Protocol):
    """The likelihood of a problem without its priors, as lme4 defines it."""

    @property
    def mixed(self) -> "LinearMixedModel":
        """The model in the form of the solver."""
        ...

    def deviance(self, theta: object, reml: bool = False) -> float:
        """-2 log likelihood at theta, the elements of the Cholesky factors."""
        ...

    def maximum(self, reml: bool = False) -> Mapping[str, Any]:
        """The maximum-likelihood estimates, as numbers, arrays and tables by name."""
        ...


class Method(ABC):
    """A method of inference, which computes the `Draws` of a `Problem`.

    Args:
        **options: keywords of `Model.fit`, which replace the defaults in `options`.

    Attributes:
        name: name of the method in `Model.fit`.
        options: default of each option by name.
        streams: whether the method reads the rows of some problems in batches, without all rows
            in memory.

    Raises:
        OptionError: for an unknown option.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, object]] = {}
    streams: ClassVar[bool] = False

    def likelihood(self, problem: Problem) -> LikelihoodCriterion:
        """The likelihood criterion of the problem.

        Raises:
            OptionError: for a method without one.
        """
        raise OptionError(f"method {self.name!r} has no likelihood criterion; exact has")

    def __init__(self, **options: object) -> None:
        for name in options:
            if name not in self.options:
                hint = suggestion(name, self.options)
                raise OptionError(f"method {self.name!r} has no option {name!r}; {hint}")
        self.settings: dict[str, Any] = {**self.options, **options}

    def reads_batches(self, problem: Problem) -> bool:
        """Whether the method fits this problem with rows read in batches, not all in memory.

        `streams` says whether it does so for any problem.
        """
        return self.streams

    def refuses(self, problem: Problem) -> str | None:
        """Why the method cannot fit a problem, but another method can.

        What the answer has taken to compute from the rows is kept for `run` of the same problem.

        Args:
            problem: the model and its rows; they are all in memory unless `reads_batches`.

        Returns:
            What the method requires, as the rest of a sentence that begins with its name; None if
            the method fits the problem.
        """
        return None

    @abstractmethod
    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        """Computes the posterior of a problem.

        Args:
            problem: the model and its rows.
            seed: seed of the random numbers. The same seed gives the same bytes on the same
                machine with the same versions.
            draws: number of posterior draws.
            progress: whether to show a bar on standard error.

        Returns:
            The posterior, and how the method ended.
        """
