"""What a method of inference is: `Method`, the `Problem` it gets, the `Draws` it returns.

How to add one: a class with `run` in a file of its own under ``inference/``, and a line in
``registry.METHODS``. A method looks at sites and linear blocks, never at a term's class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpy.typing import NDArray
from numpyro.distributions import biject_to, constraints
from numpyro.primitives import Messenger

from ranef.data.moments import Scale
from ranef.errors import OptionError
from ranef.families.base import Family, Normal
from ranef.priors import Prior
from ranef.registry import suggestion
from ranef.terms.base import Bilinear, LinearBlock


@dataclass(frozen=True)
class Problem:
    """A model on its training rows.

    Attributes:
        run: the NumPyro program, ``run(data, rows)``; `rows` is how many rows the minibatch
            `data` stands for.
        data: a pytree whose every leaf has the rows as its leading axis.
        n: number of rows.
        blocks: values of the hyperparameter sites to the linear blocks on `data`.
        spread: of a row about its predictor, roughly, on the link's scale.
        family: its name.
        normal: the response as a normal one, None where the family is not.
        structure: the linear blocks at unit scales, in NumPy, None for a term that is not
            linear.
        parts: goes through all rows in batches; `data`, `normal` and `structure` have only some
            of them where there are too many to be held.
        predicts: label of each term to the family parameter that it predicts.
        location: the family parameter that is the mean.
        priors: of every parameter that takes one.
        shape: ``shape(designs, training)``, a NumPyro program: the columns that point estimates
            of networks shape, by the label of their term.
        part: makes a `Part` of such rows as `data` holds.
        windows: how many windows all rows make, 0 where `data` holds them all.
        window: ``window(seed, number)``, rows in random order, none of those in `data`; the
            windows of a seed hold all others once.
        settled: ``settled(points, carried, data)``, what the program carries once the search is
            over, from some rows.
        law: the family, with what it learned of the response.
        scales: where the predictor of each family parameter lies, on its link's scale.
        starts: where a search for a family parameter without a predictor begins, or None.
        given: the problem with these point estimates, and what the program updates, known:
            each of its terms is linear then.
        relabelled: draws of all sites, (chain, draw, ...), in one numbering of the components of
            the response, and which draws were in another; None where there is but one.
        spreads: `spread` of the response, and of each column that the program is a model of, by
            the parameter that is the location.
        incomplete: labels of the terms of columns whose missing values the program integrates
            over, so that no other closed form holds.
        bilinear: terms that are products of two sets of coefficients, by label.
        carriable: by the label of a term that varies by level, those columns of its block that
            are functions of what a network in the same predictor has: what their effects have in
            common is the network's to carry.
        without: what the program carries, by site, where its networks add nothing.
        features: designs of some rows to what the last layer of each network gets, (n, k) by the
            label of its term; none while the estimates are not known.
        moved: ``moved(points, changes)``, the point estimates with which networks add changes to
            what they added. A change is coefficients (k,) of the features and a constant, by the
            label of the term.
    """

    run: Callable[..., Any]
    data: Any
    n: int
    blocks: Callable[[Mapping[str, Any]], dict[str, LinearBlock]]
    spread: float
    family: str
    normal: Callable[[], Normal | None]
    structure: Callable[[], Mapping[str, LinearBlock | None]]
    parts: Callable[[], Iterator["Part"]]
    predicts: Mapping[str, str]
    location: str
    priors: Mapping[str, Prior]
    shape: Callable[..., dict[str, Array]]
    part: Callable[[Any], "Part"]
    windows: int
    window: Callable[[int, int], Any]
    settled: Callable[[Mapping[str, Any], Mapping[str, Any], Any], dict[str, Any]]
    law: Family
    scales: Mapping[str, Scale]
    starts: Mapping[str, Any]
    given: Callable[[Mapping[str, Any], Mapping[str, Any]], "Problem"]
    relabelled: Callable[[Mapping[str, NDArray]], tuple[dict[str, NDArray], NDArray | None]]
    spreads: Mapping[str, float]
    incomplete: tuple[str, ...]
    bilinear: Mapping[str, Bilinear]
    carriable: Mapping[str, tuple[int, ...]]
    without: Mapping[str, Mapping[str, Any]]
    features: Callable[[Any], dict[str, NDArray[np.float64]]]
    moved: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A batch of rows: the response as a normal one, or None, and the blocks at unit scales."""

    normal: Normal | None
    blocks: Mapping[str, LinearBlock | None]

    def keep(self, places: NDArray) -> "Part":
        """Some of the rows."""
        return Part(
            self.normal and self.normal.keep(places),
            {label: block and block.keep(places) for label, block in self.blocks.items()},
        )


@dataclass(frozen=True)
class Latent:
    """An unobserved site in unconstrained coordinates.

    Attributes:
        transform: from unconstrained to the site's support.
        start: unconstrained value where a search begins.
        unit: natural step in unconstrained coordinates, of the shape of `start`.
    """

    transform: Any
    start: Array
    unit: Array


