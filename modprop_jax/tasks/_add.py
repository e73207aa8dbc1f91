"""Add: the probability of a bit, from two of the bits that went before."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import Task


def add(
    key: PRNGKeyArray,
    batch: int = 1,
    *,
    steps: int = 20_000,
    lags: Sequence[int] = (5, 9),
    repeat: int = 1,
    deterministic: bool = True,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch 2"], Float[Array, "T batch 2"]]:
    r"""A stream of fair bits; the label is a weighted sum of two earlier ones.

    With bits \(b_s \sim Bernoulli(1/2)\), lags \(t_1, t_2\) in symbols and each symbol held for
    `repeat` steps, for t = 0 ... T−1 and \(s = \lfloor t / repeat \rfloor\),

    \[ x_t = (b_s,\, 1 - b_s), \qquad
       p_s = \tfrac12 + \tfrac12 b_{s - t_1} - \tfrac14 b_{s - t_2}, \qquad
       y_t = (p_s,\, 1 - p_s), \]

    so the lags are `repeat` times as long in steps. Unless `deterministic`, a draw from
    Bernoulli(\(p_s\)), one a symbol, takes the place of \(p_s\) in \(y_t\).

    The loss of the record `ADD` is the softmax cross-entropy, in nats; `ADD_FLOORS` has the least
    that a network reaches which knows neither bit (0.6616), the first (0.5192) or both (0.4545).
    Its score, "information", is where the loss is between the outer two: 0 without memory, 0.688
    with the first bit, 1 with both. Chance puts the score of a finite sample a little off, and
    above 1 for networks that know everything.

    **Departure:** here all labels depend on bits that were drawn before them, max(t_1, t_2) of them
    before the first step; the public program rolls the bits, so that its first labels depend on the
    last inputs.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of independent streams (published: 1).
    - `steps`: T.
    - `lags`: (t_1, t_2), different, 0 or more (published: (5, 9), and (2, 4) with `repeat=2`).
    - `repeat`: steps a symbol lasts.
    - `deterministic`: labels are probabilities, else draws from them.
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` and `ys`, both of shape `(steps, batch, 2)`.

    **Raises:** `ValueError` if `steps < 1` or `repeat < 1`, or `lags` are not two different
    numbers, 0 or more.

    Sources: Pitis (2016); this form, Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649), and
    their public program.
    """
    arguments.sizes(batch=batch, steps=steps, repeat=repeat)
    if not isinstance(lags, list | tuple) or len(lags) != 2 or lags[0] == lags[1]:
        raise ValueError(
            f"lags must be two different numbers of symbols, but is {arguments.shown(lags)}."
        )
    lags = tuple(arguments.count("an entry of lags", lag) for lag in lags)
    deterministic = arguments.boolean("deterministic", deterministic)
    dtype = arguments.dtype("dtype", dtype)
    bit_key, label_key = jr.split(arguments.key("key", key))
    symbols, before = -(-steps // repeat), max(lags)
    bits = jr.bernoulli(bit_key, shape=(before + symbols, batch)).astype(dtype)
    first, second = (bits[before - lag :][:symbols] for lag in lags)
    label = 0.5 + 0.5 * first - 0.25 * second
    if not deterministic:
        label = jr.bernoulli(label_key, label).astype(dtype)

    def shown(symbol):
        return jnp.repeat(jnp.stack([symbol, 1 - symbol], axis=-1), repeat, axis=0)[:steps]

    return shown(bits[before:]), shown(label)


def _floors() -> dict[str, float]:
    """Mean entropy of the label, averaged over the bits that are not known."""

    def entropy(p):
        return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)

    def mean(values):
        return sum(values) / len(values)

    by_first = [[0.5 + 0.5 * first - 0.25 * second for second in (0, 1)] for first in (0, 1)]
    return {
        "no dependency": entropy(mean([mean(labels) for labels in by_first])),
        "first lag": mean([entropy(mean(labels)) for labels in by_first]),
        "both lags": mean([entropy(p) for labels in by_first for p in labels]),
    }


ADD_FLOORS = _floors()
"""Cross-entropy of `add`, in nats, that is left to a network by the lags that it bridges."""


def _soft_cross_entropy(
    logits: Float[Array, "*axes 2"], ys: Float[Array, "*axes 2"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Softmax cross-entropy with soft labels, a mean over steps and batch; and the information."""
    loss = jnp.mean(optax.softmax_cross_entropy(logits, ys))
    nothing, everything = ADD_FLOORS["no dependency"], ADD_FLOORS["both lags"]
    return loss, (nothing - loss) / (nothing - everything)


def online_preset(
    data: Mapping[str, Any], *, alpha: float, iterations: int, learning_rate: float, **others: Any
) -> Preset:
    """The published network on one stream, stepped by plain SGD after every time step.

    The stream has `iterations` steps; `steps` is for sequences that are drawn offline.
    """
    preset = Preset(
        network=Architecture(
            hidden_size=32, cell="rate", cell_options={"alpha": alpha}, orthogonal=True
        ),
        data={"steps": 1000} | dict(data),
        schedule=Schedule(iterations=iterations, batch=1, eval_every=iterations // 100, segment=1),
        optimizer=Optimizer(learning_rate=learning_rate, optimizer="sgd"),
        objective=Objective(criterion=0.9),
    )
    return preset.replace(**others)


# The length and the learning rate of the published simulations, and a fiftieth of them.
LONG: dict[str, Any] = {"iterations": 10**6, "learning_rate": 1e-4}
BRIEF: dict[str, Any] = {"iterations": 20_000, "learning_rate": 1e-3}
# Random feedback, where a rule asks for it, is N(0, 1 / 2 outputs) for 32 neurons.
_FEEDBACK: dict[str, Any] = {"feedback_scale": 4.0}

ADD = Task(
    name="add",
    description="A stream of bits: the chance of a label that depends on two earlier ones.",
    out_size=2,
    batch=add,
    evaluation=functools.partial(add, batch=64),
    loss=_soft_cross_entropy,
    readout="every",
    stream=True,
    score="information",
    floors=ADD_FLOORS,
    presets={
        # In batches, with Adam. The first steps of a sequence come before what they depend on was
        # shown, so that the information stays below 0.94.
        "small": Preset(
            network=Architecture(hidden_size=32, cell="rate", orthogonal=True),
            data={"steps": 60, "lags": (3, 5)},
            schedule=Schedule(iterations=1500, eval_every=25),
            optimizer=Optimizer(learning_rate=2e-3),
            objective=Objective(criterion=0.85),
        ),
        # The review's simulations; "slow" is a task and a network of twice the time constant.
        "published": online_preset({"lags": (5, 9)}, alpha=1.0, **LONG, **_FEEDBACK),
        "published_slow": online_preset(
            {"lags": (2, 4), "repeat": 2}, alpha=0.5, **LONG, **_FEEDBACK
        ),
        # The same in a fiftieth of the steps.
        "brief": online_preset({"lags": (5, 9)}, alpha=1.0, **BRIEF, **_FEEDBACK),
        "brief_slow": online_preset({"lags": (2, 4), "repeat": 2}, alpha=0.5, **BRIEF, **_FEEDBACK),
        # The first version of arXiv 1907.02649.
        "v1": online_preset({"lags": (6, 10)}, alpha=1.0, **LONG, **_FEEDBACK),
        "v1_slow": online_preset({"lags": (5, 7), "repeat": 2}, alpha=0.5, **LONG, **_FEEDBACK),
        # Learning by local plasticity rules, arXiv 1905.12100.
        "local": online_preset(
            {"lags": (3, 5), "deterministic": False},
            alpha=1.0,
            iterations=40_000,
            learning_rate=1e-3,
            l2=1e-4,
            feedback="random",
        ),
        "local_slow": online_preset(
            {"lags": (4, 6), "repeat": 4},
            alpha=0.3,
            iterations=200_000,
            learning_rate=5e-4,
            feedback="random",
        ),
    },
)
