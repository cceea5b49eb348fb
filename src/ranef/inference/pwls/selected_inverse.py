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
        inverse: (B, m, m) inverse of the Schur complement.
        last: (B, Q, Q) covariance of the remaining coefficients.
        blocks: by stage, the covariances of each level, in the order of the stage: with itself
            (k, k, B, J), with the parents in each later stage (k, k', B, J), and with the
            remaining coefficients (k, Q, B, J).
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
        spread, to_later, to_last = self._spread_by(s, reach)
        batch, levels = step.lower.shape[2:]
        unit = np.zeros((k, k, batch, levels))
        unit[np.arange(k), np.arange(k)] = 1.0
        half = batched_linalg.forward(step.lower, unit)
        root_half = batched_linalg.times(step.root, batched_linalg.transposed(half))
        plain = batched_linalg.times(root_half, batched_linalg.transposed(root_half))
        self.blocks[s] = (plain + spread, to_later, to_last)

    def _spread_by(self, s: int, reach: Array) -> tuple[Array, list[Array], Array]:
        """Products with the covariance V of the later coefficients, for X (k, later + Q, B, J).

        Returns:
            X V X' of every level (k, k, B, J), and the columns of -X V that belong to the parent
            in each later stage and to the remaining coefficients.
        """
        stage = self.system.stages[s]
        count, q = len(stage.parents), self.last.shape[1]
        if count == 0:
            last = self._to_last(reach) if s or self._whole else reach[:, :0]
            return batched_linalg.quadratic(reach, self.last), [], last
        start, parts = 0, []
        for i in range(count):
            width = self.system.steps[s + 1 + i].width
            parts.append(reach[:, start : start + width])
            start += width
        tail = reach[:, start : start + q]
        to_later = [np.zeros_like(part) for part in parts]
        to_last = self._to_last(tail)
        for i in range(count):
            own, pairs, outer = self._at(s, i)
            to_later[i] -= batched_linalg.times(parts[i], own)
            to_later[i] -= batched_linalg.times(tail, batched_linalg.transposed(outer))
            to_last -= batched_linalg.times(parts[i], outer)
            for j in range(i + 1, count):
                to_later[j] -= batched_linalg.times(parts[i], pairs[j - i - 1])
                to_later[i] -= batched_linalg.times(
                    parts[j], batched_linalg.transposed(pairs[j - i - 1])
                )
        spread = -sum(
            batched_linalg.times(part, batched_linalg.transposed(each))
            for part, each in zip([*parts, tail], [*to_later, to_last], strict=True)
        )
        return np.asarray(spread), to_later, to_last

    def _to_last(self, tail: Array) -> Array:
        """-X V for columns X (k, Q, B, J) and the covariance V of the remaining coefficients."""
        by_root = np.matmul(np.swapaxes(self.last, 1, 2), tail.transpose(0, 2, 1, 3))
        return -by_root.transpose(0, 2, 1, 3)

    def _at(self, s: int, i: int) -> tuple[Array, list[Array], Array]:
        """The blocks of the i-th stage after s, at the parents of the levels of stage s."""
        own, pairs, outer = self.blocks[s + 1 + i]
        place = self.system.stages[s].parents[i]
        return own[..., place], [pair[..., place] for pair in pairs], outer[..., place]

    def variances(self) -> tuple[dict[int, Array], Array]:
        """Variances of the effects by factor, (B, J, k), and of the remainder, (B, Q)."""
        out = {}
        for s, (step, stage) in enumerate(zip(self.system.steps, self.system.stages, strict=True)):
            k = np.arange(step.width)
            diagonal = self.blocks[s][0][k, k].transpose(1, 2, 0)
            out[stage.factor] = np.empty_like(diagonal)
            out[stage.factor][:, stage.order] = diagonal
        last = np.diagonal(self.last, axis1=1, axis2=2)
        for part in self.system.remainder.layout.parts:
            out[part.factor] = last[:, part.place].reshape(len(last), part.levels, part.width)
        return out, last

    def combined(self, factor: int, combinations: Array) -> Array:
        """Variances (B, J, m) of linear combinations (m, k) of each level's effects."""
        for s, stage in enumerate(self.system.stages):
            if stage.factor == factor:
                c = combinations
                found = np.einsum("mk,klbj,ml->bjm", c, self.blocks[s][0], c, optimize=True)
                out = np.empty_like(found)
                out[:, stage.order] = found
                return out
        part = next(p for p in self.system.remainder.layout.parts if p.factor == factor)
        return part.combined(self.last, combinations)

    def own(self) -> dict[int, Array]:
        """By factor, the covariance matrix of each level's effects, (k, k, J), for B = 1."""
        out = {}
        for s, stage in enumerate(self.system.stages):
            block = self.blocks[s][0][:, :, 0]
            out[stage.factor] = np.empty_like(block)
            out[stage.factor][..., stage.order] = block
        for part in self.system.remainder.layout.parts:
            at = part.start + np.arange(part.levels)[:, None] * part.width + np.arange(part.width)
            block = self.last[0][at[:, :, None], at[:, None, :]]
            out[part.factor] = np.ascontiguousarray(block.transpose(1, 2, 0))
        return out

    def derivatives(self) -> dict[int, tuple[Array, Array]]:
        """By factor, d log det / d Lambda and d residual / d Lambda, (k, k) each, for B = 1.

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
            spread = self._spread_by(s, reduced[:, k:])[0]
            information = (reduced[:, :k] - spread)[:, :, 0].sum(axis=-1)
            above = stage.above(found)
            bare = replace(step, half=reduced)
            score = bare.outer(above, last)[:, 0]
            found.append(step.effects(step.outer(above, last)[:, None])[:, 0])
            root = step.root[..., 0, 0]
            out[stage.factor] = (2 * information @ root, -2 * (score @ score.T) @ root)
        return out
