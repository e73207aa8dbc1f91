"""Time constants, connectivity and other constants of cells."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from .._static import Constant, constant, FrozenArray, numeric


def decay(tau: Array | Constant, dt: float, dtype: Any) -> Any:
    """exp(-dt/τ): a Python float if τ is one."""
    if isinstance(tau, Constant) and isinstance(tau.value, float):
        return math.exp(-dt / tau.value)
    return jnp.exp(-dt / numeric(tau, dtype))


def rise(tau: Array | Constant, dt: float, dtype: Any) -> Any:
    """1 - exp(-dt/τ), to all digits where τ is long: the leak there rounds to 1."""
    if isinstance(tau, Constant) and isinstance(tau.value, float):
        return -math.expm1(-dt / tau.value)
    return -jnp.expm1(-dt / numeric(tau, dtype))


def time_constant(name: str, tau: Any, n: int) -> Array | Constant:
    """τ, positive, one value or one a neuron; a `jax.Array` trains."""
    one_or_each(name, tau, n)
    if not isinstance(tau, Tracer) and not np.all(np.asarray(tau) > 0):
        raise ValueError(f"{name} must be positive, but holds {np.min(tau)}.")
    return constant(tau)


def one_or_each(name: str, value: Any, n: int) -> Any:
    """The value, if it is one or one a neuron."""
    if np.shape(value) not in ((), (n,)):
        raise ValueError(
            f"{name} must be one value or one for each of the {n} neurons, but has shape "
            f"{np.shape(value)}."
        )
    return value


def presynaptic_signs(signs: Any, n: int) -> tuple[int, ...]:
    """±1 for each presynaptic neuron."""
    signs = tuple(int(s) for s in np.asarray(signs))
    if len(signs) != n or not set(signs) <= {-1, 1}:
        raise ValueError(
            f"signs must hold +1 or -1 for each of the {n} neurons, but has {len(signs)} entries "
            f"with the values {sorted(set(signs))}."
        )
    return signs


def connectivity(mask: Any, n: int, gates: int = 1) -> FrozenArray | Bool[Array, "post pre"] | None:
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
    return connectivity.numpy() if isinstance(connectivity, FrozenArray) else connectivity


def synapses(
    connectivity: FrozenArray | Array | None, n: int, autapses: bool
) -> np.ndarray | Array | None:
    """Which entries [post, pre] exist; None: all of them."""
    mask = as_mask(connectivity)
    if autapses:
        return mask
    others = ~np.eye(n, dtype=bool)
    return others if mask is None else mask & others


def _as_array(mask: Any) -> np.ndarray:
    try:
        return np.asarray(mask)
    except ValueError as error:
        raise ValueError(f"mask must be a boolean matrix [post, pre], but {error}.") from error
