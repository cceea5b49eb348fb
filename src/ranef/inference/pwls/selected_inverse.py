"""Variances of every coefficient and derivatives, after an elimination along a chain.

The selected inverse (Takahashi, Fagan and Chin, 1973): only blocks of the inverse that meet
a block of the matrix are ever formed, from the last stage back to the first.
"""

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pwls import batched_linalg
from ranef.inference.pwls.nested_elimination import NestedFactorization, StageFactor

Array = NDArray[np.float64]


class SelectedInverse:
    """Blocks of the inverse in units of sigma^2; `common` False holds the common effects fixed.

    Those of the first stage with the remainder are there if the `whole` is asked for.

    With V of all that is later, R = Lambda L'^-1 half: V_j later = -R_j V, and
    V_jj = Lambda D^-1 Lambda' + R_j V R_j'.
    """

    def __init__(self, system: NestedFactorization, *, common: bool, whole: bool = False) -> None:
        self.system, self._whole = system, whole
        self.inverse = system.remainder.inverse(common=common)
        self.last = system.remainder.covariance(self.inverse)
        # By stage, levels in its order: its own (k, k, B, J), with the parents in each later
        # stage, and with the remainder (k, Q, B, J).
        self.blocks: dict[int, tuple[Array, list[Array], Array]] = {}
        for s in reversed(range(len(system.steps))):
            self._stage(s)

    def _stage(self, s: int) -> None:
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
        """X V X' of every level, and -X V with each later part, for X (k, later + Q, B, J)."""
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
        by_root = np.matmul(np.swapaxes(self.last, 1, 2), tail.transpose(0, 2, 1, 3))
        return -by_root.transpose(0, 2, 1, 3)

    def _at(self, s: int, i: int) -> tuple[Array, list[Array], Array]:
        """The blocks of the i-th later stage at the parents of the levels of stage s."""
        own, pairs, outer = self.blocks[s + 1 + i]
        place = self.system.stages[s].parents[i]
        return own[..., place], [pair[..., place] for pair in pairs], outer[..., place]

    def variances(self) -> tuple[dict[int, Array], Array]:
        """Variances by factor, (B, J, k), and of the remainder, (B, Q), in units of sigma^2."""
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
        """Variances of combinations (m, k) of each level's effects, (B, J, m)."""
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
        """Covariances of each level's coefficients by factor, (k, k, J), for B = 1."""
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
        """By factor, d log det / d Lambda and d residual / d Lambda, (k, k), for B = 1.

        2 T Lambda with T = sum_j N A - N (C V C') N', N = I - A Lambda D^-1 Lambda', and
        -2 (sum_j s_j s_j') Lambda, s = N (C_y - C b): no inverse of Lambda, which may be 0.
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
            bare = StageFactor(step.root, step.every, step.lower, reduced)
            score = bare.outer(above, last)[:, 0]
            found.append(step.effects(step.outer(above, last)[:, None])[:, 0])
            root = step.root[..., 0, 0]
            out[stage.factor] = (2 * information @ root, -2 * (score @ score.T) @ root)
        return out
