"""Weights of the synapses that there are, and nothing else."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import wide
from .._sharding import over_steps
from .._tree import as_array, with_fields
from ._base import AbstractLocalSynapses, AbstractSynapses, Types
from ._lines import at, columns_of, in_order, Lines
from ._random import drawn, exchanged, generator


# synapses whose weights are added up one after the other, or as many as there are sums
PIECE = 4096


class Sparse(AbstractLocalSynapses):
    r"""A list of synapses: synapse s goes from neuron `pre[s]` to neuron `post[s]`.

    \[ post_j = \sum_{s:\,post_s = j} w_s\, pre_{pre_s} \]

    `weight` (nnz,) trains, in the order of the list as it was given. Each pair of neurons has one
    synapse at most; neurons may have none. Which synapses there are does not change with training;
    the indices are integer arrays of the map, so that a program does not depend on them, nor holds
    them as constants where they are among its arguments; `rewired` moves synapses without compiling
    anew, and what is saved with the leaves is the network as it was. (Under `jit`, `SnAp` needs to
    be told: `SnAp(n, like=cell)`. A presynaptic sign is one a synapse: `optim.dale(signs[pre])`.
    Members of an ensemble may differ in their synapses too where their neurons have as many each,
    as `rewired` leaves them.)

    Time and memory O(nnz), forward, back and for the gradient; nothing of (post, pre) is built.
    `from_dense` and `random` make lists in the order in which they are summed; one in another order
    costs a permutation of the weights a call.
    """

    _is_linear: ClassVar[bool] = True
    weight: Float[Array, " nnz"]
    post: Int[Array, " nnz"]
    pre: Int[Array, " nnz"]
    onto: Lines
    out_of: Lines
    sender: Int[Array, " nnz"]
    receiver: Int[Array, " nnz"]
    sizes: tuple[int, int] = eqx.field(static=True)
    autapses: bool = eqx.field(static=True)

    def __init__(
        self, post: Numbers, pre: Numbers, weight: Float[Array, " nnz"], shape: tuple[int, int]
    ):
        """**Arguments:**

        - `post`, `pre`: integers (nnz,), the neurons that each synapse goes to and comes from.
        - `weight`: (nnz,), of each synapse; they train.
        - `shape`: (postsynaptic, presynaptic) neurons.
        """
        self.sizes = shape_of(shape)
        self.weight = arguments.parameters("weight", weight, 1)
        onto, out_of = (
            _ends(name, value, size)
            for name, value, size in zip(("post", "pre"), (post, pre), self.sizes)
        )
        nnz = weight.shape[-1]
        if not onto.size == out_of.size == nnz:
            raise ValueError(
                f"post, pre and weight must have one entry a synapse, but have {onto.size}, "
                f"{out_of.size} and {nnz}."
            )
        self._wire(onto, out_of)
        self.autapses = self.sizes[0] != self.sizes[1] or bool((onto == out_of).any())

    def _wire(self, post: np.ndarray, pre: np.ndarray) -> None:
        pair = post.astype(np.int64) * self.sizes[1] + pre
        pair.sort()
        (twice,) = np.nonzero(pair[1:] == pair[:-1])
        if twice.size:
            j, i = divmod(int(pair[twice[0]]), self.sizes[1])
            raise ValueError(
                f"post and pre must name each pair of neurons once, but {twice.size} synapses come "
                f"twice, the first of them {i} to {j}: add up their weights."
            )
        self.post, self.pre = jnp.asarray(post, jnp.int32), jnp.asarray(pre, jnp.int32)
        self.onto, self.out_of = Lines(post, self.sizes[0]), Lines(pre, self.sizes[1])
        # as the lines have them, so that no step has to reorder indices
        self.sender = self.onto.ordered(self.pre)
        self.receiver = self.out_of.ordered(self.post)

    @staticmethod
    def from_dense(matrix: Array, mask: Numbers | None = None) -> "Sparse":
        """The synapses of a matrix (post, pre) whose weights are not 0, or where `mask` is True."""
        weights = as_array("matrix", matrix)
        if weights.ndim != 2 or not jnp.issubdtype(weights.dtype, jnp.inexact):
            raise ValueError(
                f"matrix must hold floats [post, pre], but is {arguments.shown(matrix)}."
            )
        if arguments.is_traced(matrix if mask is None else mask):
            raise ValueError(
                "Sparse.from_dense needs to know which synapses there are: a matrix [post, pre], "
                f"or a mask, that is not traced, but the matrix is {arguments.shown(matrix)}."
            )
        exists = np.asarray(matrix) != 0 if mask is None else np.asarray(mask)
        if exists.dtype != np.bool_ or exists.shape != np.shape(matrix):
            raise ValueError(
                f"mask must be boolean of the shape of matrix, {np.shape(matrix)}, but is "
                f"{exists.dtype} of shape {exists.shape}."
            )
        sizes = exists.shape[0], exists.shape[1]
        onto, out_of = np.nonzero(exists)
        post, pre = in_order(onto, out_of, sizes[0])
        return Sparse(post, pre, weights[post, pre], sizes)

    @staticmethod
    def random(
        key: PRNGKeyArray,
        shape: tuple[int, int],
        *,
        fan_in: Any = None,
        probability: float | None = None,
        signs: Numbers | None = None,
        autapses: bool = False,
        dtype: Any = None,
    ) -> "Sparse":
        """Synapses and weights drawn at random.

        Without `signs`, a neuron of k synapses gets weights N(0, 1/k); with them, a square map
        those of `balanced_dale` (sums of zero neuron by neuron, and a spectral radius of 1),
        another one |N(0, 1/k)| times the sign.

        **Arguments:**

        - `key`: not traced, as it decides which synapses there are.
        - `shape`: (postsynaptic, presynaptic) neurons.
        - `fan_in`: synapses onto each neuron, from different neurons: one number for all, or one
            for each.
        - `probability`: in its place, that of each synapse.
        - `signs`: ±1 for each presynaptic neuron.
        - `autapses`: whether a neuron may send to itself, where they are the same neurons.
        - `dtype`: of the weights; the JAX default if None.
        """
        sizes = shape_of(shape)
        autapses = arguments.boolean("autapses", autapses) or sizes[0] != sizes[1]
        dtype = arguments.dtype("dtype", dtype)
        counts = fan_in, probability
        # known also where something else is traced
        with jax.ensure_compile_time_eval():
            return Sparse(*drawn(key, sizes, *counts, signs, autapses, dtype), sizes)

    def rewired(self, key: PRNGKeyArray) -> "Sparse":
        """Synapses whose weight is exactly 0, in other places: pairs of them exchange the neurons
        that they come from.

        Every neuron so keeps the number of synapses onto it and from it, no array changes its
        shape, and no program is compiled anew. Between updates, outside of the compiled loop:
        `optim.dale` or `optim.rewire` (with `signs[synapses.pre]`) bring weights to 0, and
        `optim.rewire` revives them. O(nnz log nnz), in NumPy.

        Departure: DEEP R puts a synapse at any free pair of neurons, which changes how many a
        neuron has. Source: Bellec, Kappel, Maass & Legenstein, ICLR 2018 (arXiv 1711.05136).
        """
        if arguments.is_traced((key, self)):
            raise ValueError(
                "Sparse.rewired moves synapses between compiled steps, so neither they nor its key "
                "may be traced: call it outside of the transformed function."
            )
        post, pre = np.asarray(self.post), np.asarray(self.pre)
        free = np.flatnonzero(np.asarray(self.weight) == 0)
        with jax.ensure_compile_time_eval():
            pre = exchanged(generator(key), post, pre, free, self.sizes, self.autapses)
            moved = Sparse(post, pre, self.weight, self.sizes)
        # the last of its autapses may have gone, which is no other kind of map
        return with_fields(moved, autapses=self.autapses)

    @property
    def shape(self) -> tuple[int, int]:
        """As given."""
        return self.sizes

    @property
    def has_autapses(self) -> bool:
        """Whether any neuron sends to itself."""
        return self.autapses

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """For each synapse a product, for each neuron their sum."""
        return self._sums(self.onto, self.sender, pre)

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """The same, over the synapses that a neuron sends to."""
        return self._sums(self.out_of, self.receiver, post)

    def _sums(self, lines: Lines, other: Array, activity: Array) -> Array:
        weight = lines.ordered(self.weight.astype(wide(self.dtype)))
        sums = lines(weight[:, None] * at(columns_of(activity), other))
        return sums.T.reshape(*activity.shape[:-1], len(sums))

    def gradient(
        self, post: Float[Array, "*axes post"], pre: Float[Array, "*axes pre"]
    ) -> "Sparse":
        """For each synapse the product of its two ends."""
        ends = at(columns_of(post), self.post) * at(columns_of(pre), self.pre)
        return self.of_weight(ends.sum(-1))

    def own(self) -> Float[Array, " n"]:
        """Of the synapses of a neuron with itself."""
        weight = jnp.where(self.post == self.pre, self.weight, 0)
        return jnp.zeros(self.sizes[0], self.dtype).at[self.post].add(weight)

    def gather(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes nnz"]:
        """What comes from the presynaptic neuron."""
        return pre.at[..., self.pre].get(mode="promise_in_bounds")

    def spread(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes nnz"]:
        """What comes from the postsynaptic neuron."""
        return post.at[..., self.post].get(mode="promise_in_bounds")

    def outer(
        self, post: Float[Array, "rows T batch post"], pre: Float[Array, "T batch pre"]
    ) -> Float[Array, "rows batch nnz"]:
        """Step by step, so that no more than one of them is held for each synapse."""

        def add(total, at_step):
            credit, sent = at_step
            return total + self.spread(credit) * self.gather(sent)[None], None

        zero = jnp.zeros_like(post, shape=(*post.shape[:1], post.shape[2], self.post.shape[-1]))
        credit = jnp.moveaxis(post, 1, 0)
        if len(pre) == 1:
            return add(zero, (credit[0], pre[0]))[0]
        return over_steps(add, zero, (credit, pre))[0]

    def type_sums(
        self, types: Types, gain: ArrayLike = 1.0, mu: ArrayLike = 1.0
    ) -> Float[Array, "C C"]:
        """Each synapse is added to the sum of its two neurons' types."""
        type_of = neuron_types(types)
        each = jnp.asarray(gain), jnp.asarray(mu)
        return self.sums_by_type(type_of, type_of, *each, max(types) + 1)

    def sums_by_type(
        self, onto: Int[Array, " post"], of: Int[Array, " pre"], gain: Array, mu: Array, count: int
    ) -> Float[Array, "C C"]:
        """As `type_sums`, of types that may be traced, of the postsynaptic and presynaptic
        neurons."""
        dtype = wide(self.dtype)
        weight = self.weight.astype(dtype) * _for_each(gain.astype(dtype), self.post)
        weight = weight * _for_each(mu.astype(dtype), self.pre)
        pair = at(onto, self.post) * count + at(of, self.pre)
        # apart in pieces of the list, so that rounding does not grow with its length, nor memory
        # with the types beyond one number a synapse
        piece = max(PIECE, count**2)
        pieces = -(-weight.size // piece)
        place = jnp.arange(weight.size, dtype=pair.dtype) // piece * count**2 + pair
        sums = jnp.zeros(pieces * count**2, dtype).at[place].add(weight, mode="promise_in_bounds")
        return sums.reshape(pieces, count, count).sum(0)

    def type_counts(self, types: Types) -> Float[Array, "C C"]:
        """Of synapses whose weight is not 0."""
        exist = (self.weight != 0).astype(self.dtype)
        return with_fields(self, weight=exist).type_sums(types)

    def formed(self, others: AbstractSynapses) -> "Sparse":
        """In place of weights that are not 0."""
        weight = jnp.where(self.weight != 0, others.of_pairs(self.post, self.pre), 0)
        return with_fields(self, weight=weight)

    def type_gradient(
        self,
        types: Types,
        local: Float[Array, "batch post"],
        summed: Float[Array, "batch C"],
        channels: Float[Array, "channels batch pre"],
    ) -> "Sparse":
        """Two products a synapse: what its neuron's credit meets, and what comes by type."""
        gradient = self.gradient_by_type(neuron_types(types), local, summed, channels)
        return self.of_weight(gradient)

    def gradient_by_type(
        self, type_of: Int[Array, " post"], local: Array, summed: Array, channels: Array
    ) -> Float[Array, " nnz"]:
        """As `type_gradient`, of types that may be traced."""
        count = summed.shape[-1]
        modulated = channels[count:].reshape(count, count, *channels.shape[1:])
        shared = jnp.einsum("bc,cabi->ai", summed, modulated).reshape(-1)
        own = columns_of(jnp.moveaxis(channels[:count], 0, 1).reshape(len(local), -1))
        channel = at(type_of, self.post) * self.sizes[1] + self.pre
        # side by side, as both are read at one place
        met = at(jnp.concatenate([own, shared[:, None]], axis=1), channel)
        credit = at(columns_of(local), self.post)
        return (credit * met[:, :-1]).sum(-1) + met[:, -1]

    def as_matrix(self) -> Float[Array, "post pre"]:
        """With zeros where there is no synapse."""
        return jnp.zeros(self.sizes, self.dtype).at[self.post, self.pre].set(self.weight)


def neuron_types(types: Types) -> Int[Array, " n"]:
    """As what is looked up."""
    return jnp.asarray(np.asarray(types, np.int32))


def _for_each(value: Array, neuron: Int[Array, " nnz"]) -> Array:
    """One value for all, or that of a synapse's neuron."""
    return at(value, neuron) if value.ndim else value


def shape_of(shape: object) -> tuple[int, int]:
    """(postsynaptic, presynaptic) neurons, if it is that; else a ValueError."""
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise ValueError(
            f"shape must be (postsynaptic, presynaptic) neurons, but is {arguments.shown(shape)}."
        )
    post, pre = (arguments.size(f"shape[{k}]", size) for k, size in enumerate(shape))
    return post, pre


def _ends(name: str, value: Any, n: int) -> np.ndarray:
    traced = arguments.is_traced(value)
    index = None if traced or not arguments.is_real(value) else np.asarray(value)
    if index is None or index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold an integer for each synapse, known when the map is made, but is "
            f"{arguments.shown(value)}."
        )
    if index.size and not (0 <= index.min() and index.max() < n):
        raise ValueError(
            f"{name} must hold neurons 0 ... {n - 1}, of shape's {n}, but holds "
            f"{index.min()} ... {index.max()}."
        )
    return index
