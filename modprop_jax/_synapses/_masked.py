"""Which synapses exist: the one place that says so."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._static import FrozenArray
from ._base import AbstractSynapses
from ._dense import Dense


class Masked(AbstractSynapses):
    """`weight` (post, pre) at the synapses that exist; whatever is stored elsewhere is 0.

    `exists` is structure: boolean (post, pre), the same at all times. (A synapse that exists is
    *formed* where its weight is not exactly 0: rewiring takes the others for free places.)
    """

    weight: Float[Array, "post pre"]
    exists: FrozenArray | Bool[Array, "post pre"]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.weight.shape[-2], self.weight.shape[-1]

    def resolved(self) -> Dense:
        """With zeros where there is no synapse."""
        known = self.exists.numpy() if isinstance(self.exists, FrozenArray) else self.exists
        return Dense(jnp.where(known, self.weight, 0))

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """Of the synapses that exist."""
        return self.resolved()(pre)

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """Of the synapses that exist."""
        return self.resolved().back(post)

    def as_matrix(self) -> Float[Array, "post pre"]:
        """With zeros where there is no synapse."""
        return self.resolved().weight


def without_autapses(n: int) -> Bool[np.ndarray, "n n"]:
    """Which synapses exist where no neuron drives itself."""
    return ~np.eye(n, dtype=bool)
