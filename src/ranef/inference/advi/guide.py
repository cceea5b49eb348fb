"""Gaussian guides (variational families) over the unconstrained latents z = place(u).

"meanfield" is fully factorised: u ~ N(m, diag(s^2)).

"structured" is q(theta) q(beta) q(b | theta, beta), with hyperparameters theta, common effects
(fixed effects) beta and group effects (random effects) b. theta has a full covariance, and so have
the common effects of each predictor, in coordinates whitened by their cross-products. The effects
b_j of level j of a grouping have the posterior that results from their prior N(0, Sigma(theta)) and
a normal likelihood with precision A_j:

    b_j = V_j (A_j + Pbar) (m_j + C_j (beta - E beta)) + V_j^1/2 noise,  V_j = (A_j + P)^-1,

where P is Sigma^-1 at theta, and Pbar is Sigma^-1 at E theta. A_j, m_j and C_j are variational
parameters. For a Gaussian response with known variance this form contains the exact conditional
posterior. If b did not depend on the scales and correlations, the sds of these in the guide would
be several times too small, because the guide would treat b as observed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from ranef.errors import DataError
from ranef.lazy import Array, jax, jnp, ravel_pytree
from ranef.numerics.jax_cholesky import cholesky, product, solve, square
from ranef.numerics.shapes import Float, Int
from ranef.program.problem import Latent, Problem
from ranef.terms.blocks import LinearBlock

_LOG_2PI = float(np.log(2 * np.pi))
# Maximal number of entries of all C_j together; with more, group effects do not depend on beta.
_MOST_TIES = 2_000_000
# Maximal number of hyperparameters that get a full covariance.
_MOST_FULL = 200
# A column counts as collinear if the part of it outside the span of the columns before it has less
# than this share of its norm.
_COLLINEAR = 1e-11
# Maximal condition number of the columns of a grouping, scaled to norm one. A column beside an
# intercept reaches it if its mean is fifty times its sd.
_WORST_CONDITION = 100.0


Latents = Float[Array, "z"]
Scalar = Float[Array, ""]


@dataclass(frozen=True)
class JointFactor:
    """Parameters with a joint full covariance: common effects of a predictor, or hyperparameters.

    Attributes:
        index: positions in z.
        matrix: upper triangular; z[index] = start[index] + unit[index] * (matrix u[index]).
        common: whether the means of group effects depend linearly on these parameters, as on
            common effects. In a model of columns with missing values all common effects and
            hyperparameters are one such factor, because the missing values make them dependent.
    """

    index: Int[Array, "1 p"]
    matrix: Float[Array, "p p"]
    common: bool = True


@dataclass(frozen=True)
class LevelFactor:
    """Effects of the m levels of a grouping, with a full covariance (k, k) within each level.

    Attributes:
        index: positions in z.
        label: label of the linear block whose prior covariance they depend on; "" if they depend
            on none.
    """

    index: Int[Array, "m k"]
    label: str


class GuideParams(TypedDict):
    """The variational parameters, numbers that define a member of the family.

    Attributes:
        loc: means of u.
        rho: numbers whose softplus are the scales.
        lower: for each factor of q, the strictly lower triangle of the Cholesky factor of its
            covariance, in units of the scales.
        ties: the C_j of each grouping, with p = 0 if group effects do not depend on beta.
    """

    loc: Latents
    rho: Latents
    lower: list[Float[Array, "m k k"]]
    ties: list[Float[Array, "m k p"]]


@dataclass(frozen=True)
class Guide:
    """The variational family q; the numbers that define a member are those of `init`.

    Attributes:
        size: length of z and of u.
        start: z at u = 0.
        unit: step of z for a step of one in u.
        width: sd of u where the search begins.
        shared: factors of q with a joint full covariance; none under "meanfield".
        grouped: factors of group effects with a full covariance within levels; none under
            "meanfield".
        following: whether group effects depend on hyperparameters and common effects.
        split: function from a flat z to a dict by site.
        latents: the sites.
        blocks: function from the values of the sites to the linear blocks.
    """

    size: int
    start: Latents
    unit: Latents
    width: Latents
    shared: tuple[JointFactor, ...]
    grouped: tuple[LevelFactor, ...]
    following: bool
    split: Callable[[Array], dict[str, Array]]
    latents: Mapping[str, Latent]
    blocks: Callable[[Mapping[str, Array]], dict[str, LinearBlock]]

    def init(self) -> GuideParams:
        """The variational parameters where a search begins."""
        kind = self.start.dtype
        common = sum(factor.index.size for factor in self.shared if factor.common)
        ties = common * sum(factor.index.size for factor in self.grouped)
        tied = self.following and ties <= _MOST_TIES
        return {
            "loc": jnp.zeros(self.size, kind),
            "rho": jnp.log(jnp.expm1(self.width)),
            "lower": [
                jnp.zeros((*factor.index.shape, factor.index.shape[1]), kind)
                for factor in (*self.shared, *self.grouped)
            ],
            "ties": [
                jnp.zeros((*factor.index.shape, common if tied else 0), kind)
                for factor in self.grouped
            ],
        }

    def _factors(self, params: GuideParams) -> list[Float[Array, "1 _ _"]]:
        """Cholesky factors diag(scale) (I + lower) of the joint factors' covariances."""
        scale = jax.nn.softplus(params["rho"])
        return [
            _unit_lower(lower) * scale[factor.index][..., None]
            for factor, lower in zip(self.shared, params["lower"], strict=False)
        ]

    def _conditionals(self, params: GuideParams, u: Latents) -> Iterator[tuple[Array, Array]]:
        """Mean (m, k) and Cholesky factor (m, k, k) of the precision of the effects of each
        grouping, given the rest of u."""
        scale = jax.nn.softplus(params["rho"])
        away = u - params["loc"]
        common = [away[factor.index[0]] for factor in self.shared if factor.common]
        beta = jnp.concatenate(common) if common else jnp.zeros(0)
        here, usual = self._precisions(u), self._precisions(params["loc"])
        lowers = params["lower"][len(self.shared) :]
        for factor, lower, tie in zip(self.grouped, lowers, params["ties"], strict=True):
            root = _unit_lower(lower) / scale[factor.index][..., None]
            mean = params["loc"][factor.index]
            if tie.shape[-1]:
                mean = mean + tie @ beta
            if factor.label in here:
                data = square(root)
                pull = product(data + usual[factor.label], mean)
                root = cholesky(data + here[factor.label])
                mean = solve(root, solve(root, pull), transposed=True)
            yield mean, root

    def _precisions(self, u: Latents) -> dict[str, Float[Array, "_ _"]]:
        """P = Sigma^-1 by label, in units of u, of groupings that depend on their prior."""
        followed = {factor.label: factor.index[0] for factor in self.grouped if factor.label}
        if not (followed and self.following):
            return {}
        blocks, out = self.blocks(self.constrain(self.place(u))[0]), {}
        for label, index in followed.items():
            factor = jnp.asarray(blocks[label].factor)
            root = (jnp.diag(factor) if factor.ndim == 1 else factor) / self.unit[index][:, None]
            out[label] = square(solve(root, jnp.eye(len(root))))
        return out

    def sample(self, params: GuideParams, noise: Latents) -> Latents:
        """A draw of u as a differentiable function of standard normal noise."""
        u = params["loc"] + jax.nn.softplus(params["rho"]) * noise
        for factor, root in zip(self.shared, self._factors(params), strict=True):
            step = product(root, noise[factor.index])
            u = u.at[factor.index].set(params["loc"][factor.index] + step)
        for factor, (mean, root) in zip(
            self.grouped, list(self._conditionals(params, u)), strict=True
        ):
            u = u.at[factor.index].set(mean + solve(root, noise[factor.index], transposed=True))
        return u

    def place(self, u: Latents) -> Latents:
        """The unconstrained latents z at u."""
        z = self.start + self.unit * u
        for factor in self.shared:
            moved = self.unit[factor.index] * (u[factor.index] @ factor.matrix.T)
            z = z.at[factor.index].set(self.start[factor.index] + moved)
        return z

    def log_density(self, params: GuideParams, u: Latents) -> Scalar:
        """Log density of z = place(u) under q, in nats."""
        scale = jax.nn.softplus(params["rho"])
        away = u - params["loc"]
        noise, log_det = away / scale, jnp.log(scale * self.unit)
        for factor, root in zip(self.shared, self._factors(params), strict=True):
            noise = noise.at[factor.index].set(solve(root, away[factor.index]))
            log_det = log_det.at[factor.index].add(jnp.log(jnp.diag(factor.matrix)))
        for factor, (mean, root) in zip(self.grouped, self._conditionals(params, u), strict=True):
            own = product(jnp.swapaxes(root, -1, -2), u[factor.index] - mean)
            noise = noise.at[factor.index].set(own)
            stretch = -jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1))
            log_det = log_det.at[factor.index].set(stretch + jnp.log(self.unit[factor.index]))
        return jnp.sum(-0.5 * noise**2 - 0.5 * _LOG_2PI - log_det)

    def constrain(self, z: Latents) -> tuple[dict[str, Array], Scalar]:
        """The values of the sites at z, and log |d site / d z|."""
        values, log_det = {}, jnp.zeros(())
        for name, u in self.split(z).items():
            transform = self.latents[name].transform
            values[name] = transform(u)
            log_det += jnp.sum(transform.log_abs_det_jacobian(u, values[name]))
        return values, log_det


