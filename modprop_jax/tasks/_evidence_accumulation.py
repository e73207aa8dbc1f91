"""Evidence accumulation: on which side were there more cues?"""

import functools
import math
from typing import get_args, Literal

import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import cross_entropy, Task


Variant = Literal["mdgl", "eprop"]


def evidence_accumulation(
    key: PRNGKeyArray,
    batch: int = 64,
    *,
    variant: Variant = "mdgl",
    cues: int = 7,
    cue: int = 100,
    gap: int = 50,
    delay: int | None = None,
    recall: int = 150,
    group: int = 10,
    rate: float = 0.04,
    noise_rate: float = 0.01,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch inputs"], Int[Array, " batch"]]:
    r"""Spiking cues on the left or on the right, a silence, and then a signal to answer.

    The inputs are four groups of neurons: left, right, recall and noise. Cue k is left
    (\(c_k = 0\)) or right (\(c_k = 1\)) and makes its group fire for `cue` steps, after a gap of
    `gap` steps. Then come `delay` steps of silence, and `recall` steps in which the recall group
    fires. The noise group fires all the time. With T = cues · (gap + cue) + delay + recall,

    \[ y = \begin{cases} 1 & \sum_k c_k > cues / 2 \\ 0 & \text{else.} \end{cases} \]

    Two published tasks have this form. They differ in difficulty and in what is trained, so
    results on one must not be compared with results on the other.

    - `"mdgl"`: patterns \((c_1, ..., c_{cues})\) are drawn uniformly and without replacement, none
        a second time before each of the \(2^{cues}\) has come once. Many majorities are narrow.
        Spike counts are Poisson and may exceed 1. The loss reads the last step only.
    - `"eprop"`: each trial favours one side, at random, and each of its cues is on that side with
        probability 0.7. A neuron spikes at most once a step, and not in the first step. The loss
        is averaged over the recall period.

    The source of `"mdgl"` is known here for its T = 2000, its patterns and its Poisson counts; its
    rates and durations are those of `"eprop"`, with a delay that is shorter by 250 steps.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of trials (published: 64).
    - `variant`: `"mdgl"` or `"eprop"`.
    - `cues`: number of cues, odd.
    - `cue`, `gap`, `delay`, `recall`: durations in steps, published ones of 1 ms each. By default
        `delay` is 800 (`"mdgl"`, T = 2000) or 1050 (`"eprop"`, T = 2250).
    - `group`: neurons in each of the four groups.
    - `rate`: of the cue and recall groups, in spikes a step (published: 40 Hz).
    - `noise_rate`: of the noise group (published: 10 Hz).
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** spike counts `xs` of shape `(T, batch, 4 · group)` and labels of shape `(batch,)`.

    **Raises:** `ValueError` for another variant, an even number of cues, a negative duration, or
    rates that no such spikes can have.

    Sources: `"eprop"`: Bellec et al., Nature Communications 11 (2020), and its public program.
    `"mdgl"`: Liu, Smith, Mihalas, Shea-Brown & Sümbül, PNAS 118 (2021).
    """
    variant = arguments.choice("variant", variant, get_args(Variant))
    delay = {"mdgl": 800, "eprop": 1050}.get(variant, 0) if delay is None else delay
    arguments.sizes(batch=batch, cues=cues, cue=cue, recall=recall, group=group)
    arguments.counts(gap=gap, delay=delay)
    if cues % 2 == 0:
        raise ValueError(f"cues must be an odd number, so that one side has more, but is {cues}.")
    spikes = "spikes a step, from 0 to 1" if variant == "eprop" else "spikes a step, 0 to 100"
    highest = 1 if variant == "eprop" else 100
    within = arguments.FRACTION._replace(words=spikes, high=highest)
    arguments.number("rate", rate, within)
    arguments.number("noise_rate", noise_rate, within)
    dtype = arguments.dtype("dtype", dtype)
    pattern_key, cue_key, recall_key, noise_key = jr.split(arguments.key("key", key), 4)
    poisson = variant == "mdgl"
    right = (_patterns if poisson else _favoured)(pattern_key, batch, cues)
    steps = cues * (gap + cue) + delay + recall

    # Only what can fire is drawn: a third of the random numbers, which are most of the cost.
    fired = _spikes(cue_key, rate, (cues, cue, batch, group), poisson)
    fired = jnp.pad(fired, [(0, 0), (gap, 0), (0, 0), (0, 0)])
    on_right = right.T[:, None, :, None]
    sides = jnp.concatenate([jnp.where(on_right, 0, fired), jnp.where(on_right, fired, 0)], -1)
    sides = sides.reshape(-1, batch, 2 * group)
    asked = _spikes(recall_key, rate, (recall, batch, group), poisson)
    xs = jnp.concatenate(
        [
            jnp.pad(sides, [(0, delay + recall), (0, 0), (0, 0)]),
            jnp.pad(asked, [(steps - recall, 0), (0, 0), (0, 0)]),
            _spikes(noise_key, noise_rate, (steps, batch, group), poisson),
        ],
        axis=-1,
    )
    if not poisson:
        xs = xs.at[0].set(0)
    return xs.astype(dtype), (2 * jnp.sum(right, axis=1) > cues).astype(jnp.int32)


def _patterns(key: PRNGKeyArray, batch: int, cues: int) -> Bool[Array, "batch cues"]:
    """All sequences of sides in random order, and again in another, as far as they are needed."""
    keys = jr.split(key, max(math.ceil(batch / 2**cues), 1))
    numbers = jnp.concatenate([jr.permutation(k, 2**cues) for k in keys])[:batch]
    return (numbers[:, None] >> jnp.arange(cues)[None]) % 2 == 1


def _favoured(key: PRNGKeyArray, batch: int, cues: int) -> Bool[Array, "batch cues"]:
    """Sides of cues of which each trial favours one."""
    trial_key, cue_key = jr.split(key)
    favoured = jr.bernoulli(trial_key, shape=(batch, 1))
    return favoured ^ jr.bernoulli(cue_key, 0.3, (batch, cues))


def _spikes(
    key: PRNGKeyArray, rate: float, shape: tuple[int, ...], poisson: bool
) -> Int[Array, "..."]:
    """Counts a step, by inverting their cumulative distribution: one random number a count."""
    below = _poisson(rate) if poisson else [1 - rate]
    # Drawn in float32 whatever the dtype: the same spikes in every precision.
    draw = jr.uniform(key, shape, jnp.float32)
    return sum(((draw >= c).astype(int) for c in below), jnp.zeros(shape, int))


def _poisson(rate: float) -> list[float]:
    """P(count <= 0), P(count <= 1), ... as far as a float32 can tell them from 1."""
    term, total = math.exp(-rate), 0.0
    below = []
    while total + term < 1 - 2**-24:
        total += term
        below.append(total)
        term *= rate / len(below)
    return below


def _loss(
    logits: Float[Array, "*steps batch 2"], labels: Int[Array, " batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy, a mean over the steps that are read; their mean output decides."""
    decided = logits.reshape(-1, *logits.shape[-2:]).mean(0)
    each_step = jnp.broadcast_to(labels, logits.shape[:-1])
    return cross_entropy(logits, each_step)[0], cross_entropy(decided, labels)[1]


# The network of both publications: half of the neurons adapt.
_SPIKING = {
    "tau": 20.0,
    "tau_adaptation": 2000.0,
    "adaptive": 0.5,
    "refractory": 5,
    "dampening": 0.3,
}
_MDGL = _SPIKING | {
    "beta": 1.8,
    "threshold": 0.01,
    "scale_input": True,
    "scale_adaptation": True,
    "reset_gradient": True,
}
# Four in five inputs and one more are excitatory, as are the neurons; every group has both kinds.
_INPUT_SIGNS = tuple(-1 if i % 6 == 5 or i == 39 else 1 for i in range(40))

EVIDENCE_ACCUMULATION = Task(
    name="evidence_accumulation",
    description="Spiking cues left and right, then a delay: say on which side there were more.",
    out_size=2,
    batch=evidence_accumulation,
    # With seven cues: each pattern once, or as many trials.
    evaluation=functools.partial(evidence_accumulation, batch=128),
    loss=_loss,
    readout="last",
    presets={
        "small": Preset(
            network=Architecture(
                hidden_size=48,
                excitatory=39,
                cell="alif",
                cell_options=_MDGL | {"tau_adaptation": 200.0},
                readout_tau=20.0,
                scale_readout=True,
                readout_bias=False,
                dale_readout=False,
                input_scale=0.16,
                recurrent_scale=0.5,
            ),
            data={"cues": 5, "cue": 20, "gap": 10, "delay": 60, "recall": 30},
            schedule=Schedule(iterations=600, batch=32, eval_every=20),
            optimizer=Optimizer(learning_rate=2.5e-3),
            objective=Objective(criterion=0.9),
        ),
        # Task, neurons, optimizer and rewiring as published; that Dale's law, the share of synapses
        # and rewiring also bind input and readout is taken from the published programs of this
        # family. How weights began is not known: here with those signs at a random tenth of the
        # synapses, W_in and W_out as normal draws of variance 1 / (presynaptic neurons), W_rec
        # balanced with a spectral radius of 0.5: neurons then fire at about 40 Hz.
        "published": Preset(
            network=Architecture(
                hidden_size=100,
                excitatory=81,
                input_signs=_INPUT_SIGNS,
                cell="alif",
                cell_options=_MDGL,
                readout_tau=20.0,
                scale_readout=True,
                readout_bias=False,
                input_scale=1 / math.sqrt(40),
                recurrent_scale=0.5,
                density=0.1,
            ),
            schedule=Schedule(iterations=2000, batch=64, eval_every=20),
            optimizer=Optimizer(learning_rate=2.5e-3, shrink=0.01, connectivity=0.1),
            objective=Objective(criterion=0.8),
        ),
        # The other task, as published but for two initial weights: feedback is N(0, 1/100) here
        # and N(0, 1) there, the readout N(0, 1/100) here and uniform there.
        "eprop": Preset(
            network=Architecture(
                hidden_size=100,
                cell="alif",
                cell_options=_SPIKING
                | {"threshold": 0.6, "beta": 1.7 * math.expm1(-1 / 2000) / math.expm1(-1 / 20)},
                readout_tau=20.0,
                scale_readout=True,
                readout_bias=False,
                feedback="random",
            ),
            data={"variant": "eprop"},
            schedule=Schedule(iterations=2000, batch=64, eval_every=20),
            optimizer=Optimizer(learning_rate=5e-3),
            objective=Objective(readout_steps=150, rate_cost=2.0, rate_target=0.01, criterion=0.93),
        ),
    },
)
