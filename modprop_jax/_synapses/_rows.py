"""A list of synapses in as many lists as there are devices."""

from typing import Any, ClassVar, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _arguments as arguments
from .._tree import with_fields
from ._base import AbstractLocalSynapses, AbstractSynapses, Types
from ._lines import indices, laid, Lines, tables_of
from ._sparse import neuron_types, Sparse


class SparseRows(AbstractLocalSynapses):
    r"""The synapses of a list, those onto n/D neighbouring neurons in each of D lists.

    The map of the list, to be spread over devices: all arrays lead with the axis of parts, and
    `over_neurons` puts a part on each device. A device then holds the synapses onto its
    neurons; their drive, eligibility traces and gradient need of the others their activity alone
    (n numbers a step), and credit that goes back through the weights is summed over devices (n
    numbers). On one device it is the same map.

    `weight` is (D, K), the parts filled up to the largest: what fills them is in no sum, and its
    gradient is 0. Synapses are rewired in the list, before.
    """

    _is_linear: ClassVar[bool] = True
    weight: Float[Array, "parts K"]
    lists: Sparse
    exists: Bool[Array, "parts K"]

    def __init__(self, synapses: Sparse, parts: int):
        """**Arguments:**

        - `synapses`: the list.
        - `parts`: how many lists to make of it, which must divide its postsynaptic neurons.
        """
        arguments.require(
            synapses, Sparse, f"synapses must be a Sparse map, but is {arguments.shown(synapses)}."
        )
        parts = arguments.size("parts", parts)
        n = synapses.shape[0]
        if n % parts:
            raise ValueError(
                f"parts must divide the {n} postsynaptic neurons, but is {parts}: add neurons "
                "without synapses."
            )
        if arguments.is_traced(synapses) or synapses.weight.ndim != 1:
            raise ValueError(
                "SparseRows reads which synapses there are: make it of one list, outside of "
                "transformed functions."
            )
        with jax.ensure_compile_time_eval():  # known also where something else is traced
            each, self.exists = _apart(synapses, parts)
        self.weight, self.lists = each.weight, with_fields(each, weight=None)

    @property
    def each(self) -> Sparse:
        """The lists, all arrays with an axis of parts."""
        return with_fields(self.lists, weight=self.weight)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the list."""
        rows, pre = self.lists.sizes
        return self.parts * rows, pre

    @property
    def parts(self) -> int:
        """How many."""
        return self.weight.shape[-2]

    @property
    def has_autapses(self) -> bool:
        """Whether any neuron sends to itself."""
        return self.lists.autapses

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """All parts hear all neurons."""
        return _together(jax.vmap(lambda part: part(pre))(self.each))

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """A sum over parts."""
        return jax.vmap(Sparse.back)(self.each, self._apart(post)).sum(0)

    def gradient(
        self, post: Float[Array, "*axes post"], pre: Float[Array, "*axes pre"]
    ) -> "SparseRows":
        """Each part its own."""
        gradient = jax.vmap(lambda part, post: part.gradient(post, pre).weight)
        return self._of_existing(gradient(self.each, self._apart(post)))

    def own(self) -> Float[Array, " n"]:
        """Of the synapses of a neuron with itself."""
        weight = jnp.where((self._post() == self.lists.pre) & self.exists, self.weight, 0)
        add = jax.vmap(lambda rows, post, weight: rows.at[post].add(weight))
        zeros = jnp.zeros((self.parts, self.lists.sizes[0]), self.dtype)
        return add(zeros, self.lists.post, weight).reshape(-1)

    def gather(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes parts K"]:
        """What comes from the presynaptic neuron."""
        return jnp.moveaxis(jax.vmap(lambda part: part.gather(pre))(self.each), 0, -2)

    def spread(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes parts K"]:
        """What comes from the postsynaptic neuron; nothing where there is no synapse."""
        each = jax.vmap(Sparse.spread)(self.each, self._apart(post))
        return self._existing(jnp.moveaxis(each, 0, -2))

    def outer(
        self, post: Float[Array, "rows T batch post"], pre: Float[Array, "T batch pre"]
    ) -> Float[Array, "rows batch parts K"]:
        """Each part its own."""
        each = jax.vmap(lambda part, post: part.outer(post, pre))(self.each, self._apart(post))
        return self._existing(jnp.moveaxis(each, 0, -2))

    def type_sums(
        self, types: Types, gain: ArrayLike = 1.0, mu: ArrayLike = 1.0
    ) -> Float[Array, "C C"]:
        """A sum over parts."""
        type_of = neuron_types(types)
        gain, mu = jnp.broadcast_to(jnp.asarray(gain), type_of.shape), jnp.asarray(mu)

        def part(synapses, onto, gain):
            return synapses.sums_by_type(onto, type_of, gain, mu, max(types) + 1)

        lists = self._with(self._existing(self.weight)).each
        return jax.vmap(part)(lists, self._apart(type_of), self._apart(gain)).sum(0)

    def type_counts(self, types: Types) -> Float[Array, "C C"]:
        """Of synapses whose weight is not 0."""
        exist = (self._existing(self.weight) != 0).astype(self.dtype)
        return self._with(exist).type_sums(types)

    def formed(self, others: AbstractSynapses) -> "SparseRows":
        """In place of weights that are not 0."""
        pairs = others.of_pairs(self._post(), self.lists.pre)
        return self._with(jnp.where(self._existing(self.weight) != 0, pairs, 0))

    def type_gradient(
        self,
        types: Types,
        local: Float[Array, "batch post"],
        summed: Float[Array, "batch C"],
        channels: Float[Array, "channels batch pre"],
    ) -> "SparseRows":
        """Each part its own, of the types of its neurons."""

        def part(synapses, type_of, local):
            return synapses.gradient_by_type(type_of, local, summed, channels)

        type_of = self._apart(neuron_types(types))
        return self._of_existing(jax.vmap(part)(self.each, type_of, self._apart(local)))

    def as_matrix(self) -> Float[Array, "post pre"]:
        """With zeros where there is no synapse."""
        zeros = jnp.zeros(self.shape, self.dtype)
        return zeros.at[self._post(), self.lists.pre].add(self._existing(self.weight))

    def _post(self) -> Int[Array, "parts K"]:
        """Of all neurons, not of a part's."""
        first = jnp.arange(self.parts, dtype=self.lists.post.dtype) * self.lists.sizes[0]
        return self.lists.post + first[:, None]

    def _of_existing(self, weight: Array) -> Any:
        return self.of_weight(self._existing(weight))

    def _existing(self, weight: Array) -> Array:
        return jnp.where(self.exists, weight, 0)

    def _with(self, weight: Array) -> "SparseRows":
        return with_fields(self, weight=weight)

    def _apart(self, post: Array) -> Array:
        """By part, that axis first."""
        apart = post.reshape(*post.shape[:-1], self.parts, -1)
        return jnp.moveaxis(apart, -2, 0)


