import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._cell._base import batch_shape
from .._cell._claims import check_leaky
from .._cell._membrane import has_membrane, membrane_place, variables
from .._credit import Credit, Record
from .._precision import start_of, wide, widened
from .._program._base import AbstractProgram
from .._start import read_by_start
from .._synapses import AbstractLocalSynapses
from ._base import AbstractTrace, arrivals
from ._per_synapse import PerSynapse
from ._presynaptic import Presynaptic
from ._response import activity, met, moved, moved_neurons, respond


class ByMembrane(AbstractTrace):
    r"""Filtered presynaptic activity for the membrane, and a row a synapse for what else a neuron
    remembers.

    Where the membrane leaks at one rate in all neurons, and nothing else of the neuron acts on it,
    its part of the eligibility trace is the same for all neurons that hear a synapse's sender:

        f_t[i] = leak f_{t-1}[i] + gain pre_t[i]
        E_t[a,j,i] = Σ_b D_t[a,b,j] E_{t-1}[b,j,i] + D_t[a,v,j] f_{t-1}[i] + F_t[a,j] pre_t[i]

    with a and b the variables other than the membrane v: an adaptation, or the memory of a
    `Filtered` emission. Memory n+m, and n(n+m) for each of the others, an example: `PerSynapse`
    without the membrane's row. Value: rows of the neurons' own parameters; for each afferent
    filtered activity, (1, *batch, pre); and rows for its `weight`, (others, *batch, *shape).
    """

    @staticmethod
    def serves(on: AbstractProgram) -> bool:
        """Whether the cell is of that kind, each of whose synapses has a parameter of its own.

        The rule's credit must go through a step as the neuron's own dynamics has it, and what a
        filtered emission remembers stay with its neuron.
        """
        cell = on.cell
        if not on.neurons or not cell.uniform_leak or not has_membrane(cell):
            return False
        if variables(cell) == 1 and not on.emission.remembers:  # there are no others
            return False
        if not all(isinstance(s, AbstractLocalSynapses) for s in cell.afferents.values()):
            return False
        # a start that reads a weight is of each synapse
        reads = read_by_start(cell)
        return not any(jax.tree.leaves([getattr(reads, name) for name in cell.afferents]))

    @property
    def _rows(self) -> PerSynapse:
        return PerSynapse(filter_is_local=True, weights=False)

    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """Zeros."""
        inner = on.cell
        check_leaky(on.name, inner)
        batch = batch_shape(inner, state)
        own, _ = self._rows.init(on, state)
        others = self._rows.count(on, state, batch) - 1
        each = {
            name: jnp.zeros((others, *batch, *s.weight.shape), wide(s.weight.dtype))
            for name, s in inner.afferents.items()
        }
        return own, Presynaptic().silent(on, batch), each

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """Of parameters of the neuron itself: no weight has done anything yet."""
        own, _ = self._rows.of_start(on, batch)
        _, *nothing = self.init(on, start_of(on.cell, batch))
        return own, *nothing

    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """`Σ_batch (λ_v[j] f[i] + Σ_a λ_a[j] E[a,j,i])`."""
        own, filtered, weights = trace
        rows, place = self._rows.coefficients(credit, 0), _place(on)
        others = _without(rows, place)

        def synapse(name, synapses):
            sent = filtered[name].reshape(-1, filtered[name].shape[-1])
            each = weights[name].reshape(*others.shape[:2], *synapses.weight.shape)
            past = met(synapses.spread(others), each)
            return synapses.of_weight(synapses.gradient(rows[place], sent).weight + past)

        # a trace is wide, and so is what it is contracted to
        each = {name: synapse(name, s) for name, s in widened(on.cell).afferents.items()}
        gradient = on.cell.with_afferents(each)
        return eqx.combine(gradient, self._rows.contract(on, (own, {}), credit))

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """Credit at the end of the segment meets what the membrane and the others remember."""
        own, filtered, weights = trace
        units, place = self._rows.units(on, record.before, record.xs.shape[1:-1]), _place(on)
        if not jax.tree.leaves(own):
            # unit credit on the membrane is for parameters of the neuron: weights have the filters
            units = jax.tree.map(lambda a: _without(a, place), units)
        end, fresh_own, drive = respond(on, record, units)
        pre = activity(on, record)
        came = arrivals(on, self, record, trace, end)
        carries = [self._rows.coefficients(credit, 1) for credit, _ in came]
        if jax.tree.leaves(own):
            own = moved_neurons(fresh_own, carries, [own for _, (own, *_) in came])
            drive, *carries = (_without(a, place) for a in (drive, *carries))
        # a start holds nothing of weights: of what came, only the past of the segment does
        to_membrane, to_others = carries[0][:, place], _without(carries[0], place, axis=1)

        def synapse(name, synapses):
            fresh = synapses.outer(drive, pre[name])
            sent = synapses.gather(filtered[name].reshape(-1, filtered[name].shape[-1]))
            fresh = synapses.spread(to_membrane) * sent[None] + fresh
            past = weights[name].reshape(fresh.shape)
            fresh = moved(synapses.spread(to_others), past) + fresh
            return fresh.reshape(weights[name].shape)

        each = {name: synapse(name, s) for name, s in on.cell.afferents.items()}
        return own, Presynaptic().advance(on, record, filtered), each


def _place(on: AbstractProgram) -> int:
    """The membrane's, among the rows: variables of the state come first."""
    place = membrane_place(on.cell)
    assert place is not None
    return place


def _without(rows: Array, place: int, axis: int = 0) -> Array:
    """All rows but this one."""
    before, _, after = jnp.split(rows, [place, place + 1], axis=axis)
    return jnp.concatenate([before, after], axis=axis)