@dataclass(frozen=True)
class Sites:
    """The sites of a problem by kind.

    Attributes:
        latents: what gets a posterior.
        points: what is estimated as a point, in unconstrained coordinates.
        carried: state that the program updates as it runs, such as batch-norm statistics.
    """

    latents: Mapping[str, Latent]
    points: Mapping[str, Latent]
    carried: Mapping[str, Any]


def sites_of(problem: Problem, key: Array) -> Sites:
    """The sites of the problem's program."""
    return sites_in(lambda data: problem.run(data, problem.n), problem.data, key)


def sites_in(run: Callable[[Any], Any], data: Any, key: Array) -> Sites:
    """Run a NumPyro program once on its first row and read off its sites.

    It runs compiled, which costs one compilation where running it step by step costs one
    for each of its operations; what is read off are arrays and supports, both pytrees.
    """
    first = jax.tree.map(lambda a: jnp.asarray(a[:1]), data)

    def start(site: dict) -> Any:
        observed = site["type"] != "sample" or site["is_observed"]
        return None if observed else site["infer"]["start"]

    order: list[str] = []

    def read_off(key: Array) -> tuple[dict, dict, dict]:
        seeded = numpyro.handlers.seed(run, key)
        program = numpyro.handlers.substitute(seeded, substitute_fn=start)
        latents, points, carried = {}, {}, {}
        before = _Before()
        with before:
            trace = numpyro.handlers.trace(program).get_trace(first)
        order[:] = trace
        for name, site in trace.items():
            if site["type"] == "sample" and not site["is_observed"]:
                latents[name] = _read(site["fn"].support, site["value"], site["infer"]["unit"])
            elif site["type"] == "param":
                support = site["kwargs"].get("constraint", constraints.real)
                points[name] = _read(support, site["value"], site["kwargs"].get("unit", 1.0))
            elif site["type"] == "mutable":
                carried[name] = before.values[name]
        return latents, points, carried

    latents, points, carried = jax.jit(read_off)(key)

    def in_order(found: dict) -> dict[str, Latent]:
        """The program's order, which the compiled function's dicts have lost."""
        return {
            name: Latent(biject_to(found[name][0]), *found[name][1:])
            for name in order
            if name in found
        }

    return Sites(in_order(latents), in_order(points), carried)


class _Before(Messenger):
    """Records what mutable sites hold before the program updates them."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "mutable":
            self.values[msg["name"]] = dict(msg["value"])


def _read(support: Any, value: Array, unit: Any) -> tuple[Any, Array, Array]:
    """Support, start and unit of a site, the latter two in unconstrained coordinates."""
    start = biject_to(support).inv(value)
    # On the scale of a logarithm or a logit a step of one is natural.
    plain = isinstance(getattr(support, "base_constraint", support), type(constraints.real))
    return support, start, jnp.broadcast_to(jnp.asarray(unit if plain else 1.0), start.shape)


@runtime_checkable
class ByLevel(Protocol):
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
    moments: Callable[[], Mapping[str, tuple[NDArray, NDArray]]] = dict
    later: tuple[str, ...] = ()
    by_level: "Callable[[], ByLevel | None]" = lambda: None
    k_hat: float | None = None
    statistics: Mapping[str, NDArray] = field(default_factory=dict)
    evidence: float | None = None
    resumed_from: int | None = None
    interrupted: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @property
    def from_guide(self) -> bool:
        """Whether the draws are those of a guide, normal in its own coordinates.

        A closed form has a bound on the evidence too, and draws that are not.
        """
        return self.elbo is not None and self.evidence is None

    def thinned(self, most: int) -> "Draws":
        """The same with at most so many draws of the posterior, evenly spaced, in one chain."""

        def thin(value: NDArray) -> NDArray:
            flat = value.reshape(value.shape[0] * value.shape[1], *value.shape[2:])
            return flat[None, np.unique(np.linspace(0, len(flat) - 1, most).astype(int))]

        def by_level() -> ByLevel | None:
            return self.effects and _ThinnedByLevel(self.effects, thin)

        return replace(self, draw=lambda: _Thinned(self.sites, thin), by_level=by_level)

    def at(self, levels: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Draws of every latent site, of the sites in `levels` those of some levels alone.

        Args:
            levels: site to levels, (m,).

        Returns:
            Site to draws: (chain, draw, m, ...) of the sites in `levels`.
        """
        # What all rows share is of one level, whose axis it does not have.
        effects, only = self.effects, np.zeros(1, np.int64)
        made = effects.at({n: levels.get(n, only) for n in self.later}) if effects else {}
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
    def effects(self) -> "ByLevel | None":
        """Draws of the sites in `later` for some levels alone, where the method has them."""
        return self.by_level()

    @cached_property
    def known_moments(self) -> Mapping[str, tuple[NDArray, NDArray]]:
        """Mean and sd by site, where they are known in closed form."""
        return self.moments()


class _Thinned(Mapping[str, NDArray]):
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
class _ThinnedByLevel:
    """Draws by level, each thinned."""

    whole: ByLevel
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
