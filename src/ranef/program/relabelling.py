"""Relabelling of mixture components, so that all draws have one numbering.

The posterior density of a mixture is invariant to permutations of components that have the same
family, terms and priors. Chains may therefore switch labels, or differ in them. As in Stephens
(2000), the algorithm alternates two steps until the labels stay the same: it permutes the
components of each draw to minimize the squared distance of their standardized parameters from the
current means, which is a linear assignment problem, and it recomputes the means. The components are
then numbered by increasing mean intercept. With three or more components, the prior of `mix`, which
refers to the first of them, is thereby replaced by its average over all orders.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.families.base import Family
from ranef.lazy import optimize
from ranef.numerics.shapes import Bool, Float, Int
from ranef.priors import Prior

Array = NDArray[np.float64]
# Draws of sites, and of one array with the components as a third axis.
Draws = Mapping[str, Float[Array, "chains draws ..."]]
Stacked = Float[Array, "chains draws components ..."]
Order = Int[NDArray[np.int64], "chains draws components"]

# Largest number of alternations between labels and means.
_ROUNDS = 20
# Sites with more elements per component, such as group effects, are permuted with the others but do
# not enter the distance.
_MOST = 50


@dataclass(frozen=True)
class Exchange:
    """A set of exchangeable mixture components.

    Attributes:
        places: their places among all components.
        sites: role, such as "mu_x", to the site of each of these components.
        odds: role to the sites of the log odds of all components against the first, that one
            excluded.
    """

    places: tuple[int, ...]
    sites: Mapping[str, tuple[str, ...]]
    odds: Mapping[str, tuple[str, ...]]

    def permuted(self, order: Order, values: Draws) -> dict[str, Float[Array, "chains draws ..."]]:
        """The sites of each draw with component `order[..., k]` moved to place k.

        Args:
            order: permutation of each draw.
            values: draws of the sites.
        """
        out: dict[str, Array] = {}
        for names in self.sites.values():
            moved = _taken(np.stack([values[name] for name in names], axis=2), order)
            out |= {name: moved[:, :, k] for k, name in enumerate(names)}
        for names in self.odds.values():
            each = np.stack([np.zeros_like(values[names[0]]), *(values[n] for n in names)], axis=2)
            whole = np.broadcast_to(np.arange(each.shape[2]), each.shape[:3]).copy()
            whole[..., self.places] = np.asarray(self.places)[order]
            moved = _taken(each, whole)
            out |= {name: moved[:, :, k + 1] - moved[:, :, 0] for k, name in enumerate(names)}
        return out


def relabel(
    family: Family, priors: Mapping[str, Prior], values: Draws
) -> tuple[
    dict[str, Float[Array, "chains draws ..."]],
    Bool[NDArray[np.bool_], "chains draws"] | None,
]:
    """Draws of the sites in one numbering of the components.

    Args:
        family: the family, with its components.
        priors: priors by parameter name.
        values: draws of the sites.

    Returns:
        The relabelled draws, and whether each draw had another numbering than the most frequent
        one; None where no components are exchangeable.
    """
    out, moved = dict(values), None
    for exchange in exchanges(family, priors, values):
        order = _nearest(exchange, out)
        usual, counts = np.unique(order.reshape(-1, order.shape[-1]), axis=0, return_counts=True)
        own = (order != usual[np.argmax(counts)]).any(axis=-1)
        moved = own if moved is None else moved | own
        out |= exchange.permuted(order, out)
        out |= exchange.permuted(_by_intercept(exchange, out), out)
    return out, moved


def exchanges(
    family: Family, priors: Mapping[str, Prior], names: Collection[str]
) -> Iterator[Exchange]:
    """The sets of components that are exchangeable: same family, terms and priors."""
    components = family.parts()
    shares = [_roles({"mix": c.share}, names) for c in components[1:]]
    if not shares or any(set(own) != set(shares[0]) for own in shares):
        return
    odds = {role: tuple(own[role] for own in shares) for role in shares[0]}
    for name in (name for own in odds.values() for name in own):
        prior = priors.get(name)
        # Against another reference component, log odds are differences of the present ones. The
        # density is invariant only for a prior of mean zero on the real line.
        if prior is None or prior.support not in ("real", "any") or getattr(prior, "mu", 0.0):
            return
    sets: dict[tuple, list[int]] = {}
    roles = [_roles(component.parameters, names) for component in components]
    for k, (component, own) in enumerate(zip(components, roles, strict=True)):
        alike = frozenset((role, str(priors.get(name))) for role, name in own.items())
        sets.setdefault((component.kind, alike), []).append(k)
    for places in sets.values():
        if len(places) > 1 and roles[places[0]]:
            sites = {r: tuple(roles[k][r] for k in places) for r in roles[places[0]]}
            yield Exchange(tuple(places), sites, odds)


def _roles(parameters: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The sites of a component's parameters, by their names without the component's number."""
    return {
        stem + name.removeprefix(numbered): name
        for stem, numbered in parameters.items()
        for name in names
        if name == numbered or name.startswith(f"{numbered}_")
    }


def _taken(values: Stacked, order: Order) -> Stacked:
    """Permute the third axis of `values`, the components, as `order` says."""
    index = order.reshape(*order.shape, *(1,) * (values.ndim - 3))
    return np.take_along_axis(values, index, axis=2)


def _nearest(exchange: Exchange, values: Draws) -> Order:
    """The order of components closest to the means over all draws."""
    features = []
    for names in exchange.sites.values():
        each = np.stack([values[name] for name in names], axis=2)
        each = each.reshape(*each.shape[:3], -1)
        if each.shape[-1] <= _MOST:
            # Distances between positive parameters are taken on the log scale.
            features.append(np.log(each) if (each > 0).all() else each)
    found = np.concatenate(features, axis=-1)
    flat = found.reshape(-1, *found.shape[2:])
    middle = found[0].mean(axis=0)
    order = np.broadcast_to(np.arange(len(middle)), flat.shape[:2])
    for _ in range(_ROUNDS):
        before = order
        sd = np.take_along_axis(flat, order[..., None], axis=1).std(axis=0) + 1e-12
        away = (flat[:, :, None, :] - middle[None, None]) / sd[None, None]
        order = np.array(
            [optimize.linear_sum_assignment(cost.T)[1] for cost in (away**2).sum(axis=-1)]
        )
        middle = np.take_along_axis(flat, order[..., None], axis=1).mean(axis=0)
        if np.array_equal(order, before):
            break
    return order.reshape(found.shape[:3])


def _by_intercept(exchange: Exchange, values: Draws) -> Order:
    """Order by increasing mean of the location's intercept, the same for every draw."""
    ends = ("_Intercept", "_/common")  # the first coordinate of common effects is the constant
    role = next((r for r in exchange.sites if r.endswith(ends)), None)
    shape = next(iter(values.values())).shape[:2]
    names = exchange.sites[role] if role else ()
    means = [float(values[name].reshape(*shape, -1)[..., 0].mean()) for name in names]
    order = np.argsort(means) if means else np.arange(len(exchange.places))
    return np.broadcast_to(order, (*shape, len(exchange.places)))
