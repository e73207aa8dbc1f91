"""Batches sharded over a mesh: with axes that the compiler (Auto) or the types (Explicit) track."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
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
    return math.gcd(batch[0], math.prod(mesh.axis_sizes))


def explicit_batch(xs: Array) -> tuple | None:
    """The partition of the batch axes of xs, where its type carries one (Explicit meshes)."""
    sharding = jax.typeof(xs).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    spec = tuple(sharding.spec)[1:-1]
    return spec if any(axis is not None for axis in spec) else None


def with_auto_axes(
    run: Callable[..., Any], spec: tuple, with_states: bool, state: PyTree, past: PyTree, *args: Any
) -> Any:
    """`run(state, past, *args)` with all mesh axes Auto inside; the batch stays partitioned.

    `run` returns `(state, past, zs)`, the first two shaped as they came; past = (trace, observed)
    or None; and `with_states` the states of all steps. Leaves of a state and of what was observed
    are (*batch, ...), or have no axes; those of sequences are (_, *batch, ...), and of traces too,
    unless all examples share them. args[0]: the inputs.
    """
    arrays, static = eqx.partition((state, past, *args), eqx.is_array)
    batch = jax.tree.leaves(args[0])[0].shape[1:-1]

    def inside(arrays):
        return run(*eqx.combine(arrays, static))

    first, later = PartitionSpec(*spec), PartitionSpec(None, *spec)

    def batched(tree):
        return jax.tree.map(lambda a: first if a.ndim else PartitionSpec(), tree)

    def of_trace(a):
        return later if a.shape[1 : 1 + len(batch)] == batch else PartitionSpec()

    if past is not None:
        trace, observed = past
        past = jax.tree.map(of_trace, trace), batched(observed)
    out = batched(state), past, later
    if with_states:
        out = *out, jax.tree.map(lambda a: later if a.ndim else PartitionSpec(), state)
    return jax.sharding.auto_axes(inside, out_sharding=out)(arrays)


def loop_start(body: Callable[..., Any], start: PyTree) -> PyTree:
    """A loop's start, sharded as the loop leaves it (Explicit types must agree); else as it is."""
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        return start
    after = jax.eval_shape(body, 0, start)

    def match(leaf, shape):
        spec = shape.sharding.spec if shape.sharding is not None else PartitionSpec()
        return jax.sharding.reshard(leaf, spec)

    return jax.tree.map(match, start, after)
