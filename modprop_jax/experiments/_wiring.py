"""Which synapses a network with `wiring` has: lists in place of matrices."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, PRNGKeyArray

from .. import _arguments as arguments
from .._synapses import lognormal_degrees, Sparse
from .._synapses._random import weights_of
from .._tree import with_fields
from ..tasks import Architecture, Preset, Task
from ._names import known


@dataclasses.dataclass(frozen=True)
class Wiring:
    """What `Architecture.wiring` may say; all seeds of a run share the synapses, not their weights.

    Neurons stand in the order sensory, motor, others; `lognormal_degrees` has their in-degrees.
    """

    fan_in: float
    """Synapses onto a neuron from other neurons, in the mean."""
    spread: float = 1.0
    """Standard deviation of the logarithm of their number."""
    most: int | None = None
    """Their largest number; None: all other neurons."""
    sensory: float = 0.1
    """Share of the neurons that inputs reach: each of them hears one input, drawn at random."""
    motor: int | None = None
    """The readout sees so many neurons, that no input reaches; None: all neurons."""
    draw: int = 0
    """Which draw; any integer names one."""

    def parts(self, n: int) -> tuple[int, int]:
        """How many of n neurons are sensory and motor."""
        arguments.number("wiring sensory", self.sensory, arguments.POSITIVE_FRACTION)
        sensory = max(round(self.sensory * n), 1)
        motor = n if self.motor is None else arguments.size("wiring motor", self.motor)
        if self.motor is not None and sensory + motor > n:
            raise ValueError(
                f"wiring has {sensory} sensory and {motor} motor neurons, which are others, but "
                f"hidden_size is {n}: take more neurons, or fewer of these."
            )
        return sensory, motor


class Wires(NamedTuple):
    """The lists, of neurons and of inputs; their weights are to be drawn."""

    recurrent: Sparse
    inputs: Sparse

    def weighted(
        self, key: PRNGKeyArray, signs: tuple[int, ...] | None, scales: tuple[float, float]
    ) -> "Wires":
        """With weights, as `Sparse.random` draws them, times the scales of both lists.

        Where there is Dale's law (`signs`), inputs are excitatory.
        """

        def one(key, synapses, signs, scale):
            ends = synapses.post, synapses.pre, synapses.shape
            weight = scale * weights_of(key, *ends, signs, synapses.dtype)
            return with_fields(synapses, weight=weight)

        keys = jr.split(key)
        excitatory = None if signs is None else (1,) * self.inputs.shape[1]
        return Wires(*map(one, keys, self, (signs, excitatory), scales))


def wiring_of(network: Architecture) -> Wiring | None:
    """What a network's `wiring` says, by known names; None: it has matrices."""
    if network.wiring is None:
        return None
    names = [field.name for field in dataclasses.fields(Wiring)]
    for name in network.wiring:
        known("wiring option", name, names)
    if "fan_in" not in network.wiring:
        raise ValueError("wiring needs fan_in, the mean number of synapses onto a neuron.")
    return Wiring(**network.wiring)


def wires_of(task: Task, preset: Preset) -> Wires | None:
    """The synapses of a preset's network; None: it has matrices."""
    wiring = wiring_of(preset.network)
    if wiring is None:
        return None
    n, dtype = preset.network.hidden_size, jnp.result_type(float)
    return Wires(_recurrent(wiring, n, dtype), _inputs(wiring, n, task.in_size(preset), dtype))


@functools.lru_cache(maxsize=2)  # of a large network, some hundred megabytes
def _recurrent(wiring: Wiring, n: int, dtype: np.dtype) -> Sparse:
    with jax.ensure_compile_time_eval():
        key, degree_key = jr.split(_key(wiring))
        # a smaller network may have fewer neurons than that
        most = None if wiring.most is None else max(min(wiring.most, n - 1), 1)
        degrees = lognormal_degrees(
            degree_key, n, mean=wiring.fan_in, spread=wiring.spread, most=most
        )
        return Sparse.random(key, (n, n), fan_in=degrees, dtype=dtype)


@functools.lru_cache(maxsize=2)
def _inputs(wiring: Wiring, n: int, in_size: int, dtype: np.dtype) -> Sparse:
    sensory, _ = wiring.parts(n)
    with jax.ensure_compile_time_eval():
        key = jr.fold_in(_key(wiring), 2)
        heard = (np.arange(n) < sensory).astype(int)
        return Sparse.random(key, (n, in_size), fan_in=heard, dtype=dtype)


def _key(wiring: Wiring) -> PRNGKeyArray:
    return jr.key(arguments.whole("wiring draw", wiring.draw))


def seen(network: Architecture) -> Bool[np.ndarray, " n"] | None:
    """Which neurons the readout sees; None: all."""
    wiring = wiring_of(network)
    if wiring is None or wiring.motor is None:
        return None
    sensory, motor = wiring.parts(network.hidden_size)
    place = np.arange(network.hidden_size)
    return (place >= sensory) & (place < sensory + motor)


def signs_of_synapses(network: Architecture, dale: tuple[int, ...] | None) -> np.ndarray | None:
    """Of each synapse of the list, its presynaptic neuron's; None: no law, or no list."""
    wiring = wiring_of(network)
    if wiring is None or dale is None:
        return None
    synapses = _recurrent(wiring, network.hidden_size, jnp.result_type(float))
    return np.asarray(dale)[np.asarray(synapses.pre)]
