"""Time constants, connectivity and other constants of cells."""

import math
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool

from .._arguments import check_range, is_real, Numbers, Range, shown
from .._constrained import AbstractConstrained
from .._precision import wide
from .._static import constant, content, FrozenArray, Given, numeric, Trainable


Exists = Bool[np.ndarray, "post pre"] | Bool[Array, "post pre"]
"""Which synapses there are."""


def decay(tau: Trainable, dt: Trainable, dtype: DTypeLike) -> Any:
    """exp(-dt/τ): a Python float if both are."""
    ratio = numeric(dt, dtype) / numeric(tau, dtype)
    return _functions(ratio).exp(-ratio)


def rise(tau: Trainable, dt: Trainable, dtype: DTypeLike) -> Any:
    """1 - exp(-dt/τ), to all digits where τ is long: the leak there rounds to 1."""
    ratio = numeric(dt, dtype) / numeric(tau, dtype)
    return -_functions(ratio).expm1(-ratio)


def _functions(number: float | Array) -> types.ModuleType:
    """Python's for a Python float, which stays one."""
    return math if isinstance(number, float) else jnp


def trainable(name: str, value: Given, n: int | None, within: Range, dtype: DTypeLike) -> Trainable:
    """A constant, one value or one a neuron (n None: one); a `jax.Array` trains.

    `dtype`: of what is made of a constrained one.
    """
    if isinstance(value, AbstractConstrained):
        if not within.includes(*value.ends):
            raise ValueError(
                f"{name} must be {within.words}, but a {type(value).__name__} came that stays "
                f"between {value.ends[0]} and {value.ends[1]}: pass Between(value, low, high) with "
                "other ends."
            )
        one_or_each(name, np.shape(value.value), n)
        return jax.tree.map(lambda leaf: leaf.astype(wide(jnp.finfo(dtype).dtype)), value)
    if not is_real(value):
        raise ValueError(
            f"{name} must be a number, or one a neuron, that is {within.words}, but is "
            f"{shown(value)}."
        )
    if isinstance(value, jax.Array) and not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{name} came as a jax.Array, which trains, but {value.dtype} has no derivative: pass "
            "a number to keep it constant, or floats."
        )
    one_or_each(name, np.shape(value), n)
    check_range(name, value, within)
    return constant(value)


def one_or_each(name: str, shape: tuple[int, ...], n: int | None) -> None:
    """A ValueError unless it is that of one value or of one a neuron."""
    if shape in ((), () if n is None else (n,)):
        return
    each = "" if n is None else f" or one for each of the {n} neurons"
    raise ValueError(f"{name} must be one value{each}, but has shape {shape}.")


def trained_ranges(
    owner: eqx.Module, prefix: str = "", **ranges: Range
) -> dict[str, Bool[Array, ""]]:
    """For each field that trains as it is: that it should stay in its range, and whether it has."""
    trained = {name: getattr(owner, name) for name in ranges}
    return {
        f"{prefix}{name} must be {ranges[name].words}": ranges[name].holds(value).all()
        for name, value in trained.items()
        if eqx.is_array(value)
    }


def connectivity(
    mask: Numbers | None, n: int, gates: int = 1
) -> FrozenArray | Bool[Array, "post pre"] | None:
    """The mask [post, pre], of all gates or of each: structure where it is known, no leaf.

    A traced one (a cell that is made under `jit`, or with another mask for each member of an
    ensemble) stays an array.
    """
    if mask is None:
        return None
    mask = mask if isinstance(mask, Tracer) else _as_array(mask)
    shapes = [(n, n)] if gates == 1 else [(n, n), (gates * n, n)]
    if mask.shape not in shapes or mask.dtype != np.bool_:
        raise ValueError(
            f"mask must be boolean of shape {' or '.join(map(str, shapes))} [post, pre], but is "
            f"{mask.dtype} of shape {mask.shape}."
        )
    return mask if isinstance(mask, Tracer) else FrozenArray(mask)


def as_mask(connectivity: FrozenArray | Array | None) -> np.ndarray | Array | None:
    """The mask, as it was given."""
    return content(connectivity)


def synapses(
    connectivity: FrozenArray | Array | None, n: int, autapses: bool
) -> np.ndarray | Array | None:
    """Which entries [post, pre] exist; None: all of them."""
    mask = as_mask(connectivity)
    if autapses:
        return mask
    others = ~np.eye(n, dtype=bool)
    return others if mask is None else mask & others


def _as_array(mask: Numbers) -> np.ndarray:
    try:
        return np.asarray(mask)
    except ValueError as error:
        raise ValueError(f"mask must be a boolean matrix [post, pre], but {error}.") from error
