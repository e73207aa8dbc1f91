"""Delayed XOR: was the second cue the same as the first, a long silence ago?"""

import functools

import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import cross_entropy, Task


def delayed_xor(
    key: PRNGKeyArray,
    batch: int = 32,
    *,
    cue: int = 100,
    delay: int = 700,
    amplitude: float = 2.0,
    baseline: float = 0.02,
    noise: float = 0.01,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch 2"], Int[Array, " batch"]]:
    """Two fair bits, each a bump or silence on its channel, `delay` steps apart.

    T = cue + delay + cue. Bit `c_1` shows on channel 0 in the first `cue` steps, `c_2`
    on channel 1 in the last `cue` steps, as `c · amplitude · exp(−s² / 2σ²)` with s =
    −cue/2 ... cue/2 and σ = cue/4; everywhere on top of `baseline + noise · N(0, 1)`.
    The label is 1 where `c_1 = c_2` and 0 elsewhere.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of trials.
    - `cue`, `delay`: durations in steps (published: 100, 700, of 1 ms each).
    - `amplitude`, `baseline`, `noise`: of the input signal.
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** `xs` of shape `(T, batch, 2)` and integer labels of shape `(batch,)`.

    **Raises:** `ValueError` if `cue < 1` or `delay < 0`.

    Source: Liu, Smith, Mihalas, Shea-Brown & Sümbül, NeurIPS 2022 (arXiv 2206.01338).
    """
    arguments.sizes(batch=batch, cue=cue)
    arguments.counts(delay=delay)
    arguments.amounts(amplitude=amplitude, baseline=baseline, noise=noise)
    dtype = arguments.dtype("dtype", dtype)
    bit_key, noise_key = jr.split(arguments.key("key", key))
    bits = jr.bernoulli(bit_key, shape=(batch, 2))
    position = jnp.linspace(-0.5, 0.5, cue, dtype=dtype)
    bump = amplitude * jnp.exp(-8 * position**2)  # σ is a quarter of the cue
    first = jnp.pad(bump, (0, delay + cue))
    second = jnp.pad(bump, (delay + cue, 0))
    signal = jnp.stack([first, second], axis=-1)[:, None] * bits.astype(dtype)[None]
    xs = baseline + signal + noise * jr.normal(noise_key, signal.shape, dtype)
    return xs, (bits[:, 0] == bits[:, 1]).astype(jnp.int32)


DELAYED_XOR = Task(
    name="delayed_xor",
    description="Two cues far apart in time: say at the end whether they were equal.",
    out_size=2,
    batch=delayed_xor,
    # There are four trials up to noise, so 64 are plenty.
    evaluation=functools.partial(delayed_xor, batch=64),
    loss=cross_entropy,
    readout="last",
    presets={
        "small": Preset(
            network=Architecture(hidden_size=48, excitatory=39, cell_options={"tau": 20.0}),
            data={"cue": 10, "delay": 60},
            schedule=Schedule(iterations=800, eval_every=20),
            optimizer=Optimizer(learning_rate=2e-3, decay=0.8, decay_every=80),
            objective=Objective(l2=5e-4, criterion=1.0),
        ),
        "published": Preset(
            network=Architecture(hidden_size=120, excitatory=97, cell_options={"tau": 100.0}),
            schedule=Schedule(iterations=3000, eval_every=20),
            optimizer=Optimizer(
                learning_rate=5e-4, decay=0.8, decay_every=300, shrink=0.01, connectivity=0.99
            ),
            objective=Objective(l2=5e-4, criterion=1.0),
        ),
    },
)
