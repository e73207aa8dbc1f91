"""Weights that depend on the types of two neurons alone."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._arguments import cell_types, Numbers, parameters
from ._base import AbstractSynapses, one_hot, Types


class Blocks(AbstractSynapses):
    r"""\( W = U M U^T \), with U the one-hot types: rank C, never written out as (n, n).

    `means` M (C, C) [post, pre]. Cost O(n·C + C²).
    """

    _is_linear: ClassVar[bool] = True
    means: Float[Array, "C C"]
    types: Types = eqx.field(static=True)

    def __init__(self, means: Float[Array, "C C"], types: Numbers):
        """**Arguments:**

        - `means`: W between any neuron of one type and any of another; they train.
        - `types`: cell type 0 ... C-1 of each neuron.
        """
        self.types = cell_types("types", types)
        self.means = parameters("means", means, 2)
        count = max(self.types) + 1
        if means.shape[-2:] != (count, count):
            raise ValueError(
                f"means must be of shape {(count, count)} [post, pre], one for each two of the "
                f"{count} types, but has shape {means.shape}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Of W."""
        return len(self.types), len(self.types)

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """Summed by type, mixed, and handed to all neurons of a type."""
        hot = one_hot(self.types, pre.dtype)
        return pre @ hot @ self.means.T @ hot.T

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """The same in reverse."""
        hot = one_hot(self.types, post.dtype)
        return post @ hot @ self.means @ hot.T

    def of_pairs(self, post: Int[Array, "..."], pre: Int[Array, "..."]) -> Float[Array, "..."]:
        """The means of their types."""
        types = jnp.asarray(np.asarray(self.types, np.int32))
        return self.means[types[post], types[pre]]

    def as_matrix(self) -> Float[Array, "post pre"]:
        """A mean for each two neurons."""
        index = np.asarray(self.types)
        return self.means[index[:, None], index[None]]
