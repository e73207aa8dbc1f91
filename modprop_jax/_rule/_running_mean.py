"""μ measured: ModProp's stand-in for the activation derivative, from the run itself."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._cell import NeuronCell
from .._credit import Record
from .._flags import entering, erase, settled
from .._precision import wide
from .._sharding import over_steps
from .._tree import pullback, stop
from ._filter import counts, sum_by_type
from ._types import Types


class RunningMean(eqx.Module):
    r"""μ of a type: the mean of \(h\) over its neurons and over the steps so far.

    \[ h_t = \frac{1}{gain}\frac{\partial message_t}{\partial drive_t}, \qquad
       \mu_t = \mu_{t-1} + (\mathrm{mean}_{type}\,h_t - \mu_{t-1}) / t \]

    for each example on its own; cell-specific, of each neuron. Causal and local: a neuron's own
    derivative, pooled over its type.
    """

    def before(
        self, types: Types, cell: NeuronCell, batch_shape: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """(steps so far (*batch), μ (*batch, C)) before the first step: zeros."""
        shape = (*batch_shape, counts(types, cell.hidden_size).size)
        return jnp.zeros(batch_shape, jnp.int32), jnp.zeros(shape, wide(cell.weight_rec.dtype))

    def after(
        self, types: Types, cell: NeuronCell, record: Record, so_far: PyTree
    ) -> tuple[Float[Array, "T *batch C"], PyTree]:
        """μ before each step of the record, by which credit crosses it, and (steps, μ) after."""
        sizes = jnp.asarray(counts(types, cell.hidden_size), wide(cell.weight_rec.dtype))

        def step(carry, at):
            so_far, before = carry
            state, drive, flags = at
            before = entering(cell, flags, before, start)
            if flags is not None:
                so_far = erase(flags.fresh, so_far)
            count, mean = so_far
            h = sum_by_type(_derivative(cell, before, drive), types)
            h = h / jnp.broadcast_to(sizes, h.shape)
            count = count + 1
            after = count, mean + (h - mean) / count[..., None].astype(mean.dtype)
            return (settled(flags, after, so_far), state), mean

        states, drives, before = stop((record.states, record.drives, record.before))
        start = stop(record.start)
        seen = states, drives, record.flags
        (so_far, _), means = over_steps(step, (so_far, before), seen)
        return means, so_far


def _derivative(cell: NeuronCell, before: PyTree, drive: Array) -> Float[Array, "*batch n"]:
    """h of one step."""
    (h,) = pullback(lambda d: cell.message(cell.integrate(before, d)), drive)(jnp.ones_like(drive))
    return h / jnp.broadcast_to(jnp.asarray(cell.gain, h.dtype), h.shape)
