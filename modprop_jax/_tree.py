"""Small pytree tools that the core shares."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PyTree

from ._arguments import is_traced
from ._precision import wide
from ._sharding import local_pullback


# data as they come: an array, JAX's or NumPy's, or nested lists of numbers (see `as_array`)
Data = Any


Module = TypeVar("Module", bound=eqx.Module)
Node = TypeVar("Node")


def inexact(tree: PyTree) -> PyTree:
    """The differentiable leaves; None in place of all others."""
    return eqx.filter(tree, eqx.is_inexact_array)


def pullback(function: Callable[..., PyTree], *primals: PyTree) -> Callable:
    """`jax.vjp` that lets integer leaves (refractory counters, keys) pass on both sides.

    In a `jax.shard_map` each device pulls back its own credit.
    """
    parts = [eqx.partition(p, eqx.is_inexact_array) for p in primals]

    def differentiable(*diff):
        full = [eqx.combine(d, rest) for d, (_, rest) in zip(diff, parts)]
        return inexact(function(*full))

    return local_pullback(differentiable, *(diff for diff, _ in parts))


def add(left: PyTree, right: PyTree) -> PyTree:
    """Leafwise sum; None counts as zero."""
    if left is None or right is None:
        return left if right is None else right
    return jax.tree.map(jnp.add, left, right)


class Sum(NamedTuple):
    """A sum as it is held: what has come together, and how much too much that is by rounding."""

    held: PyTree
    excess: PyTree


def zeros_of(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
    """Zeros for a sum of gradients of `tree`, in float32 at least."""
    return jax.tree.map(lambda a: jnp.zeros((*lead, *a.shape), wide(a.dtype)), inexact(tree))


def accumulator(zeros: PyTree) -> Sum:
    """The sum of nothing."""
    return Sum(zeros, zeros)


def accumulate(sums: Sum, terms: PyTree) -> Sum:
    """One more term of the sum, with what rounding took from the terms before (Kahan, 1965).

    The error does not grow with the number of terms, where that of a plain sum does: 10⁶ equal
    terms in float32 may come out 1 % off.
    """

    def rounded(after, before, term):
        # what is not finite stays as it is
        return jnp.where(jnp.isfinite(after), (after - before) - term, 0)

    terms = jax.tree.map(lambda e, t: t.astype(e.dtype) - e, sums.excess, terms)
    after = jax.tree.map(jnp.add, sums.held, terms)
    return Sum(after, jax.tree.map(rounded, *lax.stop_gradient((after, sums.held, terms))))


def total(sums: Sum) -> PyTree:
    """The sum."""
    return sums.held


def as_dtypes(sums: PyTree, tree: PyTree) -> PyTree:
    """The sum, in the dtypes of `tree`."""
    return jax.tree.map(lambda s, leaf: s.astype(leaf.dtype), sums, inexact(tree))


def materialise(tangents: PyTree, like: PyTree) -> PyTree:
    """Cotangents with every None (a symbolic zero) written out as zeros."""
    like = inexact(like)
    return jax.tree.map(
        lambda t, x: jnp.zeros_like(x) if t is None and x is not None else t,
        tangents,
        like,
        is_leaf=lambda t: t is None,
    )


def nodes(tree: PyTree, kind: type[Node]) -> list[Node]:
    """The nodes of this kind, in order; none of those inside of another."""

    def is_one(node: object) -> TypeGuard[Node]:
        return isinstance(node, kind)

    return list(filter(is_one, jax.tree.leaves(tree, is_leaf=is_one)))


def is_shape(leaf: object) -> TypeGuard[jax.ShapeDtypeStruct]:
    """Whether it stands for an array that is not known."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def slice_time(tree: PyTree, start: Int[ArrayLike, ""], size: int) -> PyTree:
    """`size` steps from `start` of every leaf's leading axis, without a copy of the rest."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), tree)


def at_step(tree: PyTree, index: Int[ArrayLike, ""]) -> PyTree:
    """Every leaf at one place of its leading axis."""
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, index, keepdims=False), tree)


def shifted(before: PyTree, states: PyTree) -> PyTree:
    """The state before each step, of the one before the first and those after each."""
    return jax.tree.map(lambda b, s: jnp.concatenate([b[None], s[:-1]]), before, states)


def as_array(name: str, value: Data) -> Array:
    """What came as data (an array, also NumPy's, or nested lists of numbers), as JAX's array.

    64 bits become 32 where JAX has no others, eagerly as under `jit`.
    """
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array, or nested lists of numbers, but is a "
            f"{type(value).__name__} that JAX takes for none."
        ) from error


def as_arrays(tree: PyTree) -> PyTree:
    """The tree with JAX's inexact arrays in place of NumPy's, as after `device_get` or a file."""

    def one(leaf):
        known = isinstance(leaf, np.ndarray | np.generic) and eqx.is_inexact_array_like(leaf)
        return jnp.asarray(leaf) if known else leaf

    return jax.tree.map(one, tree)


def traced(tree: PyTree) -> PyTree:
    """The tree, as functions with a derivative of their own take it.

    JAX's (0.10) refuse what a `vmap` inside of a `jit` has made of a NumPy array. A copy of what is
    traced, which no program contains, is none.
    """

    def one(leaf):
        return jnp.copy(leaf) if is_traced(leaf) else leaf

    return jax.tree.map(one, tree)


def as_sequences(name: str, tree: PyTree) -> PyTree:
    """The tree of data with arrays for leaves; what is nested lists of numbers is one."""

    def numbers(node):
        return isinstance(node, list) and all(np.ndim(leaf) == 0 for leaf in jax.tree.leaves(node))

    return jax.tree.map(lambda node: as_array(name, node), tree, is_leaf=numbers)


def distinct(tree: PyTree, *others: PyTree) -> PyTree:
    """The tree, which may be donated: copies where an array stands twice, or in the others too."""
    seen = {id(leaf) for leaf in jax.tree.leaves(others)}

    def one(leaf):
        if not eqx.is_array(leaf):
            return leaf
        if id(leaf) in seen:
            leaf = jnp.copy(leaf)
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(one, tree)


def nothing(tree: PyTree) -> PyTree:
    """None for every leaf: the cotangents of what has none."""
    return jax.tree.map(lambda _: None, tree)


def each(function: Callable[..., PyTree], axes: int) -> Callable[..., PyTree]:
    """`function` of one example, over this many leading axes."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def stop(tree: PyTree) -> PyTree:
    """`stop_gradient` on every array leaf."""
    return jax.tree.map(lambda a: lax.stop_gradient(a) if eqx.is_array(a) else a, tree)


def with_fields(module: Module, **fields: object) -> Module:
    """A copy with other values in these fields, which may be static: `eqx.tree_at` reaches none."""
    copy = object.__new__(type(module))
    for name, value in (vars(module) | fields).items():
        object.__setattr__(copy, name, value)
    return copy
