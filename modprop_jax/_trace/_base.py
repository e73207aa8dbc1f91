"""What a trace is: the past of a segment, as a linear map from credit to parameters."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .._credit import Credit, Record
from .._flags import erase_trace, select_trace
from .._program._base import AbstractProgram
from .._start import names_read, start_learns
from .._tree import inexact


class AbstractCarrier(eqx.Module):
    """What a rule carries between segments, next to the state."""

    @property
    def by_example(self) -> bool:
        """Whether no leaf is shared between examples."""
        return True

    def forget(self, flag: Bool[Array, "*batch"], trace: PyTree) -> PyTree:
        """The value, of no past where the flag of an example holds; leaves (rows, *batch, ...)."""
        return erase_trace(flag, trace)

    def batch_axes(self, trace: PyTree) -> PyTree:
        """Where the axes of the batch begin in each leaf; None: it is shared by all examples."""
        return jax.tree.map(lambda _: 1, trace)

    def begin(self, on: AbstractProgram, flag: Bool[Array, "*batch"], trace: PyTree) -> PyTree:
        """As `forget`, where the flag means that an example is in the cell's own start, which may
        depend on parameters.
        """
        return self.forget(flag, trace)


class AbstractTrace(AbstractCarrier):
    r"""How a rule carries the past between segments.

    A trace M is the map from credit on a segment's last state (and on all else that the rule
    transports) to the gradient of everything before it. Its value at the end of a segment is the
    segment's own reverse form, started from unit credit and not summed over the batch, plus (that
    credit at the segment's start) · M.
    """

    @abc.abstractmethod
    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """The trace of no past, from a cell's state that is a constant: zeros."""

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """The trace of the cell's own start, ∂init/∂θ; a ValueError if this trace can't hold it."""
        raise refusal(on)

    def begin(self, on: AbstractProgram, flag: Bool[Array, "*batch"], trace: PyTree) -> PyTree:
        """The value, of the cell's own start where the flag of an example holds."""
        trace = self.forget(flag, trace)
        if not start_learns(on.cell):
            return trace
        return select_trace(flag, self.of_start(on, flag.shape), trace)

    @abc.abstractmethod
    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """The gradient of the past for this credit, shaped as the cell's parameters."""

    @abc.abstractmethod
    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """The trace after one more segment."""


def refusal(on: AbstractProgram) -> ValueError:
    """What to say where a rule can't stream a cell whose start learns."""
    return ValueError(
        f"{type(on.cell).__name__}.init reads {names_read(on.cell)}, which trains, but what "
        f"{on.name} carries from segment to segment can't hold a start that depends on it: let "
        "init read own parameters of each neuron alone, stream with RTRL, learn offline (from a "
        "bare state), or stop_gradient it in init."
    )


def inside(rows: Credit, record: Record) -> Credit:
    """Unit credits, with room for what comes to sequences that begin inside the segment."""
    if record.start is None:
        return rows
    return rows._replace(start=jax.tree.map(jnp.zeros_like, rows.state))


def arrivals(
    on: AbstractProgram, trace: AbstractTrace, record: Record, value: PyTree, end: Credit
) -> list[tuple[Credit, PyTree]]:
    """What unit credits at the end of a segment have become, with the trace that each meets: at
    the segment's start the value, and where sequences began inside that of the cell's own start.
    """
    came = [(end._replace(start=()), value)]
    if record.start is None:
        return came
    nothing = jax.tree.map(jnp.zeros_like, (end.modulator, end.memory))
    of_start = trace.of_start(on, record.xs.shape[1:-1])
    return [*came, (Credit(end.start, *nothing), of_start)]


def over_batch(m: Array, batch: tuple[int, ...]) -> Array:
    """(rows, ...) as (rows, *batch, ...), the same for all examples."""
    each = m.reshape(len(m), *(1,) * len(batch), *m.shape[1:])
    return jnp.broadcast_to(each, (len(m), *batch, *m.shape[1:]))


def no_credit(on: AbstractProgram, state: PyTree, batch: tuple[int, ...]) -> Credit:
    """Zero credit at a segment's boundary, from a cell's state."""
    zeros = jax.tree.map(jnp.zeros_like, inexact(state))
    modulator = on.rule.modulator(on.cell, batch)
    return Credit(zeros, modulator, on.emission.silent(on.cell.emit(state)))


def units(like: PyTree, batch: tuple[int, ...], together: PyTree) -> PyTree:
    """Unit credits, stacked on a new leading axis.

    Where `together` is True, one unit for all entries of a leaf at once (neurons do not mix, so
    one pattern serves all); elsewhere one unit an entry.
    """
    leaves, structure = jax.tree.flatten(like)
    sizes = [
        1 if joint else int(np.prod(leaf.shape[len(batch) :]))
        for leaf, joint in zip(leaves, jax.tree.leaves(together))
    ]
    total, start, stacked = sum(sizes), 0, []
    for leaf, size in zip(leaves, sizes):
        block = np.eye(total)[:, start : start + size]
        features = leaf.shape[len(batch) :]
        shape = (1,) * len(features) if size == 1 else features
        block = block.reshape(total, *(1,) * len(batch), *shape)
        stacked.append(jnp.broadcast_to(jnp.asarray(block, leaf.dtype), (total, *leaf.shape)))
        start += size
    return jax.tree.unflatten(structure, stacked)
