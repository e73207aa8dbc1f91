"""Where a stochastic rule's noise comes from: keys, or a table of recorded numbers."""

import functools
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Int

from .. import _arguments as arguments
from .._static import FrozenArray
from .._tree import each


Noise = str | ArrayLike | Sequence
"""The name of a law, or a table of numbers."""

LAWS = {"rademacher": jr.rademacher, "normal": jr.normal}


class Drawn(eqx.Module):
    """Independent numbers of mean 0 and variance 1, for each example and probe from its own key."""

    law: str = eqx.field(static=True)

    @property
    def needs_key(self) -> bool:
        """Yes."""
        return True

    @property
    def by_place(self) -> bool:
        """False: it comes from keys, which go with the examples."""
        return False

    def check(self, name: str, cell: str, batch: tuple[int, ...] | None, size: int) -> None:
        """Nothing to check."""

    def draw(self, keys: Array, step: Int[Array, "*lead"], size: int, dtype: DTypeLike) -> Array:
        """(*lead, size) numbers; the step does not matter."""
        one = functools.partial(LAWS[self.law], shape=(size,), dtype=dtype)
        return each(one, step.ndim)(keys)


class Given(eqx.Module):
    """Row t of a table at an example's step t, (T, k) or (T, *batch, k); NaN past its end."""

    table: FrozenArray

    @property
    def needs_key(self) -> bool:
        """No."""
        return False

    @property
    def by_place(self) -> bool:
        """Whether a row is that of a place in the batch."""
        return len(self.table.shape) > 2

    def draw(self, keys: Array, step: Int[Array, "*lead"], size: int, dtype: DTypeLike) -> Array:
        """(*lead, size) numbers; the keys do not matter."""
        del keys
        table = jnp.asarray(self.table.numpy()[..., :size], dtype)
        if table.ndim > 2:
            return jnp.take_along_axis(table, step[..., None], axis=0, mode="fill")
        return table.at[step].get(mode="fill", fill_value=jnp.nan)

    def check(self, name: str, cell: str, batch: tuple[int, ...] | None, size: int) -> None:
        """A ValueError unless rows have this size, and examples rows; batch None: not known."""
        *lead, width = self.table.shape
        if width != size:
            raise ValueError(
                f"{name} needs {size} random numbers a step for this {cell}, but the rows of "
                f"noise, an array of shape {self.table.shape}, hold {width}."
            )
        if batch is not None and len(lead) > 1 and tuple(lead[1:]) != batch:
            raise ValueError(
                f"noise of shape {self.table.shape} has a row for each example of a batch "
                f"{tuple(lead[1:])}, but the state's batch is {batch}: pass (T, *batch, k), or "
                "(T, k) for all examples."
            )


def as_noise(noise: Noise, probes: int) -> Drawn | Given:
    """What `noise=` says, or a ValueError."""
    if isinstance(noise, str):
        if noise not in LAWS:
            raise ValueError(
                f"noise must be one of {sorted(LAWS)} (mean 0, variance 1: any other variance, "
                f"such as 1/3 of uniform noise, is biased), or an array, but is {noise!r}."
            )
        return Drawn(noise)
    if arguments.is_traced(noise):
        raise ValueError(
            "noise is part of the rule's structure, but a traced array came: make the rule "
            "outside of the transformed function."
        )
    if not arguments.is_real(noise) or np.ndim(noise) < 2 or 0 in np.shape(noise):
        raise ValueError(
            f"noise must be one of {sorted(LAWS)}, or an array (T, k) or (T, *batch, k) of "
            f"numbers, but is {arguments.shown(noise)}."
        )
    if probes != 1:
        raise ValueError(
            f"noise given as an array is that of one probe, but probes={probes}: leave it at 1."
        )
    return Given(FrozenArray(np.asarray(noise, np.float64)))
