import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._precision import times, wide, widened
from ._base import batch_axes, BatchShape, Final
from ._init import scaled_normal
from ._ring import in_ring
from ._separable import SeparableCell


class RTUCell(SeparableCell):
    r"""Recurrent trace units: complex and diagonal as an `LRUCell`, without its output matrix.

    \[ p_t = g \odot a_{t-1} - \varphi \odot b_{t-1} + \gamma \odot (W_1 x_t), \qquad
       q_t = g \odot b_{t-1} + \varphi \odot a_{t-1} + \gamma \odot (W_2 x_t) \]
    \[ g = r \cos e^{\theta}, \quad \varphi = r \sin e^{\theta}, \quad
       r = \exp(-e^{\nu}), \quad \gamma = \sqrt{1 - r^2} \]

    Linear, by default: the state is \((a, b)_t = (p, q)_t\), and \([f(a_t), f(b_t)]\) is emitted.
    With `nonlinear=True` the activation is inside: \((a, b)_t = (f(p_t), f(q_t))\), and
    \([a_t, b_t]\) is emitted. ν, θ = `nu`, `theta` (n,), W = `W1`, `W2` (n, m), all real. n units
    emit 2n features: compare them with 2n neurons. State: `(a, b)`, each of n. Time O(n·m) a step
    and example.

    The linear form with an activation between it and a linear readout is a non-linear predictor,
    which an `LRUCell` with a linear readout is not. Its memory fades by r whatever comes in, so
    that it can't blow up; nor can the non-linear one of an activation of slope at most 1.

    A unit receives nothing from others, so local credit is all credit: `DiagonalRTRL` (and `EProp`,
    `SnAp(1)`) give the exact gradient of one layer, linear or not, from 4n(m + 1) numbers an
    example. A `Filtered` one learns offline alone: a unit emits two features.

    Departures from the public program: its gradient by `theta` is that by \(e^{\theta}\), and lacks
    this factor, which is here; it adds 1e-8 to γ; its phases are below 6.28, and its W are drawn
    from a normal that is cut at two standard deviations.

    Source: Elelimy, White, Bowling & White, NeurIPS 2024 (arXiv 2409.01449).
    """

    papers: ClassVar[tuple[str, ...]] = ("elelimy2024rtu",)
    _final: ClassVar[Final] = Final(
        (
            "in_size",
            "hidden_size",
            "drive",
            "received_own",
            "integrate",
            "message",
            "drive_parameters",
            "unit_parameters",
        ),
        "For other dynamics subclass SeparableCell.",
    )

    nu: Float[Array, " n"]
    theta: Float[Array, " n"]
    W1: Float[Array, "n m"]
    W2: Float[Array, "n m"]
    nonlinear: bool = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        nonlinear: bool = False,
        activation: Callable = jnp.tanh,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_size`, `hidden_size`: m inputs, n units, of two features each.
        - `nonlinear`: the activation is inside the recurrence, and not on what is emitted.
        - `activation`: elementwise f; tanh and ReLU are those of the paper.
        - `r_min`, `r_max`, `max_phase`: `r exp(i e^θ)` is drawn uniformly from the ring
            `r_min ≤ r ≤ r_max` with a phase in (0, `max_phase`). Long memories need an `r_min`
            near 1, and then a small phase.
        - `dtype`: of the parameters, real; the JAX default if None.
        - `key`: for the ring, and `W1, W2 ~ N(0, 1/m)`.
        """
        narrow = arguments.dtype("dtype", dtype)
        n, m = arguments.size("hidden_size", hidden_size), arguments.size("in_size", in_size)
        self.nonlinear = arguments.boolean("nonlinear", nonlinear)
        self.activation = arguments.elementwise("activation", activation, hidden_size)
        keys = jr.split(arguments.key("key", key), 4)
        ring = in_ring((keys[0], keys[1]), n, r_min, r_max, max_phase, narrow)
        self.nu, self.theta = ring.nu.astype(narrow), ring.theta.astype(narrow)
        self.W1, self.W2 = (
            scaled_normal(key, (n, m), wide(narrow)).astype(narrow) for key in keys[2:]
        )

    @property
    def in_size(self) -> int:
        """Number of input features, m."""
        return self.W1.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Number of units, n."""
        return self.W1.shape[-2]

    @property
    def drive_parameters(self) -> tuple[str, ...]:
        """The input weights; their gain γ is of ν, which the rotation reads too."""
        return "W1", "W2"

    @property
    def unit_parameters(self) -> tuple[str, ...]:
        """All."""
        return "nu", "theta", "W1", "W2"

    @property
    def matmul_parameters(self) -> tuple[str, ...]:
        """The input weights."""
        return "W1", "W2"

    def init(self, batch_shape: BatchShape = ()) -> tuple[Array, Array]:
        """Zeros."""
        shape = (*batch_axes(batch_shape), self.hidden_size)
        dtype = wide(self.nu.dtype)
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def message(self, state: tuple[Array, Array]) -> None:
        """None: units send nothing to each other."""
        del state

    def drive(
        self, message: None, x: Float[Array, "*batch m"]
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
        """`W1 x` and `W2 x`."""
        del message
        return times(x, self.W1.T), times(x, self.W2.T)

    def integrate(
        self, state: tuple[Array, Array], drive: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Rotate and shrink each unit, add its drive and, if `nonlinear`, activate."""
        a, b = state
        nu, theta = widened((self.nu, self.theta))
        rate, phase = jnp.exp(nu), jnp.exp(theta)
        modulus = jnp.exp(-rate)
        # not √(1 - r²): of an r near 1, few digits are left
        gain = jnp.sqrt(-jnp.expm1(-2 * rate))
        g, phi, gain = (
            jnp.broadcast_to(value, a.shape)
            for value in (modulus * jnp.cos(phase), modulus * jnp.sin(phase), gain)
        )
        rotated = g * a - phi * b + gain * drive[0], g * b + phi * a + gain * drive[1]
        return self._activated(rotated) if self.nonlinear else rotated

    def emit(self, state: tuple[Array, Array]) -> Float[Array, "*batch 2*n"]:
        """Both features of all units, `[a, b]`, activated unless they already are."""
        return jnp.concatenate(state if self.nonlinear else self._activated(state), axis=-1)

    def _activated(self, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        return self.activation(pair[0]), self.activation(pair[1])
