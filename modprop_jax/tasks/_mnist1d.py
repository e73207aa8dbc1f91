"""MNIST-1D: ten shapes of a line, moved, stretched, sheared and in noise, read as they come."""

import contextlib
import functools
import random
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._digits import part_of, SPLITS
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import cross_entropy, Task


def mnist1d(
    key: PRNGKeyArray,
    batch: int = 100,
    *,
    split: str = "train",
    steps: int = 360,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch 1"], Int[Array, " batch"]]:
    """A minibatch of MNIST-1D as sequences of one feature, drawn with replacement.

    5,000 lines in ten classes, made by the package `mnist1d` (the extra of that name) from its own
    seed, without a download: 12 points of a template, padded to 72, moved, scaled, sheared, with
    noise, and interpolated to `steps` points. Mean 0 and standard deviation 1 over all.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of lines.
    - `split`: "train" (4,000 lines) or "test" (1,000). For choices, "validation" is a fifth of the
        training lines, and "fit" the others.
    - `steps`: T; 360, the published choice for GLE, is 72 units of time in steps of 0.2.
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** `xs` (steps, batch, 1) and labels 0 ... 9 (batch,).

    **Raises:** `ValueError` for an unknown `split` or `steps < 1`, `ImportError` without the
    package.

    Source: Greydanus & Kobak, "Scaling down deep learning with MNIST-1D", ICML 2024
    (arXiv 2011.14439).
    """
    key, batch = arguments.key("key", key), arguments.size("batch", batch)
    dtype = arguments.dtype("dtype", dtype)
    lines, labels = _arrays(split, steps)
    picks = jr.randint(key, (batch,), 0, len(labels))
    return _sequences(jnp.asarray(lines)[picks], dtype), jnp.asarray(labels)[picks]


def mnist1d_split(
    split: str = "test", *, steps: int = 360, dtype: DTypeLike | None = None
) -> tuple[Float[Array, "T lines 1"], Int[Array, " lines"]]:
    """All lines of one split, in a fixed order; see `mnist1d`."""
    dtype = arguments.dtype("dtype", dtype)
    lines, labels = _arrays(split, steps)
    return _sequences(jnp.asarray(lines), dtype), jnp.asarray(labels)


def summed_cross_entropy(
    logits: Float[Array, "T batch classes"], labels: Int[Array, " batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of every step, a mean; and accuracy of the logits summed over steps."""
    logits = arguments.floats("logits", logits)
    arguments.as_labels("labels", labels, logits.shape[1:-1])
    each = jnp.broadcast_to(labels, logits.shape[:-1])
    _, accuracy = cross_entropy(logits.sum(axis=0), labels)
    return cross_entropy(logits, each)[0], accuracy


def _sequences(lines: Array, dtype: DTypeLike | None) -> Array:
    dtype = arguments.dtype("dtype", dtype)
    return lines.astype(dtype).T[..., None]


def _arrays(split: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines (N, steps) and labels (N,) of one split."""
    arguments.choice("split", split, SPLITS)
    made = _made(arguments.size("steps", steps))
    suffix = "_test" if split == "test" else ""
    lines, labels = made["x" + suffix], made["y" + suffix].astype(np.int32)
    part = part_of(len(labels), split)
    return lines[part], labels[part]


@functools.cache
def _made(steps: int) -> dict[str, Any]:
    """The data of the package. It takes seconds, and only this task needs it."""
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise ImportError(
            "The task mnist1d needs the package of that name. In a clone of the repository: "
            'pip install -e ".[mnist1d]"'
        ) from error
    options: Any = get_dataset_args()
    options.final_seq_length = steps
    with _own_randomness():
        return make_dataset(options)


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """The package seeds the global generators of Python and NumPy: put them back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


MNIST1D = Task(
    name="mnist1d",
    description="MNIST-1D, point by point: name the shape of the line.",
    out_size=10,
    batch=mnist1d,
    # the test set is what it is
    evaluation=lambda key, **options: mnist1d_split("test", **options),
    validation=(
        functools.partial(mnist1d, split="fit"),
        lambda key, **options: mnist1d_split("validation", **options),
    ),
    loss=summed_cross_entropy,
    readout="every",
    presets={
        # One point of the line a step, not five.
        "small": Preset(
            network=Architecture(hidden_size=64, cell_options={"tau": 10.0}),
            data={"steps": 72},
            schedule=Schedule(iterations=3000, eval_every=100),
            optimizer=Optimizer(learning_rate=1e-3),
            objective=Objective(criterion=0.9),
        ),
        # Nobody has published this network; it is a longer run of a larger one.
        "published": Preset(
            network=Architecture(hidden_size=128, cell_options={"tau": 50.0}),
            data={"steps": 360},
            schedule=Schedule(iterations=10000, eval_every=200),
            optimizer=Optimizer(learning_rate=1e-3),
            objective=Objective(criterion=0.9),
        ),
    },
)
