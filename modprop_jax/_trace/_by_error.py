"""Traces that the error advances: their next value comes with the gradient."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._credit import Point
from .._program._base import AbstractProgram
from .._program._reverse import stepped
from .._tree import nodes, pullback
from ._base import AbstractCarrier


class ByError(eqx.Module):
    """The value of such a trace. All leaves are floats, as its cotangent is the next value.

    `online_value_and_grad` hands that on; whoever differentiates by it has to do so too.
    """

    value: PyTree


class AwaitingError(eqx.Module):
    """What `scan` returns in place of the next value, which is the cotangent of the last one.

    `token` is 0; a loss that adds it depends on the segment, whatever else it reads. `nudge` is
    `AbstractCreditTrace.nudge` of the program.
    """

    token: Float[Array, ""]
    nudge: Callable[[PyTree, PyTree], PyTree] | None = None


class AbstractCreditTrace(AbstractCarrier):
    """A trace that goes on with the direct credit of each step, forward in time.

    `scan` advances it in the backward pass. Leaves are (*batch, ...), or shared by all examples.
    """

    @abc.abstractmethod
    def init(self, on: AbstractProgram, state: PyTree, key: PRNGKeyArray | None) -> PyTree:
        """The value before the first step, from the layer's state."""

    @abc.abstractmethod
    def advance(
        self,
        on: AbstractProgram,
        point: Point,
        after: PyTree,
        direct: PyTree,
        context: Float[Array, "*batch k"],
        trace: PyTree,
    ) -> tuple[PyTree, PyTree]:
        """Credit on the state after a step, or what else `charge` reads; and the value after it.

        `direct`: the loss's credit on that state from this step's emission. What is shared by all
        examples has to leave out those whose step does not take place (`point.flags`).
        """

    def charge(
        self, on: AbstractProgram, points: Point, states: PyTree, credit: PyTree
    ) -> tuple[PyTree, PyTree]:
        """The gradients of the cell and of the inputs, from the credit of all steps of a segment.

        `states`: those after the steps.
        """
        charged = pullback(lambda c, x: stepped(c, points.before, x), on.cell, points.inputs)
        return charged(credit)

    def nudge(self, on: AbstractProgram) -> Callable[[PyTree, PyTree], PyTree] | None:
        """The state that the error leaves, a function of the state after a step and of the value
        after it, without array leaves; None: the error leaves states alone.
        """
        return None

    def check_states(self, on: AbstractProgram, credit: PyTree) -> None:
        """Raise a ValueError for credit (or None) on states that the rule can't use."""

    def batch_axes(self, trace: PyTree) -> PyTree:
        """At the front of leaves that are not shared."""
        return jax.tree.map(lambda _: 0, trace)

    @abc.abstractmethod
    def forget(self, flag: Bool[Array, "*batch"], trace: PyTree) -> PyTree:
        """The value, of no past where the flag of an example holds."""

    @abc.abstractmethod
    def hold(self, keep: Bool[Array, "*batch"], further: PyTree, trace: PyTree) -> PyTree:
        """`further` where an example's step takes place, else as it was."""


def by_error(carry: PyTree) -> list[PyTree]:
    """The values of these traces in a carry, in order."""
    return [node.value for node in nodes(carry, ByError)]


def with_traces(carry: PyTree, values: list[PyTree]) -> PyTree:
    """The carry with other values of these traces."""
    rest = iter(values)

    def one(node):
        return ByError(next(rest)) if _is_node(node) else node

    return jax.tree.map(one, carry, is_leaf=_is_node)


def tokens(carry: PyTree) -> list[Array]:
    """What the loss has to add, so that all these traces go on."""
    return [node.token for node in nodes(carry, AwaitingError)]


def _is_node(node: object) -> bool:
    return isinstance(node, ByError | AwaitingError)