def _unit_lower(lower: Float[Array, "m k k"]) -> Float[Array, "m k k"]:
    """The strictly lower triangle of a matrix plus the identity."""
    return jnp.tril(lower, -1) + jnp.eye(lower.shape[-1])


def build(
    kind: str,
    latents: Mapping[str, Latent],
    problem: Problem,
    *,
    points: Collection[str] = (),
    following: bool = True,
) -> Guide:
    """Builds the guide of a problem.

    Args:
        kind: "meanfield" or "structured".
        latents: the sites.
        problem: the model and its rows.
        points: names of the point estimates. A grouping with a scale among them does not depend
            on its prior covariance.
        following: whether group effects depend on hyperparameters and common effects. Under
            minibatches this should be off: the signal that determines the dependence is then weak
            beside the noise, and a wrong dependence makes the scales far too certain.

    Raises:
        DataError: for a grouping with nearly collinear columns, under "structured".
    """
    # z has the order of the program. Coefficients are then adjacent if their columns are, and a
    # step compiles to a plain matrix product, which is several times as fast.
    start, separate = ravel_pytree([latent.start for latent in latents.values()])
    unit, _ = ravel_pytree([latent.unit for latent in latents.values()])

    def split(z: Array) -> dict[str, Array]:
        return dict(zip(latents, separate(z), strict=True))

    shared, grouped = _factorization(latents, problem, points) if kind == "structured" else ([], [])
    # About the posterior sd given n rows, or given the rows of one level. A scale that begins too
    # narrow grows quickly. One that begins too wide shrinks slowly, because of the noise of
    # minibatches.
    width = np.concatenate(
        [
            np.zeros(0),
            *(
                np.full(np.size(latent.start), min(0.1, np.sqrt(np.size(latent.start) / problem.n)))
                for latent in latents.values()
            ),
        ]
    )
    return Guide(
        start.size,
        start,
        unit,
        jnp.asarray(width),
        tuple(shared),
        tuple(grouped),
        following,
        split,
        latents,
        problem.blocks,
    )


