"""Draws of the factors of matrix factorization, for requested levels or for all of them.

The noise of a level depends on the seed and the level alone, so that draws of single levels agree
with those of all levels together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.inference.block_ascent.factor_posterior import FactorPosterior
from ranef.inference.glmm.arrays import Array
from ranef.numerics.counter_rng import CounterRNG
from ranef.numerics.shapes import Float

# Maximal size of an array of draws, in numbers of 8 bytes: 3.2 GB.
_REALISED = 400_000_000


@dataclass(frozen=True)
class FactorDraws:
    """Draws of the factors of requested levels only, as `LevelDraws`.

    Attributes:
        sides: by site, mean and square root of the covariance for each level.
        draws: number of draws, all chains together.
        seed: seed of the noise. The noise of a level depends on this and the level only.
        chains: number of chains that the draws are divided into.
    """

    sides: Mapping[str, tuple[Float[Array, "_ _"], Float[Array, "_ _ _"]]]
    draws: int
    seed: int
    chains: int = 1

    @classmethod
    def of(
        cls, sides: Mapping[str, FactorPosterior], draws: int, seed: int, chains: int = 1
    ) -> "FactorDraws":
        """Draws from the posterior `sides` of the factors, by site."""
        roots = {name: _root(side.covariance) for name, side in sides.items()}
        both = {name: (side.mean, roots[name]) for name, side in sides.items()}
        return cls(both, draws, seed, chains)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites."""
        return tuple(self.sides)

    def at(self, levels: Mapping[str, NDArray]) -> dict[str, Array]:
        """Draws of the levels (m,) of each site in `levels`, (chain, draw, m, K)."""
        out, each = {}, self.draws // self.chains
        for stream, (name, (mean, root)) in enumerate(self.sides.items()):
            if name in levels:
                own = np.asarray(levels[name], np.int64)
                k = mean.shape[1]
                # The offset keeps these streams apart from those of the exact method's factors.
                noise = CounterRNG(self.seed, 1_000_000 + stream).of(own, self.draws * k)
                z = noise.reshape(len(own), self.draws, k)
                drawn = mean[own][None] + np.einsum("jkl,jsl->sjk", root[own], z)
                out[name] = drawn.reshape(self.chains, each, *drawn.shape[1:])
        return out


def _root(covariance: Float[Array, "J K K"]) -> Float[Array, "J K K"]:
    """Symmetric square roots, which exist for nearly singular covariances too."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))[:, None]) @ vectors.transpose(0, 2, 1)


class LazyFactorDraws(Mapping[str, Array]):
    """Draws by site; those of the factors of all levels are made on request.

    Args:
        drawn: draws of the factors.
        beside: mappings with draws of all other sites.

    Raises:
        OptionError: on request of a site whose draws would take more than 3.2 GB.
    """

    def __init__(self, drawn: FactorDraws, beside: Sequence[Mapping[str, NDArray]]) -> None:
        self._drawn, self._beside = drawn, beside
        self._made: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        for ready in self._beside:
            if name in ready:
                return ready[name]
        if name not in self._made:
            levels, k = self._drawn.sides[name][0].shape
            count = levels * k
            if count * self._drawn.draws > _REALISED:
                raise OptionError(
                    f"{self._drawn.draws:,} draws of {count:,} factors take "
                    f"{8e-9 * count * self._drawn.draws:,.0f} GB; fit with "
                    f"draws={_REALISED // count:,} or fewer to have them"
                )
            self._made |= self._drawn.at({name: np.arange(levels)})
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        for ready in self._beside:
            yield from ready
        yield from self._drawn.sides

    def __len__(self) -> int:
        return len(self._drawn.sides) + sum(map(len, self._beside))
