"""Handwritten digits, shown whole: for networks that settle."""

import functools

import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._digits import images_of
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import cross_entropy, Task


def digits(
    key: PRNGKeyArray,
    batch: int = 32,
    *,
    split: str = "train",
    paired: bool = False,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "1 batch features"], Int[Array, " batch"]]:
    """A minibatch of handwritten digits, each one step long, drawn with replacement.

    The images of 8 × 8 pixels of `sequential_digits`, scaled to [0, 1], as 64 features.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of images.
    - `split`: `"train"` (about 80 % of each class) or `"test"` (the rest); always the same split.
        For choices, `"validation"` is a fifth of the training images, and `"fit"` the others.
    - `paired`: all pixels a second time, 128 features: an excitatory afferent of each and an
        inhibitory one, for networks whose inputs obey Dale's law.
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** `xs` (1, batch, 64), or 128 features if `paired`, and the digits shown (batch,).

    **Raises:** `ValueError` for any other `split`.
    """
    paired = arguments.boolean("paired", paired)
    key, batch = arguments.key("key", key), arguments.size("batch", batch)
    dtype = arguments.dtype("dtype", dtype)
    images, labels = images_of(split)
    picks = jr.randint(key, (batch,), 0, len(labels))
    return _shown(jnp.asarray(images)[picks], paired, dtype), jnp.asarray(labels)[picks]


def digits_split(
    split: str = "test", *, paired: bool = False, dtype: DTypeLike | None = None
) -> tuple[Float[Array, "1 images features"], Int[Array, " images"]]:
    """All images of one split, in a fixed order; see `digits`."""
    paired, dtype = arguments.boolean("paired", paired), arguments.dtype("dtype", dtype)
    images, labels = images_of(split)
    return _shown(jnp.asarray(images), paired, dtype), jnp.asarray(labels)


def _shown(images: Array, paired: bool, dtype: DTypeLike | None) -> Array:
    dtype = arguments.dtype("dtype", dtype)
    paired = arguments.boolean("paired", paired)
    pixels = images[None].astype(dtype) / 16
    return jnp.concatenate([pixels, pixels], axis=-1) if paired else pixels


# Two layers beyond the inputs, each with Dale's law.
_SMALL = Preset(
    network=Architecture(
        hidden_size=48,
        excitatory=32,
        input_signs=(1,) * 64 + (-1,) * 64,
        cell="equilibrium",
        cell_options={"layers": 2, "gain": 2.0},
    ),
    data={"paired": True},
    schedule=Schedule(iterations=2000, eval_every=50),
    optimizer=Optimizer(learning_rate=1e-2),
    objective=Objective(criterion=0.95),
)

DIGITS = Task(
    name="digits",
    description="Handwritten digits, shown whole: name the digit that the network settles on.",
    out_size=10,
    batch=digits,
    # the test set is what it is
    evaluation=lambda key, **options: digits_split("test", **options),
    validation=(
        functools.partial(digits, split="fit"),
        lambda key, **options: digits_split("validation", **options),
    ),
    loss=cross_entropy,
    readout="last",
    presets={
        "small": _SMALL,
        # Nobody has published this network; it is a longer run of a larger one.
        "published": _SMALL.replace(
            hidden_size=128, excitatory=86, iterations=10_000, decay=0.7, decay_every=2000
        ),
    },
)
