"""Connectome: do two cues match? A stream of trials, for networks as large as brains."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Optimizer, Preset, Schedule
from ._task import Task


def connectome(
    key: PRNGKeyArray,
    batch: int = 1,
    *,
    steps: int = 1000,
    categories: int = 3,
    cue: int = 5,
    delay: int = 10,
    answer: int = 5,
    noise: float = 0.1,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch inputs"], Float[Array, "T batch 2"]]:
    r"""A stream of trials without a gap: two cues, a delay between them; then, are they the same?

    A trial is `cue` steps with the first stimulus, `delay` steps of silence, `cue` steps with the
    second and `answer` steps with the question, P steps in all. Stimuli \(s, s'\) are two of
    K = `categories`, each on a channel of its own, and the question is on channel K:

    \[ x_{t,k} = [k = s]\,[first] + [k = s']\,[second] + [k = K]\,[question] + noise\,\xi_{t,k},
       \qquad \xi_{t,k} \sim N(0, 1) . \]

    With probability ½ \(s'\) is \(s\) again (class 1), otherwise uniform over the others
    (class 0): one cue alone says nothing. Labels are the class, one-hot, times P / `answer` while
    the question is on, and 0 otherwise, when the answer is free. So the loss of the record
    `CONNECTOME`, a mean over all steps, is the cross-entropy of an answer, in nats: ln 2 by chance.
    Its score is the share of right answers. A stream begins with a trial; the last may be cut.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of independent streams.
    - `steps`: T.
    - `categories`: K, number of stimuli.
    - `cue`, `delay`, `answer`: durations in steps.
    - `noise`: standard deviation of what is added to each channel at each step.
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` of shape `(steps, batch, categories + 1)`, `ys` of shape `(steps, batch, 2)`.

    **Raises:** `ValueError` if `categories < 2`, `delay < 0`, or another duration is below 1.

    The question of `delayed_match`, as a stream, and asked by a channel of its own.
    """
    arguments.sizes(batch=batch, steps=steps, cue=cue, answer=answer)
    arguments.whole("categories", categories, 2)
    arguments.counts(delay=delay)
    arguments.amounts(noise=noise)
    dtype = arguments.dtype("dtype", dtype)
    phases = np.repeat(np.arange(4), (cue, delay, cue, answer))
    trials = -(-steps // phases.size)
    keys = jr.split(arguments.key("key", key), 4)
    first = jr.randint(keys[0], (trials, batch), 0, categories, jnp.int32)
    same = jr.bernoulli(keys[1], shape=(trials, batch))
    other = first + jr.randint(keys[2], (trials, batch), 1, categories, jnp.int32)
    second = jnp.where(same, first, other % categories)
    # channel −1, silence, is a row of zeros
    channel = jnp.stack([first, jnp.full_like(first, -1), second, jnp.full_like(first, categories)])
    shown = jnp.moveaxis(channel[phases], 0, 1).reshape(-1, batch)[:steps]
    signal = jax.nn.one_hot(shown, categories + 1, dtype=dtype)
    xs = signal + noise * jr.normal(keys[3], signal.shape, dtype)
    asked = np.resize((phases == 3) * (phases.size / answer), steps)
    label = jnp.repeat(same.astype(jnp.int32), phases.size, axis=0)[:steps]
    ys = jnp.asarray(asked, dtype)[:, None, None] * jax.nn.one_hot(label, 2, dtype=dtype)
    return xs, ys


def answered(
    logits: Float[Array, "*axes 2"], ys: Float[Array, "*axes 2"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Softmax cross-entropy by weighted labels, a mean over all axes; and the weight of those that
    are right, as a share of all (0 where nothing was asked)."""
    loss = -jnp.mean(jnp.sum(ys * jax.nn.log_softmax(logits), -1))
    weight = ys.sum(-1)
    right = jnp.argmax(logits, -1) == jnp.argmax(ys, -1)
    total = weight.sum()
    return loss, jnp.sum(weight, where=right) / jnp.where(total > 0, total, 1)


_SMALL = Preset(
    network=Architecture(
        hidden_size=500,
        excitatory=400,
        cell="leaky",
        cell_options={"tau": 3.0},
        wiring={"fan_in": 20.0, "sensory": 0.2, "motor": 10},
        input_scale=3.0,
        dale_readout=False,
    ),
    data={"categories": 3, "cue": 5, "delay": 5, "answer": 5},
    schedule=Schedule(iterations=600, batch=8, eval_every=30, segment=20),
    optimizer=Optimizer(learning_rate=0.03, optimizer="sgd"),
    rules=("mdgl", "modprop", "eprop", "readout_only"),
    seeds=1,
)
# Spikes are read out as they are: a filtered emission would cost a trace for each synapse.
_SPIKING: dict[str, Any] = {
    "cell": "lif",
    "cell_options": {"tau": 10.0, "threshold": 0.6},
    "optimizer": "adam",
    "learning_rate": 0.003,
    "mu": 0.05,
}
# A column of the mouse's cortex: 10^4 neurons, 10^3 synapses each.
_COLUMN: dict[str, Any] = {
    "wiring": {"fan_in": 1000.0, "spread": 0.5, "sensory": 0.2, "motor": 10},
    "hidden_size": 10_000,
    "excitatory": 8_000,
    "batch": 1,
    "iterations": 2000,
    "eval_every": 50,
}
# As many neurons and connections as a fly's brain: 127,978 and 2,613,129 (Lin et al., Nature 634,
# 2024), of which the largest in-degree is 2,077; about 1,300 of its neurons descend to the body.
# Who hears whom is drawn.
_FLY: dict[str, Any] = _COLUMN | {
    "wiring": {"fan_in": 20.0, "most": 2_077, "sensory": 0.2, "motor": 1_300},
    "hidden_size": 127_978,
    "excitatory": 102_382,
}

CONNECTOME = Task(
    name="connectome",
    description="Do two cues match? Online, for sparse networks of up to a fly's brain's size.",
    out_size=2,
    batch=connectome,
    evaluation=functools.partial(connectome, batch=64),
    loss=answered,
    readout="every",
    stream=True,
    presets={
        "small": _SMALL,
        "small_spiking": _SMALL.replace(**_SPIKING, iterations=900),
        "column": _SMALL.replace(**_COLUMN),
        "column_spiking": _SMALL.replace(**_COLUMN, **_SPIKING),
        "fly": _SMALL.replace(**_FLY | {"iterations": 800, "learning_rate": 0.01}),
        "fly_spiking": _SMALL.replace(**_FLY, **_SPIKING),
    },
)
