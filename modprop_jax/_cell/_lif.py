import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._static import Constant, constant, numeric
from ._base import NeuronCell
from ._constants import decay, one_or_each, time_constant


def triangular(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """The pseudo-derivative ψ(u) = max(0, 1 - |u|) of a spike."""
    return jnp.maximum(1 - jnp.abs(u), 0)


class AbstractLIF(NeuronCell):
    """What integrate-and-fire cells share: the membrane, its reset, and the refractory steps."""

    tau: Array | Constant
    threshold: float = eqx.field(static=True)
    dampening: float = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    refractory: int = eqx.field(static=True)
    surrogate: Callable[[Array], Array] = eqx.field(static=True)
    scale_input: bool = eqx.field(static=True)
    reset_gradient: bool = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        tau: Any,
        threshold: float = 1.0,
        dampening: float = 0.3,
        dt: float = 1.0,
        refractory: int = 0,
        surrogate: Callable[[Array], Array] = triangular,
        scale_input: bool = False,
        reset_gradient: bool = False,
        **options: Any,
    ):
        """See `LIFCell`."""
        NeuronCell.__init__(self, in_size, hidden_size, **options)
        if not threshold > 0 or refractory < 0:
            raise ValueError(
                f"{type(self).__name__} needs threshold > 0 and refractory >= 0, but got "
                f"threshold={threshold}, refractory={refractory}."
            )
        self.tau = time_constant("tau", tau, hidden_size)
        self.threshold = float(threshold)
        self.dampening = float(dampening)
        self.dt = float(dt)
        self.refractory = int(refractory)
        self.surrogate = surrogate
        self.scale_input = scale_input
        self.reset_gradient = reset_gradient

    @property
    def leak(self) -> Any:
        """α = exp(-dt/τ)."""
        return decay(self.tau, self.dt, self.weight_rec.dtype)

    @property
    def gain(self) -> Any:
        """s_in."""
        return 1 - self.leak if self.scale_input else 1.0

    def membrane(self, state: PyTree) -> Float[Array, "*batch n"]:
        """v, the first of the state's variables."""
        return state[0]

    def next_membrane(self, v: Array, spikes: Array, drive: Array) -> Float[Array, "*batch n"]:
        """α v + s_in drive - v_th z."""
        leak, gain = (_like(value, v) for value in (self.leak, self.gain))
        if not self.reset_gradient:
            spikes = jax.lax.stop_gradient(spikes)
        return leak * v + gain * drive - self.threshold * spikes

    def next_blocked(self, blocked: Int[Array, "*batch n"], spikes: Array) -> Array:
        """Steps that remain refractory: the last variable of the state, in integers."""
        silent = jnp.full_like(blocked, max(self.refractory - 1, 0))
        return jnp.where(spikes > 0, silent, jnp.maximum(blocked - 1, 0))

    def spikes(self, above: Array, blocked: Array) -> Float[Array, "*batch n"]:
        """z of how far the membrane is above its threshold."""
        return _spike(self.surrogate, self.dampening, above / self.threshold, blocked)


