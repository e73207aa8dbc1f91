"""The causal form of MDGL's hop: a modulator broadcast at one step meets the traces of the last."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._cell import Filtered
from .._credit import Record
from .._flags import erase, settled
from .._precision import start_of, times_back, wide
from .._reverse import points_of
from .._sharding import over_steps
from .._tree import pullback, stop
from .._vjp import with_derivative


def filtered_derivative(
    cell: Filtered, record: Record, so_far: Float[Array, "*batch n"]
) -> tuple[Float[Array, "T *batch n"], Float[Array, "*batch n"]]:
    r"""\(F_k(s_{in}\psi)\), how a neuron's drive moves its emission, filtered as that; also last.

    A tuple of leaks: by the first.
    """
    inner: Any = cell.cell
    leak = cell.leak[0] if isinstance(cell.leak, tuple) else cell.leak
    readout = Filtered(inner, leak, scale=cell.scale)
    points = stop(points_of(inner, record))

    def emitted(drive):
        return inner.emit(inner.integrate(points.before, drive))

    (slope,) = pullback(emitted, points.drive)(jnp.ones_like(points.drive))

    def body(memory, at):
        slope, flags = at
        if flags is not None:
            memory = erase(flags.fresh, memory)
        memory = settled(flags, readout.filter(memory, slope), memory)
        return memory, memory

    last, slopes = over_steps(body, so_far, (slope, record.flags))
    return slopes, last


def broadcast(
    before: PyTree, memories: PyTree, slopes: Array, weight: Array, fresh: Array | None
) -> PyTree:
    r"""The memories, on which each step's error L also becomes credit one step earlier.

    \[ \Gamma_{p,t} = \sum_j \hat W_{jp}\, L_{j,t+1}\, slopes_{j,t+1} \]

    `before`: the memory before the first step; a tuple of memories: on the first of them.
    """
    if isinstance(memories, tuple):
        first = broadcast(before[0], memories[0], slopes, weight, fresh)
        return first, *memories[1:]

    def run(pack):
        return pack[0][1:], ()

    def backward(pack, _, error):
        _, slopes, weight, fresh = pack
        earlier = times_back(error * slopes, weight)
        if fresh is not None:
            earlier = erase(fresh, earlier)
        silent = jnp.zeros_like(error[:1])
        credit = jnp.concatenate([earlier, silent]) + jnp.concatenate([silent, error])
        return credit, None, None, None

    whole = jnp.concatenate([before[None], memories])
    return with_derivative(run, backward)((whole, *stop((slopes, weight, fresh))))


def silent(cell: Any, batch_shape: tuple[int, ...]) -> Float[Array, "*batch n"]:
    """Before the first step; a ValueError unless each neuron emits one feature."""
    emission = jax.eval_shape(lambda: cell.emit(start_of(cell, batch_shape)))
    if emission.shape[-1] != cell.hidden_size:
        raise ValueError(
            f"MDGL(online=True) needs one emitted feature a neuron, but {type(cell).__name__} of "
            f"{cell.hidden_size} neurons emits {emission.shape[-1]}."
        )
    return jnp.zeros(emission.shape, wide(emission.dtype))
