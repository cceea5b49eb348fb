"""The interface between models and inference methods: `Problem`, a program on its training rows.

A method sees a NumPyro program, its sites with supports, starting values and step sizes, and the
linear blocks of its predictors. It does not see the classes of terms.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.data.moments import Scale
from ranef.families.base import Family
from ranef.families.response_design import NormalResponse
from ranef.lazy import Array, ArrayLike, constraints, dist, jax, jnp, numpyro
from ranef.numerics.shapes import Float
from ranef.priors import Prior
from ranef.program.networks import Points
from ranef.program.training import Designs, Rows
from ranef.terms.blocks import Bilinear, LinearBlock
from ranef.terms.capabilities import Columns, MutableState
from ranef.terms.capabilities import Sites as Values

# Changes of the outputs of networks by term label: coefficients (k,) of the features, and a
# constant.
Changes = Mapping[str, tuple[NDArray[np.float64], float]]

_Data = TypeVar("_Data")


@runtime_checkable
class RunProgram(Protocol):
    """The NumPyro program of a model."""

    def __call__(self, data: Rows, rows: int | None = None) -> Mapping[str, Array]:
        """Run the program within a NumPyro handler.

        Args:
            data: the rows, or a minibatch of them.
            rows: the number of rows that the minibatch stands for; None for those of `data`.
        """
        ...


@runtime_checkable
class NetworkColumns(Protocol):
    """The columns that depend on point estimates of networks, within a NumPyro program."""

    def __call__(
        self, designs: Designs, training: bool = True
    ) -> Mapping[str, Float[Array, "n k"]]:
        """Run the networks on the rows of `designs`.

        Args:
            designs: designs of the rows.
            training: whether networks run in training mode.

        Returns:
            The columns by term label.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model on its training rows, as inference methods take it.

    Where the rows do not fit in memory, `data`, `normal` and `unit_blocks` cover a sample of them;
    `batches` reads all rows, and `window` those that are not in the sample.

    Attributes:
        run: the NumPyro program, ``run(data, rows)``; `rows` is the number of rows that the
            minibatch `data` stands for.
        data: the rows in memory.
        n: number of rows.
        blocks: function of the values of the hyperparameter sites that returns the linear blocks
            on `data`, by term label.
        residual_scale: approximate sd of a row about its predictor, on the link's scale.
        family_name: registered name of the family.
        normal: returns the response as a normal one; None where the family is not normal.
        unit_blocks: returns the linear blocks at unit scales, in NumPy, by term label; None for a
            term that is not linear.
        batches: iterates over all rows, batch by batch.
        predicts: label of each term to the family parameter that it predicts.
        location: name of the family's location parameter.
        priors: priors of all parameters, by name.
        network_columns: ``network_columns(designs, training)``, a NumPyro program that returns the
            columns (n, k) that depend on point estimates of networks, by term label.
        batch: makes a `Batch` of rows such as `data`.
        windows: number of windows of the rows; 0 where `data` holds all rows.
        window: ``window(seed, number)`` returns rows in random order, without those in `data`.
            The windows of one seed hold every other row once.
        final_state: ``final_state(points, carried, data)`` returns the state that the program
            carries, by site, once the search for point estimates has ended, computed on `data`.
        family: the family, bound to what was learned from the response.
        predictor_scales: location and sd of the predictor of each family parameter, on the scale
            of its link.
        parameter_starts: starting value of each family parameter without a predictor; None leaves
            it to the method.
        conditioned_on: ``conditioned_on(points, carried)`` returns the problem with point estimates
            and carried state known. All terms of networks are linear then.
        relabel: function of draws of all sites, (chain, draw, ...). It returns the draws in one
            numbering of the mixture components, and (chain, draw) booleans of the draws that had
            another one; None for models without exchangeable components.
        residual_scales: `residual_scale` of the response and of each incomplete column, by the
            name of its location parameter.
        incomplete: labels of the terms of columns whose missing values the program integrates
            out. Closed forms for complete rows do not hold for such a model.
        bilinear: terms that are products of two sets of coefficients, by label.
        carriable: label of a term with group effects to those columns of its block that a network
            in the same predictor could represent, so that the network can take up the mean of
            their effects.
        idle_networks: carried state, by site, in which networks add nothing to predictors.
        features: function of designs that returns the inputs (n, k) of the last layer of each
            network, by term label; empty while the point estimates are unknown.
        shifted_networks: ``shifted_networks(points, changes)`` returns the point estimates with
            which the outputs of networks change by `changes`: term label to coefficients (k,) of
            the features and a constant.
    """

    run: RunProgram
    data: Rows
    n: int
    blocks: Callable[[Values], dict[str, LinearBlock]]
    residual_scale: float
    family_name: str
    normal: Callable[[], NormalResponse | None]
    unit_blocks: Callable[[], Mapping[str, LinearBlock | None]]
    batches: Callable[[], Iterator["Batch"]]
    predicts: Mapping[str, str]
    location: str
    priors: Mapping[str, Prior]
    network_columns: NetworkColumns
    batch: Callable[[Rows], "Batch"]
    windows: int
    window: Callable[[int, int], Rows]
    final_state: Callable[[Points, MutableState, Rows], MutableState]
    family: Family
    predictor_scales: Mapping[str, Scale]
    parameter_starts: Mapping[str, ArrayLike | None]
    conditioned_on: Callable[[Points, MutableState], "Problem"]
    relabel: Callable[[Mapping[str, NDArray]], tuple[dict[str, NDArray], NDArray | None]]
    residual_scales: Mapping[str, float]
    incomplete: tuple[str, ...]
    bilinear: Mapping[str, Bilinear]
    carriable: Mapping[str, tuple[int, ...]]
    idle_networks: MutableState
    features: Callable[[Designs], dict[str, Columns]]
    shifted_networks: Callable[[Points, Changes], Points]


@dataclass(frozen=True)
class Batch:
    """A batch of rows.

    Attributes:
        normal: the response as a normal one; None where the family is not normal.
        blocks: term label to the linear block at unit scales; None for a term that is not linear.
    """

    normal: NormalResponse | None
    blocks: Mapping[str, LinearBlock | None]

    def keep(self, places: NDArray) -> "Batch":
        """The rows at `places`."""
        return Batch(
            self.normal and self.normal.keep(places),
            {label: block and block.keep(places) for label, block in self.blocks.items()},
        )


@runtime_checkable
class Bijection(Protocol):
    """A bijection from unconstrained values to a support, such as those of NumPyro.

    Attributes:
        domain: the constraint of unconstrained values.
        codomain: the support.
    """

    domain: "constraints.Constraint"
    codomain: "constraints.Constraint"

    def __call__(self, x: Array) -> Array:
        """The values in the support."""
        ...

    @property
    def inv(self) -> Callable[[Array], Array]:
        """The inverse: unconstrained values as a function of values in the support."""
        ...

    def log_abs_det_jacobian(self, x: Array, y: Array) -> Array:
        """Logarithm of the absolute Jacobian determinant at unconstrained x with value y."""
        ...


@dataclass(frozen=True)
class Latent:
    """An unobserved site in unconstrained coordinates.

    Attributes:
        transform: bijection from unconstrained values to the site's support.
        start: unconstrained starting value of a search.
        unit: typical step in unconstrained coordinates.
    """

    transform: Bijection
    start: Float[Array, "*shape"]
    unit: Float[Array, "*shape"]


@dataclass(frozen=True)
class Sites:
    """The sites of a problem by kind.

    Attributes:
        latents: sites that have a posterior.
        points: sites that are estimated as points, in unconstrained coordinates.
        carried: state that the program updates as it runs, such as batch-norm statistics.
    """

    latents: Mapping[str, Latent]
    points: Mapping[str, Latent]
    carried: Mapping[str, dict[str, Array]]


def sites_of(problem: Problem, key: Array) -> Sites:
    """The sites of the problem's program; `key` seeds starting values that are drawn."""
    return sites_in(lambda data: problem.run(data, problem.n), problem.data, key)


