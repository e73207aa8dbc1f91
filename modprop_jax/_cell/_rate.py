from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import wide
from .._static import Given, numeric, spread, Trainable
from .._synapses import AbstractSynapses
from ._base import batch_axes, BatchShape, Final
from ._constants import trainable, trained_ranges
from ._neuron import NeuronCell


class RateCell(NeuronCell):
    r"""Rate neurons; the activation is applied to the drive, the leak to the rate.

    \[ a_t = (1-\alpha) a_{t-1} + \alpha\,\phi(W_{rec} a_{t-1} + W_{in} x_t + b), \qquad
       z_t = a_t \]

    State: `a` (*batch, n). `alpha = 1` is the plain (Elman) network. It is one value or one a
    neuron, and a constant unless it is given as a `jax.Array`, which trains, or as
    `Between(value, 0.0, 1.0)`, which trains and stays inside. Time O(n(n+m)) a step and example.

    Source: the network of Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """

    papers: ClassVar[tuple[str, ...]] = ("marschall2020unified",)
    _final: ClassVar[Final] = Final(
        ("integrate", "leak", "gain", "uniform_leak", "membrane"),
        "For other dynamics subclass NeuronCell.",
    )

    alpha: Trainable
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        alpha: Given = 1.0,
        activation: Callable = jnp.tanh,
        use_bias: bool = True,
        autapses: bool = True,
        mask: Numbers | None = None,
        signs: Numbers | None = None,
        recurrent: AbstractSynapses | None = None,
        inputs: AbstractSynapses | None = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:** those of `NeuronCell`, and

        - `alpha`: inverse time constant in steps, in (0, 1]; scalar or (n,); a `jax.Array` or a
            `Between` trains.
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
        self.alpha = trainable("alpha", alpha, hidden_size, arguments.POSITIVE_FRACTION, self.dtype)
        self.activation = arguments.elementwise("activation", activation, hidden_size)

    @property
    def gain(self) -> Any:
        """α; ModProp's μ stands for the activation derivative."""
        return numeric(self.alpha, wide(self.dtype))

    @property
    def leak(self) -> Any:
        """1 - α."""
        return 1 - self.gain

    def in_range(self) -> dict[str, Bool[Array, ""]]:
        """Of `alpha`."""
        return trained_ranges(self, alpha=arguments.POSITIVE_FRACTION)

    def init(self, batch_shape: BatchShape = ()) -> Float[Array, "*batch n"]:
        """Zero rates."""
        return jnp.zeros((*batch_axes(batch_shape), self.hidden_size), wide(self.dtype))

    def integrate(
        self, state: Float[Array, "*batch n"], drive: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """Leak and add the activated drive."""
        alpha = spread(self.alpha, state)
        return (1 - alpha) * state + alpha * self.activation(drive)

    def emit(self, state: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """The rate itself."""
        return state
