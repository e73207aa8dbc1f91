"""Labelled series as batches: drawn with replacement, or all of a split."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments


class Labelled(NamedTuple):
    """Series (N, T, m) and the class of each (N,)."""

    series: np.ndarray
    labels: np.ndarray

    def part(self, which: np.ndarray) -> "Labelled":
        """Some of them."""
        return Labelled(self.series[which], self.labels[which])


def drawn(
    found: Labelled, key: PRNGKeyArray, batch: int, dtype: DTypeLike
) -> tuple[Float[Array, "T batch m"], Int[Array, " batch"]]:
    """A batch, with replacement."""
    picks = jr.randint(key, (batch,), 0, len(found.labels))
    xs = jnp.asarray(found.series, dtype)[picks]
    return jnp.moveaxis(xs, 0, 1), jnp.asarray(found.labels)[picks]


def all_of(
    found: Labelled, dtype: DTypeLike
) -> tuple[Float[Array, "T series m"], Int[Array, " series"]]:
    """All, in order."""
    return jnp.asarray(np.moveaxis(found.series, 0, 1), dtype), jnp.asarray(found.labels)


def from_end(series: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """(N, steps, m): zeros before those that are shorter, so that all end with the last step."""
    found = np.zeros((len(series), steps, series[0].shape[1]), np.float32)
    for line, one in zip(found, series):
        line[steps - len(one) :] = one
    return found


def moments(series: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over all steps of these series."""
    steps = np.concatenate(list(series)).astype(np.float64)
    return steps.mean(0), steps.std(0)


def checked(key: Any, batch: Any, dtype: DTypeLike | None) -> tuple[PRNGKeyArray, int, DTypeLike]:
    """The arguments that all of these tasks have."""
    return (
        arguments.key("key", key),
        arguments.size("batch", batch),
        arguments.dtype("dtype", dtype),
    )
