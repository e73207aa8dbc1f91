"""Compiled programs, with what XLA says of them, and a chain of matmuls to compare them with."""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxtyping import PyTree

from ._peers import PEERS
from ._problem import Compiled, Problem, Program


# Flops of the chain of matmuls that measures the machine: milliseconds.
_CHAIN = 2e8
# Of sequences: their batch over devices.
_PART = P(None, "batch")


class Skipped(Exception):
    """A program that is not run, and why."""


def compile_program(program: Program, problem: Problem) -> Compiled:
    """A program on its problem; building it counts as compilation.

    **Raises:** `Skipped` where another package's program fails.
    """
    began = time.perf_counter()
    try:
        built = program.build(problem)
        if isinstance(built, Compiled):
            return built
        compiled = _compiled(built, problem, program)
    except Exception as error:
        if program.name not in PEERS:
            raise
        # another package's limits are its own: they are shown, and the others go on
        raise Skipped(f"failed: {str(error).partition('. ')[0]}") from error
    return compiled._replace(seconds=time.perf_counter() - began)


def _compiled(gradient: Callable[..., Any], problem: Problem, program: Program) -> Compiled:
    """On one device, or on several, each with its part of the batch."""
    devices = program.devices
    if devices == 1:
        return compile_gradient(gradient, problem.model, problem.xs, problem.ys)
    if devices > jax.device_count():
        raise Skipped(f"needs {devices} devices, but there are {jax.device_count()}")
    mesh = jax.make_mesh((devices,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:devices])
    model = eqx.filter_shard(problem.model, NamedSharding(mesh, P()))
    xs, ys = jax.device_put((problem.xs, problem.ys), NamedSharding(mesh, _PART))
    with jax.set_mesh(mesh):
        split = gradient if program.sharded else _mapped(gradient)
        compiled = compile_gradient(split, model, xs, ys)
    # its memory is that of a device
    temporary, total = ((value or 0) * devices for value in (compiled.temporary, compiled.total))
    return compiled._replace(temporary=temporary, total=total)


def _mapped(gradient: Callable[..., Any]) -> Callable[..., Any]:
    """Each device its part of the batch, and one mean at the end: nothing is exchanged before."""

    def run(model, xs, ys):
        arrays, static = eqx.partition(model, eqx.is_array)

        def of_device(arrays, xs, ys):
            return jax.lax.pmean(gradient(eqx.combine(arrays, static), xs, ys), "batch")

        # checked, a plain scan's start has to be cast: here each device goes by itself
        mapped = jax.shard_map(
            of_device, in_specs=(P(), _PART, _PART), out_specs=P(), check_vma=False
        )
        return mapped(arrays, xs, ys)

    return run


def compile_gradient(gradient: Callable[..., Any], *args: PyTree) -> Compiled:
    """Traced, lowered and compiled for these arguments, with its memory by XLA's own account."""
    began = time.perf_counter()
    arrays, static = eqx.partition(args, eqx.is_array)
    lowered = jax.jit(lambda arrays: gradient(*eqx.combine(arrays, static))).lower(arrays)
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    assert memory is not None
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return Compiled(lambda: compiled(arrays), seconds, memory.temp_size_in_bytes, total)


def matmuls(n: int, batch: int) -> tuple[Callable[[], Any], float]:
    """A chain of (batch, n) by (n, n) products, as in a recurrence and no more; and its flops."""
    keys = jr.split(jr.key(1))
    weight = jr.normal(keys[0], (n, n), jnp.float32) / n**0.5
    start = jr.normal(keys[1], (batch, n), jnp.float32)
    flops = 2 * batch * n**2
    length = max(64, round(_CHAIN / flops))

    @jax.jit
    def chain(weight, start):
        return lax.fori_loop(0, length, lambda _, h: h @ weight, start)

    return lambda: chain(weight, start), float(length * flops)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a run, and what it returns."""
    began = time.perf_counter()
    value = jax.block_until_ready(run())
    return time.perf_counter() - began, value
