"""The network, types and optimizer that a task's preset describes."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import optim
from .._cell._init import balanced_dale
from .._readout import Readout
from .._rnn import RNN
from ..tasks import Preset, Task
from ._catalogue import CELLS, known


class Network(eqx.Module):
    """One recurrent layer and a linear readout of its last step, or of every step."""

    rnn: RNN
    readout: Readout
    at: Literal["last", "every"] = eqx.field(static=True, default="last")

    def __call__(self, xs: Float[Array, "T *batch m"]) -> Float[Array, "... k"]:
        zs = self.rnn(xs)
        return self.readout(zs[-1] if self.at == "last" else zs)


def signs(preset: Preset) -> tuple[int, ...] | None:
    """+1 for excitatory neurons, then −1 for inhibitory; None without Dale's law."""
    if preset.excitatory is None:
        return None
    if not 0 < preset.excitatory < preset.hidden_size:
        raise ValueError(
            "a network with Dale's law needs neurons of both signs, but got "
            f"{preset.excitatory} excitatory neurons of {preset.hidden_size}."
        )
    inhibitory = preset.hidden_size - preset.excitatory
    return (1,) * preset.excitatory + (-1,) * inhibitory


def cell_types(preset: Preset) -> tuple[int, ...]:
    """1 = excitatory, 0 = inhibitory; without Dale's law, the layer's two halves."""
    dale = signs(preset)
    if dale is None:
        return tuple(int(2 * i < preset.hidden_size) for i in range(preset.hidden_size))
    return tuple(int(s > 0) for s in dale)


def build_network(task: Task, preset: Preset, key: PRNGKeyArray) -> Network:
    """The preset's network with fresh weights; Dale's law binds the readout too."""
    cell_key, readout_key = jr.split(key)
    n, dale = preset.hidden_size, signs(preset)
    make = CELLS[known("cell", preset.cell, CELLS)]
    cell = make(task.in_size(preset), n, signs=dale, key=cell_key, **preset.cell_options)
    readout = Readout(n, task.out_size, key=readout_key)
    if dale is not None:
        # The published recipe: columns of an independent draw of recurrent weights.
        weight = balanced_dale(readout_key, np.asarray(dale))[: task.out_size]
        readout = eqx.tree_at(lambda r: r.weight, readout, weight)
    return Network(RNN(cell), readout, task.readout)


def build_optimizer(preset: Preset) -> optax.GradientTransformation:
    """Adam with staircase decay, the L2 term of the objective, Dale's law and rewiring.

    For the networks of `build_network`. `optax.add_decayed_weights` ahead of Adam adds
    `l2 · W` to the gradient, which is the gradient of `l2 · ½ ‖W‖²`.
    """
    rate = optax.exponential_decay(
        preset.learning_rate, preset.decay_every, preset.decay, staircase=True
    )
    steps = [optax.add_decayed_weights(preset.l2, mask=weights), optax.adam(rate)]
    dale = signs(preset)
    if dale is not None:
        keep = optim.dale(dale)
        if preset.shrink or preset.connectivity:
            keep = optim.rewire(
                dale, shrink=lambda i: preset.shrink * rate(i), connectivity=preset.connectivity
            )
        steps.append(optax.masked(keep, signed_weights))
    return optax.chain(*steps)


def weights(params: PyTree) -> PyTree:
    """Which parameters the L2 term is of."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)


def signed_weights(params: Any) -> PyTree:
    """Which parameters have presynaptic signs."""
    nothing = jax.tree.map(lambda p: False, params)
    return eqx.tree_at(
        lambda net: (net.rnn.cell.weight_rec, net.readout.weight),
        nothing,
        (True, True),
    )
