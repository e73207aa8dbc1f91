"""The network, data and loss that all programs of a size share."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PyTree

from ..._cell import AbstractCell, LeakyCell, NeuronCell
from ..._readout import Readout


INPUTS, OUTPUTS = 32, 2


class Size(NamedTuple):
    """n neurons for T steps."""

    n: int
    steps: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """From `"128x1000"`."""
        n, _, steps = text.partition("x")
        if not (n.isdigit() and steps.isdigit() and int(n) >= 5 and int(steps) >= 1):
            raise ValueError(
                f"size {text!r}: write neurons x steps as in 128x1000, with at least 5 neurons."
            )
        return cls(int(n), int(steps))


class Problem(NamedTuple):
    """A leaky network with a linear readout at every step, and random inputs and targets."""

    model: tuple[LeakyCell, Readout]
    xs: Array
    ys: Array

    @classmethod
    def make(cls, size: Size, batch: int) -> "Problem":
        """The same for every program of a size; float32 whatever JAX's default."""
        keys, n, dtype = jr.split(jr.key(0), 4), size.n, jnp.float32
        cell = LeakyCell(INPUTS, n, tau=20.0, autapses=True, dtype=dtype, key=keys[0])
        readout = Readout(n, OUTPUTS, dtype=dtype, key=keys[1])
        xs = jr.normal(keys[2], (size.steps, batch, INPUTS), dtype)
        ys = jr.normal(keys[3], (size.steps, batch, OUTPUTS), dtype)
        return cls((cell, readout), xs, ys)


class Gradient(NamedTuple):
    """What every program returns beside its loss."""

    recurrent: Array
    inputs: Array
    readout: Array
    bias: Array

    @classmethod
    def of(cls, cell: PyTree, readout: PyTree) -> "Gradient":
        return cls(cell.weight_rec, cell.weight_in, readout.weight, readout.bias)


@dataclasses.dataclass(frozen=True)
class Program:
    """One gradient: `build(problem)` is `(model, xs, ys) -> (loss, Gradient)`.

    `matmuls`: needed a step, see `RULES`. `same_as`: the (name, mode) of a program whose gradient
    this one should equal.
    """

    name: str
    mode: str
    matmuls: int
    build: Callable[[Problem], Callable[..., tuple[Any, Any]]]
    same_as: tuple[str, str] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.mode


def squared_error(outputs: Array, ys: Array, steps: int) -> Array:
    """Summed over the steps that came, as a mean over all `steps` of them."""
    return jnp.sum((outputs - ys) ** 2) / (ys[0].size * steps)


def plain_scan(cell: AbstractCell, state: PyTree, xs: Array) -> tuple[PyTree, Array]:
    """(last state, emissions), as one writes it without this package: matrices as they lie."""
    neurons, emission = cell.parts()
    assert isinstance(neurons, NeuronCell) and neurons.bias is None
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
