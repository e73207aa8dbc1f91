from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from ..._cell._base import batch_shape
from ..._credit import Credit, Point
from ..._flags import select_trace
from ..._precision import start_of
from ..._program._base import AbstractProgram
from ..._start import pull_start, start_mixes_units
from ..._trace._base import refusal
from ..._trace._influence import AbstractInfluence, Influence
from ..._trace._rows import credit_from_rows, credit_to_rows, to_rows
from ._linear import linearised
from ._sketch import advanced, contracted, nothing, Sketch, Truncation
from ._units import by_unit, from_units, variables, width


class Sketched(AbstractInfluence):
    r"""\( M_t \approx S_t + U_t Z_t^T \), leaves (1, *batch, ...) of a `Sketch`.

    `of_state`: in place of the parameters, the k variables of each unit's first state.
    """

    rank: int = eqx.field(static=True)
    how: Truncation = eqx.field(static=True)
    of_state: bool = eqx.field(static=True, default=False)

    def init(
        self, on: AbstractProgram, state: PyTree, key: PRNGKeyArray | None = None
    ) -> Influence:
        """Nothing; of the first state, the identity."""
        return Influence(self._begun(on.cell, batch_shape(on.cell, state), to_rows(state).dtype))

    def _begun(self, cell: Any, batch: tuple[int, ...], dtype: Any) -> Sketch:
        k, n = variables(cell), cell.hidden_size
        p = k if self.of_state else width(cell)
        held = nothing(k, n, p, self.rank, self.how.extra, dtype)
        if self.of_state:
            own = jnp.broadcast_to(jnp.eye(k, dtype=dtype)[:, None], (k, n, k))
            held = held._replace(own=own)
        return jax.tree.map(lambda a: _over(a, batch), held)

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> Influence:
        """What each parameter does to its own unit's first state."""
        cell = on.cell
        if start_mixes_units(cell, cell.hidden_size):
            raise refusal(on)
        start = start_of(cell)
        rows = to_rows(start).reshape(-1, cell.hidden_size)
        unit = jnp.eye(len(rows), dtype=rows.dtype)[..., None]
        unit = jnp.broadcast_to(unit, (len(rows), *rows.shape)).reshape(len(rows), -1)
        each = jax.vmap(lambda u: pull_start(cell, credit_from_rows(u, start)))(unit)
        held = self._begun(cell, (), rows.dtype)
        held = held._replace(own=by_unit(cell, each, 1)[None])
        return Influence(jax.tree.map(lambda a: _over(a[0], batch), held))

    def begin(
        self, on: AbstractProgram, flag: Bool[Array, "*batch"], trace: Influence
    ) -> Influence:
        """Of the first state, the identity where the flag holds."""
        if not self.of_state:
            return AbstractInfluence.begin(self, on, flag, trace)
        begun = self._begun(on.cell, flag.shape, trace.state.own.dtype)
        return Influence(select_trace(flag, begun, trace.state))

    def forget(self, flag: Bool[Array, "*batch"], trace: Influence) -> Influence:
        """Nothing where the flag of an example holds; any basis is as good as another."""
        held = trace.state
        fresh = jax.tree.map(jnp.zeros_like, held)
        basis = jnp.eye(*held.basis.shape[-2:], dtype=held.basis.dtype)
        fresh = fresh._replace(basis=jnp.broadcast_to(basis, held.basis.shape))
        return Influence(select_trace(flag, fresh, held))

    def advance(
        self, on: AbstractProgram, point: Point, after: PyTree, trace: Influence
    ) -> Influence:
        """`A E + O blk(S)`, brought back to its rank."""
        weights = on.weights

        def one(before, inputs, held):
            step = linearised(on.cell, before, inputs, weights.exists)
            if self.of_state:
                fresh = jnp.zeros_like(held.own)
                step = step._replace(fresh=fresh, said=fresh[0])
            return advanced(held, step, weights, self.how)

        over = one
        for _ in range(point.x.ndim - 1):
            over = jax.vmap(over)
        held = jax.tree.map(lambda a: a[0], trace.state)
        held = over(point.before, point.inputs, held)
        return Influence(jax.tree.map(lambda a: a[None], held))

    def contract(self, on: AbstractProgram, trace: Influence, credit: Credit) -> PyTree:
        """`Σ_batch credit (S + U Zᵀ)`; of the first state, of each example."""
        n, held = on.cell.hidden_size, jax.tree.map(lambda a: a[0], trace.state)
        lead = held.bound.ndim
        rows = credit_to_rows(credit.state, lead)
        batch = rows.shape[:-1]
        rows = rows.reshape(*batch, -1, n)
        if self.of_state:
            each = contracted
            for _ in range(lead):
                each = jax.vmap(each)
            found = jnp.swapaxes(each(held, rows), -1, -2).reshape(*batch, -1)
            return credit_from_rows(found, credit.state)
        through = jnp.einsum(
            "...s,...sa->...a", rows.reshape(*batch, -1), held.basis[..., : held.rest.shape[-3]]
        )

        def summed(coefficients, values):
            """One leading axis: XLA's CPU reduction over two is an order of magnitude slower."""
            return jnp.sum(
                coefficients.reshape(-1, *coefficients.shape[lead + 1 :])[..., None]
                * values.reshape(-1, *values.shape[lead + 1 :]),
                axis=0,
            )

        found = summed(rows, held.own)
        if held.rest.size:
            flat = held.rest.reshape(-1, n * held.rest.shape[-1])
            found = found + (through.reshape(-1) @ flat).reshape(found.shape)
        return from_units(on.cell, found)


def _over(a: Array, batch: tuple[int, ...]) -> Array:
    """(1, *batch, ...), the same for all examples."""
    each = a.reshape(1, *(1,) * len(batch), *a.shape)
    return jnp.broadcast_to(each, (1, *batch, *a.shape))
