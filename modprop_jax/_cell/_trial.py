"""Whether units and examples stay apart in a cell's methods, where it is not seen, tried out.

Credit on some units, at generic values, must come back as exact zeros everywhere else. Derivatives
are what counts; values only where they tell that one example hears of others.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, PyTree

from .._arguments import is_traced
from .._tree import pullback
from ._dataflow import ENTRIES, EXAMPLES
from ._reach import call, ClosesOver, floating, pulled, reach, reads, shapes, Skeleton, units


# of parameters: a seed, a shift and a scale
SEED = np.array([0.3, 0.5, 1.0], np.float32)


@functools.lru_cache(maxsize=256)
def crossing(bones: Skeleton, methods: tuple[str, ...], features: int | None = None) -> list[str]:
    """Those of the methods in which an example hears of others."""
    doubtful = tuple(m for m in methods if pulled(bones, m, (), features).apart < EXAMPLES)
    return [m for m, (_, examples) in _mixing(bones, doubtful, features).items() if examples]


def meeting(bones: Skeleton, methods: tuple[str, ...]) -> list[str]:
    """Those of the methods in which units meet, or that do not return one number a unit."""
    seen = reach(bones)
    odd = [m for m in methods if m != "integrate" and m not in seen.by_unit]
    doubtful = tuple(m for m in methods if seen.apart[m] < ENTRIES and m not in odd)
    return odd + [m for m, (units, _) in _mixing(bones, doubtful).items() if units]


@functools.lru_cache(maxsize=256)
def _mixing(
    bones: Skeleton, methods: tuple[str, ...], features: int | None = None
) -> dict[str, tuple[bool, bool]]:
    """By trial: whether units meet, and whether examples do."""
    if not methods:
        return {}
    masks, at = _masks(units(bones, features)), shapes(bones, features)

    def one(method, cell, at):
        def of(*args):
            return call(cell, method, at._replace(**dict(zip(reads(method), args))))

        args = [getattr(at, name) for name in reads(method)]
        out = of(*args)
        return *_leaks(pullback(of, *args)(_credit(out, masks)), masks), out

    def trial(seeds):
        cell, batch = bones.cell(generic(bones.arrays, SEED)), generic(at, seeds)
        return [one(method, cell, batch) for method in methods]

    # again with other others, and with the first in the last's place
    seeds, others = _seeds(masks), _seeds(masks, others=1)
    swapped = np.concatenate([others[-1:], others[1:-1], seeds[:1]])
    found, *again = _tried(trial, seeds, others, swapped)
    mixes = {}
    for method, (leaks, crosses, out), *more in zip(methods, found, *again):
        first = [a[0] for a in jax.tree.leaves(out)]
        firsts = [[a[k] for a in jax.tree.leaves(m[-1])] for k, m in zip((0, -1), more)]
        same = all(_near(a, b) for other in firsts for a, b in zip(first, other))
        mixes[method] = bool(leaks), bool(crosses) or not same
    return mixes


@functools.lru_cache(maxsize=256)
def shared(bones: Skeleton, names: frozenset[str], emits: bool, copies: bool) -> tuple[str, ...]:
    """The fields whose entries act on other units than their own.

    `emits`: the emission counts too. `copies`: each unit and example has a copy of what is one
    value, and drives are given; else the leading axis is (gates x units), and drives are made.
    """
    masks, at = _masks(units(bones)), shapes(bones)
    which = [
        i for i, field in enumerate(bones.fields) if field in names and floating(bones.arrays[i])
    ]

    def trial(seeds):
        arrays, batch = generic(bones.arrays, SEED), generic(at, seeds)
        own = [arrays[i] for i in which]
        if copies:
            own = generic([jax.ShapeDtypeStruct(masks.shape[1:], a.dtype) for a in own], seeds)

        def run(own):
            changed = dict(zip(which, own))
            cell = bones.cell([changed.get(i, a) for i, a in enumerate(arrays)])
            args = batch
            if not copies:
                sent = lax.stop_gradient(cell.message(batch.state))
                args = batch._replace(drive=cell.drive(sent, batch.x))
            return call(cell, "integrate", args), call(cell, "emit", args) if emits else ()

        pull, out = pullback(run, own), run(own)
        if copies:
            return [_leaks([b], masks)[0] for b in pull(_credit(out, masks))[0]]

        def each(mask):
            inside = jnp.broadcast_to(mask, masks.shape)
            (back,) = pull(_credit(out, inside))
            return jnp.stack([jnp.any(_by_unit(b, mask.size) & ~mask) for b in back])

        return jnp.any(lax.map(each, jnp.asarray(masks[:-1])), axis=0)

    if not which or masks.shape[1] == 1:
        return ()
    if copies:
        seen = [pulled(bones, m, tuple(which)).apart for m in ("integrate", *["emit"] * emits)]
        if min(seen) == ENTRIES:
            return ()
    (flags,) = _tried(trial, _seeds(masks))
    return tuple(dict.fromkeys(bones.fields[i] for i, flag in zip(which, flags) if flag))


@functools.lru_cache(maxsize=256)
def leaky(bones: Skeleton) -> bool:
    """By trial: whether what `integrate` makes of the membrane has the derivatives `leak`, by the
    membrane, and `gain`, by the drive, one number each, and none by other variables of the state.
    """
    masks, at = _masks(units(bones)), shapes(bones)

    def trial(seeds):
        cell, batch = bones.cell(generic(bones.arrays, SEED)), generic(at, seeds)
        membrane = cell.membrane(batch.state)
        (credit,) = pullback(cell.membrane, batch.state)(jnp.ones_like(membrane))
        found = pullback(cell.integrate, batch.state, batch.drive)(credit)
        said = jnp.asarray(cell.leak), jnp.asarray(cell.gain)
        return jax.tree.leaves(credit), *map(jax.tree.leaves, found), said

    ((credit, before, drive, (leak, gain)),) = _tried(trial, _seeds(masks))
    if leak.ndim or gain.ndim:
        return False
    pairs = [*zip(before, [leak * c for c in credit], strict=True), *((d, gain) for d in drive)]
    return all(_near(a, b) for a, b in pairs)


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    rtol = float(jnp.finfo(a.dtype).eps) ** 0.5
    return np.allclose(a.astype(complex), b.astype(complex), rtol=rtol, equal_nan=True)


def generic(tree: PyTree, seeds: np.ndarray | Array) -> PyTree:
    """Values of no particular kind for these shapes, inside of a trace: the unused cost nothing.

    `seeds`: one for all, of positive values; or (examples, 3): for each a seed, a shift, a scale.
    """
    leaves, structure = jax.tree.flatten(tree)
    lead = np.shape(seeds)[:-1]

    def over(column, shape):
        return jnp.broadcast_to(column.reshape(*lead, *(1,) * (len(shape) - len(lead))), shape)

    def one(index, struct):
        shape = (*lead, *struct.shape)
        if jnp.issubdtype(struct.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), shape)
        seed, shift, scale = (over(column, shape) for column in jnp.moveaxis(seeds, -1, 0))
        count = lax.iota(jnp.float32, math.prod(struct.shape)).reshape(struct.shape)
        wave = jnp.float32(0.6180339) * jnp.broadcast_to(count, shape) + seed + 0.37 * index
        wave = wave - jnp.floor(wave)
        if not floating(struct):
            return (wave > 0.5).astype(struct.dtype)
        return (shift + scale * wave).astype(struct.dtype)

    return jax.tree.unflatten(structure, [one(i, leaf) for i, leaf in enumerate(leaves)])


def _seeds(masks: np.ndarray, others: int = 0) -> np.ndarray:
    """For each example. The first is positive, where most functions are defined; `others`: what
    all others get."""
    count = np.arange(len(masks))
    seeds = 0.77 * count + 0.5 * others * (count > 0)
    shift, scale = np.where(count % 2, -2.0, 0.5), np.where(count % 2, 4.0, 1.0)
    return np.stack([seeds, shift, scale], axis=-1).astype(np.float32)


def _tried(trial: Callable, *inputs: np.ndarray) -> list:
    """A trial, compiled and run, also while something else is traced."""
    traced = jax.jit(trial).trace(inputs[0])
    if is_traced(traced.jaxpr.consts):
        raise ClosesOver
    run = traced.lower().compile()
    return [jax.tree.map(np.asarray, run(each)) for each in inputs]


def _masks(n: int) -> np.ndarray:
    """Sets of units (examples, n), each with its complement, that tell every pair of units apart;
    all units; and, last, none of them."""
    bits = np.arange(n) >> np.arange(max(n - 1, 0).bit_length())[:, None] & 1 == 1
    ends = np.stack([np.ones(n, bool), np.zeros(n, bool)])
    return np.concatenate([bits, ~bits, ends])


def _credit(out: PyTree, masks: np.ndarray | Array) -> PyTree:
    """Generic credit on the units of each example's mask; none on what has no units."""

    def one(z):
        value = generic(jax.ShapeDtypeStruct(z.shape, z.dtype), SEED)
        some = np.arange(len(masks)) < len(masks) - 1
        inside = masks if z.shape == masks.shape else _over(some, z)
        return jnp.where(inside, value, 0)

    return jax.tree.map(one, out)


def _leaks(back: PyTree, masks: np.ndarray | Array) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether any credit is outside of the masks, on other units; and in the last example."""
    found = [jnp.abs(leaf) > 0 for leaf in jax.tree.leaves(back)]
    last = [jnp.any(leaf[-1]) for leaf in found]
    out = [jnp.any(leaf & ~masks) for leaf in found if leaf.shape == masks.shape]
    return _any(out), _any(last)


def _any(flags: list) -> Bool[Array, ""]:
    return functools.reduce(jnp.logical_or, flags, jnp.zeros((), bool))


def _by_unit(back: Array, n: int) -> Bool[Array, " n"]:
    """Which units of (gates x units, ...) credit came back to."""
    found = (jnp.abs(back) > 0).reshape(-1, n, math.prod(back.shape[1:]))
    return jnp.any(found, axis=(0, 2))


def _over(flags: np.ndarray, like: Array) -> Array:
    """Flags of the examples, on all of their features."""
    return jnp.broadcast_to(flags.reshape(-1, *(1,) * (like.ndim - 1)), like.shape)
