"""Starts that learn: which parameters a cell's `init` reads, and whether each stays in its unit."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var
from jaxtyping import Array, Bool, PyTree

from ._precision import start_of, Starting, widened
from ._skeleton import Skeleton, skeleton
from ._static import thawed
from ._tree import inexact, is_shape, pullback


def _bones(cell: Starting) -> Skeleton:
    """What a start reads is seen whatever the values are: lists of synapses need not be hashed."""
    return skeleton(cell, values=False)


def _generic(bones: Skeleton) -> Any:
    """The cell with numbers of no particular value in place of its parameters."""
    return jax.tree.unflatten(bones.structure, map(_value, bones.leaves))


def _value(leaf: PyTree) -> PyTree:
    """Of an array that is not known: within (0, 1), where functions that stand for a constraint
    have finite derivatives."""
    if not is_shape(leaf):
        return thawed(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape)
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.ones(leaf.shape, leaf.dtype)
    values = np.random.default_rng(leaf.shape).uniform(0.25, 0.75, leaf.shape)
    return jnp.asarray(values, leaf.dtype)


def read_by_start(cell: Starting) -> PyTree:
    """A boolean for each parameter of the cell: whether its start has a derivative by it.

    Seen in the pullback of `init`, without its values: what is stopped, or gives a shape or a dtype
    alone, does not count.
    """
    return jax.tree.unflatten(jax.tree.structure(inexact(cell)), _read(_bones(cell)))


@functools.lru_cache(maxsize=64)
def _read(bones: Skeleton) -> list[bool]:
    given = [leaf for leaf in bones.leaves if _trains(leaf)]
    with jax.ensure_compile_time_eval():
        known = [None if _trains(leaf) else _value(leaf) for leaf in bones.leaves]

    def start(parameters):
        rest = iter(parameters)
        leaves = [next(rest) if _trains(a) else b for a, b in zip(bones.leaves, known)]
        return inexact(jax.tree.unflatten(bones.structure, leaves).init(()))

    def back(credit, parameters):
        return jax.vjp(start, parameters)[1](credit)[0]

    credit = jax.eval_shape(start, given)
    jaxpr = jax.make_jaxpr(back)(credit, given).jaxpr
    reached = set(jaxpr.invars[: len(jax.tree.leaves(credit))])

    def is_reached(atom):
        return isinstance(atom, Var) and atom in reached

    for equation in jaxpr.eqns:
        if any(map(is_reached, equation.invars)):
            reached.update(equation.outvars)
    return list(map(is_reached, jaxpr.outvars))


def _trains(leaf: object) -> bool:
    return is_shape(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def start_learns(cell: Starting) -> bool:
    """Whether a cell's start depends on parameters."""
    return any(jax.tree.leaves(read_by_start(cell)))


def names_read(cell: Starting) -> str:
    """The parameters that a cell's start depends on, for a message."""
    read, _ = jax.tree_util.tree_flatten_with_path(read_by_start(cell))
    return ", ".join(jax.tree_util.keystr(path).lstrip(".") for path, reads in read if reads)


def pull_start(cell: Starting, credit: PyTree) -> PyTree:
    """Credit on the start of one example, as a gradient of the cell."""
    return pullback(start_of, widened(cell))(credit)[0]


def at_start(cell: Starting, state: PyTree, batch: tuple[int, ...]) -> Bool[Array, "*batch"]:
    """Which examples are in the state that the cell starts from, up to rounding."""

    def same(have, want):
        away = jnp.abs(have - want)
        if eqx.is_inexact_array(want):
            # made in another program, the same start may differ in its last digits
            away -= 8 * jnp.finfo(want.dtype).eps * jnp.abs(want)
        return jnp.all((away <= 0).reshape(*batch, -1), axis=-1)

    each = jax.tree.leaves(jax.tree.map(same, state, start_of(cell, batch)))
    return jnp.stack(each).all(axis=0)


def start_mixes_units(cell: Starting, n: int) -> bool:
    """Whether the start is not made unit by unit, from parameters whose leading axis is (gates x
    units), or from one value for all.

    Seen at concrete numbers, in zeros of the derivative that are exact: credit on some units must
    not come to parameters of others, nor credit on variables that are no units' to any.
    """
    return _mixes(_bones(cell), n)


@functools.lru_cache(maxsize=64)
def _mixes(bones: Skeleton, n: int) -> bool:
    with jax.ensure_compile_time_eval():
        cell = _generic(bones)
        state = inexact(cell.init(()))
        back = pullback(lambda cell: cell.init(()), cell)

        def reached(some):
            def one(s):
                chosen = some if s.shape == (n,) else np.full(s.shape, not some.any())
                return jnp.asarray(chosen, s.dtype)

            (gradient,) = back(jax.tree.map(one, state))
            return map(np.asarray, jax.tree.leaves(gradient))

        if any(p.any() for p in reached(np.zeros(n, bool))):
            return True
        return any(_strays(p, some) for some in _sides(n) for p in reached(some))


def _strays(gradient: np.ndarray, some: np.ndarray) -> bool:
    """Whether it holds anything for other units than these."""
    if gradient.ndim == 0:
        return False
    if gradient.shape[0] % some.size:
        return bool(gradient.any())
    return bool(gradient.reshape(-1, some.size, *gradient.shape[1:])[:, ~some].any())


def _sides(n: int) -> list[np.ndarray]:
    """Sets of units that tell any two of them apart."""
    bits = [(np.arange(n) >> k & 1).astype(bool) for k in range((n - 1).bit_length())]
    return [side for bit in bits for side in (bit, ~bit)]
