"""Which synapses exist: the one place that says so."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._arguments import Numbers, parameters
from .._static import content, FrozenArray
from ._base import AbstractSynapses, Types
from ._dense import Dense


class Masked(AbstractSynapses):
    """`weight` (post, pre) at the synapses that exist; whatever is stored elsewhere is 0.

    `exists` is structure: boolean (post, pre), the same at all times. (A synapse that exists is
    *formed* where its weight is not exactly 0: rewiring takes the others for free places.)
    """

    weight: Float[Array, "post pre"]
    exists: FrozenArray | Bool[Array, "post pre"]

    def __init__(self, weight: Float[Array, "post pre"], exists: Numbers | FrozenArray):
        """**Arguments:**

        - `weight`: (post, pre); it trains.
        - `exists`: boolean (post, pre), a constant. (A `jax.Array` is kept as one: a mask of its
            own for each member of an ensemble, for example.)
        """
        self.weight = parameters("weight", weight, 2)
        self.exists = exists if isinstance(exists, FrozenArray | jax.Array) else _frozen(exists)
        known = content(self.exists)
        if known.dtype != np.bool_ or known.shape[-2:] != weight.shape[-2:]:
            raise ValueError(
                f"exists must be boolean of the shape of weight, {weight.shape}, but is "
                f"{known.dtype} of shape {known.shape}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.weight.shape[-2], self.weight.shape[-1]

    def resolved(self) -> Dense:
        """With zeros where there is no synapse."""
        return Dense(existing(self.weight, self.exists))

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """Of the synapses that exist."""
        return self.resolved()(pre)

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """Of the synapses that exist."""
        return self.resolved().back(post)

    def type_counts(self, types: Types) -> Float[Array, "C C"]:
        """Of those that exist and are not 0."""
        return self.resolved().type_counts(types)

    def with_means(self, means: Float[Array, "C C"], types: Types) -> Dense:
        """In place of those that exist and are not 0."""
        return self.resolved().with_means(means, types)

    def as_matrix(self) -> Float[Array, "post pre"]:
        """With zeros where there is no synapse."""
        return self.resolved().weight


def existing(
    weight: Float[Array, "... gates pre"],
    exists: FrozenArray | Bool[Array, "... post pre"] | None,
) -> Float[Array, "... gates pre"]:
    """The weights, 0 where there is no synapse; None: all exist.

    Of the gates of a unit side by side, post = gates · n, `exists` may be that of one, for all.
    """
    if exists is None:
        return weight
    known = content(exists)
    if known.shape == weight.shape:
        return jnp.where(known, weight, 0)
    gates = weight.reshape(-1, *known.shape)
    return jnp.where(jnp.broadcast_to(known, gates.shape), gates, 0).reshape(weight.shape)


def _frozen(exists: Numbers) -> FrozenArray:
    try:
        return FrozenArray(np.asarray(exists))
    except ValueError as error:
        raise ValueError(f"exists must be a boolean matrix [post, pre], but {error}.") from error
