"""What a trace is: the past of a segment, as a linear map from credit to parameters."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .._cell import AbstractCell, Filtered
from .._credit import Credit, Record
from .._flags import erase_trace, select_trace
from .._reverse import inner_cell
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

    def begin(
        self, rule: Any, cell: AbstractCell, flag: Bool[Array, "*batch"], trace: PyTree
    ) -> PyTree:
        """As `forget`, where the flag means that an example is in the cell's own start, which may
        depend on parameters; `cell` is effective.
        """
        del rule, cell
        return self.forget(flag, trace)


class AbstractTrace(AbstractCarrier):
    r"""How a rule carries the past between segments.

    A trace M is the map from credit on a segment's last state (and on all else that the rule
    transports) to the gradient of everything before it. Its value at the end of a segment is the
    segment's own reverse form, started from unit credit and not summed over the batch, plus (that
    credit at the segment's start) · M.
    """

    @abc.abstractmethod
    def init(self, rule: Any, cell: AbstractCell, state: PyTree) -> PyTree:
        """The trace of no past, from a state that is a constant: zeros."""

    def of_start(self, rule: Any, cell: AbstractCell, batch: tuple[int, ...]) -> PyTree:
        """The trace of the cell's own start, ∂init/∂θ; a ValueError if this trace can't hold it."""
        del batch
        raise refusal(rule, cell)

    def begin(
        self, rule: Any, cell: AbstractCell, flag: Bool[Array, "*batch"], trace: PyTree
    ) -> PyTree:
        """The value, of the cell's own start where the flag of an example holds."""
        trace = self.forget(flag, trace)
        if not start_learns(inner_cell(cell)):
            return trace
        return select_trace(flag, self.of_start(rule, cell, flag.shape), trace)

    @abc.abstractmethod
    def contract(
        self, rule: Any, cell: Any, prepared: PyTree, trace: PyTree, credit: Credit
    ) -> PyTree:
        """The gradient of the past for this credit, shaped as the cell's parameters."""

    @abc.abstractmethod
    def extend(
        self, rule: Any, cell: AbstractCell, prepared: PyTree, record: Record, trace: PyTree
    ) -> PyTree:
        """The trace after one more segment."""


def refusal(rule: Any, cell: AbstractCell) -> ValueError:
    """What to say where a rule can't stream a cell whose start learns."""
    inner = inner_cell(cell)
    return ValueError(
        f"{type(inner).__name__}.init reads {names_read(inner)}, which trains, but what "
        f"{type(rule).__name__} carries from segment to segment can't hold a start that depends on "
        "it: let init read own parameters of each neuron alone, stream with RTRL, learn offline "
        "(from a bare state), or stop_gradient it in init."
    )


def inside(rows: Credit, record: Record) -> Credit:
    """Unit credits, with room for what comes to sequences that begin inside the segment."""
    if record.start is None:
        return rows
    return rows._replace(start=jax.tree.map(jnp.zeros_like, rows.state))


def arrivals(
    trace: AbstractTrace, rule: Any, cell: AbstractCell, record: Record, value: PyTree, end: Credit
) -> list[tuple[Credit, PyTree]]:
    """What unit credits at the end of a segment have become, with the trace that each meets: at
    the segment's start the value, and where sequences began inside that of the cell's own start.
    """
    came = [(end._replace(start=()), value)]
    if record.start is None:
        return came
    nothing = jax.tree.map(jnp.zeros_like, (end.extra, end.filter))
    of_start = trace.of_start(rule, cell, record.xs.shape[1:-1])
    return [*came, (Credit(end.start, *nothing), of_start)]


def batch_shape(cell: AbstractCell, state: PyTree) -> tuple[int, ...]:
    """The leading axes of a cell's state."""
    example = jax.tree.leaves(jax.eval_shape(lambda: cell.init(())))[0]
    leaf = jax.tree.leaves(state)[0]
    return leaf.shape[: leaf.ndim - example.ndim]


def over_batch(m: Array, batch: tuple[int, ...]) -> Array:
    """(rows, ...) as (rows, *batch, ...), the same for all examples."""
    each = m.reshape(len(m), *(1,) * len(batch), *m.shape[1:])
    return jnp.broadcast_to(each, (len(m), *batch, *m.shape[1:]))


def boundary(rule: Any, cell: AbstractCell, state: PyTree, batch: tuple[int, ...]) -> Credit:
    """Zero credit at a segment's boundary; `state` is the inner cell's for a filtered one."""
    zeros = jax.tree.map(jnp.zeros_like, inexact(state))
    extra = rule.extra(inner_cell(cell), batch)
    filtered = ()
    if isinstance(cell, Filtered):
        filtered = cell.silent(cell.cell.emit(state))
    return Credit(zeros, extra, filtered)


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
