"""The trace of type filters on neurons of one leak: filters of presynaptic activity."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..._cell._base import batch_shape
from ..._cell._claims import check_leaky
from ..._credit import Credit, Record
from ..._flags import erase_trace, select_trace
from ..._precision import start_of, wide, widened
from ..._program._base import AbstractProgram
from ..._program._reverse import points_of
from ..._sharding import over_steps
from ..._synapses._base import one_hot
from ..._trace import AbstractTrace, PerSynapse
from ._response import Exponentials


class FilteredActivity(AbstractTrace):
    r"""Presynaptic activity by e-prop's filter, and by that after each mode of the type filter.

    Where credit decays by one factor d a step in all neurons (of a type, if `own`), arrivals do
    too, whatever their type. For each presynaptic i, with d = leak - own:

    \[ e_t = d\, e_{t-1} + gain\, pre_t, \qquad P_{k,t} = \rho_k P_{k,t-1} + e_{t-1} \]

    and for taps the last e's: \(e_t, e_{t-1}, \dots, e_{t-S}\). Credit λ on a neuron of type b and
    memory m of the filter give \(\lambda e_t + \sum_k \sum_a w_k[a,b] m_k[a] P_{k,t}\), or
    \(\lambda e_t + \sum_{s \ge 1}\sum_{r \ge 0} \sum_a F_{r+s}[a,b] m_r[a]\, e_{t-s}\).
    Leaves (kinds * (1 + modes), *batch, pre), kinds = 1, or C if `own`: O((n+m)(1+K)) an example.
    """

    types: tuple[int, ...] = eqx.field(static=True)
    by_type: bool = eqx.field(static=True)

    @property
    def _neuron(self) -> PerSynapse:
        return PerSynapse(filter_is_local=False, weights=False)

    @property
    def _kinds(self) -> int:
        return max(self.types) + 1 if self.by_type else 1

    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """Zeros."""
        inner = on.cell
        check_leaky(on.name, inner)
        batch = batch_shape(inner, state)
        channels = self._kinds * (1 + on.weights.response.modes)
        own, _ = self._neuron.init(on, state)
        return own, {
            name: jnp.zeros((channels, *batch, synapses.shape[1]), wide(inner.dtype))
            for name, synapses in inner.afferents.items()
        }

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """Of parameters of the neuron itself; no activity yet."""
        own, _ = self._neuron.of_start(on, batch)
        _, channels = self.init(on, start_of(on.cell, batch))
        return own, channels

    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """Credit on each neuron for each channel, times the channels."""
        own, filtered = trace
        local = on.cell.membrane(credit.state)
        met = self._met(on.weights.response, credit.modulator)
        hot = one_hot(self.types, local.dtype)
        # (1 + modes, *batch, n), then apart by the type whose decay a channel has
        post = jnp.concatenate([local[None], met @ hot.T])
        if self.by_type:
            post = post[None] * hot.T.reshape(-1, *(1,) * (post.ndim - 1), len(hot))
        post = post.reshape(-1, local.shape[-1])

        def weights(name, synapses):
            return synapses.gradient(post, filtered[name].reshape(len(post), -1))

        afferents = widened(on.cell).afferents
        each = {name: weights(name, synapses) for name, synapses in afferents.items()}
        gradient = on.cell.with_afferents(each)
        return eqx.combine(gradient, self._neuron.contract(on, (own, {}), credit))

    def _met(self, response, memory: Array) -> Array:
        """(modes, *batch, C): the credit of type b that each channel of the filter meets."""
        if not isinstance(response, Exponentials):
            # what is r steps old meets tap r + s after s more steps, none after the last
            size = response.modes
            lags = np.arange(size)[:, None] + np.arange(size)
            padded = jnp.concatenate([response.taps, jnp.zeros_like(response.taps)])
            return jnp.einsum("...ra,srab->s...b", response.apart(memory), padded[lags])
        met = jnp.einsum("...ka,kab->k...b", response.numbers(memory), response.weights)
        # Re(met P) of P's real and imaginary channels
        return met if response.parts == 1 else jnp.concatenate([met.real, -met.imag])

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """The channels, step by step."""
        inner, flags = on.cell, record.flags
        own, filtered = trace
        own, _ = self._neuron.extend(on, record, (own, {}))
        sent = inner.message(points_of(inner, record).before)
        activity = inner.presynaptic(sent, record.xs)
        activity = {name: activity[name] for name in filtered}

        def advance(channels, at):
            pre, flags = at
            before = channels if flags is None else erase_trace(flags.fresh, channels)
            after = {name: self._step(on, before[name], pre[name]) for name in pre}
            # what does not take place leaves what a sequence before it has left
            return after if flags is None else select_trace(flags.keep, after, channels), ()

        channels, _ = over_steps(advance, filtered, (activity, flags))
        return own, channels

    def _step(self, on: AbstractProgram, channels: Array, pre: Array) -> Array:
        """One step's."""
        cell, response = on.cell, on.weights.response
        apart = channels.reshape(self._kinds, -1, *channels.shape[1:])
        before, modes = apart[:, 0], apart[:, 1:]
        decay = jnp.asarray(cell.leak, channels.dtype)
        if self.by_type:
            decay = decay - on.weights.own.reshape(-1, *(1,) * (before.ndim - 1))
        here = jnp.asarray(cell.gain, channels.dtype) * pre.astype(channels.dtype)
        here = jnp.broadcast_to(decay, before.shape) * before + here[None]
        if not isinstance(response, Exponentials):
            older = jnp.concatenate([before[:, None], modes[:, :-1]], axis=1)
        elif response.parts == 1:
            older = _column(response.rates, modes) * modes + before[:, None]
        else:
            real, imaginary = jnp.split(modes, 2, axis=1)
            cos, sin = (_column(a, real) for a in (response.rates.real, response.rates.imag))
            turned = sin * real + cos * imaginary
            real = cos * real - sin * imaginary + before[:, None]
            older = jnp.concatenate([real, turned], axis=1)
        return jnp.concatenate([here[:, None], older], axis=1).reshape(channels.shape)


def _column(values: Array, like: Array) -> Array:
    return jnp.broadcast_to(values.reshape(-1, *(1,) * (like.ndim - 2)), like.shape)
