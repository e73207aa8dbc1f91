from typing import Any, TypeGuard

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from ._cell import AbstractCell
from ._cell._base import as_cell, batch_axes, BatchShape
from ._rule import AbstractRule, BPTT
from ._rule._base import as_rule
from ._scan import Carry, scan
from ._tree import as_array, as_arrays, Data, nodes, with_fields


class Imposed:
    """The rule that a gradient imposes on all layers while its loss runs.

    A swap in the model would not reach a part of it that the loss puts in (`eqx.combine`), and
    would keep the parts from fitting together. To compare and hash: a key of JAX's caches, so that
    a function which was traced under one rule is traced anew under another.
    """

    def __init__(self, rule: AbstractRule):
        self.rule = rule
        self.leaves, self.structure = jax.tree.flatten(rule)

    def __hash__(self) -> int:
        return hash(type(self.rule))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Imposed) or self.structure != other.structure:
            return False
        return all(mine is theirs for mine, theirs in zip(self.leaves, other.leaves))


imposing = jax.make_user_context(default_value=None)


def layers(model: PyTree) -> list["RNN"]:
    """The recurrent layers of a model."""
    return nodes(model, RNN)


def is_layer(node: object) -> TypeGuard["RNN"]:
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
    own_rule: AbstractRule
    made_under: Imposed | None = eqx.field(static=True, repr=False)

    def __init__(self, cell: AbstractCell, *, rule: AbstractRule = BPTT()):
        """**Arguments:** `cell`: the dynamics. `rule`: the credit rule."""
        self.cell = as_cell("cell", cell)
        self.own_rule = as_rule("rule", rule)
        self.made_under = imposing.value

    @property
    def rule(self) -> AbstractRule:
        """The credit rule: its own, unless it runs in a loss that `value_and_grad` got a rule for.

        A layer that is made, or given a rule, inside of such a loss keeps its own.
        """
        imposed = imposing.value
        if imposed is None or imposed is self.made_under:
            return self.own_rule
        return imposed.rule

    def under(self, rule: AbstractRule) -> "RNN":
        """The layer with another rule of its own, whatever stands for its weights."""
        return with_fields(self, own_rule=rule, made_under=imposing.value)

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
        valid: Data = None,
        states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Any:
        """The emissions, and, where a carry or a bare state came, the one to go on from.

        `drive` (T, *batch, n): noise or a current, added to what the neurons receive. `done` and
        `valid` (T, *batch): sequences that end inside, in padding too, and padding. `states`: all
        states too, for a plot or a penalty, `(zs, states)` or `(carry, zs, states)`. See `scan`.
        """
        del key
        xs = as_array("xs", xs)
        start = as_arrays(self.cell).init(xs.shape[1:-1]) if carry is None else carry
        out = scan(
            self.cell,
            start,
            xs,
            rule=self.rule,
            drive=drive,
            context=context,
            done=done,
            valid=valid,
            states=states,
        )
        if carry is not None:
            return out
        return out[1:] if states else out[1]
