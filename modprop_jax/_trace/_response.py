"""What unit credits at the end of a segment do on their way to its start, apart by example."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._credit import Credit, Record
from .._program._base import AbstractProgram
from .._program._reverse import bring_back, charge_neurons, points_of
from ._base import inside


def respond(on: AbstractProgram, record: Record, rows: Credit) -> tuple[Credit, PyTree, Array]:
    """What unit credits at the end of a segment are at its start; and how they charge, step by
    step, parameters of the neurons (rows, T, batch, n) and drives; examples on one axis."""
    own, rest = on.cell.split()
    # one copy a step and neuron: elementwise code then sees equal shapes
    shape = len(record.xs), on.cell.hidden_size
    own = jax.tree.map(lambda p: jnp.broadcast_to(p, shape), own)

    def response(credit):
        start, points, *credits = bring_back(on, record, credit)

        def example(points, states, total, message, ct_z):
            return charge_neurons(own, rest, points, states, total, message, ct_z)

        each = jax.vmap(example, in_axes=1, out_axes=(0, 1))
        return start, *each(*_examples((points, record.states, *credits), record))

    return jax.vmap(response)(inside(rows, record))


def activity(on: AbstractProgram, record: Record) -> dict[str, Array]:
    """What each of the afferents got at each step, (T, batch, pre); examples on one axis."""
    sent = on.cell.message(points_of(on.cell, record).before)
    return _examples(on.cell.presynaptic(sent, record.xs), record)


def moved(carry: Array, m: Array) -> Array:
    """Σ_r carry[row, r, batch, ...] m[r, batch, ...], of which carry may be 1 on the last axis.

    For few rows a static sum of products, which is one elementwise loop; a reduction over rows is
    two orders of magnitude slower on CPU. For many rows a matmul for each example and neuron.
    """
    if len(m) > 8 and m.ndim == 4 and carry.shape[-1] == 1:
        return jnp.einsum("qrbj,rbji->qbji", carry[..., 0], m)
    each = [carry[:, r] * m[r][None] for r in range(len(m))]
    return functools.reduce(jnp.add, each)


def met(credit: Array, m: Array) -> Array:
    """Σ_r,batch credit[r, batch, ...] m[r, batch, ...], of which credit may be 1 on later axes.

    For few rows a static sum of them first: one reduction over rows too took up to twice the time,
    and twenty times it where seeds are mapped over. Of many rows and examples one leading axis:
    a reduction over two is an order of magnitude slower on CPU.
    """
    if not 0 < len(m) <= 8:
        each = credit.reshape(-1, *credit.shape[2:]) * m.reshape(-1, *m.shape[2:])
    else:
        each = functools.reduce(jnp.add, map(jnp.multiply, credit, m))
    return jnp.sum(each, axis=0)


def moved_neurons(fresh: PyTree, carries: list[Array], values: list[PyTree]) -> PyTree:
    """The rows of parameters of the neurons after a segment: those of past ones, by what credit
    has become on its way to each of them, and fresh ones (rows, T, batch, n)."""

    def one(fresh, *values):
        moved_on = fresh
        for carry, m in zip(carries, values, strict=True):
            moved_on = moved(carry, m.reshape(carry[0].shape)) + moved_on
        return moved_on.reshape(values[0].shape)

    return jax.tree.map(lambda f, *m: one(f.sum(2), *m), fresh, *values)


def _examples(tree: PyTree, record: Record) -> PyTree:
    """Leaves (T, *batch, ...) as (T, batch, ...)."""
    lead = record.xs.ndim - 1
    return jax.tree.map(lambda a: a.reshape(len(a), -1, *a.shape[lead:]), tree)
