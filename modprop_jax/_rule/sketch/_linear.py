"""One step of one example, as linear maps that meet units one by one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..._cell import SeparableCell
from ..._inputs import drive_of, Inputs
from ..._trace._rows import from_rows, to_rows
from ..._tree import pullback
from ._units import by_unit
from ._weights import Weights


class Linear(NamedTuple):
    r"""A step, linearised: k variables a unit, g drives, p parameters a unit.

    `own`: ∂integrate/∂state, a block (after, before) for each unit. `received`: ∂integrate/∂drive.
    `sent`: ∂message/∂state. `fresh`: ∂integrate/∂parameters at a fixed message; `said`:
    ∂message/∂parameters, of those that it reads.
    """

    own: Float[Array, "k k n"]
    received: Float[Array, "k g n"]
    sent: Float[Array, "k n"]
    fresh: Float[Array, "k n p"]
    said: Float[Array, "n p"]

    def blocks(self, weights: Weights) -> Float[Array, "k k n"]:
        """The units' own blocks of the state's Jacobian, autapses included."""
        autapse = jnp.einsum("kgn,gn->kn", self.received, weights.own)
        return self.own + autapse[:, None] * self.sent[None]

    def arrive(self, weights: Array, message: Float[Array, "n c"]) -> Float[Array, "k n c"]:
        """What messages make of the state after the step."""
        return jnp.einsum("kgn,gnc->knc", self.received, weights @ message[None])

    def depart(self, weights: Array, state: Float[Array, "k n c"]) -> Float[Array, "n c"]:
        """The transpose of `arrive`."""
        drives = jnp.einsum("kgn,knc->gnc", self.received, state)
        return jnp.sum(jnp.swapaxes(weights, 1, 2) @ drives, axis=0)

    def push(self, weights: Weights, state: Float[Array, "k n c"]) -> Float[Array, "k n c"]:
        """The state's Jacobian times some columns."""
        sent = jnp.einsum("kn,knc->nc", self.sent, state)
        kept = jnp.einsum("kln,lnc->knc", self.own, state)
        return kept + self.arrive(weights.all, sent)


def linearised(
    cell: SeparableCell, before: PyTree, inputs: Array | Inputs, exists: Array | None
) -> Linear:
    """The step of one example from the state `before`."""
    n = cell.hidden_size
    v = to_rows(before).reshape(-1, n)
    message = cell.message(before)
    drive = drive_of(cell, message, inputs)
    none = jnp.zeros_like(to_rows(drive))

    def after(cell, v, more):
        drive = drive_of(cell, message, inputs)
        drive = from_rows(to_rows(drive) + more, drive)
        return to_rows(cell.integrate(from_rows(v.ravel(), before), drive)).reshape(-1, n)

    def sends(cell, v):
        return cell.message(from_rows(v.ravel(), before))

    # units do not meet here: one pullback of a variable serves that of all of them
    each = jnp.broadcast_to(jnp.eye(len(v), dtype=v.dtype)[..., None], (len(v), *v.shape))
    fresh, own, received = jax.vmap(pullback(after, cell, v, none))(each)
    said, sent = pullback(sends, cell, v)(jnp.ones_like(message))
    fresh, said = by_unit(cell, fresh, 1), by_unit(cell, said)
    if exists is not None:
        fresh = fresh * exists[None]
    return Linear(own, received.reshape(len(v), -1, n), sent, fresh, said)
