"""Examples of a carry: those that begin anew, and those that are selected."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._arguments import shown
from ._cell import AbstractCell, computing
from ._cell._base import is_cell
from ._check import check_carry, check_ended, check_index
from ._precision import widened
from ._program._base import Boundary
from ._rnn import is_layer, RNN
from ._rule import AbstractRule, BPTT
from ._rule._base import is_carry
from ._scan import enter, leave
from ._tree import as_array, as_arrays, Data, distinct


def reset(layer: AbstractCell | RNN, carry: PyTree, ended: Data) -> PyTree:
    """The carry with some examples back at a fresh start, all others as they are.

    Their state is `cell.init`, their trace that of no past, and nothing is observed of them: as if
    the step before had come with `done`. What all examples share, as the weights of `DNI` and
    `KeRNL`, stays, and so do streams of random numbers. For environments that end one by one
    between two segments. A `where` leaf by leaf over the carry is wrong: see `Carry`.

    **Arguments:**

    - `layer`: the `RNN`, or the cell.
    - `carry`: a `Carry` of it, or a bare state.
    - `ended`: boolean (*batch), which examples.

    **Errors:** ValueError for another shape or dtype, a carry of another layer, and, within a loss,
    a carry whose trace goes on with the error (`DNI`, `GLE`): reset that between two segments.
    """
    cell, rule = _bound(layer, carry, "reset")
    cell, carry = as_arrays((cell, carry))
    ended, end = as_array("ended", ended), enter(carry)
    check_ended(cell, end.state, ended)
    end = end._replace(state=widened(end.state))
    return leave(carry, rule.on(computing(cell)).begin(ended, end))


def take_examples(layer: AbstractCell | RNN, carry: PyTree, index: Data) -> PyTree:
    """The carry of some examples of the batch: a selection, a shuffle, or repetitions.

    **Arguments:** `layer`: the `RNN`, or the cell. `carry`: a `Carry` of it, or a bare state.
    `index`: integers (k,), the new examples' places on the first axis of the batch.

    **Errors:** ValueError for another shape or dtype, a batch without axes, a carry of another
    layer, and a rule with a table of noise for each example.
    """
    cell, rule = _bound(layer, carry, "take_examples")
    cell, carry = as_arrays((cell, carry))
    index, end = as_array("index", index), enter(carry)
    check_index(cell, end.state, index)
    if rule.by_place:
        name = type(rule).__name__
        raise ValueError(
            f"take_examples can't take the noise of {name}, a table (T, *batch, k) with a row "
            "for each place in the batch: pass (T, k), or let the rule draw it."
        )

    def take(tree, axis=0):
        return jax.tree.map(lambda a: jnp.take(a, index, axis=axis), tree)

    def one(leaf, axis):
        return leaf if axis is None else take(leaf, axis)

    axes = rule.on(computing(cell)).batch_axes(end.trace)
    taken = Boundary(take(end.state), jax.tree.map(one, end.trace, axes), take(end.observed))
    return distinct(leave(carry, taken), carry)


def _bound(layer: object, carry: PyTree, name: str) -> tuple[AbstractCell, AbstractRule]:
    """The cell, where the carry is one of its own, and the rule that made it: of a bare state, one
    that carries nothing."""
    cell = layer.cell if is_layer(layer) else layer
    if not is_cell(cell):
        raise ValueError(f"layer of {name} must be an RNN or a cell, but is {shown(layer)}.")
    if not is_carry(carry):
        return cell, BPTT()
    check_carry(cell, carry, layer.rule if is_layer(layer) else carry.rule)
    return cell, carry.rule
