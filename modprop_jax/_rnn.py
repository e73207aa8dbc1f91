from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from ._cell import AbstractCell
from ._cell._base import as_cell, batch_axes, BatchShape
from ._rule import AbstractRule, BPTT
from ._rule._base import as_rule
from ._scan import Carry, scan
from ._tree import as_array, as_arrays, Data


def layers(model: PyTree) -> list["RNN"]:
    """The recurrent layers of a model."""
    return list(filter(is_layer, jax.tree.leaves(model, is_leaf=is_layer)))


def is_layer(node: Any) -> bool:
    """Whether a node of a model is a recurrent layer."""
    return isinstance(node, RNN)


class RNN(eqx.Module):
    """A recurrent layer: a cell, and the credit rule by which it learns.

    `rnn(xs) -> zs` starts from the cell's initial state; `rnn(xs, carry) -> (carry, zs)` goes on
    from a `Carry` (streaming) or a bare state. Arrays are (T, *batch, features).

    ```python
    >>> import jax, modprop_jax as mpj
    >>> cell = mpj.LeakyCell(2, 8, tau=10.0, key=jax.random.key(0))
    >>> rnn = mpj.RNN(cell, rule=mpj.EProp())
    >>> rnn(jax.numpy.ones((5, 3, 2))).shape
    (5, 3, 8)

    ```
    """

    cell: AbstractCell
    rule: AbstractRule

    def __init__(self, cell: AbstractCell, *, rule: AbstractRule = BPTT()):
        """**Arguments:** `cell`: the dynamics. `rule`: the credit rule."""
        self.cell = as_cell("cell", cell)
        self.rule = as_rule("rule", rule)

    def init(self, batch_shape: BatchShape = (), *, key: PRNGKeyArray | None = None) -> Carry:
        """A carry with no past, for streaming."""
        return self.rule.init(self.cell, self.cell.init(batch_axes(batch_shape)), key=key)

    def __call__(
        self,
        xs: Data,
        carry: PyTree = None,
        *,
        drive: PyTree = None,
        context: Data = None,
        done: Data = None,
        mask: Data = None,
        states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Any:
        """The emissions, and, where a carry or a bare state came, the one to go on from.

        `drive` (T, *batch, n): noise or a current, added to what the neurons receive. `done` and
        `mask` (T, *batch): sequences that end inside, in padding too, and padding. `states`: all
        states too, for a plot or a penalty, `(zs, states)` or `(carry, zs, states)`. See `scan`.
        """
        del key
        xs = as_array("xs", xs)
        start = as_arrays(self.cell).init(xs.shape[1:-1]) if carry is None else carry
        options: Any = {"drive": drive, "context": context, "done": done, "mask": mask}
        out = scan(self.cell, start, xs, rule=self.rule, states=states, **options)
        if carry is not None:
            return out
        return out[1:] if states else out[1]
