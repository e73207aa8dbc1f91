"""Rules that estimate credit on the spot, each with a trace that the error advances."""

import abc

import jax
from jaxtyping import PyTree

from .._cell import AbstractCell
from .._cell._emission import Plain
from .._program._estimate import Estimate
from .._trace._by_error import AbstractCreditTrace, ByError, tokens
from ._base import AbstractRule, Carry, is_carry


class AbstractEstimatingRule(AbstractRule):
    r"""A rule whose gradient is \( \sum_t \hat\lambda_t F_t \), with an estimate of the credit.

    The estimate \(\hat\lambda_t\) on the state at t comes from the past and the present, so it runs
    forward in time; its trace goes on with the errors. It is its trace.
    """

    @abc.abstractmethod
    def estimator(self, cell: AbstractCell) -> AbstractCreditTrace:
        """What the estimate is made from."""

    @property
    def context_size(self) -> int | None:
        """How many features `context` must have; None: the rule reads none."""
        return None

    def on(
        self, cell: AbstractCell, in_size: int | None = None, *, streams: bool = True
    ) -> Estimate:
        """The program of the estimate, of the layer with what is made of its emission."""
        trace, name = self.estimator(cell), type(self).__name__
        return Estimate(self, cell.effective(), Plain(), (), trace, streams, name)


def with_next(carry: PyTree, cotangents: list[PyTree]) -> PyTree:
    """The carry after a segment: the next values, and the states as the error leaves them.

    A trace that no `scan` took up stays as it is.
    """
    rest = iter(cotangents)

    def one(node):
        if not _went_on(node):
            next(rest)
            return node
        value, nudge = next(rest), node.trace.nudge
        state = node.state if nudge is None else nudge(node.state, value)
        return Carry(state, ByError(value), node.observed, node.rule)

    def is_node(node):
        return isinstance(node, ByError) or _went_on(node)

    return jax.tree.map(lambda node: one(node) if is_node(node) else node, carry, is_leaf=is_node)


def _went_on(node: PyTree) -> bool:
    return is_carry(node) and bool(tokens(node.trace))
