"""Handwritten digits, read a row or a pixel at a time."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import cross_entropy, Task


def sequential_digits(
    key: PRNGKeyArray,
    batch: int = 32,
    *,
    split: str = "train",
    by: str = "rows",
    hold: int = 1,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch features"], Int[Array, " batch"]]:
    """A minibatch of handwritten digits as sequences, drawn with replacement.

    The 1797 images of 8 × 8 pixels that scikit-learn ships, scaled to [0, 1].
    `by="rows"` reads an image from top to bottom in T = 8 steps of 8 features,
    `by="pixels"` in reading order in T = 64 steps of one feature; every step is
    repeated `hold` times.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of images.
    - `split`: `"train"` (about 80 % of each class) or `"test"` (the rest); always the
      same split. For choices, `"validation"` is a fifth of the training images, `"fit"` the others.
    - `by`: `"rows"` or `"pixels"`.
    - `hold`: steps for which each row or pixel is shown.
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** `xs` of shape `(8 hold, batch, 8)` or `(64 hold, batch, 1)`, and the
    digits shown, of shape `(batch,)`.

    **Raises:** `ValueError` for any other `split` or `by`, and if `hold < 1`.
    """
    key, batch = arguments.key("key", key), arguments.size("batch", batch)
    dtype = arguments.dtype("dtype", dtype)
    images, labels = images_of(split)
    picks = jr.randint(key, (batch,), 0, len(labels))
    return _sequences(jnp.asarray(images)[picks], by, hold, dtype), jnp.asarray(labels)[picks]


def sequential_digits_split(
    split: str = "test", *, by: str = "rows", hold: int = 1, dtype: DTypeLike | None = None
) -> tuple[Float[Array, "T images features"], Int[Array, " images"]]:
    """All images of one split, in a fixed order; see `sequential_digits`."""
    dtype = arguments.dtype("dtype", dtype)
    images, labels = images_of(split)
    return _sequences(jnp.asarray(images), by, hold, dtype), jnp.asarray(labels)


def _sequences(images: Array, by: str, hold: int, dtype: DTypeLike | None) -> Array:
    features = {"rows": 8, "pixels": 1}[arguments.choice("by", by, ("rows", "pixels"))]
    arguments.sizes(hold=hold)
    dtype = arguments.dtype("dtype", dtype)
    steps = jnp.moveaxis(images.reshape(len(images), -1, features), 0, 1)
    return jnp.repeat(steps.astype(dtype) / 16, hold, axis=0)


def images_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 64), pixels 0 to 16, and labels (N,), of one split."""
    return _images_of(arguments.choice("split", split, SPLITS))


SPLITS = "train", "test", "fit", "validation"


def part_of(count: int, split: str) -> np.ndarray:
    """Which of the training data are of a split: every fifth is for validation."""
    held_out = np.arange(count) % 5 == 4
    return {"fit": ~held_out, "validation": held_out}.get(split, np.ones(count, bool))


@functools.cache
def _images_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    # Imported here: it takes a second, and only this task needs it.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # RandomState, not default_rng: NumPy guarantees its stream, so the split never
    # moves.
    random = np.random.RandomState(0)
    chosen = []
    for digit in range(10):
        members = random.permutation(np.flatnonzero(labels == digit))
        held_out = round(len(members) / 5)
        chosen.append(members[:held_out] if split == "test" else members[held_out:])
    index = np.sort(np.concatenate(chosen))
    index = index[part_of(len(index), split)]
    return images[index].astype(np.uint8), labels[index].astype(np.int32)


SEQUENTIAL_DIGITS = Task(
    name="sequential_digits",
    description="Handwritten digits read row by row: name the digit at the end.",
    out_size=10,
    batch=sequential_digits,
    # the test set is what it is
    evaluation=lambda key, **options: sequential_digits_split("test", **options),
    validation=(
        functools.partial(sequential_digits, split="fit"),
        lambda key, **options: sequential_digits_split("validation", **options),
    ),
    loss=cross_entropy,
    readout="last",
    presets={
        # Each row is held for two steps: a leaky neuron then has the time to take it in, the first
        # row lies five time constants back at the end, and the rules come apart further than in
        # eight steps.
        "small": Preset(
            network=Architecture(hidden_size=64, excitatory=52, cell_options={"tau": 3.0}),
            data={"by": "rows", "hold": 2},
            schedule=Schedule(iterations=5000, eval_every=100),
            optimizer=Optimizer(learning_rate=1e-3, decay=0.7, decay_every=1000),
            objective=Objective(criterion=0.9),
        ),
        # Nobody has published this network; it is a longer run of a larger one.
        "published": Preset(
            network=Architecture(hidden_size=128, excitatory=103, cell_options={"tau": 3.0}),
            data={"by": "rows", "hold": 2},
            schedule=Schedule(iterations=10000, eval_every=200),
            optimizer=Optimizer(learning_rate=1e-3, decay=0.7, decay_every=2000),
            objective=Objective(criterion=0.9),
        ),
    },
)
