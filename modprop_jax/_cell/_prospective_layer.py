"""A layer of the network of Generalized Latent Equilibrium: any layer of equinox, two constants."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._constrained import AbstractConstrained
from .._static import Constant, Given, spread, Trainable
from .._tree import each, inexact
from ._constants import trainable


class ProspectiveLayer(eqx.Module):
    """The synapses onto one layer, and its neurons.

    `weight` and `bias` are those of `synapses`, a layer of equinox.
    """

    synapses: eqx.Module
    tau_m: Trainable
    tau_r: Trainable
    activation: Callable = eqx.field(static=True)
    in_size: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @property
    def weight(self) -> Any:
        """Of a dense layer (post, pre)."""
        return getattr(self.synapses, "weight")

    @property
    def bias(self) -> Any:
        """Of a dense layer (post,)."""
        return getattr(self.synapses, "bias")

    def drive(self, rates: Float[Array, "*batch m"]) -> Float[Array, "*batch n"]:
        """What the synapses make of presynaptic rates, flat on both sides."""

        def one(rates):
            return _flat(self.synapses, rates)

        return each(one, rates.ndim - 1)(rates)

    def membrane_constant(self, like: Array) -> Array:
        """tau_m of each entry of an array (*batch, n)."""
        return entries(self.tau_m, like)

    def rate_constant(self, like: Array) -> Array:
        """tau_r of each entry of an array (*batch, n)."""
        return entries(self.tau_r, like)


def slope(activation: Callable, ub: Array) -> Array:
    """φ'(ub), which only rules read."""
    _, tangent = jax.jvp(activation, (ub,), (jnp.ones_like(ub),))
    return tangent


def entries(tau: Trainable, like: Array) -> Array:
    """One number, or one a neuron, for each entry of an array (*batch, n)."""
    return jnp.broadcast_to(jnp.asarray(spread(tau, like), like.dtype), like.shape)


def _flat(synapses: PyTree, rates: Float[Array, " m"]) -> Float[Array, " n"]:
    """A layer of equinox on one example's rates."""
    if isinstance(synapses, eqx.nn.Conv):
        rates = rates.reshape(synapses.in_channels, -1)
    return synapses(rates).reshape(-1)


def driven(synapses: object, in_size: int, index: int) -> int:
    """The number of neurons that a layer, the `index`-th, drives."""
    if not isinstance(synapses, eqx.Module) or not callable(synapses):
        raise ValueError(
            "sizes holds numbers of neurons, or layers of equinox such as eqx.nn.Conv1d, but one "
            f"entry is {synapses!r}."
        )
    if isinstance(synapses, eqx.nn.Conv):
        if synapses.num_spatial_dims != 1:
            raise ValueError(
                f"Layer {index} is a convolution over {synapses.num_spatial_dims} dimensions, but "
                "rates are taken as (channels, positions): use eqx.nn.Conv1d."
            )
        if in_size % synapses.in_channels:
            raise ValueError(
                f"A convolution of {synapses.in_channels} channels came after {in_size} rates, "
                "which it takes as (channels, positions): their number must be a multiple."
            )
    rates = jnp.zeros(in_size, parameter_dtype(synapses))
    try:
        n = eqx.filter_eval_shape(_flat, synapses, rates).size
    except Exception as error:  # equinox has no one class for what does not fit
        raise ValueError(
            f"Layer {index} ({type(synapses).__name__}) does not take {in_size} rates, the number "
            f"that the entry of sizes before it makes: {error}"
        ) from error
    if n == 0:
        raise ValueError(f"Layer {index} drives no neurons after {in_size} rates.")
    return n


def parameter_dtype(synapses: PyTree) -> np.dtype:
    """Of the parameters; the JAX default if there are none."""
    leaves = jax.tree.leaves(inexact(synapses))
    return leaves[0].dtype if leaves else jnp.result_type(float)


def at_least(dt: float | Array) -> arguments.Range:
    """The time constants that Euler steps of dt can follow."""
    return arguments.POSITIVE._replace(
        words=f"at least dt={arguments.shown(dt)}, or Euler steps overshoot", low=dt, with_low=True
    )


def layer_constant(
    name: str,
    tau: Given,
    n: int,
    dt: float | Array | Constant,
    dtype: DTypeLike,
    *,
    each: bool = False,
) -> Trainable:
    """A time constant of one layer; with `each` it trains whatever it is, one a neuron."""
    within = arguments.POSITIVE if eqx.is_array(dt) else at_least(float(dt))
    tau = trainable(name, tau, n, within, dtype)
    if each and not isinstance(tau, AbstractConstrained):
        tau = jnp.broadcast_to(jnp.asarray(spread(tau, jnp.zeros(n, dtype)), dtype), (n,))
    # a copy of its own: buffers of a model may be donated
    return jax.tree.map(jnp.array, tau)