def _factorization(
    latents: Mapping[str, Latent], problem: Problem, points: Collection[str]
) -> tuple[list[JointFactor], list[LevelFactor]]:
    """The joint and the level factors of a "structured" guide, from the linear blocks.

    Common effects are whitened by s R^-1 with R'R = X'X / n, where s is the residual scale: a step
    of one in u changes the predictor by s, in root mean square over the rows.
    """
    places = _places(latents)

    @jax.jit
    def blocks() -> dict[str, LinearBlock]:
        return problem.blocks({n: latent.transform(latent.start) for n, latent in latents.items()})

    shared: list[JointFactor] = []
    grouped: list[LevelFactor] = []
    # Common effects by predictor, over all of its terms.
    together: dict[str, list[tuple[NDArray, NDArray, NDArray]]] = {}
    rest = set(latents)
    for label, block in blocks().items():
        names = [name for name, _ in block.sites if name in latents]
        rest -= set(names)
        if not names:
            continue
        index = np.concatenate([places[n].reshape(block.levels, -1) for n in names], axis=1)
        if block.codes is not None or block.scales:
            if block.codes is not None and block.spectrum is None:
                _refuse_collinear(label, block)
            moving = any(name in points for name in block.scales)
            grouped.append(LevelFactor(jnp.asarray(index), "" if moving else label))
            continue
        used = np.repeat([name in names for name, _ in block.sites], [k for _, k in block.sites])
        unit = np.concatenate([np.ravel(latents[name].unit) for name in names])
        columns = np.asarray(block.columns, dtype=np.float64)[:, used]
        together.setdefault(problem.predicts[label], []).append((index, unit, columns))
    # In a model of columns with missing values all predictors and hyperparameters are dependent,
    # and make one factor with the key "".
    joint: dict[str, list[tuple[NDArray, NDArray]]] = {}
    for parameter, terms in together.items():
        index, unit = (np.concatenate([p[i] for p in terms], axis=-1) for i in (0, 1))
        matrix = _whitening(np.concatenate([columns for *_, columns in terms], axis=1))
        residual = problem.residual_scales.get(parameter, problem.residual_scale)
        key = "" if problem.incomplete else parameter
        joint.setdefault(key, []).append((index, residual * matrix / unit[:, None]))
    others = np.concatenate([[], *(places[name] for name in sorted(rest))]).astype(int)[None]
    full = 0 < others.size <= _MOST_FULL
    if problem.incomplete and full:
        joint.setdefault("", []).append((others, np.eye(others.size)))
    for pieces in joint.values():
        index = np.concatenate([index for index, _ in pieces], axis=-1)
        matrix = block_diag(*(matrix for _, matrix in pieces))
        shared.append(JointFactor(jnp.asarray(index), jnp.asarray(matrix)))
    if full and not problem.incomplete:
        shared.append(JointFactor(jnp.asarray(others), jnp.eye(others.size), common=False))
    return shared, grouped


