"""The network, types and optimizer that a task's preset describes."""

import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import optim
from .._cell import AbstractCell, Filtered
from .._cell._init import balanced_dale
from .._readout import Readout
from .._reverse import inner_cell
from .._rnn import RNN
from ..tasks import Preset, Task
from ._catalogue import CELLS, known
from ._sparse import sparse_dale


class Network(eqx.Module):
    """One recurrent layer and a linear readout of its last step, its last few, or of every step."""

    rnn: RNN
    readout: Readout
    at: Literal["last", "every"] | int = eqx.field(static=True, default="last")

    def __call__(self, xs: Float[Array, "T *batch m"]) -> Float[Array, "... k"]:
        return self.read(self.rnn(xs))

    def read(self, zs: Float[Array, "T *batch features"]) -> Float[Array, "... k"]:
        """The outputs, from the emissions; what counts spikes behind them is not read."""
        if self.at != "every":
            zs = zs[-1] if self.at == "last" else zs[-self.at :]
        return self.readout(zs[..., : self.readout.weight.shape[-1]])


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
    """The preset's network with fresh weights."""
    cell_key, readout_key = jr.split(key)
    n, dale = preset.hidden_size, signs(preset)
    cell = _filtered(preset, _build_cell(task, preset, cell_key))
    readout = Readout(
        n,
        task.out_size,
        feedback=preset.feedback,
        use_bias=preset.readout_bias,
        key=readout_key,
    )
    if dale is not None and preset.dale_readout:
        # The recipe published with ModProp: columns of another draw of recurrent weights.
        weight = balanced_dale(readout_key, np.asarray(dale))[: task.out_size]
        readout = eqx.tree_at(lambda r: r.weight, readout, weight)
    return Network(RNN(cell), readout, preset.readout_steps or task.readout)


def _build_cell(task: Task, preset: Preset, key: PRNGKeyArray) -> AbstractCell:
    entry, dale = CELLS[known("cell", preset.cell, CELLS)], signs(preset)
    options = dict(preset.cell_options)
    if dale is not None:
        options["signs"] = dale
    cell = entry(task.in_size(preset), preset.hidden_size, key=key, **options)
    if not entry.neurons:
        return cell
    weight_rec = cell.weight_rec
    if preset.density < 1:
        weight_rec = sparse_dale(jr.fold_in(key, 1), dale, preset.density)
    return eqx.tree_at(
        lambda c: (c.weight_rec, c.weight_in),
        cell,
        (preset.recurrent_scale * weight_rec, preset.input_scale * cell.weight_in),
    )


def _filtered(preset: Preset, cell: AbstractCell) -> AbstractCell:
    """The cell with the emission that the readout sees, and, where rates cost, a count beside it."""
    leak = 0.0 if preset.readout_tau is None else math.exp(-1 / preset.readout_tau)
    if preset.rate_cost:
        return Filtered(cell, (leak, 1.0), scale=preset.scale_readout)
    return Filtered(cell, leak, scale=preset.scale_readout) if leak else cell


def build_optimizer(preset: Preset) -> optax.GradientTransformation:
    """Adam with staircase decay, the L2 term of the objective, Dale's law and rewiring.

    For the networks of `build_network`. `optax.add_decayed_weights` ahead of Adam adds
    `l2 · W` to the gradient, which is the gradient of `l2 · ½ ‖W‖²`.
    """
    rate = optax.exponential_decay(
        preset.learning_rate, preset.decay_every, preset.decay, staircase=True
    )
    steps = [optax.add_decayed_weights(preset.l2, mask=weights), optax.adam(rate)]
    dale, signed = signs(preset), signed_weights(preset)
    if preset.density < 1:
        # Neither the moments of a synapse that does not exist nor its weight move.
        existing = optax.masked(optax.stateless_with_tree_map(_where_nonzero), signed)
        steps = [steps[0], existing, steps[1], existing]
    if dale is not None:
        keep = optim.dale(dale)
        if preset.shrink or preset.connectivity:
            keep = optim.rewire(
                dale, shrink=lambda i: preset.shrink * rate(i), connectivity=preset.connectivity
            )
        steps.append(optax.masked(keep, signed))
    return optax.chain(*steps)


def weights(params: Any) -> PyTree:
    """Which parameters the L2 term is of: matrices, but not fixed feedback."""
    matrices = jax.tree.map(lambda p: p.ndim >= 2, params)
    if params.readout.feedback != "random":
        return matrices
    return eqx.tree_at(lambda net: net.readout.feedback_weight, matrices, False)


def signed_weights(preset: Preset) -> Callable[[Any], PyTree]:
    """A function of the parameters: which of them have presynaptic signs under Dale's law."""

    def selected(net):
        weight_rec = inner_cell(net.rnn.cell).weight_rec
        return (weight_rec, net.readout.weight) if preset.dale_readout else (weight_rec,)

    def mask(params):
        nothing = jax.tree.map(lambda p: False, params)
        return eqx.tree_at(selected, nothing, replace_fn=lambda _: True)

    return mask


def recurrent_weights(preset: Preset) -> Callable[[Any], tuple[Array, ...]]:
    """A function of the network: its recurrent parameters."""
    names = CELLS[preset.cell].recurrent
    return lambda net: tuple(getattr(inner_cell(net.rnn.cell), name) for name in names)


def _where_nonzero(update: Array, weight: Array) -> Array:
    return jnp.where(weight != 0, update, 0)
