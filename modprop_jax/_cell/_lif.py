from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _arguments as arguments
from .._precision import wide
from .._static import Given, spread, Trainable
from ._base import batch_axes, BatchShape, Final
from ._constants import decay, rise, trainable, trained_ranges
from ._neuron import NeuronCell
from ._surrogate import pseudo_derivative, spike, triangular


class AbstractLIF(NeuronCell):
    """What integrate-and-fire cells share: the membrane, its reset, and the refractory steps."""

    _final: ClassVar[Final] = Final(
        (
            "integrate",
            "leak",
            "gain",
            "uniform_leak",
            "membrane",
            "next_membrane",
            "next_blocked",
            "spikes",
        ),
        "For other dynamics subclass NeuronCell.",
    )

    tau: Trainable
    threshold: Trainable
    dt: Trainable
    dampening: float = eqx.field(static=True)
    refractory: int = eqx.field(static=True)
    surrogate: Callable[[Array], Array] = eqx.field(static=True)
    scale_input: bool = eqx.field(static=True)
    reset_gradient: bool = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        tau: Given,
        threshold: Given = 1.0,
        dampening: float = 0.3,
        dt: Given = 1.0,
        refractory: int = 0,
        surrogate: Callable[[Array], Array] = triangular,
        scale_input: bool = False,
        reset_gradient: bool = False,
        **options: Any,
    ):
        """See `LIFCell`."""
        NeuronCell.__init__(self, in_size, hidden_size, **options)
        self.tau, self.threshold, self.dt = (
            trainable(name, value, hidden_size, arguments.POSITIVE, self.dtype)
            for name, value in (("tau", tau), ("threshold", threshold), ("dt", dt))
        )
        self.dampening = arguments.number("dampening", dampening, arguments.NOT_NEGATIVE)
        self.refractory = arguments.count("refractory", refractory)
        self.surrogate = pseudo_derivative(surrogate, hidden_size)
        self.scale_input = arguments.boolean("scale_input", scale_input)
        self.reset_gradient = arguments.boolean("reset_gradient", reset_gradient)

    @property
    def leak(self) -> Any:
        """α = exp(-dt/τ)."""
        return decay(self.tau, self.dt, wide(self.dtype))

    @property
    def gain(self) -> Any:
        """s_in."""
        return rise(self.tau, self.dt, wide(self.dtype)) if self.scale_input else 1.0

    @property
    def uniform_leak(self) -> bool:
        """Whether one τ serves all neurons, and no credit passes through the reset."""
        return np.ndim(self.leak) == np.ndim(self.gain) == 0 and not self.reset_gradient

    def membrane(self, state: PyTree) -> Float[Array, "*batch n"]:
        """v, the first of the state's variables."""
        return state[0]

    def next_membrane(self, v: Array, spikes: Array, drive: Array) -> Float[Array, "*batch n"]:
        """α v + s_in drive - v_th z."""
        leak, gain = (_like(value, v) for value in (self.leak, self.gain))
        if not self.reset_gradient:
            spikes = jax.lax.stop_gradient(spikes)
        return leak * v + gain * drive - spread(self.threshold, v) * spikes

    def next_blocked(self, blocked: Int[Array, "*batch n"], spikes: Array) -> Array:
        """Steps that remain refractory: the last variable of the state, in integers."""
        silent = jnp.full_like(blocked, max(self.refractory - 1, 0))
        return jnp.where(spikes > 0, silent, jnp.maximum(blocked - 1, 0))

    def spikes(self, u: Array, blocked: Array) -> Float[Array, "*batch n"]:
        """z of u, 0 while refractory."""
        z = spike(u, dampening=self.dampening, surrogate=self.surrogate)
        return jnp.where(blocked == 0, z, 0)

    def in_range(self) -> dict[str, Bool[Array, ""]]:
        """Of what trains."""
        positive = arguments.POSITIVE
        return trained_ranges(self, tau=positive, threshold=positive, dt=positive)


