"""Brings the outputs of a user's network to the scale of the predictor.

Outputs that at the initial weights are on that scale, as those of a pretrained network, are used as
they are. Others are standardized by their initial mean and sd, and multiplied by the sd of the
predictor. After the fit, shift and unit go into the last layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranef.data.moments import Scale
from ranef.lazy import Array, jnp
from ranef.numerics.shapes import Shaped
from ranef.terms.nn import graph, variables
from ranef.terms.nn.state import NetworkState

# The outputs of a user's network are used unscaled if their sd is within this factor of the sd of
# the predictor, and their mean within this many such sds of zero or of the predictor's location.
_NEAR = 3.0


def with_initial_moments(
    state: NetworkState, rows: Sequence[Shaped[Array, "n ..."]], width: int
) -> NetworkState:
    """The state of a user's network with mean and sd of its outputs at the initial weights.

    The network runs in training mode, in which batch norm uses the moments of the batch.

    Args:
        state: the state without these moments.
        rows: some training rows, one array for each input of the network.
        width: number of outputs.
    """
    model, known = state.model, variables.names(state.model)
    held = [
        [jnp.asarray(state.initial[known[id(v)]]) for v in own]
        for own in (model.trainable_variables, model.non_trainable_variables)
    ]
    packed = graph.packed(model, rows)
    outputs = np.asarray(model.stateless_call(*held, packed, training=True)[0], np.float64)
    outputs = outputs.reshape(-1, width)
    with np.errstate(all="ignore"):
        began = np.stack([outputs.mean(axis=0), outputs.std(axis=0)])
    return replace(state, began=np.where(np.isfinite(began).all(axis=0), began, 0.0))


def shift_and_unit(state: NetworkState, scale: Scale, place: int) -> tuple[float, float]:
    """The output that adds zero to the predictor, and the change of the predictor by one more.

    Args:
        state: the state of a user's network.
        scale: the scale of the predictor.
        place: index of the output.
    """
    if state.began is None:
        return 0.0, 1.0
    mean, sd = map(float, state.began[:, place])
    away = min(abs(mean), abs(mean - scale.location))
    near = scale.sd / _NEAR <= sd <= _NEAR * scale.sd
    if near and away <= _NEAR * scale.sd:
        return 0.0, 1.0
    # After the fit the shift goes into the bias of the last layer (`in_last_layer`), so that
    # the network can be called without this package. There is no shift without a bias.
    last = graph.linear_end(state.model)
    shift = mean if last is not None and last.use_bias else 0.0
    # Outputs with a small initial sd can grow by steps of the usual size, so they are not
    # scaled up; large outputs could not shrink in this way.
    return shift, scale.sd / max(sd, 1.0)


def in_last_layer(
    state: NetworkState,
    held: Mapping[str, NDArray],
    placed: Sequence[tuple[float, float]],
    kept: int,
    *,
    shifts: bool,
) -> dict[str, NDArray]:
    """The values with the last layer rescaled, so that outputs are summands of predictors.

    If the last layer is not linear the values stay as they are, and the outputs of the network
    have to be scaled outside of it.

    Args:
        state: the state of a user's network.
        held: values of the variables by name.
        placed: `shift_and_unit` of each output.
        kept: one, or zero if the network is left out.
        shifts: whether shifts count.
    """
    last = graph.linear_end(state.model)
    if last is None:
        return dict(held)
    known = variables.names(state.model)
    shift, unit = np.array(placed).T
    kernel = known[id(last.kernel)]
    out = {**held, kernel: (held[kernel] * kept * unit).astype(held[kernel].dtype)}
    if last.use_bias:
        bias = known[id(last.bias)]
        shift = shift if shifts else 0.0
        out[bias] = ((held[bias] - shift) * kept * unit).astype(held[bias].dtype)
    return out
