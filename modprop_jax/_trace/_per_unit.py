import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._cell import SeparableCell
from .._cell._base import batch_shape, of_package
from .._cell._claims import check_apart, check_units
from .._credit import Credit, Record
from .._inputs import is_none
from .._precision import start_of, wide, widened
from .._program._base import AbstractProgram
from .._program._reverse import bring_back, charge
from .._start import pull_start, read_by_start, start_mixes_units
from .._synapses import AbstractLocalSynapses
from .._synapses._base import described
from .._tree import inexact
from ._base import (
    AbstractTrace,
    arrivals,
    inside,
    no_credit,
    over_batch,
    refusal,
    units,
)
from ._entries import ByGate, entries_of, maps_in


class PerUnit(AbstractTrace):
    r"""Eligibility traces of a separable cell's parameters: each is kept for its own unit.

    One row for each variable of the unit, as credit on a state stays with its unit. The cell names
    what belongs to its units, `unit_parameters`: arrays whose leading axis is (gates x units), and
    maps with a parameter a synapse; leaves (rows, *batch, *parameter shape). What only the emission
    reads has no past. Memory O(rows · P) an example. Between segments it is touched once, as
    `PerSynapse` is.

    Errors: ValueError if the state depends on a parameter that belongs to no unit.
    """

    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """Zeros."""
        inner, filtered = on.cell, on.emission.remembers
        if filtered and inner.emission_parameters:
            raise ValueError(
                f"{on.name} does not stream a Filtered {type(inner).__name__}, whose "
                "emission mixes units: filter its readout instead, or learn offline."
            )
        n, batch = inner.hidden_size, batch_shape(inner, state)
        self._check(on.name, inner, filtered=filtered)
        rows = len(_units(no_credit(on, state, batch), batch, n)[1])

        def zeros(p):
            return jnp.zeros((rows, *batch, *p.shape), wide(p.dtype))

        return jax.tree.map(zeros, _kept(inner))

    @staticmethod
    def serves(cell: SeparableCell, *, filtered: bool) -> bool:
        """Whether all that moves the state (`filtered`: and the emission) belongs to units."""
        try:
            PerUnit._check("", cell, filtered=filtered)
        except ValueError:
            return False
        return True

    @staticmethod
    def _check(who: str, cell: SeparableCell, *, filtered: bool) -> None:
        if filtered:
            check_apart(f"{who}, under a Filtered emission,", cell, "emit")
            features = jax.eval_shape(lambda: cell.emit(start_of(cell))).shape[-1]
            if features != cell.hidden_size:  # the memory of a feature would be no unit's
                raise ValueError(
                    f"{who} does not stream a Filtered {type(cell).__name__}, which emits "
                    f"{features} features of {cell.hidden_size} units: filter its readout "
                    "instead, use RTRL, or learn offline."
                )
        for name in cell.unit_parameters:
            for synapses in maps_in(getattr(cell, name)):
                if not isinstance(synapses, AbstractLocalSynapses):
                    raise ValueError(
                        f"{who} keeps a trace for each synapse of this {type(cell).__name__}, but "
                        f"{name} holds a {described(synapses)}, whose parameters act on many: "
                        "learn offline (from a bare state), or stream with RTRL."
                    )
        own = of_package(type(cell))
        for path, p in jax.tree_util.tree_leaves_with_path(_kept(cell, entries_of(cell))):
            by_gate = isinstance(p, ByGate) or not own
            if by_gate and (p.shape[:1] == () or p.shape[0] % cell.hidden_size):
                raise ValueError(
                    f"{who} streams traces for parameters whose first axis is one or several times "
                    f"the units (n={cell.hidden_size}), but {type(cell).__name__}"
                    f"{jax.tree_util.keystr(path)} has shape {p.shape}: reshape it, or use RTRL."
                )
        check_units(who, cell, emits=filtered)

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """What each parameter does to its own unit's first state."""
        inner = on.cell
        n = inner.hidden_size
        reads, kept = read_by_start(inner), _kept(inner)
        lost = jax.tree.map(lambda reads, p: reads and p is None, reads, kept, is_leaf=is_none)
        if any(jax.tree.leaves(lost)) or start_mixes_units(inner, n):
            raise refusal(on)
        rows, _ = _units(no_credit(on, start_of(inner), ()), (), n)
        each = jax.vmap(lambda credit: _kept(inner, pull_start(inner, credit)))(rows.state)
        return jax.tree.map(lambda m: over_batch(m, batch), each)

    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """`Σ_rows,batch credit[row, unit] M[row, unit, ...]`."""
        cell = on.cell
        rows = _rows(credit, cell.hidden_size, 0)
        flat = rows.reshape(-1, rows.shape[-1])

        def one(m, entries):
            return entries.summed(flat, m.reshape(len(flat), *entries.shape))

        gradient = jax.tree.map(one, trace, _kept(cell, entries_of(cell)))
        return eqx.combine(gradient, jax.tree.map(lambda _: None, inexact(cell)))

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """`M_K = (credit at the start) · M_0 + Σ_t (credit at t) · F_t`."""
        inner = on.cell
        n, batch = inner.hidden_size, record.xs.shape[1:-1]
        unit, _ = _units(no_credit(on, record.before, batch), batch, n)
        unit = inside(unit, record)

        def flat(tree):
            lead = len(batch)
            return jax.tree.map(lambda a: a.reshape(len(a), -1, *a.shape[1 + lead :]), tree)

        charged = widened(inner)

        def response(credit):
            start, points, *credits = bring_back(on, record, credit)

            def example(points, states, total, message, ct_z):
                gradient, _ = charge(charged, points, states, total, message, ct_z)
                return _kept(inner, gradient)

            each = jax.vmap(example, in_axes=1)
            return start, each(*flat((points, record.states, *credits)))

        end, fresh = jax.vmap(response)(unit)
        came = arrivals(on, self, record, trace, end)
        carries = [_rows(credit, n, 1) for credit, _ in came]

        def one(entries, fresh, *values):
            for carry, m in zip(carries, values, strict=True):
                past = m.reshape(*carry.shape[1:3], *entries.shape)
                fresh = entries.moved(carry, past).reshape(m.shape) + fresh.reshape(m.shape)
            return fresh

        kept = _kept(inner, entries_of(inner))
        return jax.tree.map(one, kept, fresh, *(value for _, value in came))


