"""Weights that depend on the types of two neurons alone."""

import equinox as eqx
from jaxtyping import Array, Float

from ._base import AbstractSynapses, one_hot, Types


class Blocks(AbstractSynapses):
    r"""\( W = U M U^T \), with U the one-hot types: rank C, never written out as (n, n).

    `means` M (C, C) [post, pre]. Cost O(n·C + C²).
    """

    means: Float[Array, "C C"]
    types: Types = eqx.field(static=True)

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
