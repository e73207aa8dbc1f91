"""Copy memory: keep a sequence of symbols through a delay, then reproduce it."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Optimizer, Preset, Schedule
from ._task import Task


def copy_memory(
    key: PRNGKeyArray,
    batch: int = 20,
    *,
    length: int = 10,
    symbols: int = 8,
    delay: int = 100,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch channels"], Int[Array, "T batch"]]:
    r"""S symbols out of K, a delay that ends in a go cue, then S steps to reproduce them.

    Tokens are 0 (blank), 1 ... K (symbols) and K+1 (go cue), shown one-hot. With S = `length`,
    K = `symbols` and \(a_i\) independent and uniform over 1 ... K, T = S + delay + S and

    \[ token_t = \begin{cases} a_t & t < S \\ K+1 & t = S + delay - 1 \\ 0 & \text{else}
       \end{cases} \qquad
       y_t = \begin{cases} a_{t - S - delay} & t \ge S + delay \\ 0 & \text{else} . \end{cases} \]

    So each symbol has to be kept for exactly S + delay steps, of which delay − 1 are blank between
    the symbols and the cue.

    The score of the record `COPY_MEMORY` is the accuracy on the S recall steps, its loss their
    cross-entropy, where a network without memory has ln K. The published loss is the
    cross-entropy over all T steps, `cross_entropy(outputs, ys)`; there it has S ln K / T.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of trials.
    - `length`, `symbols`: S and K (published: 10 and 8).
    - `delay`: steps from the last symbol to the cue, that included (published: 100, 200, 300, 500).
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** `xs` of shape `(T, batch, symbols + 2)`, and integers `ys` of shape `(T, batch)`,
    0 outside recall.

    **Raises:** `ValueError` if `length < 1`, `symbols < 2` or `delay < 1`.

    Sources: the task, Hochreiter & Schmidhuber, Neural Computation 9 (1997); this form and its
    sizes, Arjovsky, Shah & Bengio, ICML 2016 (arXiv 1511.06464), and its public program. Variants
    that copy vectors of bits are other tasks.
    """
    arguments.sizes(batch=batch, length=length, delay=delay)
    arguments.whole("symbols", symbols, 2)
    key = arguments.key("key", key)
    dtype = arguments.dtype("dtype", dtype)
    sequence = jr.randint(key, (length, batch), 1, symbols + 1, jnp.int32)
    rest = jnp.zeros_like(sequence, shape=(delay + length, batch))
    tokens = jnp.concatenate([sequence, rest.at[delay - 1].set(symbols + 1)])
    xs = jax.nn.one_hot(tokens, symbols + 2, dtype=dtype)
    return xs, jnp.concatenate([rest, sequence])


def _recall(
    logits: Float[Array, "T batch classes"], ys: Int[Array, "T batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Softmax cross-entropy, in nats, and accuracy: both means over the recall steps."""
    asked = ys > 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), ys[..., None], axis=-1)[..., 0]
    correct = jnp.argmax(logits, axis=-1).astype(ys.dtype) == ys
    return -jnp.mean(picked, where=asked), jnp.mean(correct, where=asked, dtype=logits.dtype)


COPY_MEMORY = Task(
    name="copy_memory",
    description="Symbols, a delay, a go cue: reproduce the symbols in order.",
    out_size=9,
    batch=copy_memory,
    evaluation=functools.partial(copy_memory, batch=128),
    loss=_recall,
    readout="every",
    presets={
        "small": Preset(
            network=Architecture(hidden_size=64, cell="rate"),
            data={"length": 5, "delay": 10},
            schedule=Schedule(iterations=3000, eval_every=50),
            optimizer=Optimizer(learning_rate=2e-3, decay=0.7, decay_every=500),
        ),
        # The published task at the shortest of its delays, the program's batch, learning rate and
        # iterations, with Adam. Rate neurons are hard put to it: the published networks that
        # learn it are unitary.
        "published": Preset(
            network=Architecture(hidden_size=128, cell="rate"),
            schedule=Schedule(iterations=20000, batch=20, eval_every=100),
            optimizer=Optimizer(learning_rate=1e-3),
        ),
    },
)
