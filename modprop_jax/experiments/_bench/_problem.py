"""The network, data and loss that all programs of a size share."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PyTree

from ..._cell import AbstractCell, NeuronCell
from ..._readout import Readout
from ..._tree import inexact
from ._networks import INPUTS, NETWORKS


OUTPUTS = 2
# of inputs that are spikes: how high they are, and their probability in a step
SPIKE, RATE = 5.0, 0.04


class Size(NamedTuple):
    """n neurons of a network for T steps."""

    n: int
    steps: int
    network: str = "leaky"

    @classmethod
    def parse(cls, text: str, network: str = "leaky") -> "Size":
        """From `"128x1000"`."""
        n, _, steps = text.partition("x")
        if not (n.isdigit() and steps.isdigit() and int(n) >= 5 and int(steps) >= 1):
            raise ValueError(
                f"size {text!r}: write neurons x steps as in 128x1000, with at least 5 neurons."
            )
        return cls(int(n), int(steps), network)


class Problem(NamedTuple):
    """A network with a linear readout at every step, and random inputs and targets."""

    size: Size
    model: tuple[Any, Readout]
    xs: Array
    ys: Array

    @classmethod
    def make(cls, size: Size, batch: int) -> "Problem":
        """The same for every program of a size; float32 whatever JAX's default."""
        keys, n, dtype = jr.split(jr.key(0), 4), size.n, jnp.float32
        network, shape = NETWORKS[size.network], (size.steps, batch, INPUTS)
        cell = network.cell(n, keys[0])
        emitted = jax.eval_shape(lambda: cell.emit(cell.init(())))
        readout = Readout(emitted.shape[-1], OUTPUTS, dtype=dtype, key=keys[1])
        if network.spikes:
            xs = SPIKE * jr.bernoulli(keys[2], RATE, shape).astype(dtype)
        else:
            xs = jr.normal(keys[2], shape, dtype)
        ys = jr.normal(keys[3], (size.steps, batch, OUTPUTS), dtype)
        return cls(size, (cell, readout), xs, ys)


class Gradient(NamedTuple):
    """What every program returns beside its loss: arrays of cell and readout, by name."""

    cell: dict[str, Array]
    readout: dict[str, Array]

    @classmethod
    def of(cls, cell: PyTree, readout: PyTree) -> "Gradient":
        return cls(_by_name(cell), _by_name(readout))

    @classmethod
    def of_neurons(cls, recurrent: Any, inputs: Any, readout: Any, bias: Any) -> "Gradient":
        """Of a neuron cell without a bias, as others name its arrays."""
        cell = {".weight_rec": recurrent, ".weight_in": inputs}
        return cls(cell, {".weight": readout, ".bias": bias})


def _by_name(tree: PyTree) -> dict[str, Array]:
    leaves = jax.tree_util.tree_leaves_with_path(inexact(tree))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class Compiled(NamedTuple):
    """A program with its arrays, what its compilation took, and its memory in bytes.

    `temporary`, `total`: XLA's account, which other packages lack; `peak`: megabytes of its first
    run, if that was elsewhere; `close()`: after the last one.
    """

    run: Callable[[], Any]
    seconds: float
    temporary: int | None
    total: int | None
    peak: float | None = None
    close: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Program:
    """One gradient: `build(problem)` is `(model, xs, ys) -> (loss, Gradient)`, or has compiled it.

    `matmuls`: needed a step, see `RULES`. `same_as`: the (name, mode) of a program whose gradient
    this one should equal. `segment`: steps that it takes at a time, if not all. `devices`: over
    which its batch is split, by `jax.shard_map`, or as `sharded` arrays, which the compiler splits.
    """

    name: str
    mode: str
    matmuls: int | None
    build: Callable[[Problem], Callable[..., tuple[Any, Any]] | Compiled]
    same_as: tuple[str, str] | None = None
    segment: int | None = None
    devices: int = 1
    sharded: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.mode


def squared_error(outputs: Array, ys: Array, steps: int) -> Array:
    """Summed over the steps that came, as a mean over all `steps` of them."""
    return jnp.sum((outputs - ys) ** 2) / (ys[0].size * steps)


def plain_scan(cell: AbstractCell, state: PyTree, xs: Array) -> tuple[PyTree, Array]:
    """(last state, emissions), as one writes it without this package: matrices as they lie."""
    neurons, emission = cell.parts()
    if not isinstance(neurons, NeuronCell):

        def whole_step(state, x):
            state = cell.step(state, x)
            return state, cell.emit(state)

        return jax.lax.scan(whole_step, state, xs)
    assert neurons.bias is None
    recurrent, inputs = neurons.effective().weight_rec, neurons.weight_in

    def step(state, x):
        state, memory = emission.split(state)
        drive = neurons.message(state) @ recurrent.T + x @ inputs.T
        state = neurons.integrate(state, drive)
        z = neurons.emit(state)
        memory = emission.filter(memory, z)
        return emission.join(state, memory), emission.read(memory, z)

    return jax.lax.scan(step, state, xs)


def types(n: int) -> tuple[int, ...]:
    """A fifth of the neurons of one type, the others of another."""
    return (0,) * (n // 5) + (1,) * (n - n // 5)


def checkpoint_segment(steps: int) -> int:
    """The divisor of `steps` nearest to its root, where checkpoints need least memory."""
    divisors = [k for k in range(1, steps + 1) if steps % k == 0]
    return min(divisors, key=lambda k: abs(k - steps**0.5))
