"""Constants that train and can't leave their range, whatever an optimizer does."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ._arguments import check_range, is_real, number, Numbers, POSITIVE, Range, shown


class AbstractConstrained(eqx.Module):
    """A number, or one a neuron, made of a trainable leaf that may have any value."""

    @property
    @abc.abstractmethod
    def value(self) -> Float[Array, "..."]:
        """The constant itself."""

    @property
    @abc.abstractmethod
    def ends(self) -> tuple[float, float]:
        """The open interval in which it stays."""

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return np.asarray(self.value, dtype)

    def __float__(self) -> float:
        return float(self.value)

    def in_dtype(self, dtype: DTypeLike) -> Array:
        """For arithmetic in it."""
        return self.value.astype(dtype)


class Positive(AbstractConstrained):
    r"""A positive constant that trains: \(e^{\ell}\), with the leaf \(\ell\) (`log`).

    Wherever a cell takes a positive constant, `tau=mpj.Positive(20.0)` trains it. A plain
    `jax.Array` trains too, but an optimizer can step across 0, and a leak exp(-dt/τ) of a negative
    τ is above 1, without an error unless asked for (`check=True`). A step of size ε on `log` moves
    the constant by a share ε of itself, so one learning rate suits 2 ms and 2 s. By the chain rule
    the leaf's gradient is the constant's times the constant: exact.

    >>> import modprop_jax as mpj
    >>> print(round(float(mpj.Positive(20.0)), 3))
    20.0
    """

    log: Float[Array, "..."]

    def __init__(self, value: Numbers):
        """**Arguments:** `value`: where it starts; a number, or one a neuron (n,)."""
        self.log = jnp.log(_start(value, POSITIVE))

    @property
    def value(self) -> Float[Array, "..."]:
        """The constant itself."""
        return jnp.exp(self.log)

    @property
    def ends(self) -> tuple[float, float]:
        """0 and infinity."""
        return 0.0, math.inf


class Between(AbstractConstrained):
    r"""A constant that trains and stays between two numbers.

    \[ low + (high - low)\,\sigma(\ell), \qquad low + e^{\ell} \text{ if } high = \infty \]

    with the leaf \(\ell\) (`free`): `RateCell(alpha=mpj.Between(0.5, 0.0, 1.0))`. See `Positive`.
    """

    free: Float[Array, "..."]
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    def __init__(self, value: Numbers, low: float | int, high: float | int):
        """**Arguments:**

        - `value`: where it starts; a number, or one a neuron (n,).
        - `low`, `high`: the ends, which it never reaches; `high` may be infinite.
        """
        self.low = number("low", low)
        self.high = number("high", high, Range("above low", self.low, math.inf, with_high=True))
        value = _start(value, Range(f"between {self.low} and {self.high}", self.low, self.high))
        above = value - self.low
        self.free = jnp.log(above if math.isinf(self.high) else above / (self.high - value))

    @property
    def value(self) -> Float[Array, "..."]:
        """The constant itself."""
        if math.isinf(self.high):
            return self.low + jnp.exp(self.free)
        return self.low + (self.high - self.low) * jax.nn.sigmoid(self.free)

    @property
    def ends(self) -> tuple[float, float]:
        """As given."""
        return self.low, self.high


def _start(value: Numbers, within: Range) -> Float[Array, "..."]:
    if not is_real(value) or np.ndim(value) > 1:
        raise ValueError(
            f"value must be a number, or one a neuron, {within.words}, but is {shown(value)}."
        )
    check_range("value", value, within)
    return jnp.asarray(value, jnp.result_type(float) if _exact(value) else None)


def _exact(value: object) -> bool:
    """Whether it has no precision of its own."""
    return not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jnp.floating)
