"""Sequences that end or pause inside a segment: which states are fresh, which steps take place."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ._credit import Flags
from ._precision import start_of, Starting
from ._tree import shifted


def as_flags(
    done: Array | None, valid: Array | None, like: Array
) -> tuple[Flags | None, Array | None]:
    """Flags of a segment, and which examples end with its last step; None: nothing of the kind.

    `like`: the inputs (T, *batch, m).
    """
    if done is None and valid is None:
        return None, None
    steps = like.shape[:-1]
    keep = jnp.ones(steps, bool) if valid is None else valid
    done = jnp.zeros(steps, bool) if done is None else done
    return Flags(shifted(jnp.zeros_like(done[0]), done), keep), done[-1]


def select(flag: Bool[Array, "..."], yes: PyTree, no: PyTree) -> PyTree:
    """`yes` where the flag of an example holds, else `no`; leaves are (*flag's axes, ...)."""

    def one(a, b):
        return jnp.where(flag.reshape(*flag.shape, *(1,) * (a.ndim - flag.ndim)), a, b)

    return jax.tree.map(one, yes, no)


def erase(flag: Bool[Array, "..."], tree: PyTree) -> PyTree:
    """Zeros where the flag of an example holds."""
    return select(flag, jax.tree.map(jnp.zeros_like, tree), tree)


def erase_trace(flag: Bool[Array, "..."], trace: PyTree) -> PyTree:
    """As `erase`, for the leaves (rows, *batch, ...) of a trace."""
    return jax.tree.map(lambda m: erase(jnp.broadcast_to(flag, (len(m), *flag.shape)), m), trace)


def select_trace(flag: Bool[Array, "..."], yes: PyTree, no: PyTree) -> PyTree:
    """As `select`, for the leaves (rows, *batch, ...) of a trace."""

    def one(a, b):
        return select(jnp.broadcast_to(flag, (len(a), *flag.shape)), a, b)

    return jax.tree.map(one, yes, no)


def entering(cell: Starting, flags: Flags | None, before: PyTree, start: PyTree = None) -> PyTree:
    """The states that steps start from: the initial one where a sequence begins.

    `start`: that state (*batch, ...); None: `cell.init`.
    """
    if flags is None:
        return before
    if start is None:
        start = start_of(cell, flags.fresh.shape)
    else:
        start = jax.tree.map(lambda s, b: jnp.broadcast_to(s, b.shape), start, before)
    return select(flags.fresh, start, before)


def where_valid(flags: Flags | None, after: PyTree, before: PyTree) -> PyTree:
    """The states after steps: as before where a step does not take place."""
    return after if flags is None else select(flags.keep, after, before)


def back_to_steps(flags: Flags, credit: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """Credit on the states after some steps, as direct credit on the step that made each.

    Returns (for each step, what is left for the state before all of them, and what comes to the
    start of a sequence that has no step yet).
    """
    through = ~(flags.keep | flags.fresh)
    later = jnp.cumprod(through[::-1], axis=0)[::-1].astype(bool)
    # a sequence's first step is reached from later steps, but nothing is reached through it
    beyond = jnp.concatenate([later[1:], jnp.ones_like(later[:1])])
    zero = jax.tree.map(lambda c: jnp.zeros((len(through), *c.shape), c.dtype), credit)
    every = jax.tree.map(lambda z, c: jnp.broadcast_to(c, z.shape), zero, credit)
    begun = jnp.any(flags.fresh & ~flags.keep & beyond, axis=0)
    return select(flags.keep & beyond, every, zero), erase(~later[0], credit), erase(~begun, credit)
