"""Sequences with a label each, as the classifiers take them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _arguments as arguments
from ._stream import common, series


class Sequences(NamedTuple):
    """`steps` (T, examples, features), and how many of them each example has."""

    steps: Float[Array, "T examples features"]
    lengths: Int[Array, " examples"]


def problem(
    train: object, labels: object, test: object, train_lengths: object, test_lengths: object
) -> tuple[Sequences, Int[Array, " examples"], Sequences]:
    """Training sequences, their labels, and those to be named, in one dtype."""
    known = _sequences("train", train, train_lengths)
    new = _sequences("test", test, test_lengths)
    if known.steps.shape[-1] != new.steps.shape[-1]:
        raise ValueError(
            f"train and test must have the same features, but train has {known.steps.shape[-1]} "
            f"and test {new.steps.shape[-1]}."
        )
    labels = arguments.as_labels("labels", labels, known.lengths.shape)
    dtype = common(known.steps.dtype, new.steps.dtype)
    known, new = (group._replace(steps=group.steps.astype(dtype)) for group in (known, new))
    return known, jnp.asarray(labels), new


def _sequences(name: str, steps: object, lengths: object) -> Sequences:
    axes = "(T, examples, features)"
    if lengths is None or not arguments.is_array(steps) or steps.ndim != 3:
        found = series(name, steps, axes)
        return Sequences(found, jnp.full(found.shape[1], len(found)))
    counts = arguments.as_labels(f"{name}_lengths", lengths, steps.shape[1:2])
    if not arguments.is_traced(counts):
        arguments.check_range(
            f"{name}_lengths", counts, arguments.Range(f"in 1 ... {len(steps)}", 0, len(steps) + 1)
        )
    # what stands behind an example's end is not read, whatever it is
    is_step = jnp.arange(len(steps))[:, None] < jnp.asarray(counts)[None]
    own = jnp.where(is_step[..., None], steps, 0)
    return Sequences(series(name, own, axes), jnp.asarray(counts))
