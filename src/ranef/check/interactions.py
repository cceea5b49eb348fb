"""Finds effects that go together only because a number in an interaction is not centred.

Beside an interaction x:f, the effect of f is that where x is 0. If all x are far from 0, the column
of f is nearly a multiple of the column x:f, and the variance inflation of both is large (Marquardt,
1970). It is not so for (x - mean(x)):f, which spans the same space beside x and f (Cohen, Cohen,
West and Aiken, 2003, section 7.2). The model is then the same, and no column has to be left out.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.check.model_matrices import ModelMatrixBlock
from ranef.check.symptom import Symptom
from ranef.data.frame import Frame
from ranef.formula.model_matrix import ModelMatrix
from ranef.numerics.shapes import Float

# Variance inflation of columns, given the columns and whether there is an intercept beside them.
Inflation = Callable[[Float[NDArray, "n k"], bool], Float[NDArray, "k"]]

# Mean of a number, in its sds, from which it counts as far from 0.
_FAR = 0.5
# Relative size of a residual that is rounding error.
_ROUNDING = 1e-6
# Columns that a message names.
_NAMED = 4


def uncentred(
    own: ModelMatrixBlock,
    frame: Frame,
    inflations: Mapping[int, float],
    near: Collection[int],
    inflation: Inflation,
    limit: float,
) -> tuple[Symptom | None, set[int]]:
    """The symptom of interactions with a number far from 0, and the columns that it explains.

    Args:
        own: the columns of a term, and how they are coded.
        frame: training rows, or a sample of them.
        inflations: variance inflation of columns.
        near: the columns that are nearly combinations of others.
        inflation: computes variance inflation.
        limit: variance inflation from which a column counts as one of `near`.

    Returns:
        The symptom, or None, and the indices of the columns whose inflation is below the limit
        once the numbers are centred.
    """
    matrix = own.matrix
    if not near or matrix is None or not own.has_intercept:
        return None, set()
    far = _far_from_zero(matrix, frame)
    if not far:
        return None, set()
    columns, centred = matrix.build(frame), _centred(matrix, frame)
    tested = list(inflations)
    if not _spans(columns, centred):
        return None, set()
    after = dict(zip(tested, inflation(centred[:, tested], True), strict=True))
    explained = {i for i in near if after[i] < limit}
    if not explained:
        return None, set()
    names = [own.labels[i] for i in sorted(explained)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    times = max(np.sqrt(inflations[i] / after[i]) for i in explained)
    numbers, several = " and ".join(far), len(far) > 1
    symptom = Symptom(
        f"{', '.join(names[:_NAMED])}{more} go together, because {numbers} "
        f"{'are' if several else 'is'} far from 0",
        f"an effect beside an interaction is that where {numbers} {'are' if several else 'is'} 0, "
        f"and its sd is up to {times:,.1f} times what it would be if "
        f"{'they' if several else 'it'} were centred",
        f"centre {'them' if several else 'it'}, as in {_centring(far)}, which is the same model in "
        "other coordinates",
        "trust",
    )
    return symptom, explained


def _centring(numbers: Collection[str]) -> str:
    return " and ".join(f"center({name})" for name in numbers)


def _far_from_zero(matrix: ModelMatrix, frame: Frame) -> list[str]:
    """The numbers in interactions whose mean is far from 0, compared with their sd."""
    out: dict[str, None] = {}
    for coding in matrix.codings:
        if len(coding.parts) < 2:
            continue
        for part in coding.parts:
            if part.levels is None and part.width == 1:
                values = part.columns(frame, matrix.learned)
                if abs(values.mean()) > _FAR * values.std() > 0:
                    out[str(part.expression)] = None
    return list(out)


def _centred(matrix: ModelMatrix, frame: Frame) -> Float[NDArray, "n p"]:
    """The columns with the numbers in interactions centred; single columns are left as they are."""
    blocks = []
    for coding in matrix.codings:
        out = np.ones((frame.n, 1))
        for part in coding.parts:
            values = part.columns(frame, matrix.learned)
            if part.levels is None and part.width == 1 and len(coding.parts) > 1:
                values = values - values.mean(axis=0)
            out = (out[:, :, None] * values[:, None, :]).reshape(frame.n, -1)
        blocks.append(out)
    return np.concatenate(blocks, axis=1)


def _spans(columns: Float[NDArray, "n p"], others: Float[NDArray, "n q"]) -> bool:
    """Whether `columns` span `others`, so that centring does not change the model."""
    unit = columns / np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
    left = others - unit @ np.linalg.lstsq(unit, others, rcond=None)[0]
    size = np.linalg.norm(others, axis=0)
    return bool((np.linalg.norm(left, axis=0) <= _ROUNDING * np.maximum(size, 1e-300)).all())
