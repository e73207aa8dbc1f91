import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._cell._base import batch_shape
from .._cell._claims import check_leaky
from .._cell._membrane import variables
from .._credit import Credit, Record
from .._flags import erase, select
from .._precision import wide, widened
from .._program._base import AbstractProgram
from .._program._reverse import points_of
from .._sharding import over_steps
from ._base import AbstractTrace
from ._per_synapse import PerSynapse


class Presynaptic(AbstractTrace):
    r"""Filtered presynaptic activity: all that leaky neurons need to keep.

    Where credit decays at the same rate at every step and in all neurons (of a type), the filters
    act on what was sent, whoever receives it. Without `types` there is one channel, e-prop's
    \( e_t[i] = leak\,e_{t-1}[i] + gain\,pre_t[i] \). With `types` (ModProp), D_a = leak - κ_aa
    (no κ_aa with autapses), and for each presynaptic i, receiving type a and modulator type c:

        local      e_t[i,a]   = D_a e_{t-1}[i,a] + gain pre_t[i]
        modulated  M_t[i,a,c] = D_c M_{t-1}[i,a,c] + Σ_g κ_cg N_g M_{t-1}[i,a,g] + κ_ca e_{t-1}[i,a]

    Channels (C local, then C·C modulated [c, a]) lead: (C + C², *batch, pre). Memory
    O((n+m)(C+C²)) an example, no trace a synapse. Parameters of the neuron itself (a learnable
    tau) keep `PerSynapse` rows, one value a neuron each.
    """

    types: tuple[int, ...] | None = eqx.field(static=True, default=None)

    @staticmethod
    def serves(on: AbstractProgram) -> bool:
        """Whether a cell's own credit decays at one rate for all neurons, seen as it is emitted."""
        alike = on.neurons and not on.emission.remembers and on.cell.uniform_leak
        return alike and variables(on.cell) == 1

    @property
    def _count(self) -> int:
        """How many types there are."""
        return 1 if self.types is None else max(self.types) + 1

    @property
    def _neuron(self) -> PerSynapse:
        return PerSynapse(filter_is_local=False, weights=False)

    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """Zeros."""
        inner = on.cell
        check_leaky(on.name, inner)
        own, _ = self._neuron.init(on, state)
        return own, self.silent(on, batch_shape(inner, state))

    def silent(self, on: AbstractProgram, batch: tuple[int, ...]) -> dict[str, Array]:
        """The channels of no activity, for each afferent."""
        count = self._count
        channels = 1 if self.types is None else count + count**2
        return {
            name: jnp.zeros((channels, *batch, synapses.shape[1]), wide(on.cell.dtype))
            for name, synapses in on.cell.afferents.items()
        }

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """Of parameters of the neuron itself; no activity yet."""
        own, _ = self._neuron.of_start(on, batch)
        return own, self.silent(on, batch)

    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """`λ_j e[i, type j] + Σ_c G_c M[i, type j, c]`, summed over the batch."""
        own, filtered = trace
        local = on.cell.membrane(credit.state)
        local = local.reshape(-1, local.shape[-1])

        def weights(name, synapses):
            channels = filtered[name].reshape(len(filtered[name]), -1, filtered[name].shape[-1])
            if self.types is None:
                return synapses.gradient(local, channels[0])
            summed = credit.modulator.reshape(-1, self._count)
            return synapses.type_gradient(self.types, local, summed, channels)

        # a trace is wide, and so is what it is contracted to
        afferents = widened(on.cell).afferents
        each = {name: weights(name, synapses) for name, synapses in afferents.items()}
        gradient = on.cell.with_afferents(each)
        return eqx.combine(gradient, self._neuron.contract(on, (own, {}), credit))

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """The channels after the segment, and the neurons' own."""
        own, filtered = trace
        own, _ = self._neuron.extend(on, record, (own, {}))
        return own, self.advance(on, record, filtered)

    def advance(
        self, on: AbstractProgram, record: Record, filtered: dict[str, Array]
    ) -> dict[str, Array]:
        """The channels after the segment: taps over its activity, and the past moved on."""
        inner = on.cell
        sent = inner.message(points_of(inner, record).before)
        taps, start = self._taps(on, record)
        count = self._count

        def one(past, pre):
            axes = past.ndim - 1
            local, modulated, summed = (_over(a, k, axes) for a, k in zip(start, (1, 2, 2)))
            e, m = past[:count], past[count:].reshape(-1, count, *past.shape[1:])
            moved = local * e
            if self.types is not None:
                # a static sum of products is one elementwise loop; a reduction or an einsum is slow
                modulated = modulated * e[None]
                for g in range(count):
                    modulated += summed[:, g, None] * m[g, None]
                moved = jnp.concatenate([moved, modulated.reshape(-1, *past.shape[1:])])
            return moved + _filtered(taps, pre)

        activity = inner.presynaptic(sent, record.xs)
        return {name: one(past, activity[name]) for name, past in filtered.items()}

    def _taps(self, on: AbstractProgram, record: Record) -> tuple[Array, tuple]:
        """Taps (T, *batch, channels) for a segment's activity; and what unit credit at its end is
        at its start: local (*batch, C), modulated and summed (*batch, C, C).

        `batch` is () unless the rule observes a μ of each example, or sequences end inside.
        """
        cell = on.cell
        steps, dtype = len(record.xs), wide(cell.dtype)
        leak, gain = jnp.asarray(cell.leak, dtype), jnp.asarray(cell.gain, dtype)
        count = self._count
        observed = record.observed if eqx.is_array(record.observed) else None
        each = observed is not None or record.flags is not None
        batch = record.xs.shape[1:-1] if each else ()
        if self.types is None and record.flags is None:
            powers = leak ** jnp.arange(steps, -1, -1, dtype=dtype)
            nothing = jnp.zeros((1, 1), dtype)
            return gain * powers[1:, None], (powers[:1], nothing, nothing)
        eye = jnp.broadcast_to(jnp.eye(count, dtype=dtype), (*batch, count, count))

        def back(carry, mu):
            # credit by type (of unit credit on a type's neurons; on each modulator, [c, a]), back
            local, modulated, summed = carry
            if self.types is None:
                return (local * leak, modulated, summed), local
            here = jnp.concatenate([local, modulated.reshape(*batch, -1)], axis=-1)
            across = None if mu is None else jnp.broadcast_to(mu[..., None, :], eye.shape)
            decay = leak - on.weights.own(local, mu)
            crossed, summed = on.weights.back(summed, across)
            decays = jnp.broadcast_to(decay[..., None, :], modulated.shape)
            return (local * decay, modulated * decays + crossed, summed), here

        def older(carry, at):
            mu, flags = at
            before, here = back(carry, mu)
            if flags is not None:
                before = erase(flags.fresh, select(flags.keep, before, carry))
                here = erase(~flags.keep, here)
            return before, here

        unit = jnp.ones((*batch, count), dtype), jnp.zeros_like(eye), eye
        start, taps = over_steps(older, unit, (observed, record.flags), steps, reverse=True)
        return gain * taps, start


def _over(values: Array, kinds: int, axes: int) -> Array:
    """(*batch, types ...) as (types ..., *batch, 1): to multiply channels with `axes` more axes."""
    values = jnp.moveaxis(values, range(-kinds, 0), range(kinds))
    return values.reshape(*values.shape, *(1,) * (kinds + axes - values.ndim))


def _filtered(taps: Array, pre: Array) -> Array:
    """Σ_t taps[t, *batch, channel] pre[t, *batch, i]."""
    if taps.ndim == 2:
        return jnp.tensordot(taps.T, pre, 1)
    if len(taps) == 1:
        return jnp.moveaxis(taps[0], -1, 0)[..., None] * pre[0][None]
    return jnp.einsum("t...k,t...i->k...i", taps, pre)
