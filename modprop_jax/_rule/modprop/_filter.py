"""ModProp's filter: how type-summed credit moves in a step, its taps, and whether it is stable."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ..._cell import computing, NeuronCell
from ..._precision import wide, widened
from ..._radius import radius, radius_at_most
from ..._sharding import over_steps
from ..._static import Constant, numeric
from ..._synapses._base import one_hot
from ..._tree import each, stop
from .._types import mean_over_all, Types


class Filter(eqx.Module):
    r"""What is made of the weights once a call; C types, or C = n if cell-specific.

    `kappa`: κ [receiving, sending]; `self_kappa`: κ_aa where there are no autapses, else 0;
    `leak`: D̄, the mean nominal leak of each type; `count`: N, the neurons of each type. Where μ
    varies (`mu` (*batch, C)), κ was made with μ = 1 and its columns are multiplied by `mu`.
    """

    kappa: Float[Array, "C C"]
    self_kappa: Float[Array, " C"]
    leak: Float[Array, " C"]
    count: Float[Array, " C"]

    def own(self, summed: Float[Array, "*batch C"], mu: Array | None) -> Array:
        """κ_self, shaped as `summed`."""
        own = jnp.broadcast_to(self.self_kappa, summed.shape)
        return own if mu is None else own * mu

    def back(self, summed: Float[Array, "*batch C"], mu: Array | None) -> tuple[Array, Array]:
        """`(κᵀ G, (D̄ - κ_self + κN)ᵀ G)`: what is received, and G one step earlier."""
        crossed = summed @ self.kappa
        if mu is not None:
            crossed = crossed * mu
        leak, count = (jnp.broadcast_to(a, summed.shape) for a in (self.leak, self.count))
        return crossed, summed * (leak - self.own(summed, mu)) + crossed * count


def filter_of(mu: Array | Constant, types: Types, cell: NeuronCell) -> Filter:
    """The filter of this μ, from the current weights; no gradient passes through it."""
    n, dtype = cell.hidden_size, wide(cell.dtype)
    autapses, cell = cell.autapses, stop(computing(cell).effective())
    mu = jnp.asarray(numeric(mu, dtype), dtype)
    if mu.shape not in ((), (n,)):
        mu = mu[np.asarray(types)]
    mu = jnp.broadcast_to(mu, (n,))
    gain = jnp.broadcast_to(jnp.asarray(cell.gain, dtype), (n,))
    leak = jnp.broadcast_to(jnp.asarray(cell.leak, dtype), (n,))
    synapses = widened(cell.recurrent)
    count = jnp.asarray(counts(types, n), dtype)
    if types is None:
        kappa = gain[:, None] * synapses.as_matrix() * mu[None, :]
        return Filter(kappa, jnp.zeros(n, dtype), leak, count)
    kappa = mean_over_all(synapses, types, gain, mu)
    own = jnp.zeros_like(count) if autapses else jnp.diagonal(kappa)
    return Filter(kappa, own, leak @ one_hot(types, dtype) / count, count)


class Power(eqx.Module):
    """Ĵ^s = diag(D^s) + U F_s Uᵀ, for one lag s, or for several on a leading axis."""

    modulated: Float[Array, "*lags C C"]
    local: Float[Array, "*lags C"]


def powers(filters: Filter, lags: int) -> Power:
    """Ĵ^s for s = 0 ... lags."""
    decay = filters.leak - filters.self_kappa

    def following(power, _):
        # Ĵ Ĵ^s = (diag D + U κ Uᵀ) (diag D^s + U F_s Uᵀ), with UᵀU = N
        count = filters.kappa * filters.count[None, :]
        modulated = decay[:, None] * power.modulated
        modulated += filters.kappa * power.local[None, :] + count @ power.modulated
        power = Power(modulated, decay * power.local)
        return power, power

    first = Power(jnp.zeros_like(filters.kappa), jnp.ones_like(decay))
    _, rest = over_steps(following, first, length=lags)
    return Power(
        jnp.concatenate([first.modulated[None], rest.modulated]),
        jnp.concatenate([first.local[None], rest.local]),
    )


@jax.jit
def filter_radius(filters: Filter) -> Float[Array, "*members"]:
    """Spectral radius of Ĵ: of its type-summed part, and of what a type's sum does not see."""

    def one(filters):
        shared, alone = _parts(filters)
        return jnp.maximum(radius(shared), alone)

    return each(one, filters.kappa.ndim - 2)(filters)


@functools.partial(jax.jit, static_argnames="limit")
def is_stable(
    filters: Filter, share: Float[ArrayLike, ""] = 1.0, *, limit: float = 1.0
) -> Bool[Array, ""]:
    """Whether this radius is at most `limit`, of all members, with this share of κ."""

    def one(filters):
        kappa, own = share * filters.kappa, share * filters.self_kappa
        shared, alone = _parts(Filter(kappa, own, filters.leak, filters.count))
        return radius_at_most(shared, limit) & (alone <= limit)

    return each(one, filters.kappa.ndim - 2)(filters).all()


def stable_share(filters: Filter) -> float:
    """The largest share of κ, to 1 in 1,000, with which all members are stable."""
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if is_stable(filters, middle) else (low, middle)
    return low


def _parts(filters: Filter) -> tuple[Float[Array, "C C"], Float[Array, ""]]:
    """Ĵ of the types' sums, and the radius of what these do not see."""
    decay = filters.leak - filters.self_kappa
    alone = jnp.where(filters.count > 1, jnp.abs(decay), 0)
    return jnp.diag(decay) + filters.kappa * filters.count[None, :], alone.max()


def sum_by_type(credit: Float[Array, "*batch n"], types: Types) -> Float[Array, "*batch C"]:
    """Uᵀ credit."""
    return credit if types is None else credit @ one_hot(types, credit.dtype)


def to_neurons(by_type: Float[Array, "*batch C"], types: Types) -> Float[Array, "*batch n"]:
    """U by_type."""
    return by_type if types is None else by_type @ one_hot(types, by_type.dtype).T


def counts(types: Types, n: int) -> np.ndarray:
    """Neurons of each type."""
    return np.ones(n, int) if types is None else np.bincount(types)
