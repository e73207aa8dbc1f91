from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._precision import wide
from ._base import batch_axes, BatchShape, Final
from ._neuron import NeuronCell


class RateCell(NeuronCell):
    r"""Rate neurons; the activation is applied to the drive, the leak to the rate.

    \[ a_t = (1-\alpha) a_{t-1} + \alpha\,\phi(W_{rec} a_{t-1} + W_{in} x_t + b), \qquad
       z_t = a_t \]

    State: `a` (*batch, n). `alpha = 1` is the plain (Elman) network. Time O(n(n+m)) a step and
    example.

    Source: the network of Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """

    _final: ClassVar[Final] = Final(
        ("integrate", "leak", "gain", "uniform_leak", "membrane"),
        "For other dynamics subclass NeuronCell.",
    )

    alpha: float = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        alpha: float = 1.0,
        activation: Callable = jnp.tanh,
        use_bias: bool = True,
        autapses: bool = True,
        mask: Any = None,
        signs: Any = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:** those of `NeuronCell`, and

        - `alpha`: inverse time constant in steps, in (0, 1].
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
            dtype=dtype,
        )
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], but is {alpha}.")
        self.alpha = float(alpha)
        self.activation = activation

    @property
    def gain(self) -> float:
        """α; ModProp's μ stands for the activation derivative."""
        return self.alpha

    @property
    def leak(self) -> float:
        """1 - α."""
        return 1 - self.alpha

    def init(self, batch_shape: BatchShape = ()) -> Float[Array, "*batch n"]:
        """Zero rates."""
        return jnp.zeros((*batch_axes(batch_shape), self.hidden_size), wide(self.weight_rec.dtype))

    def integrate(
        self, state: Float[Array, "*batch n"], drive: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """Leak and add the activated drive."""
        return (1 - self.alpha) * state + self.alpha * self.activation(drive)

    def emit(self, state: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """The rate itself."""
        return state
