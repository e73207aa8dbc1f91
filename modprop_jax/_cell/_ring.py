"""Initial values of units that are linear, complex and diagonal: numbers in a ring."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._precision import wide


class Ring(NamedTuple):
    """λ = exp(-e^ν + i e^θ), and what |λ|² lacks of 1."""

    nu: Float[Array, " n"]
    theta: Float[Array, " n"]
    missing: Float[Array, " n"]


def in_ring(
    keys: tuple[PRNGKeyArray, PRNGKeyArray],
    n: int,
    r_min: float,
    r_max: float,
    max_phase: float,
    dtype: DTypeLike,
) -> Ring:
    """λ uniform in the ring r_min ≤ |λ| ≤ r_max with a phase in (0, max_phase)."""
    r_min = arguments.number("r_min", r_min, arguments.FRACTION)
    r_max = arguments.number("r_max", r_max, arguments.FRACTION)
    if r_min > r_max:
        raise ValueError(f"r_min must be at most r_max={r_max}, but is {r_min}.")
    max_phase = arguments.number("max_phase", max_phase, arguments.POSITIVE)
    dtype = wide(dtype)
    tiny = float(jnp.finfo(dtype).eps)
    # 1 - |λ|², so that no digits are lost near the unit circle
    missing = jr.uniform(keys[0], (n,), dtype, 1 - r_max**2, 1 - r_min**2)
    missing = jnp.clip(missing, tiny, 1 - tiny)
    nu = jnp.log(-0.5 * jnp.log1p(-missing))
    return Ring(nu, jnp.log(max_phase * jr.uniform(keys[1], (n,), dtype, tiny)), missing)