def sites_in(run: Callable[[_Data], object], data: _Data, key: Array) -> Sites:
    """Run a NumPyro program once, on the first row of its data, and collect its sites.

    The program runs compiled as a whole, because running it operation by operation would compile
    each operation. The collected arrays and supports are pytrees, which a compiled function can
    return.

    Args:
        run: the program as a function of the data.
        data: pytree whose leaves have the rows as their leading axis.
        key: PRNG key of starting values that are drawn.
    """
    from ranef.program.mutable_sites import MutableRecorder

    first = jax.tree.map(lambda a: jnp.asarray(a[:1]), data)

    def start(site: dict) -> ArrayLike | None:
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
        """The sites in the order of the program; a compiled function returns dicts sorted."""
        return {
            name: Latent(cast(Bijection, dist.biject_to(found[name][0])), *found[name][1:])
            for name in order
            if name in found
        }

    return Sites(in_order(latents), in_order(points), carried)


def _read(
    support: "constraints.Constraint", value: Array, unit: ArrayLike
) -> tuple["constraints.Constraint", Array, Array]:
    """Support of a site, and its start and unit in unconstrained coordinates."""
    start = dist.biject_to(support).inv(value)
    # Constrained sites get a unit of one in the transformed coordinates, such as logs or logits.
    plain = isinstance(getattr(support, "base_constraint", support), type(constraints.real))
    return support, start, jnp.broadcast_to(jnp.asarray(unit if plain else 1.0), start.shape)
