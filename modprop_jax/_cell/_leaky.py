from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import wide
from .._static import Given, Trainable
from .._synapses import AbstractSynapses
from ._base import batch_axes, BatchShape, Final
from ._constants import decay, rise, trainable, trained_ranges
from ._neuron import NeuronCell


class LeakyCell(NeuronCell):
    r"""Leaky rate neurons; the activation is applied to what is sent.

    \[ v_t = \eta v_{t-1} + (1-\eta)(W_{rec}\,\phi(v_{t-1}) + W_{in} x_t + b), \qquad
       z_t = \phi(v_t), \qquad \eta = e^{-dt/\tau} \]

    State: `v` (*batch, n). `tau` and `dt` have one unit. Each is one value or one a neuron, and a
    constant unless it is given as a `jax.Array`, which trains, or as `Positive(value)`, which
    trains and stays positive. Time O(n(n+m)) a step and example.

    Source: the network of Liu, Smith, Mihalas, Shea-Brown & Sümbül, NeurIPS 2022
    (arXiv 2206.01338).
    """

    papers: ClassVar[tuple[str, ...]] = ("liu2022modprop",)
    _final: ClassVar[Final] = Final(
        ("integrate", "leak", "gain", "uniform_leak", "membrane"),
        "For other dynamics subclass NeuronCell.",
    )

    tau: Trainable
    dt: Trainable
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        tau: Given,
        dt: Given = 1.0,
        activation: Callable = jax.nn.relu,
        use_bias: bool = False,
        autapses: bool = False,
        mask: Numbers | None = None,
        signs: Numbers | None = None,
        recurrent: AbstractSynapses | None = None,
        inputs: AbstractSynapses | None = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:** those of `NeuronCell`, and

        - `tau`: membrane time constant; scalar or (n,); a `jax.Array` or a `Positive` trains.
        - `dt`: length of a step, in the unit of `tau`; likewise.
        - `activation`: elementwise φ.
        """
        NeuronCell.__init__(
            self,
            in_size,
            hidden_size,
            key=key,
            use_bias=use_bias,
            autapses=autapses,
            mask=mask,
            signs=signs,
            recurrent=recurrent,
            inputs=inputs,
            dtype=dtype,
        )
        self.tau, self.dt = (
            trainable(name, value, hidden_size, arguments.POSITIVE, self.dtype)
            for name, value in (("tau", tau), ("dt", dt))
        )
        self.activation = arguments.elementwise("activation", activation, hidden_size)

    @property
    def leak(self) -> Any:
        """η = exp(-dt/τ)."""
        return decay(self.tau, self.dt, wide(self.dtype))

    @property
    def gain(self) -> Any:
        """1 - η."""
        return rise(self.tau, self.dt, wide(self.dtype))

    @property
    def uniform_leak(self) -> bool:
        """Whether one τ serves all neurons."""
        return np.ndim(self.leak) == 0

    def init(self, batch_shape: BatchShape = ()) -> Float[Array, "*batch n"]:
        """Zero membrane."""
        return jnp.zeros((*batch_axes(batch_shape), self.hidden_size), wide(self.dtype))

    def integrate(
        self, state: Float[Array, "*batch n"], drive: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """Leak and add the drive."""
        gain = jnp.broadcast_to(jnp.asarray(self.gain, state.dtype), state.shape)
        # not η v + (1 - η) drive: of a long τ, η has few digits left of 1 - η
        return state + gain * (drive - state)

    def in_range(self) -> dict[str, Bool[Array, ""]]:
        """Of `tau` and `dt`."""
        return trained_ranges(self, tau=arguments.POSITIVE, dt=arguments.POSITIVE)

    def emit(self, state: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """φ(v)."""
        return self.activation(state)
