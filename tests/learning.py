"""A recurrent layer with its readout, learnt offline and in segments, of maps and of matrices."""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from helpers import BATCH, jit, T

import modprop_jax as mpj


class Net(eqx.Module):
    rnn: mpj.RNN
    readout: mpj.Readout


def loss(model, carry, xs, seen):
    ys, *flags = seen
    carry, zs = model.rnn(xs, carry, **dict(zip(("done", "valid"), flags)))
    return jnp.sum((model.readout(zs) - ys) ** 2), carry


@functools.cache
def taken(segment: int | None) -> Any:
    """(loss, gradients), offline, or streamed in segments."""

    def run(model, xs, ys, flags):
        if segment is None:
            state = model.rnn.cell.init(BATCH)

            def whole(model):
                return jnp.sum((model.readout(model.rnn(xs, state, **flags)[1]) - ys) ** 2)

            return eqx.filter_value_and_grad(whole)(model)
        stream = mpj.online_value_and_grad(loss, segment=segment)
        seen = (ys, *flags.values())
        (value, _), gradients = stream(model, model.rnn.init(BATCH), xs, seen)
        return value, gradients

    return jit(run)


FLAGS = {
    "done": jnp.asarray(np.random.default_rng(4).random((T, *BATCH)) < 0.2),
    "valid": jnp.asarray(np.random.default_rng(5).random((T, *BATCH)) < 0.8),
}