def _places(latents: Mapping[str, Latent]) -> dict[str, Int[NDArray, "_"]]:
    """Positions of each site in the flat z."""
    out, first = {}, 0
    for name, latent in latents.items():
        size = int(np.size(latent.start))
        out[name] = np.arange(first, first + size)
        first += size
    return out


def _whitening(x: Float[NDArray, "n k"]) -> Float[NDArray, "k k"]:
    """R^-1 from the QR decomposition of x / sqrt(n).

    For a column that is a combination of those before it, the row of R is that of the identity.
    """
    n, k = x.shape
    size = np.linalg.norm(x, axis=0) / np.sqrt(n)
    size[size == 0] = 1.0
    r = np.asarray(np.linalg.qr(np.vstack([x / size / np.sqrt(n), np.zeros((k, k))]), mode="r"))
    r *= np.where(np.diag(r) < 0, -1.0, 1.0)[:, None]
    made_up = np.diag(r) < _COLLINEAR
    r[made_up] = np.eye(k)[made_up]
    return np.linalg.inv(r) / size[:, None]


def _refuse_collinear(label: str, block: LinearBlock) -> None:
    """Refuses a grouping with nearly collinear columns, for which the search would not converge.

    Raises:
        DataError: for such a grouping, with the name of the term and the remedy.
    """
    x = np.asarray(block.columns, dtype=np.float64)
    size = np.linalg.norm(x, axis=0)
    if x.shape[1] > 1 and size.min() > 0 and np.linalg.cond(x / size) > _WORST_CONDITION:
        raise DataError(
            f"the columns of ({label}) can hardly be told apart, as those of 1 + x cannot where x "
            "is far from zero for its spread; centre them, as in (1 + center(x) | g)"
        )