def _kept(cell: SeparableCell, gradient: PyTree = None) -> PyTree:
    """The parameters that belong to their units, those of a start that learns among them; None in
    place of the others. `gradient`: the same of a gradient of the cell, or of another such tree.
    """
    tree = inexact(cell) if gradient is None else gradient
    names = [name for name in cell.unit_parameters if getattr(cell, name) is not None]
    kept = jax.tree.map(lambda reads, p: p if reads else None, read_by_start(cell), tree)
    if not names:
        return kept
    parts = [getattr(tree, name) for name in names]
    each = lambda c: [getattr(c, name) for name in names]  # noqa: E731
    return eqx.tree_at(each, kept, parts, is_leaf=lambda x: x is None)


def _units(zero: Credit, batch: tuple[int, ...], n: int) -> tuple[Credit, list]:
    """Unit credits, one row for each variable of a unit, and a list of these variables.

    A state also holds what is no unit's (the input that a skip connection reads): nothing of the
    past reaches it.
    """
    kept = jax.tree.map(lambda z: z if z.shape[-1] == n else None, zero)
    unit = units(kept, batch, jax.tree.map(lambda _: True, kept))
    rows = jax.tree.leaves(kept)

    def fill(z, u):
        return jnp.zeros((len(rows), *z.shape), z.dtype) if u is None else u

    return jax.tree.map(fill, zero, unit), rows


def _rows(credit: Credit, n: int, lead: int) -> Array:
    """Credit as one coefficient for each row, example and unit: (*lead, rows, batch, n)."""
    leaves = [leaf for leaf in jax.tree.leaves(credit) if leaf.shape[-1] == n]
    rows = [leaf.reshape(*leaf.shape[:lead], 1, -1, n) for leaf in leaves]
    return jnp.concatenate(rows, axis=lead)
