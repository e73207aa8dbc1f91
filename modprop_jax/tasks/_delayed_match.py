"""Delayed match to sample: is the test stimulus the one that was shown before the delay?"""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Optimizer, Preset, Schedule
from ._task import cross_entropy, Task


def delayed_match(
    key: PRNGKeyArray,
    batch: int = 32,
    *,
    categories: int = 4,
    stimulus: int = 20,
    delay: int = 100,
    amplitude: float = 1.0,
    noise: float = 0.1,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch categories"], Int[Array, " batch"]]:
    r"""A sample, a silence, a test stimulus on the same channels: match or non-match at the end.

    Sample and test are two of K = `categories` stimuli, each of which switches on a channel of its
    own: for t = 0 ... T−1, T = stimulus + delay + stimulus,

    \[ x_{t,k} = A\,[k = s]\,[t < stimulus] + A\,[k = s']\,[t \ge T - stimulus]
       + noise\,\xi_{t,k}, \qquad \xi_{t,k} \sim N(0, 1) . \]

    The sample \(s\) is uniform over categories. With probability ½ the test \(s'\) is the sample
    again (label 1), otherwise uniform over the K−1 others (label 0): sample or test alone say
    nothing about the label. (In `delayed_xor`, each of the two cues is a bump or silence on a
    channel of its own.)

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of trials.
    - `categories`: K, number of stimuli and of channels.
    - `stimulus`, `delay`: durations in steps.
    - `amplitude`, `noise`: A, and the standard deviation of what is added to each channel at each
        step.
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** `xs` of shape `(T, batch, categories)` and integer labels of shape `(batch,)`.

    **Raises:** `ValueError` if `categories < 2`, `stimulus < 1` or `delay < 0`.

    The task is a classic of working memory. Source for recurrent networks trained by local rules:
    Liu, Smith, Mihalas, Shea-Brown & Sümbül, PNAS 118 (2021), with spiking inputs; the sizes here
    are not theirs.
    """
    arguments.sizes(batch=batch, stimulus=stimulus)
    arguments.whole("categories", categories, 2)
    arguments.counts(delay=delay)
    arguments.amounts(amplitude=amplitude, noise=noise)
    dtype = arguments.dtype("dtype", dtype)
    sample_key, match_key, other_key, noise_key = jr.split(arguments.key("key", key), 4)
    sample = jr.randint(sample_key, (batch,), 0, categories, jnp.int32)
    match = jr.bernoulli(match_key, shape=(batch,))
    other = sample + jr.randint(other_key, (batch,), 1, categories, jnp.int32)
    test = jnp.where(match, sample, other % categories)
    # category −1, silence, is a row of zeros
    shown = jnp.stack([sample, jnp.full_like(sample, -1), test])
    phase = np.repeat(np.arange(3), (stimulus, delay, stimulus))
    signal = amplitude * jax.nn.one_hot(shown[phase], categories, dtype=dtype)
    return signal + noise * jr.normal(noise_key, signal.shape, dtype), match.astype(jnp.int32)


DELAYED_MATCH = Task(
    name="delayed_match",
    description="Two stimuli far apart in time: say at the end whether they match.",
    out_size=2,
    batch=delayed_match,
    evaluation=functools.partial(delayed_match, batch=256),
    loss=cross_entropy,
    readout="last",
    presets={
        "small": Preset(
            network=Architecture(hidden_size=48, excitatory=39, cell_options={"tau": 20.0}),
            data={"stimulus": 10, "delay": 60},
            schedule=Schedule(iterations=1500, eval_every=25),
            optimizer=Optimizer(learning_rate=2e-3, decay=0.8, decay_every=200),
        ),
        # No published size: a larger run.
        "published": Preset(
            network=Architecture(hidden_size=120, excitatory=97, cell_options={"tau": 50.0}),
            schedule=Schedule(iterations=5000, eval_every=50),
            optimizer=Optimizer(learning_rate=1e-3, decay=0.8, decay_every=500),
        ),
    },
)
