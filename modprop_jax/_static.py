"""Constants: those that do not train, and what all are in arithmetic."""

from typing import Any, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from ._arguments import Numbers
from ._constrained import AbstractConstrained


class Constant(eqx.Module):
    """A number, or one number a neuron, that optimizers never see.

    equinox counts a NumPy array, or a NumPy scalar, as a trainable leaf. Floats and NumPy
    values are therefore kept as static floats and tuples, which have no leaves at all.
    """

    value: float | tuple = eqx.field(static=True)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return np.asarray(self.value, dtype)

    def __float__(self) -> float:
        return float(np.asarray(self.value))

    def in_dtype(self, dtype: DTypeLike) -> float | Array:
        """For arithmetic in it: a Python float, or an array."""
        if isinstance(self.value, float):
            return self.value
        return jnp.asarray(np.asarray(self.value), dtype)


Trainable = Array | AbstractConstrained | Constant
"""A constant of a cell: an array trains, and so does what stays in a range."""


Given = Numbers | AbstractConstrained | Constant
"""A constant of a cell, as it is given."""


def constant(value: object) -> Array | Constant:
    """Keep a `jax.Array` (it trains); freeze everything else."""
    return value if isinstance(value, Constant | jax.Array) else frozen(value)


def frozen(value: object) -> Constant:
    """What does not train, whatever it was."""
    return Constant(_freeze(np.asarray(value, dtype=np.float64).tolist()))


def is_constant(node: object) -> TypeGuard[Constant]:
    """Whether it is a number that does not train, as a node of a tree."""
    return isinstance(node, Constant)


def numeric(value: Trainable, dtype: DTypeLike) -> Any:
    """The value for arithmetic in `dtype`: a Python float, or an array."""
    return value.astype(dtype) if isinstance(value, jax.Array) else value.in_dtype(dtype)


def spread(value: Trainable, like: Array) -> Any:
    """The value for arithmetic with an array (*batch, n): a Python float, or one an entry."""
    number = numeric(value, like.dtype)
    return number if isinstance(number, float) else jnp.broadcast_to(number, like.shape)


class FrozenArray(eqx.Module):
    """An array of any dtype that is part of the structure, not of the parameters."""

    content: "_Content" = eqx.field(static=True)

    def __init__(self, given: object):
        value = np.asarray(given)
        # NumPy only: under jit, jnp.asarray would make a tracer of a constant
        value = value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
        value.flags.writeable = False
        self.content = _Content(value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.content.array.shape

    def numpy(self) -> np.ndarray:
        """The array: always the same object, so that a program holds it once."""
        return self.content.array


def content(leaf: PyTree) -> PyTree:
    """The array of a frozen one; anything else as it is."""
    return leaf.numpy() if isinstance(leaf, FrozenArray) else leaf


def thawed(leaf: PyTree) -> PyTree:
    """As `content`, JAX's array in place of a frozen one."""
    known = content(leaf)
    return leaf if known is leaf else jnp.asarray(known)


class _Content:
    """A read-only array that can be compared and hashed, as static fields are."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.hash = hash((array.shape, str(array.dtype), array.tobytes()))

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, _Content):
            return self is other
        mine, theirs = self.array, other.array
        alike = (self.hash, mine.shape, mine.dtype) == (other.hash, theirs.shape, theirs.dtype)
        return alike and mine.tobytes() == theirs.tobytes()

    def __repr__(self) -> str:
        return f"{self.array.dtype}{list(self.array.shape)}"


def _freeze(value: float | list) -> float | tuple:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value
