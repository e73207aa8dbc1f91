"""Flip-flop: hold, on each of several channels, the sign of the last pulse."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Optimizer, Preset, Schedule
from ._task import squared_error, Task


def flip_flop(
    key: PRNGKeyArray,
    batch: int = 128,
    *,
    bits: int = 3,
    steps: int = 256,
    rate: float = 0.2,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch bits"], Float[Array, "T batch bits"]]:
    r"""Sparse pulses of ±1 on independent channels; the target is the last pulse of each.

    On each channel k, a pulse comes with probability `rate` at each step, and always at the first,
    its sign a fair coin; for t = 0 ... T−1,

    \[ x_{t,k} = p_{t,k} \sigma_{t,k}, \qquad
       y_{t,k} = \begin{cases} x_{t,k} & x_{t,k} \ne 0 \\ y_{t-1,k} & \text{else} , \end{cases} \]

    with \(p_{t,k} \sim Bernoulli(rate)\), \(p_{0,k} = 1\) and \(\sigma_{t,k} = \pm 1\). The target
    follows a pulse in the same step, and is never 0: `bits` bits are \(2^{bits}\) states to hold.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of trials.
    - `bits`: number of channels (published: 3).
    - `steps`: T.
    - `rate`: probability of a pulse in a step of a channel, in [0, 1].
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` and `ys`, both of shape `(steps, batch, bits)`.

    **Raises:** `ValueError` if `bits < 1`, `steps < 1` or `rate` is no probability.

    Sources: the task, Sussillo & Barak, Neural Computation 25 (2013); pulses of one step, the
    first step and the default sizes, the example program of Golub & Sussillo, Journal of Open
    Source Software 3 (2018).
    """
    arguments.sizes(batch=batch, bits=bits, steps=steps)
    arguments.amount("rate", rate, arguments.FRACTION)
    dtype = arguments.dtype("dtype", dtype)
    pulse_key, sign_key = jr.split(arguments.key("key", key))
    shape = (steps, batch, bits)
    pulses = jr.bernoulli(pulse_key, rate, shape).at[0].set(True)
    signs = jr.rademacher(sign_key, shape, dtype)
    time = jnp.arange(steps, dtype=jnp.int32)[:, None, None]
    last = jax.lax.cummax(jnp.where(pulses, time, 0), axis=0)
    return jnp.where(pulses, signs, 0), jnp.take_along_axis(signs, last, axis=0)


FLIP_FLOP = Task(
    name="flip_flop",
    description="Pulses of either sign on three channels: hold the last sign of each.",
    out_size=3,
    batch=flip_flop,
    evaluation=functools.partial(flip_flop, batch=128),
    loss=squared_error,
    readout="every",
    score="R²",
    presets={
        "small": Preset(
            network=Architecture(hidden_size=32, cell="rate"),
            data={"steps": 60, "rate": 0.1},
            schedule=Schedule(iterations=2000, eval_every=50),
            optimizer=Optimizer(learning_rate=2e-3, decay=0.7, decay_every=500),
        ),
        # The program's network, batch and task; optimizer and iterations are ours.
        "published": Preset(
            network=Architecture(hidden_size=24, cell="rate"),
            schedule=Schedule(iterations=10000, batch=128, eval_every=100),
            optimizer=Optimizer(learning_rate=1e-3),
        ),
    },
)
