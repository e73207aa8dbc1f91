"""A bias, as a synapse from a neuron that always sends 1."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arguments import parameters
from ._base import AbstractLocalSynapses, Types
from ._dense import Dense


class Bias(AbstractLocalSynapses):
    """`weight` (post,), from one presynaptic neuron."""

    weight: Float[Array, " post"]

    def __check_init__(self) -> None:
        parameters("weight", self.weight, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """One sends."""
        return self.weight.shape[-1], 1

    def __call__(self, pre: Float[Array, "*axes 1"]) -> Float[Array, "*axes post"]:
        """The weights, as 1 is sent."""
        return jnp.broadcast_to(
            self.weight.astype(pre.dtype), (*pre.shape[:-1], *self.weight.shape)
        )

    def gradient(self, post: Float[Array, "*axes post"], pre: Float[Array, "*axes 1"]) -> "Bias":
        """What comes through a filter is no longer 1."""
        return Bias((post * pre).sum(tuple(range(post.ndim - 1))))

    def type_gradient(
        self,
        types: Types,
        local: Float[Array, "batch post"],
        summed: Float[Array, "batch C"],
        channels: Float[Array, "channels batch 1"],
    ) -> "Bias":
        """As of one column of a matrix."""
        column = Dense(self.weight[:, None])
        return Bias(column.type_gradient(types, local, summed, channels).weight[:, 0])

    def gather(self, pre: Float[Array, "*axes 1"]) -> Float[Array, "*axes 1"]:
        """1, for all neurons."""
        return pre

    def outer(
        self, post: Float[Array, "rows T batch post"], pre: Float[Array, "T batch 1"]
    ) -> Float[Array, "rows batch post"]:
        """The sum over steps."""
        return post.sum(1)
