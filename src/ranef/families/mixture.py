"""Finite mixtures: p(y) = sum_k w_k p_k(y), where each component p_k has a family of its own.

Source: McLachlan and Peel (2000).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Moments, Scale
from ranef.errors import OptionError
from ranef.families.base import Family
from ranef.families.level_shifts import Codes
from ranef.families.mixture_distribution import MixtureDistribution
from ranef.families.parameters import Component, FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow
from ranef.families.state import FamilyState as Learned
from ranef.families.state import Measures
from ranef.families.thinned_rows import ThinnedRows
from ranef.formula.equation import Line, joined
from ranef.formula.response import ResponseCall
from ranef.lazy import Array, ArrayLike, dist, jax, jnp
from ranef.numerics.kmeans import clusters
from ranef.numerics.shapes import Float
from ranef.priors import Prior

_Value = TypeVar("_Value")

# Responses and companions, as `Mixture.measure` gathers them.
Seen = Float[NDArray[np.float64], "m 2"]

# Stem of the parameters that are log odds of a component, as in "mix2".
SHARE = "mix"

# Scale of the log odds. It leads to the default prior Normal(0, 1.75) of their intercept, about as
# wide as the distribution of the log odds of a uniform share, whose sd is pi / sqrt(3) = 1.81.
_ODDS = Scale(0.0, 0.7)

# Largest number of responses kept for scales and starting values; more are thinned evenly.
_MOST = 200_000


@dataclass(frozen=True)
class MixtureState(Learned):
    """What a mixture learns from the responses of the training rows.

    The inherited `shares` are the proportions of the rows in each cluster.

    Attributes:
        whole: for each component, the state of its family learned from all rows; default priors
            are made from it.
        part: for each component, the state of its family learned from its cluster of the
            responses; starting values are made from it.
    """

    whole: tuple[Learned, ...] = ()
    part: tuple[Learned, ...] = ()


class Mixture(Family):
    """p(y_i) = sum_k w_ik p_k(y_i) with weights w_i = softmax(0, mix2_i, ..., mixK_i).

    Support, links and default priors are those of the components, which `rf.Mixture` names.
    mix2, ..., mixK are the log odds of each component against the first. Without a predictor
    of its own each has an intercept, `mix2_Intercept`, with the default prior Normal(0, 1.75).

    The parameters of component k carry its number: mu1, sigma1, mu2, ... In a formula the first
    part predicts the location of every component, `sigma ~ x` every sigma, `mix ~ x` all log
    odds, and `mu2 ~ z` that parameter alone. Starting values come from a k-means clustering of
    the responses. Source: McLachlan and Peel (2000).
    """

    name = SHARE + "ture"
    members: ClassVar[tuple[type[Family], ...]] = ()
    curvature = "em"

    @classmethod
    def of(cls, *members: type[Family]) -> type["Mixture"]:
        """The class of mixtures of these families, one for each component.

        Raises:
            OptionError: for a family that cannot be a component, fewer than two components, and
                families that do not accept the same kind or form of response.
        """
        return _mixture(members)

    def __init__(self, response: ResponseCall) -> None:
        if not self.members:
            raise OptionError(
                "the family mixture is made of others; write family=rf.Mixture('gaussian', k=2), "
                "or 'mixture(gaussian, gaussian)'"
            )
        super().__init__(response)
        self.components = tuple(member(response) for member in self.members)

    def free_parameters(self) -> tuple[FamilyParameter, ...]:
        known = {
            f"{p.name}{k}"
            for k, component in enumerate(self.components, 1)
            for p in set(component.parameters) - set(component.free_parameters())
        }
        return tuple(p for p in self.parameters if p.name not in known)

    def dispersions(self) -> tuple[str, ...]:
        """Dispersions of the components; none unless every component has a free one."""
        each = [component.dispersions() for component in self.components]
        numbered = (f"{own[0]}{k}" for k, own in enumerate(each, 1) if own)
        return tuple(numbered) if all(each) else ()

    def located(self, response: ResponseDesign) -> PerRow:
        return self.components[0].located(response)

    # State learned from the response

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        for component in self.components:
            component.refuse(value, companion, frame)

    def without(self, design: ResponseDesign, known: PerRow) -> ResponseDesign:
        return self.components[0].without(design, known)

    def measure(self, accumulator: Measures | None, design: ResponseDesign) -> Measures:
        """The responses so far with their companions, thinned above `_MOST`."""
        assert not isinstance(accumulator, Moments)
        beside = design.companion
        columns = [design.value, np.ones(len(design.value)) if beside is None else beside]
        return (accumulator or ThinnedRows()).add(np.stack(columns, axis=1), _MOST)

    def measured(self, state: Learned, accumulator: Measures) -> MixtureState:
        """The state with each component's scales, from all rows and from its cluster.

        Raises:
            DataError: for a response that is too large or too small to be squared.
        """
        assert isinstance(accumulator, ThinnedRows)
        seen = accumulator.rows
        # This comes first: the components refuse responses that are too large to be squared.
        whole = tuple(self._of_rows(state, seen))
        with np.errstate(over="ignore", invalid="ignore"):
            shown = self.components[0].shown(self._rows(seen))
        places = clusters(shown, len(self.components))
        part = tuple(
            component.measured(state, component.measure(None, self._rows(seen[own])))
            for component, own in zip(self.components, places, strict=True)
        )
        shares = tuple(len(own) / len(seen) for own in places)
        return MixtureState(
            state.learned,
            whole[0].scale,
            shares=shares,
            weight=whole[0].weight,
            whole=whole,
            part=part,
        )

    def _of_rows(self, state: Learned, seen: Seen) -> Iterator[Learned]:
        """The state of each component's family, learned from all responses `seen`."""
        for component in self.components:
            yield component.measured(state, component.measure(None, self._rows(seen)))

    def _rows(self, seen: Seen) -> ResponseDesign:
        """The design of responses and companions as `measure` gathers them."""
        form = self.response.form
        return ResponseDesign(seen[:, 0], None if form == "plain" else seen[:, 1], form)

    def _place(self, parameter: FamilyParameter) -> tuple[int, FamilyParameter]:
        """The component k, from 0, of a numbered parameter, and its parameter in that family."""
        k = int(parameter.name.removeprefix(parameter.stem)) - 1
        own = self.components[k].parameters
        return k, next(p for p in own if p.name == parameter.stem)

    def predictor_scale(self, state: Learned, parameter: FamilyParameter) -> Scale:
        """The scale from all rows, with a start from the component's cluster.

        For the log odds of a component the start is the log ratio of the clusters' shares.
        """
        assert isinstance(state, MixtureState)
        if parameter.stem == SHARE:
            k = int(parameter.name.removeprefix(SHARE)) - 1
            odds = float(np.log(state.shares[k] / state.shares[0]))
            return Scale(_ODDS.location, _ODDS.sd, odds - _ODDS.location)
        k, own = self._place(parameter)
        whole = self.components[k].predictor_scale(state.whole[k], own)
        part = self.components[k].predictor_scale(state.part[k], own)
        return Scale(whole.location, whole.sd, part.start - whole.location)

    def default(self, state: Learned, parameter: FamilyParameter) -> Prior | None:
        assert isinstance(state, MixtureState)
        if parameter.stem == SHARE:
            return None
        k, own = self._place(parameter)
        return self.components[k].default(state.whole[k], own)

    def start(
        self, state: Learned, parameter: FamilyParameter
    ) -> float | NDArray[np.float64] | None:
        assert isinstance(state, MixtureState)
        if parameter.stem == SHARE:
            return None
        k, own = self._place(parameter)
        return self.components[k].start(state.part[k], own)

    def row_scale(self, state: Learned) -> float:
        """The mean of the components' row scales, each learned from its cluster."""
        assert isinstance(state, MixtureState)
        each = zip(self.components, state.part, strict=True)
        return float(np.mean([component.row_scale(own) for component, own in each]))

    # The distribution

    def _own(self, values: Mapping[str, _Value], k: int) -> dict[str, _Value]:
        """The values of component k, from 0, by the names of its family, such as "mu"."""
        own = {p.name: f"{p.name}{k + 1}" for p in self.components[k].parameters}
        return {name: values[numbered] for name, numbered in own.items() if numbered in values}

    def _odds(self, values: Mapping[str, Array]) -> Float[Array, "k *n"]:
        """Log w of each component, the log softmax of (0, mix2, ..., mixK)."""
        odds = [jnp.asarray(values[f"{SHARE}{k + 1}"]) for k in range(1, len(self.components))]
        return jax.nn.log_softmax(
            jnp.stack(jnp.broadcast_arrays(jnp.zeros_like(odds[0]), *odds)), axis=0
        )

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        each = (c.given(response, **self._own(predictors, k)) for k, c in self._numbered())
        return MixtureDistribution(tuple(each), self._odds(predictors))

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        each = (c.distribution(response, **self._own(parameters, k)) for k, c in self._numbered())
        return MixtureDistribution(tuple(each), self._odds(parameters))

    def _numbered(self) -> Iterator[tuple[int, Family]]:
        return enumerate(self.components)

    def probabilities(self, **parameters: Array) -> dict[str, Array]:
        """Prior probability w_k of each component, by its number; the response is not used."""
        shares = jnp.exp(self._odds(parameters))
        return {str(k + 1): share for k, share in enumerate(shares)}

    def responsibilities(self, response: ResponseDesign, **predictors: Array) -> dict[str, Array]:
        """Posterior probability w_k p_k(y_i) / sum_j w_j p_j(y_i) of each component, (n,)."""
        value, odds = jnp.asarray(response.value), self._odds(predictors)
        each = [
            c.log_density(response, **self._own(predictors, k)) + odds[k]
            for k, c in self._numbered()
        ]
        found = jax.nn.softmax(jnp.stack(jnp.broadcast_arrays(*each, value)[:-1]), axis=0)
        return {str(k + 1): share for k, share in enumerate(found)}

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        """Draws from every component, of which one is chosen at random for each row."""
        reached = np.cumsum(np.exp(np.asarray(self._odds(parameters), np.float64)), axis=0)[:-1]
        drawn = [c.sample(rng, response, **self._own(parameters, k)) for k, c in self._numbered()]
        shape = np.broadcast_shapes(*(np.shape(each) for each in drawn), reached.shape[1:])
        chosen = (rng.random(shape) > reached).sum(axis=0)
        return np.choose(chosen, [np.broadcast_to(each, shape) for each in drawn])

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        """sum_k w_k mu_k."""
        shares = jnp.exp(self._odds(parameters))
        each = [c.mean(response, **self._own(parameters, k)) for k, c in self._numbered()]
        return jnp.asarray(sum(w * m for w, m in zip(shares, each, strict=True)))

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        """sum_k w_k (sigma_k^2 + (mu_k - mu)^2)."""
        middle, out = self.mean(response, **parameters), jnp.zeros(())
        for k, c in self._numbered():
            own = self._own(parameters, k)
            away = c.mean(response, **own) - middle
            share = jnp.exp(self._odds(parameters)[k])
            # Avoids 0 * inf for a component of zero weight whose variance is infinite.
            whole = share * (c.variance(response, **own) + away**2)
            out = out + jnp.where(share > 0, whole, 0.0)
        return out

    def shown(self, response: ResponseDesign) -> PerRow:
        return self.components[0].shown(response)

    def parts(self) -> tuple[Component, ...]:
        return tuple(
            Component(
                component.name,
                {p.name: f"{p.name}{k + 1}" for p in component.free_parameters()},
                f"{SHARE}{k + 1}" if k else "",
            )
            for k, component in self._numbered()
        )

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        odds: list[Line] = [("0",)]
        odds += [line for name, line in symbols.items() if name.startswith(SHARE)]
        distributions = [
            c.distribution_equation(self._own(symbols, k)) for k, c in self._numbered()
        ]
        return ("Mixture(softmax(", *joined(odds, ", "), "); ", *joined(distributions, ", "), ")")

    def shifts(
        self,
        response: ResponseDesign,
        codes: Codes,
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> None:
        """None: a mixture has several locations."""
        return

    def residual(self, state: Learned, values: Mapping[str, ArrayLike]) -> None:
        """None: the components have different predictors, so there is no common residual."""
        return


@cache
def _mixture(members: tuple[type[Family], ...]) -> type[Mixture]:
    """`Mixture.of`, cached so that equal mixtures are one class."""
    for member in members:
        if member.text or member.categorised or issubclass(member, Mixture):
            raise OptionError(
                f"a component of a mixture cannot be {member.name}, which is made of others or "
                "takes categories; take a family of numbers such as 'gaussian' or 'poisson'"
            )
    name = f"{Mixture.name}({', '.join(m.name for m in members)})"
    if len(members) < 2:
        raise OptionError(f"{name} has one component, and a mixture at least two")
    if len({m.discrete for m in members}) > 1:
        raise OptionError(
            f"{name} mixes counts with measurements, whose densities cannot be added; take "
            "families of one kind"
        )
    forms = tuple(f for f in members[0].forms if all(f in m.forms for m in members))
    if not forms:
        raise OptionError(f"the families of {name} take no response of one form; take others")
    numbered: dict[str, list[FamilyParameter]] = {}
    for k, member in enumerate(members, 1):
        for place, p in enumerate(member.parameters):
            default = None if place == 0 else p.default
            numbered.setdefault(p.name, []).append(
                FamilyParameter(
                    f"{p.name}{k}", p.link, p.support, default, (), place == 0, stem=p.name
                )
            )
    odds = partial(FamilyParameter, link="identity", support="real", stem=SHARE, implied=True)
    numbered[SHARE] = [odds(f"{SHARE}{k}") for k in range(2, len(members) + 1)]
    content = {
        "__doc__": Mixture.__doc__,
        "name": name,
        "members": members,
        "forms": forms,
        "discrete": members[0].discrete,
        "parameters": tuple(p for each in numbered.values() for p in each),
    }
    return type("Mixture", (Mixture,), content)
