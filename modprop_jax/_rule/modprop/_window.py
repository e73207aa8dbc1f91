from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._cell._base import batch_shape
from ..._credit import Credit, Point, Record
from ..._precision import wide, widened
from ..._program._base import AbstractProgram
from ..._sharding import over_steps
from ..._trace._base import AbstractTrace
from ..._tree import shifted


class Window(AbstractTrace):
    r"""The last S presynaptic vectors as they came, and e-prop's trace of all older ones.

    For filters of S taps on neurons of one leak: credit that enters the past crosses between
    neurons in the S steps of the window, of which each has a different lag, and only decays in
    the steps before it. Leaves (1 + S, *batch, pre), the older activity first. Once a segment the
    gradient takes S more steps back: choose segments of S steps or more.
    """

    steps: int = eqx.field(static=True)

    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """Zeros: nothing was sent."""
        inner = on.cell
        if on.emission.remembers or jax.tree.leaves(inner.split()[0]):
            kind = f"{'Filtered ' * on.emission.remembers}{type(inner).__name__}"
            raise ValueError(
                f"ModProp(taps={self.steps}) streams on a LeakyCell whose tau does not train, not "
                f"on this {kind}: make tau a float, leave taps at None, or learn "
                "offline (from a bare state)."
            )
        batch, dtype = batch_shape(inner, state), wide(inner.dtype)
        return {
            name: jnp.zeros((1 + self.steps, *batch, synapses.shape[1]), dtype)
            for name, synapses in inner.afferents.items()
        }

    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """Credit goes S steps back through the window, then meets the older activity."""
        nothing: Any = None
        anywhere = Point(nothing, nothing, nothing)  # the filter does not change in time

        def body(credit, _):
            silent = jnp.zeros_like(credit.state)
            back = on.rule.back(on, anywhere, credit, silent)
            return back.credit, back.total

        credit, total = over_steps(body, credit, length=self.steps, reverse=True)
        total = jnp.concatenate([credit.state[None], total])

        # one matmul over (steps x batch)
        total = on.cell.gain * total
        each = {n: w.gradient(total, trace[n]) for n, w in widened(on.cell).afferents.items()}
        return on.cell.with_afferents(each)

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """The newest S vectors stay; what leaves the window joins the older activity."""
        if record.flags is not None:
            raise ValueError(
                f"ModProp(taps={self.steps}) does not stream with done= or valid=: leave taps at "
                "None, or learn offline (from a bare state)."
            )
        inner = on.cell
        sent = shifted(inner.message(record.before), inner.message(record.states))
        steps, dtype = len(record.xs), wide(inner.dtype)
        powers = jnp.asarray(inner.leak, dtype) ** jnp.arange(steps, -1, -1, dtype=dtype)

        def advance(past: Array, pre: Array) -> Array:
            together = jnp.concatenate([past[1:], pre.astype(dtype)])
            older = powers[0] * past[0] + jnp.tensordot(powers[1:], together[:steps], 1)
            return jnp.concatenate([older[None], together[steps:]])

        activity = inner.presynaptic(sent, record.xs)
        return {name: advance(past, activity[name]) for name, past in trace.items()}