class LIFCell(AbstractLIF):
    r"""Leaky integrate-and-fire neurons with reset by subtraction.

    \[ v_t = \alpha v_{t-1} + s_{in}\,drive_t - v_{th}\,z_{t-1}, \qquad
       z_t = H(u_t), \quad u_t = (v_t - v_{th}) / v_{th}, \qquad \alpha = e^{-dt/\tau} \]

    with \(drive_t = W_{rec} z_{t-1} + W_{in} x_t + b\). Spikes are exact forward; backward
    \(\partial z/\partial v = (\gamma/v_{th})\,\psi(u)\), the pseudo-derivative, 0 while
    refractory. State: (v, steps still refractory), each (*batch, n). Emission and message: z.
    Time O(n(n+m)) a step and example.

    `tau`, `threshold` and `dt` are one value or one a neuron, and constants unless they are given
    as a `jax.Array`, which trains, or as `Positive(value)`, which trains and stays positive. Their
    gradients, too, have the pseudo-derivative where a spike stands. All else is constant.

    Source: Bellec et al., Nature Communications 11 (2020), whose conventions are the defaults.
    """

    papers: ClassVar[tuple[str, ...]] = ("bellec2020eprop",)

    def __init__(self, in_size: int, hidden_size: int, *, tau: Given, **options: Any):
        """**Arguments:** those of `NeuronCell`, and

        - `tau`: membrane time constant in the unit of `dt`; scalar or (n,); a `jax.Array` or a
            `Positive` trains.
        - `threshold`: v_th (1.0); likewise. `dampening`: γ (0.3).
        - `surrogate`: ψ of u, as in `modprop_jax.surrogate` (`triangular`).
        - `dt`: length of a step (1.0); as `tau`.
        - `refractory`: n_ref: a spike at t blocks t+1 ... t+n_ref-1; 0 (default) and 1 block
            nothing.
        - `scale_input`: s_in = 1 - α, else 1 (default).
        - `reset_gradient`: whether credit passes through the reset, within the neuron (False).
        """
        AbstractLIF.__init__(self, in_size, hidden_size, tau=tau, **options)

    def init(self, batch_shape: BatchShape = ()) -> tuple[Array, Array]:
        """Zero membrane, not refractory."""
        shape = (*batch_axes(batch_shape), self.hidden_size)
        return jnp.zeros(shape, wide(self.dtype)), jnp.zeros(shape, jnp.int32)

    def integrate(
        self, state: tuple[Array, Array], drive: Float[Array, "*batch n"]
    ) -> tuple[Array, Array]:
        """Leak, drive and reset."""
        v, blocked = state
        z = LIFCell.emit(self, state)
        return self.next_membrane(v, z, drive), self.next_blocked(blocked, z)

    def emit(self, state: tuple[Array, Array]) -> Float[Array, "*batch n"]:
        """Spikes, 0 or 1."""
        v, blocked = state
        threshold = spread(self.threshold, v)
        return self.spikes((v - threshold) / threshold, blocked)

    def message(self, state: tuple[Array, Array]) -> Float[Array, "*batch n"]:
        """Spikes, whatever a subclass emits."""
        return LIFCell.emit(self, state)


