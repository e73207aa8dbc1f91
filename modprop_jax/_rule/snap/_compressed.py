import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from ..._cell._base import batch_shape
from ..._credit import Credit, Point
from ..._flags import select_trace
from ..._precision import start_of
from ..._program._base import AbstractProgram
from ..._trace._influence import AbstractInfluence, Influence
from ..._trace._rows import credit_from_rows, credit_to_rows, to_rows
from ..._tree import each, inexact
from ._jacobian import emission_entries, parameter_entries, state_entries
from ._pattern import Pattern
from ._structure import features_of, rows_after


class Compressed(AbstractInfluence):
    r"""The influence matrix at the pairs (row, parameter) that a pattern keeps, and nowhere else.

    \[ M_t = P \odot (J_t M_{t-1} + F_t) \]

    Parameters that reach the same rows form a group, for which the part of J among these rows is
    gathered once. A leaf holds the groups of about one size: (k, *batch, groups, m), k rows of each
    of m parameters. Memory: the kept pairs, and padding; time k times that a step, and the cell's
    own derivatives.
    """

    pattern: Pattern = eqx.field(static=True)

    def init(
        self, on: AbstractProgram, state: PyTree, key: PRNGKeyArray | None = None
    ) -> Influence:
        """Zeros."""
        batch = batch_shape(on.cell, state)
        dtype = jax.eval_shape(to_rows, state).dtype
        blocks = self.pattern.blocks

        def zeros(rows, block):
            return jnp.zeros((len(rows), *batch, *block.members.shape), dtype)

        held = [zeros(block.rows, block) for block in blocks]
        if not on.emission.remembers:
            return Influence(held)
        memory = [zeros(block.features, block) for block in blocks]
        filters = jax.tree.leaves(on.emission.silent(on.cell.emit(state)))
        return Influence(held, [memory for _ in filters])

    def advance(
        self, on: AbstractProgram, point: Point, after: PyTree, trace: Influence
    ) -> Influence:
        """`P ⊙ (J M + F)`; a memory leaks, and takes up what is emitted."""
        cell, blocks = on.cell, self.pattern.blocks

        def derivatives(before, x):
            fresh = parameter_entries(self.pattern.step, rows_after, cell, before, x)
            return state_entries(self.pattern, cell, on.weights, before, x), fresh

        moves, fresh = each(derivatives, point.x.ndim - 1)(point.before, point.inputs)
        state = [
            _plus(_product(moves, block.moves, m), _at(fresh, block.fresh))
            for block, m in zip(blocks, trace.state, strict=True)
        ]
        if not on.emission.remembers:
            return Influence(state)

        emission = self.pattern.emission
        assert emission is not None

        def emitted(after, x):
            own = parameter_entries(emission, features_of, cell, after, x)
            return emission_entries(emission, cell, after, x), own

        reads, own = each(emitted, point.x.ndim - 1)(after, point.inputs)
        taken = [
            _plus(_product(reads, block.reads, m), _at(own, block.own))
            for block, m in zip(blocks, state, strict=True)
        ]
        memory = [
            [
                _scaled(leak, block.features, m) + _scaled(gain, block.features, new)
                for block, m, new in zip(blocks, held, taken, strict=True)
            ]
            for leak, gain, held in zip(*_coefficients(on), trace.memory, strict=True)
        ]
        return Influence(state, memory)

    def contract(self, on: AbstractProgram, trace: Influence, credit: Credit) -> PyTree:
        """`Σ_rows,batch credit[row] M[row]`."""
        leaves, structure = jax.tree.flatten(inexact(on.cell))
        if not self.pattern.blocks:
            return jax.tree.map(jnp.zeros_like, inexact(on.cell))
        lead = trace.state[0].ndim - 3
        rows = credit_to_rows(credit.state, lead)

        def sums(credit, index, m):
            # one leading axis: XLA's CPU reduction over two is an order of magnitude slower
            credit = _at(credit, index).reshape(-1, index.shape[-1])
            return jnp.sum(credit[..., None] * m.reshape(-1, *m.shape[-2:]), axis=0).reshape(-1)

        blocks = self.pattern.blocks
        flat = jnp.concatenate(
            [sums(rows, block.rows, m) for block, m in zip(blocks, trace.state, strict=True)]
        )
        for features, held in zip(jax.tree.leaves(credit.memory), trace.memory, strict=True):
            features = features.reshape(*features.shape[:lead], -1)
            flat += jnp.concatenate(
                [sums(features, block.features, m) for block, m in zip(blocks, held, strict=True)]
            )
        cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = jnp.split(_padded(flat)[self.pattern.places], cuts)
        shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)


