"""Spikes, exact forward, and the pseudo-derivatives that stand for theirs backward."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._tree import traced


def triangular(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """ψ(u) = max(0, 1 - |u|): Esser et al., PNAS 113 (2016); e-prop's and MDGL's."""
    u = arguments.floats("u", u)
    return jnp.maximum(1 - jnp.abs(u), 0)


def fast_sigmoid(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """ψ(u) = 1 / (1 + |u|)², of u / (1 + |u|): Zenke & Ganguli, Neural Computation 30 (2018)."""
    u = arguments.floats("u", u)
    return 1 / (1 + jnp.abs(u)) ** 2


def gaussian(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """ψ(u) = exp(-u²/2): Wu, Deng, Li, Zhu & Shi, Frontiers in Neuroscience 12 (2018)."""
    u = arguments.floats("u", u)
    return jnp.exp(-(u**2) / 2)


def exponential(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """ψ(u) = exp(-|u|): Shrestha & Orchard, NeurIPS 2018 (SLAYER)."""
    u = arguments.floats("u", u)
    return jnp.exp(-jnp.abs(u))


def arctan(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """ψ(u) = 1 / (1 + (πu)²), of arctan(πu) / π: Fang et al., ICCV 2021."""
    u = arguments.floats("u", u)
    return 1 / (1 + (jnp.pi * u) ** 2)


def boxcar(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """ψ(u) = 1 where |u| < 1/2, else 0: Wu, Deng, Li, Zhu & Shi, as `gaussian`."""
    u = arguments.floats("u", u)
    return jnp.where(jnp.abs(u) < 0.5, jnp.ones_like(u), 0)


def spike(
    u: Float[Array, "..."],
    *,
    dampening: float = 0.3,
    surrogate: Callable[[Array], Array] = triangular,
) -> Float[Array, "..."]:
    r"""Spikes of your own neuron: \( z = H(u) \), with \( dz/du = \gamma\,\psi(u) \) backward.

    **Arguments:** `u`: how far the membrane is above its threshold, in units that put rest near
    -1. `dampening`: γ. `surrogate`: ψ. **Returns:** 1 where u > 0, else 0; NaN where u is NaN,
    so that a network does not fall silent over a bad input.

    Source: Bellec et al., Nature Communications 11 (2020).
    """
    u = arguments.floats("u", u)
    dampening = arguments.number("dampening", dampening, arguments.NOT_NEGATIVE)
    return _spike(
        pseudo_derivative(surrogate, u.shape[-1] if u.ndim else None), dampening, traced(u)
    )


_GIVEN = triangular, fast_sigmoid, gaussian, exponential, arctan, boxcar


def pseudo_derivative(
    surrogate: Callable[[Array], Array], n: int | None
) -> Callable[[Array], Array]:
    """ψ, if it is an elementwise function; `n`: the number of neurons."""
    if any(surrogate is given for given in _GIVEN):
        return surrogate
    return arguments.elementwise("surrogate", surrogate, n)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _spike(surrogate: Callable, dampening: float, u: Array) -> Array:
    del surrogate, dampening
    # unlike u > 0, it keeps NaN
    return jnp.maximum(jnp.sign(u), 0)


@_spike.defjvp
def _spike_jvp(surrogate, dampening, primals, tangents):
    ((u,), (d_u,)) = primals, tangents
    return _spike(surrogate, dampening, u), dampening * surrogate(u) * d_u
