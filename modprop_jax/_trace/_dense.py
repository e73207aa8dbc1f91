import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._cell._base import batch_shape
from .._credit import Credit, Record
from .._precision import start_of, widened
from .._program._base import AbstractProgram
from .._program._reverse import bring_back, charge
from .._start import pull_start
from .._tree import inexact
from ._base import (
    AbstractTrace,
    arrivals,
    inside,
    no_credit,
    over_batch,
    units,
)


class Dense(AbstractTrace):
    r"""The full influence matrix: one row for each number that credit can be on.

    Serves every rule on every cell, and is the oracle for the smaller traces. Leaves
    (rows, *batch, *parameter shape); memory O(rows · P) an example, with rows = state size plus
    what else the rule transports.
    """

    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """Zeros."""
        batch = batch_shape(on.cell, state)
        rows = _flat(no_credit(on, state, batch), len(batch)).shape[-1]
        parameters = widened(inexact(on.cell))
        return jax.tree.map(lambda p: jnp.zeros((rows, *batch, *p.shape), p.dtype), parameters)

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """The Jacobian of `init`."""
        zero = no_credit(on, start_of(on.cell), ())
        rows = units(zero, (), jax.tree.map(lambda _: False, zero))
        each = jax.vmap(lambda credit: pull_start(on.cell, credit))(rows.state)
        return jax.tree.map(lambda m: over_batch(m, batch), each)

    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """`Σ_rows,batch credit[row] M[row]`."""

        def one(m, p):
            weights = _flat(credit, m.ndim - p.ndim - 1)
            weights = jnp.moveaxis(weights, -1, 0).reshape(-1)
            return jnp.tensordot(weights, m.reshape(-1, *p.shape), 1)

        return jax.tree.map(one, trace, inexact(on.cell))

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """`M_K = (unit credit at the start) · M_0 + Σ_t (unit credit at t) · F_t`."""
        batch = record.xs.shape[1:-1]
        zero = no_credit(on, record.before, batch)
        rows = inside(units(zero, batch, jax.tree.map(lambda _: False, zero)), record)
        shape = (len(record.xs), int(np.prod(batch)))

        def flat(tree):
            return jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1 + len(batch) :]), tree)

        charged = widened(on.cell)

        def response(credit):
            start, points, *credits = bring_back(on, record, credit)

            def example(points, states, total, message, ct_z):
                return charge(charged, points, states, total, message, ct_z)[0]

            each = jax.vmap(example, in_axes=1)
            return start, each(*flat((points, record.states, *credits)))

        start, fresh = jax.vmap(response)(rows)

        def moved(credit, m):
            carry = _flat(credit, len(batch) + 1)
            carry = carry.reshape(carry.shape[0], shape[1], -1)
            past = m.reshape(m.shape[0], shape[1], -1)
            return jnp.einsum("rbs,sbp->rbp", carry, past).reshape(m.shape)

        total = jax.tree.map(lambda m, f: f.reshape(m.shape), trace, fresh)
        for credit, value in arrivals(on, self, record, trace, start):
            total = jax.tree.map(lambda t, m, c=credit: moved(c, m) + t, total, value)
        return total


def _flat(credit: PyTree, batch_axes: int) -> Array:
    leaves = jax.tree.leaves(credit)
    return jnp.concatenate([a.reshape(*a.shape[:batch_axes], -1) for a in leaves], axis=-1)