def over_neurons(tree: PyTree, mesh: Mesh, model: PyTree, axis: str = "neurons") -> PyTree:
    """A model, its carry or an optimizer's state, with its neurons spread over devices.

    Each part of `SparseRows`, and of its traces, goes to a device; of other arrays, the first axis
    that is as long as there are neurons is divided likewise; what has none is on all devices. In a
    compiled function that is a constraint on what is there. Numbers do not depend on it, but by
    rounding. JAX joins processes: call `jax.distributed.initialize()` in each, and all make the
    same model.

    **Arguments:**

    - `tree`: any, of arrays and others.
    - `mesh`: of `Auto` axes, as `jax.make_mesh((8,), ("neurons",), (AxisType.Auto,))`.
    - `model`: that whose `SparseRows` say how many neurons and parts there are.
    - `axis`: of the mesh; its devices must divide the parts.
    """
    arguments.require(mesh, Mesh, f"mesh must be a jax Mesh, but is {arguments.shown(mesh)}.")
    types = dict(zip(mesh.axis_names, mesh.axis_types))
    if types.get(axis) != AxisType.Auto:
        raise ValueError(f"axis must be an Auto one of the mesh's, {types}, but is {axis!r}.")
    maps = [node for node in jax.tree.leaves(model, is_leaf=_is_rows) if _is_rows(node)]
    if not maps:
        raise ValueError("model must have SparseRows, of which devices get parts, but has none.")
    devices, neurons = mesh.shape[axis], {rows.shape[0] for rows in maps}
    for rows in maps:
        if rows.parts % devices:
            raise ValueError(
                f"The mesh's {devices} devices along {axis!r} must divide the parts of SparseRows, "
                f"but there are {rows.parts}: SparseRows(synapses, {devices})."
            )
    parts = {rows.weight.shape for rows in maps}

    def placed(leaf, lead):
        spec = PartitionSpec() if lead is None else PartitionSpec(*(None,) * lead, axis)
        return eqx.filter_shard(leaf, NamedSharding(mesh, spec))

    def one(node):
        if _is_rows(node):
            return jax.tree.map(lambda leaf: placed(leaf, 0), node)
        if not eqx.is_array(node):
            return node
        if node.shape[-2:] in parts:
            return placed(node, node.ndim - 2)
        return placed(node, next((k for k, size in enumerate(node.shape) if size in neurons), None))

    return jax.tree.map(one, tree, is_leaf=_is_rows)


