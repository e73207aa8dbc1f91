"""optax gradient transformations: constraints on weights, and traces of past gradients."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from . import _arguments as arguments
from ._eligibility import (
    eligibility_traces as eligibility_traces,
    EligibilityTracesState as EligibilityTracesState,
)


def dale(signs: Sequence[int] | np.ndarray) -> optax.GradientTransformation:
    """Keep every presynaptic neuron excitatory or inhibitory (Dale's law).

    For each weight `w[post, pre]` with update `u[post, pre]` and sign `s[pre]` = ±1,

        u ← u if s (w + u) ≥ 0, else −w

    so that the stepped weight keeps its sign or is exactly 0. Put it last in
    `optax.chain`, and use `optax.masked` to keep it off parameters that have no
    presynaptic sign (input weights, biases). A weight that stands on the wrong side
    already is brought to 0.

    **Arguments:** `signs`: +1 or −1 for each presynaptic neuron; the last axis of every
    weight.

    **Raises:** `ValueError` if a sign is not ±1, if a weight's last axis has another
    length, or if the optimizer is updated without its parameters.
    """
    fixed = np.asarray(arguments.signs("signs", signs))

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None):
        params = _needed(params, "dale")

        def keep_sign(u, w):
            sign = _along(fixed, w, "dale")
            return jnp.where(sign * (w + u) >= 0, u, -w)

        return jax.tree.map(keep_sign, updates, params), state

    return optax.GradientTransformation(init, update)


def symmetric(inputs: Sequence[bool] | np.ndarray) -> optax.GradientTransformation:
    """Keep the weights among units that are not clamped symmetric, as `EqProp` needs it.

    For each weight `w[post, pre]` with update `u[post, pre]`,

        u ← ((w + u) + (w + u)ᵀ) / 2 − w   where neither unit is clamped, else u

    so that the stepped weight is symmetric, whatever it was. Put it last in `optax.chain`, and use
    `optax.masked` to keep it off biases. Both directions of a pair have to exist in a mask, or
    neither.

    **Arguments:** `inputs`: boolean (n,), the units that are clamped: those of the
    `EquilibriumCell`.

    **Raises:** `ValueError` if a weight is not (n, n), or if the optimizer is updated without its
    parameters.
    """
    flags = arguments.array("inputs", inputs, "boolean (n,), one flag a unit")
    if flags.ndim != 1 or flags.dtype != np.bool_ or arguments.is_traced(inputs):
        raise ValueError(
            f"inputs must be boolean (n,), one flag a unit, but is {arguments.shown(inputs)}."
        )
    free = ~np.asarray(flags)

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None):
        params = _needed(params, "symmetric")

        def tie(u, w):
            if w.shape[-2:] != (free.size, free.size):
                raise ValueError(
                    f"symmetric ties weights of {free.size} units, but got a weight of shape "
                    f"{w.shape}: leave out biases with optax.masked."
                )
            stepped = w + u
            tied = (stepped + jnp.swapaxes(stepped, -1, -2)) / 2
            both = np.broadcast_to(free[:, None] & free[None, :], w.shape)
            return jnp.where(both, tied - w, u)

        return jax.tree.map(tie, updates, params), state

    return optax.GradientTransformation(init, update)


class FPTTState(NamedTuple):
    """The running mean of the weights, and the running sum that holds them to it."""

    mean: PyTree
    multiplier: PyTree


def fptt(
    alpha: float | int = 0.5, beta: float | int = 0.5, rho: float | int = 0.0
) -> optax.GradientTransformation:
    r"""Forward propagation through time: gradients of segments, held to a running mean of weights.

    For the gradient g of each segment, by backpropagation within it, at the weights θ,

        g ← g + (ρ − 1) λ + α (θ − θ̄)

    and, once the optimizer has stepped to a new θ,

        λ ← λ − α (θ − θ̄),   θ̄ ← (1 − β) θ̄ + β θ − (β / α) λ

    with θ̄ the first θ and λ = 0 at the start. Put it first in `optax.chain`: what follows the step
    is done when the next gradient comes, as its parameters are the new θ. Memory: twice the
    parameters; no trace of the past, so a rule of segments such as `BPTT` stays truncated. The
    published program weights the loss of the k-th of K segments by k / K.

    **Arguments:** `alpha`: α, how strongly weights are held to their mean, above 0. `beta`: β, the
    share of the new weights in it. `rho`: ρ. The defaults are those of the published add task.

    **Raises:** `ValueError` if the optimizer is updated without its parameters.

    Sources: Kag & Saligrama, "Training recurrent neural networks via forward propagation through
    time", ICML 2021; on spiking networks Yin, Corradi & Bohté (arXiv 2112.11231), whose program
    this follows.
    """
    alpha = arguments.number("alpha", alpha, arguments.POSITIVE)
    beta = arguments.number("beta", beta, arguments.FRACTION)
    rho = arguments.number("rho", rho, arguments.FRACTION)

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return FPTTState(jax.tree.map(jnp.copy, params), zeros)

    def update(updates, state, params=None):
        params = _needed(params, "fptt")
        multiplier = jax.tree.map(
            lambda m, w, mean: m - alpha * (w - mean), state.multiplier, params, state.mean
        )
        mean = jax.tree.map(
            lambda mean, w, m: (1 - beta) * mean + beta * w - beta / alpha * m,
            state.mean,
            params,
            multiplier,
        )
        held = jax.tree.map(
            lambda g, m, w, mean: g + (rho - 1) * m + alpha * (w - mean),
            updates,
            multiplier,
            params,
            mean,
        )
        return held, FPTTState(mean, multiplier)

    return optax.GradientTransformation(init, update)


class RewireState(NamedTuple):
    """Steps taken, and the data of the key that draws synapses to revive."""

    steps: Int[Array, ""]
    key_data: Array


def rewire(
    signs: Sequence[int] | np.ndarray,
    *,
    shrink: optax.ScalarOrSchedule = 0.0,
    connectivity: float = 0.99,
    revive: float = 1e-12,
    seed: int = 0,
) -> optax.GradientTransformation:
    r"""Dale's law, a constant shrinkage, and revival of synapses that reached zero.

    For each weight `w[post, pre]` with update `u` and sign `s[pre]` = ±1, in this order,

    \[ \theta = \max(s (w + u), 0), \qquad
       \theta \leftarrow \max(\theta - shrink, 0), \qquad
       \theta \leftarrow revive \text{ at } k \text{ random entries with } \theta = 0, \]

    and w becomes \(s\theta\). With N entries, k is the number at zero beyond
    (1 − `connectivity`) N, if any: a synapse that lost its weight leaves its place to another.
    Put it last in `optax.chain`, in place of `dale`, and use `optax.masked` to keep it off
    parameters that have no presynaptic sign. An optax update is added to the weight, so a weight
    that is floored and drawn in the same step is revived only if drawn again. Cost: one sort a
    weight matrix.

    **Arguments:**

    - `signs`: +1 or −1 for each presynaptic neuron; the last axis of every weight.
    - `shrink`: by how much all nonzero magnitudes shrink in a step, or a schedule of it. The
        published experiments take 0.01 times the learning rate.
    - `connectivity`: share of entries that are never left at zero; 0 revives none.
    - `revive`: magnitude of a revived synapse.
    - `seed`: of the draws.

    **Raises:** `ValueError` as `dale` does, and if `connectivity` is not in [0, 1] or `revive` is
    not positive.

    Sources: Bellec, Kappel, Maass & Legenstein, ICLR 2018 (arXiv 1711.05136); with these settings
    Liu, Smith, Mihalas, Shea-Brown & Sümbül, NeurIPS 2022 (arXiv 2206.01338).
    """
    fixed = np.asarray(arguments.signs("signs", signs))
    if not callable(shrink):
        shrink = arguments.amount("shrink", shrink, arguments.NOT_NEGATIVE)
    connectivity = arguments.number("connectivity", connectivity, arguments.FRACTION)
    revive = arguments.number("revive", revive, arguments.POSITIVE)
    seed = arguments.whole("seed", seed)

    def init(params):
        del params
        return RewireState(jnp.zeros((), jnp.int32), jr.key_data(jr.key(seed)))

    def update(updates, state, params=None):
        params = _needed(params, "rewire")
        amount = shrink(state.steps) if callable(shrink) else shrink
        leaves, structure = jax.tree.flatten(params)
        key = jr.fold_in(jr.wrap_key_data(state.key_data), state.steps)
        keys = jax.tree.unflatten(structure, list(jr.split(key, len(leaves))))

        def step(u, w, key):
            sign = _along(fixed, w, "rewire")
            magnitude = jnp.maximum(sign * (w + u), 0)
            magnitude = jnp.maximum(magnitude - jnp.asarray(amount, w.dtype), 0)
            allowed = int((1 - connectivity) * w.size + 1e-6)
            drawn = _draw(key, magnitude == 0, allowed)
            return sign * jnp.where(drawn, jnp.asarray(revive, w.dtype), magnitude) - w

        updates = jax.tree.map(step, updates, params, keys)
        return updates, RewireState(state.steps + 1, state.key_data)

    return optax.GradientTransformation(init, update)


def _draw(key: Array, zero: Array, allowed: int) -> Array:
    """Random entries among those at `zero`, as many as there are beyond `allowed`."""
    ticket = jnp.where(zero, jr.uniform(key, zero.shape), jnp.inf)
    excess = jnp.sum(zero) - allowed
    last = jnp.sort(ticket, axis=None)[jnp.maximum(excess - 1, 0)]
    return zero & (ticket <= last) & (excess > 0)


def _needed(params: PyTree | None, name: str) -> PyTree:
    if params is None:
        raise ValueError(f"{name} needs the weights: call optimizer.update(grads, state, params).")
    return params


def _along(signs: np.ndarray, w: Float[Array, "..."], name: str) -> Array:
    """The signs, shaped to multiply a weight."""
    if w.ndim == 0 or w.shape[-1] != signs.size:
        raise ValueError(
            f"{name} has {signs.size} presynaptic signs, but a weight has shape {w.shape}; use "
            "optax.masked to apply it to recurrent and readout weights only."
        )
    return jnp.asarray(signs, w.dtype).reshape((1,) * (w.ndim - 1) + (-1,))
