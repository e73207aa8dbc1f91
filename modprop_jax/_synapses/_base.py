"""What connects neurons: a linear map from presynaptic to postsynaptic activity."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from .._tree import inexact, pullback


Types = tuple[int, ...]


class AbstractSynapses(eqx.Module):
    r"""Synapses as a linear map, \( post = W pre \), with any number of leading axes.

    A map is its call and its `shape`; all else follows. What costs less otherwise may be defined:
    `back`, `gradient`, `own`, the sums over types. It is linear in `pre`, and treats what stands
    on leading axes each on its own. Its inexact array leaves are parameters.

    Credit that decays at one rate in all neurons meets presynaptic activity through `gradient`, so
    any map streams there. Where neurons differ, a trace is kept for each synapse: that takes a
    parameter of its own for each, `AbstractLocalSynapses`.
    """

    # said by a class of itself alone: its tests have shown it, and a cell need not try it
    _is_linear: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(postsynaptic, presynaptic) neurons."""

    @abc.abstractmethod
    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """W pre."""

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """Wᵀ post: credit on what was received, as credit on what was sent."""
        like = jax.ShapeDtypeStruct((*post.shape[:-1], self.shape[1]), post.dtype)
        return jax.linear_transpose(self, like)(post)[0]

    def gradient(
        self, post: Float[Array, "*axes post"], pre: Float[Array, "*axes pre"]
    ) -> "AbstractSynapses":
        """Credit on what was received and activity that was sent, as a gradient of the map, summed
        over all axes."""
        return pullback(lambda synapses: synapses(pre), self)(post)[0]

    def own(self) -> Float[Array, " n"]:
        """The autapses: W's diagonal; of several gates of n units, that of each, side by side."""
        return jnp.diagonal(self.as_matrix())

    @property
    def has_autapses(self) -> bool:
        """Whether neurons may send to themselves."""
        return True

    def resolved(self) -> "AbstractSynapses":
        """The map with what decides which synapses exist already applied to its weights."""
        return self

    def type_sums(
        self, types: Types, gain: ArrayLike = 1.0, mu: ArrayLike = 1.0
    ) -> Float[Array, "C C"]:
        """Σ gain_j W_ji mu_i over the neurons j and i of each two types [post, pre]."""
        hot = one_hot(types, self.dtype)
        received = self((hot * column(mu, hot)).T)
        return (received * column(gain, hot).T @ hot).T

    def type_counts(self, types: Types) -> Float[Array, "C C"]:
        """How many synapses of each two types [post, pre] are formed: all that can be."""
        count = np.bincount(types)
        return jnp.asarray(np.outer(count, count), self.dtype)

    def formed(self, others: "AbstractSynapses") -> "AbstractSynapses":
        """Other synapses between the same neurons, where this map's are formed: all that can be."""
        return others

    def type_gradient(
        self,
        types: Types,
        local: Float[Array, "batch post"],
        summed: Float[Array, "batch C"],
        channels: Float[Array, "channels batch pre"],
    ) -> "AbstractSynapses":
        """The gradient of neurons whose credit meets another activity by their type a.

        channels: C that meet credit of neurons of that type (`local`), then those that meet credit
        summed over neurons of a type c, [c, a]: Σ_batch (local_j e[a] + Σ_c summed_c M[c, a]).
        """
        member = one_hot(types, local.dtype).T
        own = member[:, None] * local[None]
        shared = jnp.broadcast_to(member[None, :, None], (len(member), *own.shape))
        shared = shared * summed.T[:, None, :, None]
        post = jnp.concatenate([own, shared.reshape(-1, *local.shape)])
        return self.gradient(post, channels)

    def of_pairs(self, post: Int[Array, "..."], pre: Int[Array, "..."]) -> Float[Array, "..."]:
        """W's entries of these neurons."""
        return self.as_matrix()[post, pre]

    def as_matrix(self) -> Float[Array, "post pre"]:
        """W, dense: what solves, plots and checks read."""
        return self(jnp.eye(self.shape[1], dtype=self.dtype)).T

    @property
    def dtype(self) -> Any:
        """Of its parameters."""
        return jnp.result_type(*jax.tree.leaves(inexact(self)))


class AbstractLocalSynapses(AbstractSynapses):
    """Synapses with a parameter each, `weight`, of any shape.

    `weight` is the only parameter. What an eligibility trace needs: for each synapse what it alone
    sees, of its presynaptic neuron (`gather`) and of its postsynaptic one (`spread`; by default the
    first axis of `weight` is that of the postsynaptic neurons).
    """

    weight: eqx.AbstractVar[Float[Array, "*synapses"]]

    @abc.abstractmethod
    def gather(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "..."]:
        """(*axes, *synapses), the activity at each; 1 in place of the neurons where all see the
        same."""

    def spread(self, post: Float[Array, "*axes post"]) -> Float[Array, "..."]:
        """(*axes, *synapses), what is said of its neuron to each; 1 where all of one hear the
        same."""
        return post.reshape(*post.shape, *(1,) * (self.weight.ndim - 1))

    @abc.abstractmethod
    def outer(
        self, post: Float[Array, "rows T batch post"], pre: Float[Array, "T batch pre"]
    ) -> Float[Array, "rows batch *synapses"]:
        """Σ_t spread(post) gather(pre): the gradient, apart for each row and example."""

    def of_weight(self, weight: Any) -> Any:
        """A gradient of the map, from one of its weights; or what else stands in their place."""
        nothing = jax.tree.map(lambda _: None, inexact(self))
        return eqx.tree_at(lambda s: s.weight, nothing, weight, is_leaf=lambda x: x is None)


def one_hot(types: Types, dtype: DTypeLike) -> Float[Array, "n C"]:
    """U: one row a neuron, one column a type."""
    return jnp.asarray(np.eye(max(types) + 1)[list(types)], dtype)


def described(synapses: PyTree) -> str:
    """For a message."""
    return f"{type(synapses).__name__} of shape {synapses.shape}"


def column(value: ArrayLike, like: Array) -> Array:
    """One value a row of a matrix, to multiply it."""
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape[:1])[:, None]
