"""μ measured: ModProp's stand-in for the activation derivative, from the run itself."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..._cell import NeuronCell
from ..._credit import Point, Record
from ..._flags import entering, erase, where_valid
from ..._precision import wide
from ..._program._base import AbstractProgram
from ..._sharding import over_steps
from ..._static import constant
from ..._tree import pullback, stop
from .._transport import AbstractObserver
from .._types import Types
from ._filter import counts, Filter, filter_of, sum_by_type
from ._steady import AbstractFiltered


class Measured(AbstractFiltered):
    """By μ as it has been so far, at each step another."""

    types: Types = eqx.field(static=True)

    @property
    def observer(self) -> AbstractObserver:
        """The mean of the activation derivative."""
        return RunningMean(self.types)

    def prepare(self, cell: NeuronCell) -> Filter:
        """κ of μ = 1."""
        return filter_of(constant(1.0), self.types, cell)

    def mu_at(self, point: Point) -> Array:
        """As observed before the step."""
        return point.observed


class RunningMean(AbstractObserver):
    r"""μ of a type: the mean of \(h\) over its neurons and over the steps so far.

    \[ h_t = \frac{1}{gain}\frac{\partial message_t}{\partial drive_t}, \qquad
       \mu_t = \mu_{t-1} + (\mathrm{mean}_{type}\,h_t - \mu_{t-1}) / t \]

    for each example on its own; cell-specific, of each neuron. Causal and local: a neuron's own
    derivative, pooled over its type.
    """

    types: Types = eqx.field(static=True)

    def init(self, on: AbstractProgram, batch: tuple[int, ...]) -> tuple[Array, Array]:
        """(steps so far (*batch), μ (*batch, C)) before the first step: zeros."""
        cell = on.cell
        shape = (*batch, counts(self.types, cell.hidden_size).size)
        return jnp.zeros(batch, jnp.int32), jnp.zeros(shape, wide(cell.dtype))

    def steps(
        self, on: AbstractProgram, record: Record, seen: PyTree
    ) -> tuple[Float[Array, "T *batch C"], PyTree]:
        """μ before each step of the record, by which credit crosses it, and (steps, μ) after."""
        cell, types = on.cell, self.types
        sizes = jnp.asarray(counts(types, cell.hidden_size), wide(cell.dtype))

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
            return (where_valid(flags, after, so_far), state), mean

        states, drives, before = stop((record.states, record.drives, record.before))
        start = stop(record.start)
        at_steps = states, drives, record.flags
        (so_far, _), means = over_steps(step, (seen, before), at_steps)
        return means, so_far

    def on_memory(
        self, on: AbstractProgram, record: Record, before: PyTree, memories: PyTree, seen: PyTree
    ) -> tuple[PyTree, PyTree]:
        """As JAX has it."""
        return memories, seen


def _derivative(cell: NeuronCell, before: PyTree, drive: Array) -> Float[Array, "*batch n"]:
    """h of one step."""
    (h,) = pullback(lambda d: cell.message(cell.integrate(before, d)), drive)(jnp.ones_like(drive))
    return h / jnp.broadcast_to(jnp.asarray(cell.gain, h.dtype), h.shape)
