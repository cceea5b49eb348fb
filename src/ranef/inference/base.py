"""What a method of inference is: `Method`, and the `Draws` that it returns.

How to add one: a class with `run` in a file of its own under ``inference/``, and a line in
``registry.METHODS``. A method looks at sites and linear blocks, never at a term's class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.errors import OptionError, suggestion
from ranef.program.problem import Problem


@runtime_checkable
class LevelDraws(Protocol):
    """Draws of sites that have one value for each level."""

    def at(self, levels: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        """Of some levels (m,) of each site (chain, draw, m, ...), whichever others are asked for.

        The sites of one term have the same levels.
        """
        ...


@dataclass(frozen=True)
class Draws:
    """What a method returns.

    Attributes:
        draw: makes the draws of every latent site, (chain, draw, ...); called when they are
            first asked for, and always with the same answer.
        points: point estimates by site.
        carried: final state of what the program updates.
        converged: whether the method's own criterion was met.
        message: how it ended, in a sentence.
        steps: how many it took.
        elbo: the evidence lower bound in nats and its Monte Carlo standard error, or None.
        moments: makes the mean and sd of sites whose posterior is known in closed form; those
            of the others are those of their draws.
        later: sites whose draws are large and made only when they are asked for.
        by_level: makes what draws them for some levels alone, or None.
        k_hat: the Pareto k-hat of the importance weights behind the draws, or None.
        evidence: log p(y) by Laplace's approximation over what is not integrated, or None.
        trace: per-step records, such as the ELBO.
        statistics: of every draw, by ArviZ's names for them, (chain, draw).
        resumed_from: the step at which a checkpoint was taken up, None without one.
        interrupted: whether the user ended the search before it was done.
        settings: options of the method by which its likelihood criterion is defined, and its guide.
        seed: of the method, which tells what rows it held out; None where it is not known.
    """

    draw: Callable[[], Mapping[str, NDArray]]
    points: Mapping[str, Any]
    carried: Mapping[str, Any]
    converged: bool
    message: str
    steps: int = 0
    elbo: tuple[float, float] | None = None
    trace: Mapping[str, NDArray] = field(default_factory=dict)
    analytic_moments: Callable[[], Mapping[str, tuple[NDArray, NDArray]]] = dict
    lazy_sites: tuple[str, ...] = ()
    effect_sampler: "Callable[[], LevelDraws | None]" = lambda: None
    k_hat: float | None = None
    statistics: Mapping[str, NDArray] = field(default_factory=dict)
    evidence: float | None = None
    resumed_from: int | None = None
    interrupted: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @property
    def is_gaussian_guide(self) -> bool:
        """Whether the draws are those of a guide, normal in its own coordinates.

        A closed form has a bound on the evidence too, and draws that are not.
        """
        return self.elbo is not None and self.evidence is None

    def thinned(self, most: int) -> "Draws":
        """The same with at most so many draws of the posterior, evenly spaced, in one chain."""

        def thin(value: NDArray) -> NDArray:
            flat = value.reshape(value.shape[0] * value.shape[1], *value.shape[2:])
            return flat[None, np.unique(np.linspace(0, len(flat) - 1, most).astype(int))]

        def by_level() -> LevelDraws | None:
            return self.effects and _ThinnedLevelDraws(self.effects, thin)

        return replace(self, draw=lambda: _ThinnedSites(self.sites, thin), effect_sampler=by_level)

    def at(self, levels: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Draws of every latent site, of the sites in `levels` those of some levels alone.

        Args:
            levels: site to levels, (m,).

        Returns:
            Site to draws: (chain, draw, m, ...) of the sites in `levels`.
        """
        # What all rows share is of one level, whose axis it does not have.
        effects, only = self.effects, np.zeros(1, np.int64)
        made = effects.at({n: levels.get(n, only) for n in self.lazy_sites}) if effects else {}
        whole = {name: self.sites[name] for name in self.sites if name not in made}
        return {
            **{n: v[:, :, levels[n]] if n in levels else v for n, v in whole.items()},
            **made,
        }

    @cached_property
    def sites(self) -> Mapping[str, NDArray]:
        """Draws of every latent site, (chain, draw, ...); a mapping may make each when asked."""
        return self.draw()

    @cached_property
    def effects(self) -> "LevelDraws | None":
        """Draws of the sites in `later` for some levels alone, where the method has them."""
        return self.effect_sampler()

    @cached_property
    def known_moments(self) -> Mapping[str, tuple[NDArray, NDArray]]:
        """Mean and sd by site, where they are known in closed form."""
        return self.analytic_moments()


class _ThinnedSites(Mapping[str, NDArray]):
    """Draws by site, each thinned when it is asked for."""

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
    """Draws by level, each thinned."""

    whole: LevelDraws
    thin: Callable[[NDArray], NDArray]

    def at(self, levels: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        return {name: self.thin(value) for name, value in self.whole.at(levels).items()}


class Method(ABC):
    """A way from a `Problem` to `Draws`. Options are the keywords of `Model.fit`."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    # Whether it goes through the rows by `Problem.parts` alone, so that they need not be held.
    streams: ClassVar[bool] = False

    def likelihood(self, problem: Problem) -> Any:
        """The likelihood criterion of the problem, with `deviance` and `maximum`.

        Raises:
            OptionError: for a method that has none.
        """
        raise OptionError(f"method {self.name!r} has no likelihood criterion; exact has")

    def __init__(self, **options: Any) -> None:
        for name in options:
            if name not in self.options:
                hint = suggestion(name, self.options)
                raise OptionError(f"method {self.name!r} has no option {name!r}; {hint}")
        self.settings = {**self.options, **options}

    @abstractmethod
    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        """Fit, and say how it went.

        Args:
            problem: the model and its rows.
            seed: the same seed gives the same bytes on the same machine and versions.
            draws: how many of the posterior.
            progress: whether to show a bar on standard error.
        """
