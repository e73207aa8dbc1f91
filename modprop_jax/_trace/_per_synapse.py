import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._cell._base import batch_shape
from .._cell._claims import check_apart, check_own
from .._credit import Credit, Record
from .._precision import start_of, wide, widened
from .._program._base import AbstractProgram
from .._start import read_by_start, start_mixes_units
from .._synapses import AbstractLocalSynapses
from .._synapses._base import described
from .._tree import pullback
from ._base import AbstractTrace, arrivals, no_credit, over_batch, refusal, units
from ._response import activity, met, moved, moved_neurons, respond


class PerSynapse(AbstractTrace):
    r"""Eligibility traces: what a synapse keeps of its own neuron's history.

    One row for each variable of the neuron, which holds for all neurons at once because credit on
    a state stays with its neuron; and one row for each number that reaches all neurons alike
    (ModProp's type-summed credit, a filtered emission under a rule with hops). Leaves
    (rows, *batch, *shape) for the `weight` of each afferent, (n, pre) of a matrix and (n,) of the
    bias, and (rows, *batch, n) for parameters of the neuron. Between segments it is touched once:
    multiplied by the product of the segment's gates, plus one matmul over the segment's steps.

    `filter_is_local`: credit on a `Filtered` emission's memory stays with its neuron.
    """

    filter_is_local: bool = eqx.field(static=True)
    weights: bool = eqx.field(static=True, default=True)

    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """Zeros."""
        inner = on.cell
        batch = batch_shape(inner, state)
        rows, n = self.count(on, state, batch), inner.hidden_size

        def zeros(p):
            return jnp.zeros((rows, *batch, n), wide(p.dtype))

        own, _ = inner.split()
        for path, p in jax.tree_util.tree_leaves_with_path(own):
            if p.shape not in ((), (n,)):
                raise ValueError(
                    f"{on.name} streams traces for parameters with one value or one "
                    f"value a neuron (n={n}), but {type(inner).__name__}"
                    f"{jax.tree_util.keystr(path)} has shape {p.shape}: reshape it, or use RTRL."
                )
        joint = any(jax.tree.leaves(self._together(no_credit(on, state, batch)).memory))
        if joint:
            check_apart(f"{on.name}, under a Filtered emission,", inner, "emit")
        check_own(on.name, inner, emits=joint)
        return jax.tree.map(zeros, own), {
            name: jnp.zeros((rows, *batch, *s.weight.shape), wide(s.weight.dtype))
            for name, s in self._synapses(on).items()
        }

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """What each parameter does to its own neuron's first state."""
        inner = on.cell
        n, reads = inner.hidden_size, read_by_start(inner)
        weights = [getattr(reads, name) for name in inner.afferents]
        if (any(jax.tree.leaves(weights)) and not self.weights) or start_mixes_units(inner, n):
            raise refusal(on)
        rows = self.units(on, start_of(inner), ()).state
        own, rest = widened(inner).split()
        own = jax.tree.map(lambda p: jnp.broadcast_to(p, (n,)), own)
        back = pullback(lambda own, rest: start_of(eqx.combine(own, rest)), own, rest)
        own, rest = jax.tree.map(lambda m: over_batch(m, batch), jax.vmap(back)(rows))

        def weight(gradient):
            return gradient.weight if isinstance(gradient, AbstractLocalSynapses) else gradient

        return own, {name: weight(getattr(rest, name)) for name in self._synapses(on)}

    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """`Σ_rows,batch credit[row, post] M[row, post, pre]`."""
        rows = self.coefficients(credit, 0)
        flat = rows.reshape(-1, rows.shape[-1])
        own, weights = trace

        def neuron(m):
            return jnp.sum(flat * m.reshape(flat.shape), axis=0)

        def synapse(name, synapses):
            each = weights[name].reshape(*rows.shape[:2], *synapses.weight.shape)
            return synapses.of_weight(met(synapses.spread(rows), each))

        own = jax.tree.map(lambda m, p: _reduce(neuron(m), p), own, on.cell.split()[0])
        each = {name: synapse(name, s) for name, s in self._synapses(on).items()}
        return eqx.combine(own, on.cell.with_afferents(each))

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """`M_K = (credit at the start) · M_0 + Σ_t (credit at t) ⊗ pre_t`."""
        rows = self.units(on, record.before, record.xs.shape[1:-1])
        end, fresh_own, drive = respond(on, record, rows)
        pre = activity(on, record)
        came = arrivals(on, self, record, trace, end)
        carries = [self.coefficients(credit, 1) for credit, _ in came]

        def synapse(name, synapses):
            fresh = synapses.outer(drive, pre[name])
            for carry, (_, (_, weights)) in zip(carries, came, strict=True):
                m = weights[name].reshape(fresh.shape)
                fresh = moved(synapses.spread(carry), m) + fresh
            return fresh.reshape(trace[1][name].shape)

        own = moved_neurons(fresh_own, carries, [own for _, (own, _) in came])
        return own, {name: synapse(name, s) for name, s in self._synapses(on).items()}

    def units(self, on: AbstractProgram, state: PyTree, batch: tuple[int, ...]) -> Credit:
        """Unit credits, one a row, from a cell's state."""
        zero = no_credit(on, state, batch)
        return units(zero, batch, self._together(zero))

    def count(self, on: AbstractProgram, state: PyTree, batch: tuple[int, ...]) -> int:
        """How many rows there are."""
        rows = jax.eval_shape(lambda: self.units(on, state, batch))
        return len(jax.tree.leaves(rows)[0])

    def _synapses(self, on: AbstractProgram) -> dict[str, AbstractLocalSynapses]:
        return local_afferents(on) if self.weights else {}

    def _together(self, zero: Credit) -> Credit:
        """Which credits have one pattern for all neurons."""
        n = jax.tree.leaves(zero.state)[0].shape[-1]
        return Credit(
            jax.tree.map(lambda _: True, zero.state),
            jax.tree.map(lambda _: False, zero.modulator),
            # an emission of several features a neuron has no neuron axis to stay on
            jax.tree.map(lambda z: self.filter_is_local and z.shape[-1] == n, zero.memory),
        )

    def coefficients(self, credit: Credit, lead: int) -> Array:
        """Credit as one coefficient for each row, example and neuron: (*lead, rows, batch, n)."""
        together = self._together(credit)
        leaves = jax.tree.leaves(credit)
        n, rows = leaves[0].shape[-1], []
        for leaf, joint in zip(leaves, jax.tree.leaves(together)):
            leaf = leaf.reshape(*leaf.shape[:lead], -1, leaf.shape[-1])
            if joint:
                rows.append(leaf[..., None, :, :])
            else:
                leaf = jnp.moveaxis(leaf, -1, lead)[..., None]
                rows.append(jnp.broadcast_to(leaf, (*leaf.shape[:-1], n)))
        return jnp.concatenate(rows, axis=lead)


def local_afferents(on: AbstractProgram) -> dict[str, AbstractLocalSynapses]:
    """The afferents, each of whose synapses must have a parameter of its own; else a ValueError."""
    found = on.cell.afferents
    for name, synapses in found.items():
        if not isinstance(synapses, AbstractLocalSynapses):
            raise ValueError(
                f"{on.name} keeps a trace for each synapse of this {type(on.cell).__name__}, but "
                f"{name} is a {described(synapses)}, whose parameters act on many: where one leak "
                "serves all neurons (a LeakyCell or LIFCell of one tau, unfiltered) EProp, MDGL "
                "and ModProp with types stream any map; else learn offline (from a bare state), or "
                "stream with RTRL."
            )
    return found


def _reduce(value: Array, like: Array) -> Array:
    return value.sum() if like.ndim == 0 else value
