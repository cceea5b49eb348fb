"""Tables of parameters and of coefficients by level, with intervals from their draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.data.row_labels import Table
from ranef.errors import ColumnError, OptionError, suggestion
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior, Vector, tails_of, variable_values
from ranef.posterior.ratios import Ratios
from ranef.terms.base import Term, Variable, clean_name
from ranef.terms.capabilities import VariesByLevel

# Draws of some levels, and lower and upper quantiles of some levels.
Draws = Float[NDArray[np.float64], "draws levels"]
Quantiles = Float[NDArray[np.float64], "2 levels"]

# Largest number of draws of effects that is held at once.
_CELLS = 10_000_000


@dataclass(frozen=True)
class CoefficientTables:
    """The tables of `Fit.summary`, `fixef`, `varcorr`, `ranef` and `coef`.

    Attributes:
        posterior: the posterior of the fit.
    """

    posterior: Posterior

    def summary(self, interval: float, exp: bool) -> pd.DataFrame:
        """Mean, sd, lower, upper and kind by parameter; with `exp` also the scale.

        Raises:
            OptionError: if `interval` is not a probability, or `exp` is asked for of a model
                without a coefficient whose exponential is a ratio.
        """
        tails = tails_of(interval)
        known = self.posterior
        ratios = Ratios.of(known) if exp else None
        rows = []
        for name, variable in known.variables.items():
            if variable.role in ("group", "weight"):
                continue
            value, kind = known.constants.get(name, (None, "posterior"))
            scale = ratios.scale(name) if ratios else ""
            for label, place in variable.elements(name):
                if value is not None:
                    point = _element(value, place)
                    point = float(_exponentials(point)) if scale else point
                    described = (point, 0.0, point, point)
                elif scale:
                    described = _exponentiated(known.flat(name)[:, place], tails)
                else:
                    described = _describe(known.flat(name)[:, place], tails)
                    described = (*known.mean_and_sd(name, place), *described[2:])
                rows.append((label, *described, kind, scale))
        for factor, share in known.shares().items():
            rows.append((f"share({factor})", *_describe(share, tails), "derived", ""))
        columns = ["parameter", "mean", "sd", "lower", "upper", "kind", "scale"]
        found = pd.DataFrame(rows, columns=columns).set_index("parameter")
        return found if exp else found.drop(columns="scale")

    def table(self, *roles: str, interval: float | None = None) -> pd.DataFrame:
        """Mean and sd of the variables with one of the given roles, by parameter.

        With an interval also its lower and upper limits.

        Raises:
            OptionError: if `interval` is neither None nor a probability.
        """
        tails = None if interval is None else tails_of(interval)
        known = self.posterior
        rows = []
        for name, variable in known.variables.items():
            if variable.role not in roles:
                continue
            value, _ = known.constants.get(name, (None, ""))
            for label, place in variable.elements(name):
                limits: tuple[float, ...] = ()
                if value is None:
                    described = known.mean_and_sd(name, place)
                    if tails is not None:
                        limits = _describe(known.flat(name)[:, place], tails)[2:]
                else:
                    point = _element(value, place)
                    described = (point, 0.0)
                    limits = () if tails is None else (point, point)
                rows.append((label, *described, *limits))
        columns = ["parameter", "mean", "sd", *([] if tails is None else ["lower", "upper"])]
        return pd.DataFrame(rows, columns=columns).set_index("parameter")

    def effects(self, factor: str, interval: float | None) -> Table:
        """The table of `Fit.ranef`.

        Raises:
            ColumnError: if the model does not have the grouping.
            OptionError: if `interval` is neither None nor a probability.
        """
        tails = None if interval is None else tails_of(interval)
        names = self._effects_of(factor)
        levels = next(iter(names.values())).coords[0]
        limits = {name: np.empty((2, len(levels))) for name in names}
        if tails is not None:
            for places, drawn in self._by_batch(names):
                for name, values in drawn.items():
                    limits[name][:, places] = np.quantile(values, tails, axis=0)
        terms, means, sds = [], [], []
        for name, variable in names.items():
            mean, sd = self._effect_moments(name)
            term = name.removesuffix(f"|{variable.factor}")
            # The title, if it is that of this variable, is in the notation of the formula.
            if clean_name(variable.title) == name:
                term = variable.title.rpartition("|")[0] if "/" in variable.title else term
            terms += [term] * len(levels)
            means.append(mean)
            sds.append(sd)
        columns = {"term": terms, "mean": np.concatenate(means), "sd": np.concatenate(sds)}
        if tails is not None:
            lower, upper = np.concatenate(list(limits.values()), axis=1)
            columns |= {"lower": lower, "upper": upper}
        return self.posterior.by_level(factor, list(levels) * len(names), columns)

    def coefficients(self, factor: str, interval: float) -> Table:
        """The table of `Fit.coef`: common plus group effects by level.

        Raises:
            ColumnError: if the model does not have the grouping.
            OptionError: if `interval` is not a probability, or a factor is coded in one way among
                the common effects and in another among the group effects.
        """
        tails = tails_of(interval)
        names = self._effects_of(factor)
        levels = next(iter(names.values())).coords[0]
        sums = self._sums(factor, names)
        size = len(levels)
        sds = {term: np.zeros(size) for term in sums}
        limits = {term: np.zeros((2, size)) for term in sums}
        for places, drawn in self._by_batch(names):
            width = places.stop - places.start
            for term, (common, effect) in sums.items():
                total = self._common_draws(common)[:, None]
                total = np.broadcast_to(total, (len(total), width))
                if effect:
                    total = total + drawn[effect]
                # Sums over draws depend on the order in memory, which a saved fit need not have.
                total = np.ascontiguousarray(total)
                if len(total) > 1:
                    sds[term][places] = total.std(axis=0, ddof=1)
                limits[term][:, places] = np.quantile(total, tails, axis=0)
        means = []
        for common, effect in sums.values():
            mean = np.full(size, self._common_mean(common))
            means.append(mean + self._effect_moments(effect)[0] if effect else mean)
        lower, upper = np.concatenate(list(limits.values()), axis=1)
        columns = {
            "term": [term for term in sums for _ in levels],
            "mean": np.concatenate(means),
            "sd": np.concatenate(list(sds.values())),
            "lower": lower,
            "upper": upper,
        }
        return self.posterior.by_level(factor, list(levels) * len(sums), columns)

    def _effects_of(self, factor: str) -> dict[str, Variable]:
        """The variables with one value for each level of a grouping.

        Raises:
            ColumnError: if the model does not have the grouping.
        """
        variables = self.posterior.variables
        groups = {name: v for name, v in variables.items() if v.role == "group"}
        names = {name: v for name, v in groups.items() if v.factor == clean_name(str(factor))}
        if not names:
            known = dict.fromkeys(v.factor for v in groups.values())
            hint = suggestion(str(factor), known) if known else "it has none"
            raise ColumnError(f"the model has no grouping {factor!r}; {hint}")
        return names

    def _effect_moments(self, name: str) -> tuple[Vector, Vector]:
        """Mean and sd of the effect of each level, in closed form if available."""
        if name in self.posterior.moments:
            mean, sd = self.posterior.moments[name]
            return mean, sd
        flat = self.posterior.flat(name)
        return flat.mean(axis=0), flat.std(axis=0, ddof=1)

    def _by_batch(self, names: Mapping[str, Variable]) -> Iterator[tuple[slice, dict[str, Draws]]]:
        """Draws of the effects of one grouping, for as many levels at a time as memory holds.

        Args:
            names: the variables of the grouping.

        Yields:
            The places of some levels, and their draws by variable.
        """
        known = self.posterior
        levels = len(next(iter(names.values())).coords[0])
        states = known.training.state.terms
        sites = {
            site
            for _, term in known.program.terms_with(VariesByLevel)
            if isinstance(term, Term) and set(names) & set(term.variables(states[term.label]))
            for grouped in term.level_sites(states[term.label])
            for site in grouped.sites
        }
        later = set(known.draws.lazy_sites) & sites
        chains, each = known.draws.shape
        most = max(1, _CELLS // (chains * each * len(names)))
        for start in range(0, levels, most):
            places = slice(start, min(start + most, levels))
            if later:
                own = np.arange(places.start, places.stop)
                values = variable_values(
                    known.program, known.training.state, known.draws.at(dict.fromkeys(later, own))
                )
                flat = {name: _flat(values[name]) for name in names}
            else:
                flat = {name: known.flat(name)[:, places] for name in names}
            yield places, flat

    def _sums(self, factor: str, names: Mapping[str, Variable]) -> dict[str, tuple[str, str]]:
        """What each coefficient of a level is the sum of.

        Returns:
            Label of the coefficient to the label of its common effect and the variable of its
            group effect, "" for none.
        """
        program, state = self.posterior.program, self.posterior.training.state
        out: dict[str, tuple[str, str]] = {}
        for parameter in dict.fromkeys(own.name for own, _ in program.all_terms()):
            terms = [(t, t.variables(state.terms[t.label])) for t in program.terms_of(parameter)]
            effects = {
                _as_common(variable.title, term.prefix): name
                for term, own in terms
                for name, variable in own.items()
                if name in names
            }
            if not effects:
                continue
            common = [
                label
                for _, own in terms
                for name, variable in own.items()
                if variable.role == "common"
                for label, _ in variable.elements(name)
            ]
            _refuse_other_coding(factor, common, list(effects))
            out |= {label: (label, effects.get(label, "")) for label in common}
            out |= {label: ("", name) for label, name in effects.items() if label not in common}
        return out

    def _place(self, label: str) -> tuple[str, int]:
        """The common variable, and its element, with this label."""
        return next(
            (name, place)
            for name, variable in self.posterior.variables.items()
            if variable.role == "common"
            for own, place in variable.elements(name)
            if own == label
        )

    def _common_draws(self, label: str) -> Vector:
        """Draws of a common effect; a single value if it has no posterior or the label is ""."""
        if not label:
            return np.zeros(1)
        name, place = self._place(label)
        if name in self.posterior.constants:
            return np.array([_element(self.posterior.constants[name][0], place)])
        return self.posterior.flat(name)[:, place]

    def _common_mean(self, label: str) -> float:
        if not label:
            return 0.0
        name, place = self._place(label)
        if name in self.posterior.constants:
            return _element(self.posterior.constants[name][0], place)
        return self.posterior.mean_and_sd(name, place)[0]


def _as_common(title: str, prefix: str) -> str:
    """The label of the common effect to which a group effect is added: `x` for `x|g`."""
    column = title.removeprefix(prefix).rpartition("|")[0]
    return prefix + ("Intercept" if column == "1" else column)


def _refuse_other_coding(factor: str, common: list[str], effects: list[str]) -> None:
    """Refuse a factor whose group effects refer to other columns than its common effects.

    Raises:
        OptionError: naming the factor.
    """

    def columns(labels: list[str]) -> dict[str, set[str]]:
        out: dict[str, set[str]] = {}
        for label in labels:
            base, bracket, _ = label.partition("[")
            if bracket:
                out.setdefault(base, set()).add(label)
        return out

    own, known = columns(effects), columns(common)
    for base, labels in own.items():
        if base in known and known[base] != labels:
            raise OptionError(
                f"coef({factor!r}) adds common and group effects of the same columns, and those "
                f"of {base!r} are not coded alike: common effects {', '.join(sorted(known[base]))},"
                f" group effects {', '.join(sorted(labels))}; write both with an intercept, or "
                "both without, as in y ~ 0 + f + (0 + f | g)"
            )


def _flat(values: Float[NDArray[np.float64], "chains draws levels"]) -> Draws:
    return values.reshape(values.shape[0] * values.shape[1], -1)


def _element(value: float | NDArray[np.float64], place: int) -> float:
    """One element of a constant, which may be a single number for all elements."""
    flat = np.ravel(value)
    return float(flat[place] if len(flat) > 1 else flat[0])


def _describe(values: Vector, tails: tuple[float, float]) -> tuple[float, ...]:
    """Mean, sd, and lower and upper quantile of draws."""
    lower, upper = np.quantile(values, tails)
    # A share of variances that are all fixed is one number.
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()), sd, float(lower), float(upper)


def _exponentiated(values: Vector, tails: tuple[float, float]) -> tuple[float, ...]:
    """Mean and sd of the exponentials of draws, and the exponentials of their quantiles.

    Both moments are infinite where an exponential is.
    """
    each = _exponentials(values)
    lower, upper = _exponentials(np.quantile(values, tails))
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = float(each.mean()), float(each.std(ddof=1))
    return mean, sd if np.isfinite(sd) else np.inf, float(lower), float(upper)


def _exponentials(values: float | NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.exp(np.asarray(values, np.float64))
