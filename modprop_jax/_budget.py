"""How many steps to take at once, from sizes and a memory budget."""

import math

import jax
from jaxtyping import PyTree

from ._rule._base import is_carry
from ._tree import inexact


# Bytes of a segment's states, drives, emissions and their cotangents. Measured on CPU with streamed
# ModProp: 4 MB, which is 202, 60 and 30 steps at n = 32, 128, 256, is within a tenth of the best
# of 1 to 256 steps; 8 steps take a fifth to three fifths longer. Elsewhere not measured.
_MEMORY = {"cpu": 2**22}
_MEMORY_ELSEWHERE = 2**26


def auto_segment(carry: PyTree, seen: PyTree, steps: int, memory: int | None) -> int:
    """Steps of a streamed segment: as many as `memory` bytes hold, at most T.

    A step keeps about four arrays of the size of the state (itself, the drive, the emission and
    its cotangent), and its input and target.
    """
    if memory is None:
        memory = _MEMORY.get(jax.default_backend(), _MEMORY_ELSEWHERE)
    a_step = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), seen)
    return min(max(memory // max(4 * _bytes(_states(carry)) + _bytes(a_step), 1), 1), steps)


def auto_checkpoint(steps: int) -> int:
    """Steps between two kept states: √T, where states and recomputed segment are alike in size."""
    return math.ceil(math.sqrt(steps))


def _states(carry: PyTree) -> PyTree:
    """The states in a carry, without the traces of the past."""
    nodes = jax.tree.leaves(carry, is_leaf=is_carry)
    return inexact([node.state if is_carry(node) else node for node in nodes])


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
