"""Sine wave: while asked to, produce a circle of the period that the input names."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from ._add import online_preset
from ._mimic import squared_error_of_a_step
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import Task


def sine_wave(
    key: PRNGKeyArray,
    batch: int = 1,
    *,
    steps: int = 20_000,
    p_transition: float = 0.01,
    periods: Sequence[int | float] = (10, 20, 40),
    switching: Literal["random", "regular"] = "random",
    amplitude: float = 0.1,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch 2"], Float[Array, "T batch 2"]]:
    r"""Off and on in turn; while on, a cosine and a sine of a period that the input names.

    A stream begins off and switches between off and on, "random": with probability `p_transition`
    at every step but the first; "regular": every 1 / `p_transition` steps, rounded. Each time it
    switches on, a period P is drawn uniformly from `periods`. With \(t_0\) the step of the last
    switch, for t = 0 ... T−1,

    \[ x_t = (-\ln P,\, 1), \qquad
       y_t = A\,(\cos\tfrac{2\pi (t - t_0)}{P},\, \sin\tfrac{2\pi (t - t_0)}{P}) \]

    while on; while off, \(x_t = y_t = (0, 0)\).

    The loss of the record `SINE_WAVE` is ½ Σ (y − y*)² over the two outputs, a mean over steps and
    batch.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of independent streams.
    - `steps`: T.
    - `p_transition`: probability of a switch in a step, in (0, 1].
    - `periods`: P, in steps.
    - `switching`: "random" or "regular".
    - `amplitude`: A (public program: 0.1).
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` and `ys`, both of shape `(steps, batch, 2)`.

    **Raises:** `ValueError` if `steps < 1`, `p_transition` is not in (0, 1], `periods` are none or
    not above 0, or `switching` is unknown.

    Source: the public program of Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649), which names
    no numbers but the amplitude; the others here are ours.
    """
    arguments.sizes(batch=batch, steps=steps)
    arguments.number("p_transition", p_transition, arguments.POSITIVE_FRACTION)
    arguments.choice("switching", switching, ("random", "regular"))
    arguments.amounts(amplitude=amplitude)
    if not isinstance(periods, list | tuple) or not periods:
        raise ValueError(
            f"periods must be numbers of steps, at least one, but is {arguments.shown(periods)}."
        )
    for period in periods:
        arguments.number("an entry of periods", period, arguments.POSITIVE)
    dtype = arguments.dtype("dtype", dtype)
    precise = jnp.result_type(float)  # a step count needs its digits
    switch_key, period_key = jr.split(arguments.key("key", key))
    time = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.int32)[:, None], (steps, batch))
    if switching == "random":
        switched = jr.bernoulli(switch_key, p_transition, (steps, batch))
    else:
        switched = time % round(1 / p_transition) == 0
    switched = switched.at[0].set(False)
    start = jax.lax.cummax(jnp.where(switched, time, 0), axis=0)
    on = jnp.cumsum(switched, axis=0) % 2 == 1
    drawn = jr.choice(period_key, jnp.asarray(periods, precise), (steps, batch))
    period = jnp.where(on, jnp.take_along_axis(drawn, start, axis=0), 1)
    angle = 2 * jnp.pi * ((time - start).astype(precise) % period) / period
    xs = jnp.stack([-jnp.log(period), on.astype(precise)], axis=-1)
    wave = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return xs.astype(dtype), jnp.where(on[..., None], amplitude * wave, 0).astype(dtype)


SINE_WAVE = Task(
    name="sine_wave",
    description="While switched on, a cosine and a sine of the period that the input names.",
    out_size=2,
    batch=sine_wave,
    evaluation=functools.partial(sine_wave, batch=64),
    loss=squared_error_of_a_step,
    readout="every",
    stream=True,
    score="R²",
    presets={
        # In batches, with Adam; short waves of amplitude 1.
        "small": Preset(
            network=Architecture(
                hidden_size=32, cell="rate", cell_options={"alpha": 0.5}, orthogonal=True
            ),
            data={"steps": 60, "p_transition": 0.05, "periods": (6, 12), "amplitude": 1.0},
            schedule=Schedule(iterations=1500, eval_every=25),
            optimizer=Optimizer(learning_rate=5e-3),
            objective=Objective(criterion=0.9),
        ),
        # Nobody has published this network; it is that of the other streams.
        "published": online_preset({}, alpha=0.5, iterations=10**6, learning_rate=3e-2),
    },
)
