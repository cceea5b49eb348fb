"""Common (fixed) effects: eta_i = Intercept + x_i1 beta_1 + ... + x_ip beta_p."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import ColumnMoments, Scale
from ranef.formula import model_matrix
from ranef.formula.equation import Line, Sub, Summand, joined
from ranef.lazy import Array, ArrayLike, jnp
from ranef.numerics.shapes import Float
from ranef.priors import Prior, RescaledDefault, sites
from ranef.terms.base import Design, LinearTerm, Parameter, Run, Variable, clean_name
from ranef.terms.blocks import AnyArray, LinearBlock
from ranef.terms.capabilities import (
    Centred,
    Columns,
    Constant,
    HasVariances,
    Measured,
    PerDraw,
    Reparametrized,
    Sites,
    SpansConstant,
)
from ranef.terms.orthogonal import OrthogonalCoordinates, coordinates, spans_constant

INTERCEPT = "Intercept"

# Default prior sd of the contribution of one orthogonal direction of the columns, in sds of the
# predictor.
_WIDTH = 2.5

# Largest number of levels that an equation lists.
_MOST_NAMED = 12

# One number, or one for each column of a variable.
Numbers = float | int | tuple[float | int, ...]

# One number for each column.
Vector = Float[NDArray[np.float64], "k"]


@dataclass(frozen=True)
class CommonState:
    """The coding of the columns and their moments over the training rows.

    Attributes:
        matrix: the coding of the columns.
        mean: means of the columns; that of an intercept is set to zero.
        sd: sds of the columns.
        coordinates: orthogonal coordinates of the coefficients with default priors; None before
            these are known, and if there are none.
        covariance: covariance matrix of the columns; None once `coordinates` are known.
    """

    matrix: model_matrix.ModelMatrix
    mean: Vector
    sd: Vector
    coordinates: OrthogonalCoordinates | None = None
    covariance: Float[NDArray[np.float64], "k k"] | None = None

    @property
    def slices(self) -> dict[str, slice]:
        """The columns of each variable, by name."""
        out, start = {}, 0
        for coding in self.matrix.codings:
            out[coding.name] = slice(start, start + coding.width)
            start += coding.width
        return out

    @cached_property
    def own(self) -> dict[str, slice]:
        """`slices` of the variables that are not in `coordinates`."""
        held = set(self.coordinates.places) if self.coordinates else set()
        return {name: place for name, place in self.slices.items() if place.start not in held}

    @property
    def true_mean(self) -> Vector:
        """Means of the columns, that of an intercept being one."""
        out = self.mean.copy()
        if self.matrix.codings and self.matrix.codings[0].name == INTERCEPT:
            out[0] = 1.0
        return out


class Common(
    LinearTerm[model_matrix.MatrixScan, CommonState],
    Measured[CommonState],
    SpansConstant[CommonState],
    Reparametrized[CommonState],
    Centred[CommonState],
    HasVariances[CommonState],
):
    """Common (fixed) effects, the coefficients beta that all rows share.

    The design holds columns centred at their training means m, and m . beta is added back to the
    predictor; this loses fewer digits to cancellation. A variable with a prior by the user is a
    site of its own. All others share one site, their orthogonal coordinates gamma (see
    `orthogonal`), which are independent under the default prior.
    """

    needs_covariance = True

    def needs(self) -> dict[str, str]:
        return model_matrix.needs(self.call.arguments)

    def scan(
        self, accumulator: model_matrix.MatrixScan | None, frame: Frame
    ) -> model_matrix.MatrixScan:
        return model_matrix.scan(accumulator, self.call.arguments, frame)

    def finish(self, accumulator: model_matrix.MatrixScan) -> CommonState:
        learned = model_matrix.finish(accumulator, self.call.arguments)
        width = sum(coding.width for coding in learned.codings)
        return CommonState(learned, np.zeros(width), np.ones(width))

    def design(self, state: CommonState, frame: Frame) -> Design:
        return Design({"columns": state.matrix.build(frame) - state.mean})

    def columns(self, state: CommonState, frame: Frame) -> Columns:
        return state.matrix.build(frame)

    def measured(self, state: CommonState, measures: ColumnMoments) -> CommonState:
        intercept = [coding.name == INTERCEPT for coding in state.matrix.codings]
        mean = measures.mean.copy()
        if intercept and intercept[0]:
            mean[0] = 0.0
        return replace(state, mean=mean, sd=measures.sd, covariance=measures.covariance)

    def carries_constant(self, state: CommonState) -> bool:
        if state.covariance is None:
            return True
        with np.errstate(all="ignore"):
            return spans_constant(state.true_mean, state.covariance)

    def placed(
        self, state: CommonState, has_prior: Callable[[str, str], bool], constant: Constant
    ) -> CommonState:
        covariance = state.covariance
        state = replace(state, covariance=None)
        names = [n for n in state.slices if not has_prior(self._site(n), self._alias(n))]
        places = [c for n in names for c in range(*state.slices[n].indices(len(state.mean)))]
        if not places or covariance is None or not np.isfinite(covariance).all():
            return state  # columns that overflow are refused with their names where they are used
        found = coordinates(
            tuple(places),
            state.true_mean[places],
            covariance[np.ix_(places, places)],
            anchored=constant is not Constant.NOTHING,
            elsewhere=constant is Constant.OUTSIDE,
        )
        return replace(state, coordinates=found)

    def as_written(self, state: CommonState) -> CommonState:
        return replace(state, coordinates=None)

    def parameters(self, state: CommonState, scale: Scale) -> dict[str, Parameter]:
        """Normal priors with the sd of 2.5 sds of the predictor, per sd of a column.

        The coordinates gamma have one joint prior. A variable with a prior by the user is listed
        with the default that this prior replaces.
        """
        slopes = _WIDTH * scale.sd / _sizes(state)
        out = {}
        for name, columns in state.own.items():
            if name == INTERCEPT:
                # The intercept refers to x = 0. Its sd is what independent priors imply there: 2.5
                # for the level at the means m, and 2.5 |m_j| / sd_j for each slope, in sds of the
                # predictor.
                away = state.mean / _sizes(state)
                width = _WIDTH * scale.sd * float(np.sqrt(1.0 + np.sum(away**2)))
                prior: Prior = priors.Normal(scale.location, width)
            else:
                sigma = tuple(float(s) for s in slopes[columns])
                prior = priors.Normal(0.0, sigma if self._is_vector(state, name) else sigma[0])
            size = columns.stop - columns.start
            out[self._site(name)] = Parameter(prior, alias=self._alias(name), size=size)
        if state.coordinates is not None:
            size = state.coordinates.size
            mean, width = np.zeros(size), np.full(size, _WIDTH * scale.sd)
            if state.coordinates.constant:
                # The constant refers to zero of the columns with a prior by the user, so its sd is
                # widened as that of an intercept.
                others = [place for name, place in state.own.items() if name != INTERCEPT]
                away = [(state.mean / _sizes(state))[place] for place in others]
                mean[0] = scale.location
                width[0] *= np.sqrt(1.0 + sum(float(np.sum(each**2)) for each in away))
            joint = priors.Normal(tuple(map(float, mean)), tuple(map(float, width)))
            out[self._joint_site] = Parameter(joint, size=size)
        return out

    def stated(self, state: CommonState, priors_: Mapping[str, Prior]) -> dict[str, Prior]:
        """The marginal prior of each coefficient in `coordinates`: beta = T gamma is normal."""
        if state.coordinates is None:
            return {}
        prior = priors_[self._joint_site]
        assert isinstance(prior, priors.Normal)
        t = state.coordinates.matrix
        means = t @ np.broadcast_to(prior.mu, t.shape[1])
        sds = np.sqrt((t**2) @ np.broadcast_to(np.square(prior.sigma), t.shape[1]))
        out: dict[str, Prior] = {}
        for name, places in self._placed(state).items():
            mu, sigma = (tuple(float(v) for v in each[places]) for each in (means, sds))
            vector = self._is_vector(state, name)
            one = priors.Normal(mu if vector else mu[0], sigma if vector else sigma[0])
            about = "of what the column adds to the others"
            if name == INTERCEPT:
                middle = priors.Normal(
                    float(np.ravel(prior.mu)[0]), float(np.ravel(prior.sigma)[0])
                )
                about = f"where all columns are zero; {middle} at their means"
            elif state.coordinates.constant and t[places, 0].any():
                about = "where all other columns are zero"
            out[self._site(name)] = RescaledDefault(one, about)
        return out

    def _placed(self, state: CommonState) -> dict[str, slice]:
        """The variables in `coordinates`, with the places of their columns among these."""
        out, start = {}, 0
        for name, columns in state.slices.items():
            if name not in state.own:
                size = columns.stop - columns.start
                out[name] = slice(start, start + size)
                start += size
        return out

    def _is_vector(self, state: CommonState, name: str) -> bool:
        return any(c.name == name and c.names for c in state.matrix.codings)

    def _site(self, name: str) -> str:
        return self.prefix + clean_name(name)

    @property
    def _joint_site(self) -> str:
        """The site of gamma; its "/" keeps it from clashing with a column."""
        return f"{self.prefix}/common"

    def _alias(self, name: str) -> str:
        return "common" if name != INTERCEPT and self.main else ""

    def hyperparameters(
        self, state: CommonState, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        return {}

    def block(
        self,
        state: CommonState,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, AnyArray],
    ) -> LinearBlock:
        """One block for all rows: the variables with a site of their own, then gamma."""
        columns = design.arrays["columns"]
        xp: ModuleType = np if isinstance(columns, np.ndarray) else jnp
        parts, means, sds, freedom, bounds = [], [], [], [], []
        sites: list[tuple[str, int]] = []
        shapes: list[tuple[int, ...]] = []
        for name, place in state.own.items():
            parts.append(columns[:, place] + state.mean[place])
            sites.append((self._site(name), place.stop - place.start))
            shapes.append(self._shape(state, name))
        carry = None
        carried: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
        if state.coordinates is not None:
            parts.append(self._coordinate_columns(state, columns, xp))
            sites.append((self._joint_site, state.coordinates.size))
            shapes.append((state.coordinates.size,))
            placed = self._placed(state).items()
            carried = tuple(
                (self._site(n), s.stop - s.start, self._shape(state, n)) for n, s in placed
            )
            before = sum(count for _, count in sites[:-1])
            t = state.coordinates.matrix
            carry = np.concatenate([np.zeros((len(t), before)), t], axis=1)
        for name, count in sites:
            mean, sd, nu = _moments(priors_[name])
            means.append(np.broadcast_to(mean, count))
            sds.append(np.broadcast_to(sd, count))
            freedom.append(np.full(count, nu))
            bounds.append(np.repeat([_bounds(priors_[name])], count, axis=0).T)
        nus, limits = np.concatenate(freedom), np.concatenate(bounds, axis=1)
        bounded = bool(np.isfinite(limits).any())
        gaussian = bool(np.isinf(nus).all()) and not bounded
        return LinearBlock(
            xp.concatenate(parts, axis=1),
            None,
            1,
            np.concatenate(means),
            np.concatenate(sds),
            gaussian,
            tuple(sites),
            tuple(shapes),
            carry=carry,
            carried=carried,
            freedom=None if gaussian or np.isnan(nus).any() else nus,
            bounds=limits if bounded else None,
        )

    def _coordinate_columns(
        self, state: CommonState, columns: Float[AnyArray, "n k"], xp: ModuleType
    ) -> Float[AnyArray, "n _"]:
        """The columns of gamma, from the design's centred columns."""
        assert state.coordinates is not None
        places = np.array(state.coordinates.places)
        own = columns[:, places]
        if not state.coordinates.centred:
            own = own + state.mean[places]
        return state.coordinates.columns(own, xp)

    def _shape(self, state: CommonState, name: str) -> tuple[int, ...]:
        """Shape of the coefficients of one variable."""
        columns = state.slices[name]
        return (columns.stop - columns.start,) if self._is_vector(state, name) else ()

    def coefficients(self, run: Run[CommonState], block: LinearBlock) -> Float[Array, "k"]:
        state, scale = run.state, run.scale
        units = scale.sd / _sizes(state)
        parts = []
        for name, columns in state.own.items():
            shape = self._shape(state, name)
            value = sites.parameter(
                self._site(name),
                run.priors[self._site(name)],
                shape=shape,
                start=scale.start if name == INTERCEPT else 0.0,
                unit=units[columns].reshape(shape),
            )
            parts.append(jnp.atleast_1d(value))
        if state.coordinates is not None:
            start = np.zeros(state.coordinates.size)
            start[:1] = scale.start if state.coordinates.constant else 0.0
            name = self._joint_site
            shape = start.shape
            unit = scale.sd
            gamma = sites.parameter(name, run.priors[name], shape=shape, start=start, unit=unit)
            parts.append(gamma)
        return jnp.concatenate(parts)

    def eta(self, run: Run[CommonState]) -> Float[Array, "n"]:
        state = run.state
        b = self.coefficients(run, self.block(state, run.design, run.priors, {}))
        columns, out, start = run.design.arrays["columns"], jnp.zeros(()), 0
        for place in state.own.values():
            beta = b[start : start + place.stop - place.start]
            out = out + columns[:, place] @ beta + jnp.asarray(state.mean[place]) @ beta
            start += place.stop - place.start
        if state.coordinates is not None:
            out = out + self._coordinate_columns(state, columns, jnp) @ b[start:]
        return out

    def site_labels(self, state: CommonState) -> dict[str, tuple[str, ...]]:
        """Labels of gamma: each coordinate has that of the column that it adds to those before."""
        if state.coordinates is None:
            return {}
        variables = self.variables(state)
        labels = [
            label
            for name in self._placed(state)
            for label, _ in variables[self._site(name)].elements(self._site(name))
        ]
        first = [self._site(INTERCEPT)] if state.coordinates.constant else []
        return {self._joint_site: (*first, *(labels[i] for i in state.coordinates.order))}

    def shift(self, state: CommonState, sites: Sites) -> PerDraw | None:
        """The product m . beta by draw, to be added to thresholds as the columns are centred."""
        found = state.coordinates
        if found is None or not found.elsewhere or self._joint_site not in sites:
            return None
        return np.asarray(sites[self._joint_site]) @ (found.mean @ found.matrix)

    def put_back(
        self, state: CommonState, variables: Sites, known: ArrayLike
    ) -> dict[str, NDArray]:
        if state.coordinates is None or not state.coordinates.constant:
            return {}
        constant = state.coordinates.matrix[:, 0]
        out: dict[str, NDArray] = {}
        for name, places in self._placed(state).items():
            site, own = self._site(name), constant[places].reshape(self._shape(state, name))
            if site in variables and own.any():
                beside = np.asarray(known).reshape(np.shape(known) + (1,) * own.ndim)
                out[site] = np.asarray(np.asarray(variables[site]) - beside * own)
        return out

    def derived(self, state: CommonState, sites: Sites) -> dict[str, NDArray]:
        """The coefficients beta = T gamma, by draw."""
        if state.coordinates is None or self._joint_site not in sites:
            return {}
        beta = np.asarray(sites[self._joint_site]) @ state.coordinates.matrix.T
        return {
            self._site(name): beta[..., places].reshape(
                (*beta.shape[:-1], *self._shape(state, name))
            )
            for name, places in self._placed(state).items()
        }

    def equation(self, state: CommonState) -> Summand:
        """The term in mathematical notation.

        The coefficient of a factor with treatment contrasts is indexed by the level of row i; that
        of a numeric column multiplies it. Several columns, as of other contrasts, of polynomials
        and of splines, are multiplied by a vector of coefficients.
        """
        parts: list[Line] = []
        contrasts: dict[str, Line] = {}
        for coding in state.matrix.codings:
            several = [p for p in coding.parts if p.width > 1 and not p.has_indicators]
            coded = [p for p in coding.parts if p.levels and not p.has_indicators]
            contrasts |= {str(p.expression): _contrast_line(p) for p in coded}
            if coding.name == INTERCEPT:
                parts.append(("β", Sub(f"{self.prefix}0")))
            elif several or coded:
                name = self.prefix + coding.name
                parts.append(("β", Sub(name), f" · {coding.name}", Sub("i")))
            elif coding.names:
                parts.append(("β", Sub(f"{self.prefix}{coding.name}[i]")))
            else:
                name = self.prefix + coding.name
                parts.append(("β", Sub(name), f" {coding.name}", Sub("i")))
        return Summand(joined(parts, " + "), tuple(contrasts.values()))

    def variables(self, state: CommonState) -> dict[str, Variable]:
        out = {}
        for coding in state.matrix.codings:
            name = self._site(coding.name)
            title = self.prefix + coding.name
            vector = Variable("common", (f"{name}_dim",), (coding.names,), title=title)
            out[name] = vector if coding.names else Variable(title=title)
        return out

    def variances(
        self, state: CommonState, design: Design, values: Sites
    ) -> dict[str, Float[NDArray[np.float64], "draws"]]:
        """Variance of the linear combination over rows, beta' Cov(x) beta, by draw."""
        columns = np.asarray(design.arrays["columns"], np.float64)
        away = columns - columns.mean(axis=0)
        varying = {name: own for name, own in state.slices.items() if name != INTERCEPT}
        each = {name: np.asarray(values[self._site(name)]) for name in varying}
        beta = np.zeros((max(map(len, each.values()), default=1), columns.shape[1]))
        for name, own in varying.items():
            beta[:, own] = each[name].reshape(len(each[name]), -1)
        return {"": np.einsum("si,ij,sj->s", beta, away.T @ away / len(away), beta)}


