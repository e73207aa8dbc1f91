"""Sums over long loops that lose nothing to rounding."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import PyTree

from ._sharding import loop_start
from ._tree import accumulate, accumulator, total


# Most terms of a block, which are summed plainly: of equal float32 terms, the worst case, these may
# be 1e-6 off.
_BLOCK = 64


def fold(
    step: Callable[[Any, PyTree], tuple[PyTree, PyTree]],
    carry: PyTree,
    zeros: PyTree,
    count: int,
    blocks_of: int = 0,
) -> tuple[PyTree, PyTree]:
    """The last carry and Σ terms of `carry, terms = step(index, carry)`, index = 0 ... count - 1.

    `zeros`: what the terms are summed in. Blocks of terms are summed first, then the blocks, which
    is compensated where these outnumber a block's terms: the error does not grow with the count. In
    reverse mode JAX sums cotangents of what `step` closes over in the same two levels, both
    plainly: then let there be `blocks_of` about √count. All arrays.
    """
    size = _block(count, max(blocks_of, _BLOCK))

    def block(first, size, carry):
        def body(index, at):
            carry, sums = at
            carry, terms = step(first + index, carry)
            return carry, _plus(sums, terms)

        return lax.fori_loop(0, size, body, loop_start(body, (carry, zeros)))

    if size == count:
        return block(0, count, carry)

    def body(index, at):
        carry, sums = at
        carry, terms = block(index * size, size, carry)
        return carry, plus(sums, terms)

    blocks, rest = divmod(count, size)
    many = blocks > size
    plus = accumulate if many else _plus
    start = carry, accumulator(zeros) if many else zeros
    carry, sums = lax.fori_loop(0, blocks, body, loop_start(body, start))
    if rest:
        carry, terms = block(blocks * size, rest, carry)
        sums = plus(sums, terms)
    return carry, total(sums) if many else sums


def _plus(sums: PyTree, terms: PyTree) -> PyTree:
    return jax.tree.map(lambda s, t: s + t.astype(s.dtype), sums, terms)


def _block(count: int, most: int) -> int:
    """Terms of a block: if there is one, a size that leaves no rest to compile."""
    if count <= most:
        return count
    return next((size for size in range(most, most // 2, -1) if count % size == 0), most)
