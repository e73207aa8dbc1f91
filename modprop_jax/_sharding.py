"""Batches sharded over a mesh: by the compiler (Auto axes), by types (Explicit), or one part for
each device (Manual: inside of `jax.shard_map`, where a type says along which axes it differs)."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, PyTree


def batch_groups(batch: tuple[int, ...]) -> int:
    """How many parts of the batch keep a weight gradient of their own until the end.

    One a device, if the batch divides: the sum over devices is then taken once, after the loop
    over chunks, and not in every chunk.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not batch:
        return 1
    kinds = zip(mesh.axis_sizes, mesh.axis_types)
    # of a manual axis one device alone is here
    return math.gcd(batch[0], math.prod(n for n, kind in kinds if kind != AxisType.Manual))


def explicit_batch(xs: Array) -> tuple | None:
    """The partition of the batch axes of xs, where its type carries one (Explicit meshes)."""
    sharding = jax.typeof(xs).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    spec = tuple(sharding.spec)[1:-1]
    return spec if any(axis is not None for axis in spec) else None


def with_auto_axes(
    run: Callable[..., Any], spec: tuple, program: PyTree, start: PyTree, steps: PyTree
) -> Any:
    """`run(program, start, steps)` with all mesh axes Auto inside; the batch stays partitioned.

    `run` returns (boundary, emissions, states of all steps), the boundary shaped as `start`. Leaves
    of a state and of what was observed are (*batch, ...), or have no axes; those of sequences are
    (_, *batch, ...), and of traces too, unless all examples share them.
    """
    arrays, static = eqx.partition((program, start, steps), eqx.is_array)

    def inside(arrays):
        return run(*eqx.combine(arrays, static))

    first, later = PartitionSpec(*spec), PartitionSpec(None, *spec)

    def batched(tree, by=first):
        return jax.tree.map(lambda a: by if a.ndim else PartitionSpec(), tree)

    def of_trace(a):
        shared = a.shape[1 : 1 + len(steps.batch)] != steps.batch
        return PartitionSpec() if shared else later

    end = start._replace(
        state=batched(start.state),
        trace=jax.tree.map(of_trace, start.trace),
        observed=batched(start.observed),
    )
    out = end, later, batched(start.state, later)
    return jax.sharding.auto_axes(inside, out_sharding=out)(arrays)


def loop_start(body: Callable[..., Any], start: PyTree) -> PyTree:
    """A loop's start, typed as the loop leaves it: its sharding (Explicit), and along which axes it
    differs (Manual). Elsewhere as it is."""
    while _manual():
        widened = jax.tree.map(
            lambda leaf, after: vary(leaf, varying(after)), start, jax.eval_shape(body, 0, start)
        )
        if jax.tree.map(varying, widened) == jax.tree.map(varying, start):
            break
        start = widened
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        return start
    after = jax.eval_shape(body, 0, start)

    def match(leaf, shape):
        spec = shape.sharding.spec if shape.sharding is not None else PartitionSpec()
        return jax.sharding.reshard(leaf, spec)

    return jax.tree.map(match, start, after)


def varying(tree: PyTree) -> frozenset[str]:
    """The axes of a `jax.shard_map` along which any array of a tree differs, as its type has it."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if _is_typed(leaf)]
    return frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in leaves))


def vary(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """The tree, with arrays that differ along these axes. In reverse JAX sums over them."""

    def one(leaf):
        more = tuple(sorted(axes - varying(leaf))) if _is_typed(leaf) else ()
        return lax.pcast(leaf, more, to="varying") if more else leaf

    return jax.tree.map(one, tree) if axes else tree


def alike(tree: PyTree) -> PyTree:
    """The tree, with arrays that differ along the same axes: loops and derivatives want one type.

    What all devices share gets the sum of their gradients, as JAX has it.
    """
    return vary(tree, varying(tree))


def local_pullback(function: Callable[..., PyTree], *primals: PyTree) -> Callable:
    """The pullback of `jax.vjp`; in a `jax.shard_map` without a sum over devices."""
    if not _manual():
        return jax.vjp(function, *primals)[1]
    axes = varying((primals, jax.eval_shape(function, *primals)))
    _, pull = jax.vjp(lambda *primals: vary(function(*primals), axes), *vary(primals, axes))
    return lambda cotangent: pull(vary(cotangent, axes))


def over_steps(
    body: Callable[..., Any],
    start: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    *,
    reverse: bool = False,
    unroll: int = 1,
) -> Any:
    """`jax.lax.scan`, whose start may differ along fewer axes than what the steps see."""
    start = vary(start, varying((start, xs)))
    return lax.scan(body, start, xs, length, reverse, unroll)


def _is_typed(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def _manual() -> bool:
    return AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
