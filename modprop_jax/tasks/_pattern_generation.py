"""Pattern generation: turn frozen noise into one frozen waveform."""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import squared_error, Task


def pattern_generation(
    key: PRNGKeyArray,
    batch: int = 1,
    *,
    pattern: int = 0,
    steps: int = 1000,
    in_size: int = 100,
    rate: float = 0.05,
    periods: Sequence[int] = (1000, 500, 333, 200),
    noise: float = 0.0,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch in"], Float[Array, "T batch 1"]]:
    r"""Always the same input spikes, and a sum of sinusoids to produce at every step.

    Each input spikes with probability `rate` a step, independently, but not in the first step.
    The target begins at 0, its largest magnitude is 1: for t = 0 ... T−1,

    \[ s_t = \sum_i a_i \sin\left(\phi_i + \frac{2\pi k_i t}{T-1}\right), \qquad
       y_t = \frac{s_t - s_0}{\max_u |s_u - s_0|}, \]

    with amplitudes \(a_i \sim U(0.5, 2)\), phases \(\phi_i \sim U(0, 2\pi)\) and
    \(k_i = \lfloor T / period_i \rfloor\) whole cycles. `pattern` alone fixes spikes and target:
    all trials, all iterations and all seeds of a comparison share them, and seeds differ in their
    networks. `key` draws nothing but input noise.

    **Arguments:**

    - `key`: PRNG key of the noise; without noise every key gives the same batch.
    - `batch`: number of trials of the one pattern (published: 1).
    - `pattern`: which pattern; any integer names one.
    - `steps`, `in_size`, `rate`, `periods`: T, inputs, and as above (published by default).
    - `noise`: standard deviation of what is added to each input at each step (published: none).
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` of shape `(steps, batch, in_size)`, `ys` of shape `(steps, batch, 1)`.

    **Raises:** `ValueError` if `steps < 3`, or no period fits into `steps`.

    Source: Bellec et al., Nature Communications 11 (2020), and its public program.
    """
    arguments.sizes(batch=batch, in_size=in_size)
    arguments.whole("steps", steps, 3)
    arguments.whole("pattern", pattern)
    arguments.number("rate", rate, arguments.FRACTION)
    arguments.number("noise", noise, arguments.NOT_NEGATIVE)
    key = arguments.key("key", key)
    if not isinstance(periods, list | tuple) or not periods:
        raise ValueError(
            f"periods must be numbers of steps, at least one, but is {arguments.shown(periods)}."
        )
    if min(arguments.size("an entry of periods", period) for period in periods) > steps:
        raise ValueError(
            f"periods must hold one of at most steps={steps}, but is {arguments.shown(periods)}."
        )
    dtype = arguments.dtype("dtype", dtype)
    spike_key, amplitude_key, phase_key = jr.split(jr.key(pattern), 3)
    # Drawn in float32 whatever the dtype: a pattern is the same in every precision.
    chance = jnp.asarray(rate, jnp.float32)
    spikes = jr.bernoulli(spike_key, chance, (steps, in_size)).at[0].set(False)
    sines = (len(periods),)
    amplitudes = jr.uniform(amplitude_key, sines, jnp.float32, 0.5, 2.0)
    phases = jr.uniform(phase_key, sines, jnp.float32, 0.0, 2 * jnp.pi)
    target = _waveform(amplitudes, phases, periods, steps).astype(dtype)
    xs = jnp.broadcast_to(spikes.astype(dtype)[:, None], (steps, batch, in_size))
    ys = jnp.broadcast_to(target[:, None, None], (steps, batch, 1))
    return (xs + noise * jr.normal(key, xs.shape, dtype) if noise else xs), ys


def _waveform(
    amplitudes: Float[Array, " k"], phases: Float[Array, " k"], periods: Sequence[int], steps: int
) -> Float[Array, " steps"]:
    """The sum of sinusoids, shifted to begin at 0 and scaled to a largest magnitude of 1."""
    ends = jnp.asarray([2 * math.pi * (steps // period) for period in periods], phases.dtype)
    angles = jnp.linspace(phases, phases + ends, steps)
    total = jnp.sin(angles) @ amplitudes
    total = total - total[0]
    return total / jnp.max(jnp.abs(total))


# Published with spiking neurons, a leaky readout and plain gradient descent; here with leaky rate
# neurons of the same number and time constant, an instantaneous readout and Adam.
PATTERN_GENERATION = Task(
    name="pattern_generation",
    description="Frozen input spikes: produce one frozen waveform, at every step.",
    out_size=1,
    batch=pattern_generation,
    # The pattern is all there is; with input noise, these are new trials of it.
    evaluation=functools.partial(pattern_generation, batch=1),
    loss=squared_error,
    readout="every",
    score="R²",
    presets={
        "small": Preset(
            network=Architecture(hidden_size=48, cell_options={"tau": 10.0}),
            data={"steps": 200, "in_size": 20, "periods": (200, 100, 67, 40)},
            schedule=Schedule(iterations=600, batch=1, eval_every=10),
            optimizer=Optimizer(learning_rate=1e-3, decay=0.7, decay_every=200),
            objective=Objective(criterion=0.9),
        ),
        "published": Preset(
            network=Architecture(hidden_size=100, cell_options={"tau": 30.0}),
            schedule=Schedule(iterations=2000, batch=1, eval_every=20),
            optimizer=Optimizer(learning_rate=1e-3),
            objective=Objective(criterion=0.9),
        ),
    },
)