class LIFCell(AbstractLIF):
    r"""Leaky integrate-and-fire neurons with reset by subtraction.

    \[ v_t = \alpha v_{t-1} + s_{in}\,drive_t - v_{th}\,z_{t-1}, \qquad
       z_t = H(u_t), \quad u_t = (v_t - v_{th}) / v_{th}, \qquad \alpha = e^{-dt/\tau} \]

    with \(drive_t = W_{rec} z_{t-1} + W_{in} x_t + b\). Spikes are exact forward; backward
    \(\partial z/\partial v = (\gamma/v_{th})\,\psi(u)\), the pseudo-derivative, 0 while
    refractory. State: (v, steps still refractory), each (*batch, n). Emission and message: z.
    Time O(n(n+m)) a step and example.

    Source: Bellec et al., Nature Communications 11 (2020), whose conventions are the defaults.
    """

    def __init__(self, in_size: int, hidden_size: int, *, tau: Any, **options: Any):
        """**Arguments:** those of `NeuronCell`, and

        - `tau`: membrane time constant in the unit of `dt`; scalar or (n,); a `jax.Array` trains.
        - `threshold`: v_th (1.0). `dampening`: γ (0.3). `surrogate`: ψ of u (`triangular`).
        - `dt`: length of a step (1.0).
        - `refractory`: n_ref: a spike at t blocks t+1 ... t+n_ref-1; 0 (default) and 1 block
            nothing.
        - `scale_input`: s_in = 1 - α, else 1 (default).
        - `reset_gradient`: whether credit passes through the reset, within the neuron (False).
        """
        AbstractLIF.__init__(self, in_size, hidden_size, tau=tau, **options)

    def init(self, batch_shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Zero membrane, not refractory."""
        shape = (*batch_shape, self.hidden_size)
        return jnp.zeros(shape, self.weight_rec.dtype), jnp.zeros(shape, jnp.int32)

    def integrate(
        self, state: tuple[Array, Array], drive: Float[Array, "*batch n"]
    ) -> tuple[Array, Array]:
        """Leak, drive and reset."""
        v, blocked = state
        z = self.emit(state)
        return self.next_membrane(v, z, drive), self.next_blocked(blocked, z)

    def emit(self, state: tuple[Array, Array]) -> Float[Array, "*batch n"]:
        """Spikes, 0 or 1."""
        v, blocked = state
        return self.spikes(v - self.threshold, blocked)


class ALIFCell(AbstractLIF):
    r"""Adaptive leaky integrate-and-fire neurons: each spike raises the threshold for a while.

    As `LIFCell`, with an adaptation b and

    \[ b_t = \rho b_{t-1} + s_a z_{t-1}, \qquad u_t = (v_t - v_{th} - \beta b_t) / v_{th},
       \qquad \rho = e^{-dt/\tau_a} \]

    State: (v, b, steps still refractory). Credit passes from a spike into the adaptation, whether
    or not it passes through the reset. Only the emission reads β: its gradient, if it is a
    `jax.Array`, is exact.

    Source: Bellec et al., Nature Communications 11 (2020), whose conventions are the defaults.
    """

    tau_adaptation: Array | Constant
    beta: Array | Constant
    scale_adaptation: bool = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        tau: Any,
        tau_adaptation: Any,
        beta: Any,
        scale_adaptation: bool = False,
        **options: Any,
    ):
        """**Arguments:** those of `LIFCell`, and

        - `tau_adaptation`: time constant of b; scalar or (n,); a `jax.Array` trains.
        - `beta`: β, how much b raises the threshold; scalar or (n,), 0 for neurons that do not
            adapt; a `jax.Array` trains.
        - `scale_adaptation`: s_a = 1 - ρ, else 1.
        """
        AbstractLIF.__init__(self, in_size, hidden_size, tau=tau, **options)
        self.tau_adaptation = time_constant("tau_adaptation", tau_adaptation, hidden_size)
        self.beta = constant(one_or_each("beta", beta, hidden_size))
        self.scale_adaptation = scale_adaptation

    def init(self, batch_shape: tuple[int, ...] = ()) -> tuple[Array, Array, Array]:
        """Zero membrane and adaptation, not refractory."""
        shape = (*batch_shape, self.hidden_size)
        zero = jnp.zeros(shape, self.weight_rec.dtype)
        return zero, zero, jnp.zeros(shape, jnp.int32)

    def integrate(
        self, state: tuple[Array, Array, Array], drive: Float[Array, "*batch n"]
    ) -> tuple[Array, Array, Array]:
        """Leak, drive and reset; the adaptation follows the spikes."""
        v, b, blocked = state
        z = self.emit(state)
        rho = _like(decay(self.tau_adaptation, self.dt, b.dtype), b)
        scale = 1 - rho if self.scale_adaptation else jnp.ones_like(rho)
        return self.next_membrane(v, z, drive), rho * b + scale * z, self.next_blocked(blocked, z)

    def emit(self, state: tuple[Array, Array, Array]) -> Float[Array, "*batch n"]:
        """Spikes, 0 or 1."""
        v, b, blocked = state
        beta = _like(numeric(self.beta, b.dtype), b)
        return self.spikes(v - self.threshold - beta * b, blocked)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _spike(surrogate: Callable, dampening: float, u: Array, blocked: Array) -> Array:
    """1 where u > 0 and not refractory, else 0; the derivative by u is γ ψ(u)."""
    del surrogate, dampening
    return jnp.where((u > 0) & (blocked == 0), jnp.ones_like(u), 0)


@_spike.defjvp
def _spike_jvp(surrogate, dampening, primals, tangents):
    (u, blocked), (d_u, _) = primals, tangents
    slope = jnp.where(blocked == 0, dampening * surrogate(u), 0)
    return _spike(surrogate, dampening, u, blocked), slope * d_u


def _like(value: Any, array: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(value, array.dtype), array.shape)
