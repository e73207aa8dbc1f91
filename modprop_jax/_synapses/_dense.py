"""Every neuron's weights from every other, as a matrix."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._arguments import parameters, shown
from .._layout import transposed
from .._precision import times, times_back
from .._tree import pullback
from ._base import AbstractLocalSynapses, AbstractSynapses, column, one_hot, Types
from ._trial import fault


class Dense(AbstractLocalSynapses):
    """`weight` (post, pre), of which those at exactly 0 are not formed."""

    _is_linear: ClassVar[bool] = True
    weight: Float[Array, "post pre"]

    def __check_init__(self) -> None:
        parameters("weight", self.weight, 2)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.weight.shape[-2], self.weight.shape[-1]

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """One matmul."""
        return times(pre, transposed(self.weight))

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """One matmul."""
        return times_back(post, self.weight)

    def gradient(self, post: Float[Array, "*axes post"], pre: Float[Array, "*axes pre"]) -> "Dense":
        """One matmul over all axes, as JAX has it: of rows laid side by side XLA's is slower."""
        return Dense(pullback(lambda weight: times(pre, weight.T), self.weight)(post)[0])

    def own(self) -> Float[Array, " n"]:
        """The diagonal, of each gate."""
        n = self.shape[1]
        return jnp.diagonal(self.weight.reshape(-1, n, n), axis1=1, axis2=2).reshape(-1)

    def gather(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes 1 pre"]:
        """All neurons see all."""
        return pre[..., None, :]

    def outer(
        self, post: Float[Array, "rows T batch post"], pre: Float[Array, "T batch pre"]
    ) -> Float[Array, "rows batch post pre"]:
        """Without a matmul for a single step."""
        if len(pre) == 1:
            return post[:, 0, :, :, None] * pre[0][None, :, None, :]
        if len(post) <= 8:
            # apart: of all rows in one product XLA makes a transposed copy, twice the time for two
            return jnp.stack([jnp.einsum("tbj,tbi->bji", row, pre) for row in post])
        return jnp.einsum("rtbj,tbi->rbji", post, pre)

    def type_sums(
        self, types: Types, gain: ArrayLike = 1.0, mu: ArrayLike = 1.0
    ) -> Float[Array, "C C"]:
        """Of the matrix."""
        hot = one_hot(types, self.dtype)
        return hot.T @ (column(gain, self.weight) * self.weight * column(mu, self.weight.T).T) @ hot

    def type_counts(self, types: Types) -> Float[Array, "C C"]:
        """Of weights that are not 0."""
        hot = one_hot(types, self.dtype)
        return hot.T @ (self.weight != 0).astype(self.dtype) @ hot

    def formed(self, others: AbstractSynapses) -> "Dense":
        """In place of weights that are not 0."""
        return Dense(jnp.where(self.weight != 0, others.as_matrix(), 0))

    def type_gradient(
        self,
        types: Types,
        local: Float[Array, "batch post"],
        summed: Float[Array, "batch C"],
        channels: Float[Array, "channels batch pre"],
    ) -> "Dense":
        """A matmul for the rows of each type, and one row for all neurons of a type."""
        return Dense(_by_type(types, local, summed, channels))

    def as_matrix(self) -> Float[Array, "post pre"]:
        """The weights."""
        return self.weight


def _by_type(types: Types, local: Array, summed: Array, channels: Array) -> Array:
    count, rows = max(types) + 1, []
    for a, group in enumerate(groups(types)):
        modulated = channels[count + a :: count]
        shared = summed.T.reshape(-1) @ modulated.reshape(-1, modulated.shape[-1])
        block = local[:, group].T @ channels[a]
        rows.append(block + jnp.broadcast_to(shared, block.shape))
    order = np.argsort(types, kind="stable")
    together = jnp.concatenate(rows)
    in_order = np.array_equal(order, np.arange(order.size))
    return together if in_order else together[np.argsort(order)]


def groups(types: Types) -> list[np.ndarray | slice]:
    """The neurons of each type; a slice where they stand together, which spares a gather."""
    found = [np.flatnonzero(np.equal(types, a)) for a in range(max(types) + 1)]
    return [slice(g[0], g[-1] + 1) if g[-1] - g[0] + 1 == g.size else g for g in found]


def as_synapses(weights: Array | AbstractSynapses) -> AbstractSynapses:
    """A map as it is, a matrix as `Dense`."""
    return weights if isinstance(weights, AbstractSynapses) else Dense(weights)


def as_map(name: str, value: object, shape: tuple[int, int]) -> AbstractSynapses:
    """The value, if it is a linear map of this shape [post, pre]; else a ValueError."""
    if not isinstance(value, AbstractSynapses):
        raise ValueError(
            f"{name} must be a map of synapses, such as Dense(weights), but is {shown(value)}."
        )
    kind = type(value).__name__
    if value.shape != shape:
        raise ValueError(
            f"{name} must be a map of shape {shape} [post, pre], but is a {kind} of shape "
            f"{value.shape}."
        )
    wrong = fault(value)
    if wrong is not None:
        raise ValueError(f"{name} must be a linear map [post, pre], but this {kind} {wrong}.")
    return value