class FromStart(AbstractInfluence):
    """The influence of the initial state, of each example on its own: `Compressed` without F."""

    pattern: Pattern = eqx.field(static=True)

    def init(
        self, on: AbstractProgram, state: PyTree, key: PRNGKeyArray | None = None
    ) -> Influence:
        """The identity."""
        batch = batch_shape(on.cell, state)
        dtype = jax.eval_shape(to_rows, state).dtype

        def identity(block):
            same = block.rows[..., None] == block.members
            rows, *groups = same.shape
            same = same.reshape(rows, *(1,) * len(batch), *groups)
            return jnp.broadcast_to(jnp.asarray(same, dtype), (rows, *batch, *groups))

        return Influence([identity(block) for block in self.pattern.blocks])

    def begin(
        self, on: AbstractProgram, flag: Bool[Array, "*batch"], trace: Influence
    ) -> Influence:
        """The identity where the flag of an example holds."""
        return select_trace(flag, self.init(on, start_of(on.cell, flag.shape)), trace)

    def advance(
        self, on: AbstractProgram, point: Point, after: PyTree, trace: Influence
    ) -> Influence:
        """`P ⊙ (J M)`."""

        def derivatives(before, x):
            return state_entries(self.pattern, on.cell, on.weights, before, x)

        moves = each(derivatives, point.x.ndim - 1)(point.before, point.inputs)
        together = zip(self.pattern.blocks, trace.state, strict=True)
        return Influence([_product(moves, block.moves, m) for block, m in together])

    def contract(self, on: AbstractProgram, trace: Influence, credit: Credit) -> PyTree:
        """`Σ_rows credit[row] M[row]`, shaped as the differentiable part of the state."""
        lead = trace.state[0].ndim - 3
        rows = credit_to_rows(credit.state, lead)
        each = [
            jnp.sum(_at(rows, block.rows)[..., None] * m, axis=0)
            for block, m in zip(self.pattern.blocks, trace.state, strict=True)
        ]
        flat = jnp.concatenate([block.reshape(*block.shape[:lead], -1) for block in each], axis=-1)
        return credit_from_rows(_padded(flat)[..., self.pattern.places], credit.state)


def _padded(values: Array) -> Array:
    """With a zero behind the last, where the padding of a pattern points."""
    return jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, 1)])


def _at(values: Array, index: np.ndarray) -> Array:
    """(*batch, values) at an index (rows, ...): (rows, *batch, ...)."""
    return jnp.moveaxis(_padded(values)[..., index], -index.ndim, 0)


def _product(values: Array, index: np.ndarray, m: Array) -> Array:
    """Σ_r values[index[row, r]] m[r], of each example and group."""
    matrix = jnp.moveaxis(_at(values, index), -2, 1)
    if len(m) > 8:
        return jnp.einsum("qr...g,r...gm->q...gm", matrix, m)
    # for few rows one elementwise loop; XLA's CPU code for small matmuls is far slower
    each = [matrix[:, r, ..., None] * m[r][None] for r in range(len(m))]
    zero = jnp.zeros((len(matrix), *m.shape[1:]), m.dtype)
    return functools.reduce(jnp.add, each, zero)


def _plus(moved: Array, fresh: Array) -> Array:
    """Sum, where only the first rows have something fresh."""
    return jnp.concatenate([moved[: len(fresh)] + fresh, moved[len(fresh) :]])


def _coefficients(on: AbstractProgram) -> tuple[list[Array], list[Array]]:
    """The leaks and the gains of the filters, each a vector over the emitted features."""
    like = jax.eval_shape(lambda: on.cell.emit(start_of(on.cell)))
    one = jnp.ones(like.shape, like.dtype)
    silent = on.emission.silent(one)
    leaks = on.emission.filter(jax.tree.map(jnp.ones_like, silent), jnp.zeros_like(one))
    gains = on.emission.filter(silent, one)
    return [a.reshape(-1) for a in jax.tree.leaves(leaks)], [
        a.reshape(-1) for a in jax.tree.leaves(gains)
    ]


def _scaled(factor: Array, features: np.ndarray, m: Array) -> Array:
    factor = _padded(factor)[features]
    return factor.reshape(len(m), *(1,) * (m.ndim - 3), factor.shape[-1], 1) * m