def _is_rows(node: object) -> TypeGuard[SparseRows]:
    return isinstance(node, SparseRows)


def _together(each: Float[Array, "parts *axes rows"]) -> Float[Array, "*axes post"]:
    each = jnp.moveaxis(each, 0, -2)
    return each.reshape(*each.shape[:-2], -1)


def _apart(synapses: Sparse, parts: int) -> tuple[Sparse, Bool[Array, "parts K"]]:
    """The lists on one axis, in the order in which they are summed; and what is no filling."""
    n, m = synapses.sizes
    rows = n // parts
    post, pre = np.asarray(synapses.post), np.asarray(synapses.pre)
    members = np.split(np.argsort(post // rows, kind="stable"), _ends(post // rows, parts))
    onto = [post[member] % rows for member in members]
    tables = tables_of(onto, rows), tables_of([pre[member] for member in members], m)
    weight, each, exists = np.asarray(synapses.weight), [], []
    for member, owners in zip(members, onto):
        order, *_ = laid(owners, rows, tables[0])
        (real,) = np.nonzero(order >= 0)
        synapse = member[np.maximum(order, 0)] if member.size else np.zeros(0, int)
        out_of = Lines(pre[synapse[real]], m, tables[1])
        # of items among the filling, where they stand
        stands = real[np.asarray(out_of.order)] if real.size else np.asarray(out_of.order)
        lists = {
            "weight": jnp.asarray(np.where(order >= 0, weight[synapse], 0), weight.dtype),
            "post": indices(post[synapse] % rows),
            "pre": indices(pre[synapse]),
            "onto": with_fields(Lines(owners, rows, tables[0]), order=None),
            "out_of": with_fields(out_of, order=indices(stands)),
            "sender": indices(pre[synapse]),
            "receiver": indices((post[synapse] % rows)[stands]),
        }
        each.append(with_fields(synapses, sizes=(rows, m), **lists))
        exists.append(jnp.asarray(order >= 0))
    return jax.tree.map(lambda *a: jnp.stack(a), *each), jnp.stack(exists)


def _ends(part: np.ndarray, parts: int) -> np.ndarray:
    return np.cumsum(np.bincount(part, minlength=parts))[:-1]