def _contrast_line(part: model_matrix.CodedExpression) -> Line:
    """Which contrasts the columns of a factor are, and of which levels."""
    levels = part.levels or ()
    kind = f"{part.contrast} contrasts" if isinstance(part.contrast, str) else "given contrasts"
    listed = ", ".join(levels[:_MOST_NAMED]) + (", ..." if len(levels) > _MOST_NAMED else "")
    return (str(part.expression), Sub("i"), f": {kind} of {listed}")


def _sizes(state: CommonState) -> Vector:
    """The sd of each column; for a constant column its absolute value, or 1 if that is 0."""
    size = np.where(np.abs(state.mean) > 0, np.abs(state.mean), 1.0)
    return np.where(state.sd > 1e-12 * size, state.sd, size)


def _moments(prior: Prior) -> tuple[Numbers, Numbers, float]:
    """Location, scale and degrees of freedom of a prior as a t distribution.

    A normal prior has infinite degrees of freedom, and a flat one an infinite sd as well. So has a
    uniform one, with its mean and sd. Degrees of freedom are NaN for other priors.
    """
    match prior:
        case priors.Normal():
            return prior.mu, prior.sigma, np.inf
        case priors.Flat():
            return 0.0, np.inf, np.inf
        case priors.Fixed():
            return prior.value, 0.0, np.inf
        case priors.StudentT():
            return prior.mu, prior.sigma, float(prior.nu)
        case priors.Cauchy():
            return prior.mu, prior.sigma, 1.0
        case priors.Uniform():
            middle, length = (prior.lower + prior.upper) / 2, prior.upper - prior.lower
            return middle, length / 12**0.5, np.inf
    return 0.0, np.inf, np.nan


def _bounds(prior: Prior) -> tuple[float, float]:
    """Lower and upper bound of a uniform prior; infinite for other priors."""
    if isinstance(prior, priors.Uniform):
        return float(prior.lower), float(prior.upper)
    return -np.inf, np.inf
