from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._cell._base import batch_shape
from ..._credit import Credit, Point, Record
from ..._precision import wide
from ..._program._base import AbstractProgram
from ..._sharding import over_steps
from ..._trace._base import AbstractTrace
from ..._trace._per_synapse import with_weights
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
        batch = batch_shape(inner, state)

        def zeros(features):
            dtype = wide(inner.weight_rec.dtype)
            return jnp.zeros((1 + self.steps, *batch, features), dtype)

        bias = None if inner.bias is None else zeros(1)
        return zeros(inner.hidden_size), zeros(inner.in_size), bias

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

        def weight(pre):
            # one matmul over (steps x batch)
            flat = total.reshape(-1, total.shape[-1])
            return on.cell.gain * (flat.T @ pre.reshape(-1, pre.shape[-1]))

        rec, into, bias = trace
        bias = None if bias is None else weight(bias)[:, 0]
        return with_weights(on.cell, weight(rec), weight(into), bias)

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """The newest S vectors stay; what leaves the window joins the older activity."""
        if record.flags is not None:
            raise ValueError(
                f"ModProp(taps={self.steps}) does not stream with done= or valid=: leave taps at "
                "None, or learn offline (from a bare state)."
            )
        inner = on.cell
        sent = shifted(inner.message(record.before), inner.message(record.states))
        steps, dtype = len(record.xs), wide(inner.weight_rec.dtype)
        powers = jnp.asarray(inner.leak, dtype) ** jnp.arange(steps, -1, -1, dtype=dtype)

        def advance(past: Array, pre: Array) -> Array:
            together = jnp.concatenate([past[1:], pre.astype(dtype)])
            older = powers[0] * past[0] + jnp.tensordot(powers[1:], together[:steps], 1)
            return jnp.concatenate([older[None], together[steps:]])

        rec, into, bias = trace
        if bias is not None:
            bias = advance(bias, jnp.ones((*record.xs.shape[:-1], 1), dtype))
        return advance(rec, sent), advance(into, record.xs), bias
