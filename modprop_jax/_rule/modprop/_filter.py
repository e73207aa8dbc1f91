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
from ..._radius import radius, radius_at_most, radius_of
from ..._sharding import over_steps
from ..._static import Constant, numeric
from ..._synapses import AbstractSynapses, Dense
from ..._synapses._base import one_hot
from ..._tree import each, stop
from .._types import mean_over_all, Types


# neurons up to which maps are made a matrix to find a spectral radius exactly
LARGEST = 2048


class Filter(eqx.Module):
    r"""What is made of the weights once a call; C types, or C = n if cell-specific.

    `kappa`: κ [receiving, sending], a map; `self_kappa`: κ_aa where there are no autapses, else 0;
    `leak`: D̄, the mean nominal leak of each type; `count`: N, the neurons of each type. Where μ
    varies (`mu` (*batch, C)), κ was made with μ = 1 and its columns are multiplied by `mu`.
    """

    kappa: "Dense | Weighted"
    self_kappa: Float[Array, " C"]
    leak: Float[Array, " C"]
    count: Float[Array, " C"]

    def own(self, summed: Float[Array, "*batch C"], mu: Array | None) -> Array:
        """κ_self, shaped as `summed`."""
        own = jnp.broadcast_to(self.self_kappa, summed.shape)
        return own if mu is None else own * mu

    def back(self, summed: Float[Array, "*batch C"], mu: Array | None) -> tuple[Array, Array]:
        """`(κᵀ G, (D̄ - κ_self + κN)ᵀ G)`: what is received, and G one step earlier."""
        crossed = self.kappa.back(summed)
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
        return Filter(_weighted(synapses, gain, mu), jnp.zeros(n, dtype), leak, count)
    kappa = Dense(mean_over_all(synapses, types, gain, mu))
    own = jnp.zeros_like(count) if autapses else kappa.own()
    return Filter(kappa, own, leak @ one_hot(types, dtype) / count, count)


class Weighted(AbstractSynapses):
    """gain_j W_ji mu_i, of synapses that need no matrix."""

    synapses: AbstractSynapses
    gain: Float[Array, " n"]
    mu: Float[Array, " n"]

    @property
    def shape(self) -> tuple[int, int]:
        """Of W."""
        return self.synapses.shape

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """As W does."""
        received = self.synapses(pre * _as(self.mu, pre))
        return received * _as(self.gain, received)

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """As W does."""
        sent = self.synapses.back(post * _as(self.gain, post))
        return sent * _as(self.mu, sent)


def _share_of(kappa: Dense | Weighted, share: Float[ArrayLike, ""]) -> Dense | Weighted:
    if isinstance(kappa, Dense):
        return Dense(jnp.multiply(share, kappa.weight))
    return Weighted(kappa.synapses, jnp.multiply(share, kappa.gain), kappa.mu)


def _weighted(synapses: AbstractSynapses, gain: Array, mu: Array) -> Dense | Weighted:
    if isinstance(synapses, Dense):
        return Dense(gain[:, None] * synapses.weight * mu[None, :])
    return Weighted(synapses, gain, mu)


def _as(value: Float[Array, " n"], like: Array) -> Array:
    return jnp.broadcast_to(value, like.shape)


class Power(eqx.Module):
    """Ĵ^s = diag(D^s) + U F_s Uᵀ, for one lag s, or for several on a leading axis."""

    modulated: Float[Array, "*lags C C"]
    local: Float[Array, "*lags C"]


def powers(filters: Filter, lags: int) -> Power:
    """Ĵ^s for s = 0 ... lags."""
    decay, kappa = filters.leak - filters.self_kappa, filters.kappa.as_matrix()

    def following(power, _):
        # Ĵ Ĵ^s = (diag D + U κ Uᵀ) (diag D^s + U F_s Uᵀ), with UᵀU = N
        count = kappa * filters.count[None, :]
        modulated = decay[:, None] * power.modulated
        modulated += kappa * power.local[None, :] + count @ power.modulated
        power = Power(modulated, decay * power.local)
        return power, power

    first = Power(jnp.zeros_like(kappa), jnp.ones_like(decay))
    _, rest = over_steps(following, first, length=lags)
    return Power(
        jnp.concatenate([first.modulated[None], rest.modulated]),
        jnp.concatenate([first.local[None], rest.local]),
    )


@jax.jit
def filter_radius(filters: Filter) -> Float[Array, "*members"]:
    """Spectral radius of Ĵ: of its type-summed part, and of what a type's sum does not see."""

    def one(filters):
        shared = matrix(filters)
        own = _by_products(filters) if shared is None else radius(shared)
        return jnp.maximum(own, _alone(filters))

    return each(one, filters.leak.ndim - 1)(filters)


@functools.partial(jax.jit, static_argnames="limit")
def is_stable(
    filters: Filter, share: Float[ArrayLike, ""] = 1.0, *, limit: float = 1.0
) -> Bool[Array, ""]:
    """Whether this radius is at most `limit`, of all members, with this share of κ."""

    def one(filters):
        own = share * filters.self_kappa
        part = Filter(_share_of(filters.kappa, share), own, filters.leak, filters.count)
        shared = matrix(part)
        if shared is None:
            return jnp.maximum(_by_products(part), _alone(part)) <= limit
        return radius_at_most(shared, limit) & (_alone(part) <= limit)

    return each(one, filters.leak.ndim - 1)(filters).all()


def stable_share(filters: Filter) -> float:
    """The largest share of κ, to 1 in 1,000, with which all members are stable."""
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if is_stable(filters, middle) else (low, middle)
    return low


def matrix(filters: Filter) -> Float[Array, "C C"] | None:
    """Ĵ of the types' sums; None where only a map is small enough to have."""
    if isinstance(filters.kappa, Weighted) and len(filters.leak) > LARGEST:
        return None
    decay = filters.leak - filters.self_kappa
    return jnp.diag(decay) + filters.kappa.as_matrix() * filters.count[None, :]


def _by_products(filters: Filter) -> Float[Array, ""]:
    """The radius of the same; here types are neurons."""
    decay, dtype = filters.leak - filters.self_kappa, filters.leak.dtype
    return radius_of(lambda v: decay * v + filters.kappa(filters.count * v), len(decay), dtype)


def _alone(filters: Filter) -> Float[Array, ""]:
    """The radius of what the types' sums do not see."""
    decay = filters.leak - filters.self_kappa
    return jnp.where(filters.count > 1, jnp.abs(decay), 0).max()


def sum_by_type(credit: Float[Array, "*batch n"], types: Types) -> Float[Array, "*batch C"]:
    """Uᵀ credit."""
    return credit if types is None else credit @ one_hot(types, credit.dtype)


def to_neurons(by_type: Float[Array, "*batch C"], types: Types) -> Float[Array, "*batch n"]:
    """U by_type."""
    return by_type if types is None else by_type @ one_hot(types, by_type.dtype).T


def counts(types: Types, n: int) -> np.ndarray:
    """Neurons of each type."""
    return np.ones(n, int) if types is None else np.bincount(types)
