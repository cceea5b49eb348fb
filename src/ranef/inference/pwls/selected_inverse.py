"""Posterior covariance blocks and derivatives by the selected inverse of Takahashi et al.

After elimination along a chain, the recursion of Takahashi, Fagan and Chin (1973) goes from the
last stage back to the first. It forms only those blocks of the inverse in which the matrix, too,
has nonzero blocks.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pwls import batched_linalg
from ranef.numerics.shapes import Float

if TYPE_CHECKING:
    from ranef.inference.pwls.nested_elimination import NestedFactorization

Array = NDArray[np.float64]


class SelectedInverse:
    """Blocks of the posterior covariance of the coefficients, in units of sigma^2.

    For level j of a stage let V be the covariance of all later coefficients, D = L L' as in
    `nested_elimination`, and R_j = Lambda L'^-1 half_C, with the columns of half that belong to
    later coefficients. Then

        cov(b_j, later) = -R_j V,    cov(b_j, b_j) = Lambda D^-1 Lambda' + R_j V R_j'.

    Args:
        system: the factorization.
        common: whether common effects are uncertain; otherwise they are held fixed.
        whole: whether the covariances of a single stage with the remaining coefficients are
            computed too; in a chain of several stages they always are.

    Attributes:
        system: the factorization.
        inverse: "B m m", inverse of the Schur complement.
        last: "B Q Q", covariance of the remaining coefficients.
        blocks: by stage, the covariances of each level, in the order of the stage: with itself,
            "k k B levels", with the parents in each later stage, "k l B levels", and with the
            remaining coefficients, "k Q B levels".
    """

    def __init__(self, system: "NestedFactorization", *, common: bool, whole: bool = False) -> None:
        self.system, self._whole = system, whole
        self.inverse = system.remainder.inverse(common=common)
        self.last = system.remainder.covariance(self.inverse)
        self.blocks: dict[int, tuple[Array, list[Array], Array]] = {}
        for s in reversed(range(len(system.steps))):
            self._stage(s)

    def _stage(self, s: int) -> None:
        """Compute the blocks of a stage from those of the later stages."""
        step = self.system.steps[s]
        k = step.width
        reach = step.effects(step.half[:, k:])
        explained, to_later, to_last = self._congruence(s, reach)
        batch, levels = step.lower.shape[2:]
        unit = np.zeros((k, k, batch, levels))
        unit[np.arange(k), np.arange(k)] = 1.0
        half = batched_linalg.forward(step.lower, unit)
        root_half = batched_linalg.times(step.root, batched_linalg.transposed(half))
        plain = batched_linalg.times(root_half, batched_linalg.transposed(root_half))
        self.blocks[s] = (plain + explained, to_later, to_last)

    def _congruence(
        self, s: int, reach: Float[Array, "k m B levels"]
    ) -> tuple[
        Float[Array, "k k B levels"],
        list[Float[Array, "k _l B levels"]],
        Float[Array, "k _Q B levels"],
    ]:
        """Products of X, `reach`, with the covariance V of the later coefficients.

        Returns:
            X V X' of every level, and the columns of -X V that belong to the parent in each later
            stage and to the remaining coefficients.
        """
        stage = self.system.stages[s]
        count, q = len(stage.parents), self.last.shape[1]
        if count == 0:
            last = self._to_last(reach) if s or self._whole else reach[:, :0]
            return batched_linalg.quadratic(reach, self.last), [], last
        start, own_columns = 0, []
        for i in range(count):
            width = self.system.steps[s + 1 + i].width
            own_columns.append(reach[:, start : start + width])
            start += width
        tail = reach[:, start : start + q]
        to_later = [np.zeros_like(x) for x in own_columns]
        to_last = self._to_last(tail)
        for i in range(count):
            own, pairs, outer = self._at(s, i)
            to_later[i] -= batched_linalg.times(own_columns[i], own)
            to_later[i] -= batched_linalg.times(tail, batched_linalg.transposed(outer))
            to_last -= batched_linalg.times(own_columns[i], outer)
            for j in range(i + 1, count):
                to_later[j] -= batched_linalg.times(own_columns[i], pairs[j - i - 1])
                to_later[i] -= batched_linalg.times(
                    own_columns[j], batched_linalg.transposed(pairs[j - i - 1])
                )
        whole = -sum(
            batched_linalg.times(x, batched_linalg.transposed(to_x))
            for x, to_x in zip([*own_columns, tail], [*to_later, to_last], strict=True)
        )
        return np.asarray(whole), to_later, to_last

    def _to_last(self, tail: Float[Array, "k Q B levels"]) -> Float[Array, "k Q B levels"]:
        """-X V for columns X and the covariance V of the remaining coefficients."""
        by_root = np.matmul(np.swapaxes(self.last, 1, 2), tail.transpose(0, 2, 1, 3))
        return -by_root.transpose(0, 2, 1, 3)

    def _at(self, s: int, i: int) -> tuple[Array, list[Array], Array]:
        """The blocks of the i-th stage after s, at the parents of the levels of stage s."""
        own, pairs, outer = self.blocks[s + 1 + i]
        place = self.system.stages[s].parents[i]
        return own[..., place], [pair[..., place] for pair in pairs], outer[..., place]

    def variances(self) -> tuple[dict[int, Float[Array, "B _levels _k"]], Float[Array, "B Q"]]:
        """Variances of the effects by factor, and of the remainder."""
        out = {}
        for s, (step, stage) in enumerate(zip(self.system.steps, self.system.stages, strict=True)):
            k = np.arange(step.width)
            diagonal = self.blocks[s][0][k, k].transpose(1, 2, 0)
            out[stage.factor] = np.empty_like(diagonal)
            out[stage.factor][:, stage.order] = diagonal
        last = np.diagonal(self.last, axis1=1, axis2=2)
        for span in self.system.remainder.layout.slices:
            out[span.factor] = last[:, span.place].reshape(len(last), span.levels, span.width)
        return out, last

    def combined(
        self, factor: int, combinations: Float[Array, "m k"]
    ) -> Float[Array, "B levels m"]:
        """Variances of linear combinations of each level's effects."""
        for s, stage in enumerate(self.system.stages):
            if stage.factor == factor:
                c = combinations
                found = np.einsum("mk,klbj,ml->bjm", c, self.blocks[s][0], c, optimize=True)
                out = np.empty_like(found)
                out[:, stage.order] = found
                return out
        span = next(p for p in self.system.remainder.layout.slices if p.factor == factor)
        return span.combined(self.last, combinations)

    def own(self) -> dict[int, Float[Array, "_k _k _levels"]]:
        """By factor, the covariance matrix of each level's effects, for B = 1."""
        out = {}
        for s, stage in enumerate(self.system.stages):
            block = self.blocks[s][0][:, :, 0]
            out[stage.factor] = np.empty_like(block)
            out[stage.factor][..., stage.order] = block
        for span in self.system.remainder.layout.slices:
            at = span.start + np.arange(span.levels)[:, None] * span.width + np.arange(span.width)
            block = self.last[0][at[:, :, None], at[:, None, :]]
            out[span.factor] = np.ascontiguousarray(block.transpose(1, 2, 0))
        return out

    def derivatives(self) -> dict[int, tuple[Float[Array, "_k _k"], Float[Array, "_k _k"]]]:
        """By factor, d log det / d Lambda and d residual / d Lambda, for B = 1.

        With N = I - A Lambda D^-1 Lambda' for each level, the first derivative is 2 T Lambda,
        where T = sum_j [N A - N C V C' N']. With the score s_j = -N C c, c being the later
        coefficients, which end with -1 for the response, the second is -2 (sum_j s_j s_j') Lambda.
        Lambda is not inverted and may be singular.
        """
        out = self.system.remainder.derivatives(self.inverse)
        found: list[Array] = []
        last = self.system.remainder.coefficients
        for s in reversed(range(len(self.system.steps))):
            step, stage = self.system.steps[s], self.system.stages[s]
            k = step.width
            own = step.half[:, :k]
            reduced = step.every - batched_linalg.times(batched_linalg.transposed(own), step.half)
            explained = self._congruence(s, reduced[:, k:])[0]
            information = (reduced[:, :k] - explained)[:, :, 0].sum(axis=-1)
            above = stage.above(found)
            bare = replace(step, half=reduced)
            score = bare.outer(above, last)[:, 0]
            found.append(step.effects(step.outer(above, last)[:, None])[:, 0])
            root = step.root[..., 0, 0]
            out[stage.factor] = (2 * information @ root, -2 * (score @ score.T) @ root)
        return out
