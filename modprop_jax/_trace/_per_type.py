from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from .._cell import AbstractCell
from .._credit import Credit, Record
from .._reverse import inner_cell
from ._base import AbstractTrace, batch_shape
from ._per_synapse import PerSynapse, with_weights


class PerType(AbstractTrace):
    r"""Filtered presynaptic activity by cell type: ModProp's traces on leaky neurons.

    Credit transport is the same at every step and for all neurons of a type, so the filters act on
    what was sent, whoever receives it. With D_a = leak - κ_aa (no κ_aa with autapses), for each
    presynaptic i, receiving type a and modulator type c:

        local      e_t[i,a]   = D_a e_{t-1}[i,a] + gain pre_t[i]
        modulated  M_t[i,a,c] = Σ_g recur_cg M_{t-1}[i,a,g] + κ_ca e_{t-1}[i,a]

    Channels (C local, then C·C modulated [c, a]) lead: (C + C², *batch, pre). Memory
    O((n+m)(C+C²)) an example, no trace a synapse. Parameters of the neuron itself (a learnable tau)
    keep `PerSynapse` rows, one value a neuron each.
    """

    types: tuple[int, ...] = eqx.field(static=True)

    @property
    def _neuron(self) -> PerSynapse:
        return PerSynapse(filter_is_local=False, weights=False)

    def init(self, rule: Any, cell: AbstractCell, state: PyTree) -> PyTree:
        """Zeros."""
        inner = inner_cell(cell)
        batch = batch_shape(inner, state)
        count = max(self.types) + 1
        own, _ = self._neuron.init(rule, cell, state)

        def zeros(features):
            return jnp.zeros((count + count**2, *batch, features), inner.weight_rec.dtype)

        bias = None if inner.bias is None else zeros(1)
        return own, (zeros(inner.hidden_size), zeros(inner.in_size), bias)

    def contract(self, cell: Any, trace: PyTree, credit: Credit) -> PyTree:
        """`λ_j e[i, type j] + Σ_c G_c M[i, type j, c]`, summed over the batch."""
        own, (rec, into, bias) = trace
        count = max(self.types) + 1
        order = np.argsort(self.types, kind="stable")
        local = cell.membrane(credit.state)
        local = local.reshape(-1, local.shape[-1])
        summed = credit.extra.reshape(-1, count)

        def weight(channels):
            channels = channels.reshape(len(channels), -1, channels.shape[-1])
            blocks = []
            for a in range(count):
                members = np.flatnonzero(np.asarray(self.types) == a)
                block = local[:, members].T @ channels[a]
                shared = sum(
                    summed[:, c] @ channels[count + c * count + a] for c in range(count)
                )
                blocks.append(block + jnp.broadcast_to(shared, block.shape))
            return jnp.concatenate(blocks)[np.argsort(order)]

        bias = None if bias is None else weight(bias)[:, 0]
        gradient = with_weights(cell, weight(rec), weight(into), bias)
        empty = (None, None, None)
        return eqx.combine(gradient, self._neuron.contract(cell, (own, empty), credit))

    def extend(
        self, rule: Any, cell: AbstractCell, prepared: Any, record: Record, trace: PyTree
    ) -> PyTree:
        """The channels after the segment: time-invariant taps over it, and moved past ones."""
        inner = inner_cell(cell)
        own, channels = trace
        empty = (None, None, None)
        own, _ = self._neuron.extend(rule, cell, prepared, record, (own, empty))
        fresh, move = self._taps(inner, prepared, len(record.xs))
        sent = inner.message(record.states)
        first = inner.message(record.before)
        ones = jnp.ones((*record.xs.shape[:-1], 1), record.xs.dtype)

        def advance(past, pre):
            if past is None:
                return None
            new = jnp.tensordot(fresh, pre, 1)
            return new + _mix(move, past)

        rec, into, bias = channels
        sent = jnp.concatenate([first[None], sent[:-1]])
        return own, (advance(rec, sent), advance(into, record.xs), advance(bias, ones))

    def _taps(self, cell: Any, prepared: Any, steps: int) -> tuple[Array, Array]:
        """`(channels, steps)` taps for the segment's activity; `(channels, channels)` for the past."""
        count = max(self.types) + 1
        dtype = cell.weight_rec.dtype
        decay = jnp.asarray(cell.leak, dtype) - prepared.self_kappa

        def older(carry, _):
            local, modulated, summed = carry
            following = (
                local * decay,
                modulated * decay[None] + summed @ prepared.kappa,
                summed @ prepared.recur,
            )
            return following, jnp.concatenate([local, modulated.reshape(-1)])

        unit = (jnp.ones(count, dtype), jnp.zeros((count, count), dtype), jnp.eye(count, dtype=dtype))
        (local, modulated, summed), taps = lax.scan(older, unit, length=steps)
        eye = jnp.eye(count, dtype=dtype)
        move = jnp.block(
            [
                [jnp.diag(local), jnp.zeros((count, count**2), dtype)],
                [
                    (modulated[:, :, None] * eye[None]).reshape(count**2, count),
                    jnp.kron(summed, eye),
                ],
            ]
        )
        return jnp.asarray(cell.gain, dtype) * taps[::-1].T, move


def _mix(matrix: Array, channels: Array) -> Array:
    """`matrix @ channels`."""
    return jnp.tensordot(matrix, channels, 1)
