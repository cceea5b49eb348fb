"""What a method gets of a model: `Problem`, a NumPyro program on the training rows.

It has sites with supports, starts and units, and linear blocks, and knows no term's class.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.data.moments import Scale
from ranef.families.base import Family, NormalResponse
from ranef.lazy import Array, constraints, dist, jax, jnp, numpyro
from ranef.priors import Prior
from ranef.terms.blocks import Bilinear, LinearBlock


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
    residual_scale: float
    family_name: str
    normal: Callable[[], NormalResponse | None]
    unit_blocks: Callable[[], Mapping[str, LinearBlock | None]]
    batches: Callable[[], Iterator["Batch"]]
    predicts: Mapping[str, str]
    location: str
    priors: Mapping[str, Prior]
    network_columns: Callable[..., dict[str, Array]]
    batch: Callable[[Any], "Batch"]
    windows: int
    window: Callable[[int, int], Any]
    final_state: Callable[[Mapping[str, Any], Mapping[str, Any], Any], dict[str, Any]]
    family: Family
    predictor_scales: Mapping[str, Scale]
    parameter_starts: Mapping[str, Any]
    conditioned_on: Callable[[Mapping[str, Any], Mapping[str, Any]], "Problem"]
    relabel: Callable[[Mapping[str, NDArray]], tuple[dict[str, NDArray], NDArray | None]]
    residual_scales: Mapping[str, float]
    incomplete: tuple[str, ...]
    bilinear: Mapping[str, Bilinear]
    carriable: Mapping[str, tuple[int, ...]]
    idle_networks: Mapping[str, Mapping[str, Any]]
    features: Callable[[Any], dict[str, NDArray[np.float64]]]
    shifted_networks: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Batch:
    """A batch of rows: the response as a normal one, or None, and the blocks at unit scales."""

    normal: NormalResponse | None
    blocks: Mapping[str, LinearBlock | None]

    def keep(self, places: NDArray) -> "Batch":
        """Some of the rows."""
        return Batch(
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
    from ranef.program.mutable_sites import MutableRecorder

    first = jax.tree.map(lambda a: jnp.asarray(a[:1]), data)

    def start(site: dict) -> Any:
        observed = site["type"] != "sample" or site["is_observed"]
        return None if observed else site["infer"]["start"]

    order: list[str] = []

    def read_off(key: Array) -> tuple[dict, dict, dict]:
        seeded = numpyro.handlers.seed(run, key)
        program = numpyro.handlers.substitute(seeded, substitute_fn=start)
        latents, points, carried = {}, {}, {}
        before = MutableRecorder()
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
            name: Latent(dist.biject_to(found[name][0]), *found[name][1:])
            for name in order
            if name in found
        }

    return Sites(in_order(latents), in_order(points), carried)


def _read(support: Any, value: Array, unit: Any) -> tuple[Any, Array, Array]:
    """Support, start and unit of a site, the latter two in unconstrained coordinates."""
    start = dist.biject_to(support).inv(value)
    # On the scale of a logarithm or a logit a step of one is natural.
    plain = isinstance(getattr(support, "base_constraint", support), type(constraints.real))
    return support, start, jnp.broadcast_to(jnp.asarray(unit if plain else 1.0), start.shape)
