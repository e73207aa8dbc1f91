"""A network whose outputs are fed back to it, and whose readout learns by FORCE."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._cell import NeuronCell
from .._cell._base import dynamics
from .._force import ForceReadout
from .._readout import Readout
from .._rnn import RNN
from .._synapses import AbstractSynapses


class ForceNetwork(eqx.Module):
    r"""One recurrent layer, driven by \([x_t; \tanh y_{t-1}]\), and a `ForceReadout` of every step.

    Published is the feedback of \(y\) itself. Its tanh is bounded whatever the loss, also for
    logits and for neurons that are not, and close to y for small targets. It carries no credit.
    """

    rnn: RNN
    readout: ForceReadout

    def __call__(self, xs: Float[Array, "T *batch m"]) -> Float[Array, "T *batch k"]:
        return self.online(xs, self.init(xs.shape[1:-1]))[1]

    def init(self, batch_shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> PyTree:
        """A carry with no past: the layer's, the outputs that it hears, and the readout's P."""
        weight = self.readout.weight
        silence = jnp.zeros((*batch_shape, weight.shape[0]), weight.dtype)
        return self.rnn.init(batch_shape, key=key), silence, self.readout.init()

    def online(
        self, xs: Float[Array, "T *batch m"], carry: PyTree, *, context: Array | None = None
    ) -> tuple[PyTree, Float[Array, "T *batch k"]]:
        """The carry to go on from, and the outputs."""
        del context  # labels, for rules that learn to predict credit
        layer, heard, P = carry

        def step(before, x):
            layer, heard = before
            layer, z = self.rnn(jnp.concatenate([x, heard], axis=-1)[None], layer)
            heard = jnp.tanh(lax.stop_gradient(self.readout.read(z[0])))
            return (layer, heard), z[0]

        (layer, heard), zs = lax.scan(step, (layer, heard), xs)
        P, outputs = self.readout(zs, P)
        return (layer, heard, P), outputs


def force_network(
    rnn: RNN, readout: Readout, key: PRNGKeyArray, *, alpha: float = 1.0, gain: float = 1.0
) -> ForceNetwork:
    """The same weights, and those of the feedback as further columns of `weight_in`.

    These are fixed, N(0, gain² / outputs). A gain of 0 is least squares without feedback, which
    may be the better for tasks that inputs drive: feedback disturbs what a network remembers.
    """

    def inner(cell) -> Any:
        return dynamics(cell)

    cell = inner(rnn.cell)
    if not isinstance(cell, NeuronCell):
        raise ValueError(
            "FORCE feeds outputs back through weight_in, which a NeuronCell such as LeakyCell has, "
            f"but not {type(cell).__name__}."
        )
    if isinstance(cell.weight_in, AbstractSynapses):
        raise ValueError(
            "FORCE feeds outputs back through further columns of weight_in, which has to be a "
            f"matrix, but is a {type(cell.weight_in).__name__}: leave the rule force out."
        )
    outputs, features = readout.weight.shape
    # fold_in(key, 0) and (key, 1) are the keys of the cell and the readout
    feedback = jr.normal(jr.fold_in(key, 2), (cell.hidden_size, outputs), cell.weight_in.dtype)
    columns = [cell.weight_in, gain / math.sqrt(outputs) * feedback]
    widened = jnp.concatenate(columns, axis=1)
    whole = eqx.tree_at(lambda cell: inner(cell).weight_in, rnn.cell, widened)
    use_bias = readout.bias is not None
    fresh = ForceReadout(features, outputs, alpha=alpha, use_bias=use_bias, key=key)
    learner = eqx.tree_at(lambda r: r.weight, fresh, readout.weight)
    return ForceNetwork(RNN(whole, rule=rnn.rule), learner)