class ALIFCell(AbstractLIF):
    r"""Adaptive leaky integrate-and-fire neurons: each spike raises the threshold for a while.

    As `LIFCell`, with an adaptation b and

    \[ b_t = \rho b_{t-1} + s_a z_{t-1}, \qquad u_t = (v_t - v_{th} - \beta b_t) / v_{th},
       \qquad \rho = e^{-dt/\tau_a} \]

    State: (v, b, steps still refractory). Credit passes from a spike into the adaptation, whether
    or not it passes through the reset. Only the emission reads β: its gradient, if it is a
    `jax.Array`, is exact.

    With `divide_by_adaptive`, \(u_t = v_t / A_t - 1\) with the threshold
    \(A_t = v_{th} + \beta b_t\), as in one public program, and credit passes through both places
    where A stands: \(\partial z/\partial v = \gamma\psi/A\) and
    \(\partial z/\partial b = -\beta\gamma\psi\,v/A^2\), instead of \(\gamma\psi/v_{th}\) and
    \(-\beta\gamma\psi/v_{th}\).

    Source: Bellec et al., Nature Communications 11 (2020), whose conventions are the defaults.
    """

    papers: ClassVar[tuple[str, ...]] = ("bellec2020eprop",)

    tau_adaptation: Trainable
    beta: Trainable
    scale_adaptation: bool = eqx.field(static=True)
    divide_by_adaptive: bool = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        tau: Given,
        tau_adaptation: Given,
        beta: Given,
        scale_adaptation: bool = False,
        divide_by_adaptive: bool = False,
        **options: Any,
    ):
        """**Arguments:** those of `LIFCell`, and

        - `tau_adaptation`: time constant of b; scalar or (n,); a `jax.Array` or a `Positive`
            trains.
        - `beta`: β, how much b raises the threshold; scalar or (n,), 0 for neurons that do not
            adapt; a `jax.Array` or a `Positive` trains.
        - `scale_adaptation`: s_a = 1 - ρ, else 1.
        - `divide_by_adaptive`: u in units of the adaptive threshold, which needs β >= 0, else of
            v_th.
        """
        AbstractLIF.__init__(self, in_size, hidden_size, tau=tau, **options)
        self.scale_adaptation = arguments.boolean("scale_adaptation", scale_adaptation)
        self.divide_by_adaptive = arguments.boolean("divide_by_adaptive", divide_by_adaptive)
        self.tau_adaptation, self.beta = (
            trainable(name, value, hidden_size, within, self.dtype)
            for name, value, within in (
                ("tau_adaptation", tau_adaptation, arguments.POSITIVE),
                ("beta", beta, self._beta_range),
            )
        )

    @property
    def _beta_range(self) -> arguments.Range:
        if not self.divide_by_adaptive:
            return arguments.FINITE
        words = "0 or more, for a threshold that stays positive (divide_by_adaptive)"
        return arguments.NOT_NEGATIVE._replace(words=words)

    def in_range(self) -> dict[str, Bool[Array, ""]]:
        """Of what trains."""
        own = trained_ranges(self, tau_adaptation=arguments.POSITIVE, beta=self._beta_range)
        return AbstractLIF.in_range(self) | own

    def init(self, batch_shape: BatchShape = ()) -> tuple[Array, Array, Array]:
        """Zero membrane and adaptation, not refractory."""
        shape = (*batch_axes(batch_shape), self.hidden_size)
        dtype = wide(self.dtype)
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.int32)

    def integrate(
        self, state: tuple[Array, Array, Array], drive: Float[Array, "*batch n"]
    ) -> tuple[Array, Array, Array]:
        """Leak, drive and reset; the adaptation follows the spikes."""
        v, b, blocked = state
        z = ALIFCell.emit(self, state)
        rho = _like(decay(self.tau_adaptation, self.dt, b.dtype), b)
        scale = jnp.ones_like(rho)
        if self.scale_adaptation:
            scale = _like(rise(self.tau_adaptation, self.dt, b.dtype), b)
        return self.next_membrane(v, z, drive), rho * b + scale * z, self.next_blocked(blocked, z)

    def emit(self, state: tuple[Array, Array, Array]) -> Float[Array, "*batch n"]:
        """Spikes, 0 or 1."""
        v, b, blocked = state
        resting = spread(self.threshold, v)
        threshold = resting + _like(spread(self.beta, b), b) * b
        divisor = threshold if self.divide_by_adaptive else resting
        return self.spikes((v - threshold) / divisor, blocked)

    def message(self, state: tuple[Array, Array, Array]) -> Float[Array, "*batch n"]:
        """Spikes, whatever a subclass emits."""
        return ALIFCell.emit(self, state)


def _like(value: ArrayLike, array: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(value, array.dtype), array.shape)
