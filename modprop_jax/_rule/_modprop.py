from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._cell import AbstractCell, LeakyCell, NeuronCell
from .._cell._base import stopped_message
from .._credit import Back, Credit, Point
from .._static import Constant, constant, numeric
from .._trace import AbstractTrace, PerSynapse, Presynaptic
from .._tree import add, pullback, stop
from ._base import AbstractRule, require_neurons, require_types
from ._types import as_types, mean_over_all, one_hot, Types


class Filter(eqx.Module):
    """ModProp's time-invariant filter: what is made of the weights once a call.

    `kappa`: κ [receiving, sending]; `self_kappa`: κ_aa where there are no autapses, else 0;
    `recur`: D̄ - κ_self + κN, by which type-summed credit moves.
    """

    kappa: Float[Array, "C C"]
    self_kappa: Float[Array, " C"]
    recur: Float[Array, "C C"]


class ModProp(AbstractRule):
    r"""ModProp: credit over any timespan through cell-type-specific, time-invariant filters.

    On the membrane variable, with U the one-hot types, N = diag(neurons of each type), D̄ the
    nominal leak, κ = gain · μ · (type means of `W_rec`), and κ_self = κ_aa without autapses:

    \[ G_t = U^T c_t + (\bar D - \kappa_{self} + \kappa N)^T G_{t+1}, \qquad
       \lambda_t = c_t + (D_{t+1} - \kappa_{self}) \lambda_{t+1} + U \kappa^T G_{t+1} \]

    The direct credit \(c_t\) is exact; μ stands for the activation derivative on the communicated
    path only. On `LeakyCell` this is \(\hat J = \eta I + (1-\eta)\mu\hat W\). With
    `types=None` each neuron is a type of its own (cell-specific). Type means run over all entries
    of the masked weights, are recomputed at every call, and no gradient passes through them.

    Exact: what is local to a neuron. Approximate: transport between neurons. Time: e-prop's and
    O(n·C + C²) a step (cell-specific: BPTT's). Memory when streamed: O((n+m)(C+C²)) an example
    on leaky cells with types, since the filters act on presynaptic activity; O(n(n+m)(1+C)) on
    other neuron cells; n(n+m)·n if cell-specific. Locality: a synapse knows its eligibility trace
    and the type-summed modulators, filtered by taps of its type of synapse.

    Departure: the authors' published type-specific mode gives gradients that are identical to the
    cell-specific ones; this is the rule as their paper states it. On cells other than `LeakyCell`
    the nominal leak replaces the true one on the communicated path.

    Source: Liu, Smith, Mihalas, Shea-Brown & Sümbül, NeurIPS 2022 (arXiv 2206.01338).
    """

    mu: Array | Constant
    types: Types = eqx.field(static=True)

    def __init__(self, mu: Any, types: Any = None):
        """**Arguments:**

        - `mu`: μ of the sending neuron: a float, one value a type (C,), or one a neuron (n,). The
            published run has 0.25. By a `jax.Array` one can differentiate (meta-learning), offline.
        - `types`: cell type 0 ... C-1 of each neuron; None: cell-specific.
        """
        if isinstance(mu, str):
            raise ValueError(f"mu must be a number, or one a type or a neuron, but is {mu!r}.")
        self.mu = constant(mu)
        self.types = as_types(types)

    @property
    def cell_types(self) -> Types:
        """The cell types."""
        return self.types

    def check(self, cell: AbstractCell) -> None:
        """Needs a neuron cell with gain and membrane; one type a neuron; a mu that fits."""
        inner = require_neurons(self, cell)
        n = inner.hidden_size
        require_types(self, self.types, n)
        _ = inner.gain
        jax.eval_shape(lambda: inner.membrane(inner.init(())))
        shape = np.shape(self.mu)
        fits = {(), (n,)} | ({(self._count(n),)} if self.types else set())
        if shape not in fits:
            raise ValueError(
                f"mu must be a number, or have one value a type or one a neuron (n={n}), but has "
                f"shape {shape}."
            )

    def prepare(self, cell: NeuronCell) -> Filter:
        """κ and what follows from it, from the current weights."""
        n, dtype = cell.hidden_size, cell.weight_rec.dtype
        autapses, cell = cell.autapses, stop(cell.effective())
        mu = jnp.asarray(numeric(self.mu, dtype), dtype)
        if mu.shape not in ((), (n,)):
            mu = mu[np.asarray(self.types)]
        mu = jnp.broadcast_to(mu, (n,))
        gain = jnp.broadcast_to(jnp.asarray(cell.gain, dtype), (n,))
        leak = jnp.broadcast_to(jnp.asarray(cell.leak, dtype), (n,))
        kappa = mean_over_all(gain[:, None] * cell.weight_rec * mu[None, :], self.types)
        if self.types is None:
            return Filter(kappa, jnp.zeros(n, dtype), jnp.diag(leak) + kappa)
        count = jnp.asarray(np.bincount(self.types), dtype)
        own = jnp.zeros_like(count) if autapses else jnp.diagonal(kappa)
        nominal = leak @ one_hot(self.types, dtype) / count
        return Filter(kappa, own, jnp.diag(nominal - own) + kappa * count[None, :])

    def extra(self, cell: NeuronCell, batch_shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Zeros shaped as the type-summed credit G, (*batch, C)."""
        count = self._count(cell.hidden_size)
        return jnp.zeros((*batch_shape, count), cell.weight_rec.dtype)

    def trace(self, cell: AbstractCell) -> AbstractTrace:
        """Presynaptic and by type if the filters allow it; else a synapse's own and C more."""
        if self.types and Presynaptic.serves(cell) and max(self.types) + 1 < len(self.types):
            return Presynaptic(self.types)
        return PerSynapse(filter_is_local=False)

    def arrive(self, cell: NeuronCell, prepared: Filter, direct: Credit) -> Credit:
        """Direct credit also enters the type-summed credit."""
        del prepared
        return direct._replace(extra=self._sum_by_type(cell.membrane(direct.state)))

    def back(
        self, cell: NeuronCell, prepared: Filter, point: Point, credit: Credit, direct: PyTree
    ) -> Back:
        """Local for all credit; the filter for the type-summed direct credit."""
        total = add(credit.state, direct)
        summed = credit.extra + self._sum_by_type(cell.membrane(direct))
        (own,) = pullback(lambda s: cell.integrate(s, point.drive), point.before)(total)
        received = self._to_neurons(summed @ prepared.kappa)
        if self.types is not None:
            own_kappa = self._to_neurons(prepared.self_kappa)
            received -= jnp.broadcast_to(own_kappa, received.shape) * cell.membrane(total)
        (modulated,) = pullback(cell.membrane, point.before)(received)
        return Back(total, Credit(add(own, modulated), summed @ prepared.recur), None)

    def step(self, cell: NeuronCell, state: PyTree, x: Array) -> PyTree:
        """The cell's step; on `LeakyCell` its derivative is ModProp's."""
        if not isinstance(cell, LeakyCell) or not (cell.uniform_leak or self.types is None):
            raise ValueError(
                "ModProp has a one-step derivative on LeakyCell with one tau for all neurons "
                f"(or cell-specific), but the cell is a {type(cell).__name__}. Use scan."
            )
        filters = self.prepare(cell)
        transport = filters.kappa
        if self.types is not None:
            index = np.asarray(self.types)
            transport = transport[index[:, None], index[None, :]]
            transport -= jnp.diag(filters.self_kappa[index])
        following = cell.integrate(state, cell.drive(stopped_message(cell, state), x))
        return following + _phantom(transport, state)

    def _count(self, n: int) -> int:
        return n if self.types is None else max(self.types) + 1

    def _sum_by_type(self, credit: Float[Array, "*batch n"]) -> Float[Array, "*batch C"]:
        if self.types is None:
            return credit
        return credit @ one_hot(self.types, credit.dtype)

    def _to_neurons(self, by_type: Float[Array, "*batch C"]) -> Float[Array, "*batch n"]:
        if self.types is None:
            return by_type
        return by_type @ one_hot(self.types, by_type.dtype).T


@jax.custom_jvp
def _phantom(transport: Float[Array, "n n"], state: Float[Array, "*batch n"]) -> Array:
    """Zero, with the derivative `transport @ state`."""
    del transport
    return jnp.zeros_like(state)


@_phantom.defjvp
def _phantom_jvp(primals, tangents):
    (transport, state), (_, tangent) = primals, tangents
    return jnp.zeros_like(state), tangent @ transport.T
