"""Which synapses exist: the one place that says so."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._arguments import boolean, Numbers, parameters
from .._static import content, FrozenArray
from ._base import AbstractSynapses, Types
from ._dense import Dense


class Masked(AbstractSynapses):
    """`weight` (post, pre) at the synapses that exist; whatever is stored elsewhere is 0.

    `exists` is structure: boolean (post, pre), the same at all times. (A synapse that exists is
    *formed* where its weight is not exactly 0: rewiring takes the others for free places.)
    """

    _is_linear: ClassVar[bool] = True
    weight: Float[Array, "post pre"]
    exists: FrozenArray | Bool[Array, "post pre"] | None
    # apart from `exists`: every cell without autapses would else carry a constant of n² to say so
    autapses: bool = eqx.field(static=True)

    def __init__(
        self,
        weight: Float[Array, "post pre"],
        exists: Numbers | FrozenArray | None = None,
        *,
        autapses: bool = True,
    ):
        """**Arguments:**

        - `weight`: (post, pre); it trains.
        - `exists`: boolean (post, pre), a constant. (A `jax.Array` is kept as one: a mask of its
            own for each member of an ensemble, for example.) None: all.
        - `autapses`: whether the diagonal exists, where `exists` leaves it.
        """
        self.weight = parameters("weight", weight, 2)
        self.autapses = boolean("autapses", autapses)
        self.exists = _kept(exists)
        if not self.autapses and len(set(weight.shape[-2:])) > 1:
            raise ValueError(
                f"autapses=False is about neurons that send to each other, but weight is of shape "
                f"{weight.shape}: leave it at True."
            )
        if exists is None:
            return
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

    @property
    def has_autapses(self) -> bool:
        """As said."""
        return self.autapses

    def resolved(self) -> Dense:
        """With zeros where there is no synapse."""
        return Dense(existing(self.weight, self.exists, self.autapses))

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """Of the synapses that exist."""
        return self.resolved()(pre)

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """Of the synapses that exist."""
        return self.resolved().back(post)

    def type_counts(self, types: Types) -> Float[Array, "C C"]:
        """Of those that exist and are not 0."""
        return self.resolved().type_counts(types)

    def formed(self, others: AbstractSynapses) -> Dense:
        """In place of those that exist and are not 0."""
        return self.resolved().formed(others)

    def as_matrix(self) -> Float[Array, "post pre"]:
        """With zeros where there is no synapse."""
        return self.resolved().weight


def existing(
    weight: Float[Array, "... gates pre"],
    exists: FrozenArray | Bool[Array, "... post pre"] | None,
    autapses: bool = True,
) -> Float[Array, "... gates pre"]:
    """The weights, 0 where there is no synapse; None: all exist.

    Of the gates of a unit side by side, post = gates · n, `exists` may be that of one, for all.
    """
    if not autapses:
        weight = jnp.where(jnp.eye(weight.shape[-1], dtype=bool), 0, weight)
    if exists is None:
        return weight
    known = content(exists)
    if known.shape == weight.shape:
        return jnp.where(known, weight, 0)
    gates = weight.reshape(-1, *known.shape)
    return jnp.where(jnp.broadcast_to(known, gates.shape), gates, 0).reshape(weight.shape)


def _kept(exists: Numbers | FrozenArray | None) -> FrozenArray | Array | None:
    if exists is None or isinstance(exists, FrozenArray | jax.Array):
        return exists
    try:
        return FrozenArray(np.asarray(exists))
    except ValueError as error:
        raise ValueError(f"exists must be a boolean matrix [post, pre], but {error}.") from error
