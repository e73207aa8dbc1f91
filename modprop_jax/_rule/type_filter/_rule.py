from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ... import _arguments as arguments
from ..._arguments import Numbers
from ..._cell import AbstractCell, computing, NeuronCell
from ..._credit import Back, Credit, Point
from ..._precision import wide
from ..._program._base import AbstractProgram
from ..._static import content, FrozenArray, thawed
from ..._synapses._base import one_hot
from ..._trace import AbstractTrace, PerSynapse, Presynaptic
from ..._tree import add, pullback
from .._base import over_members, require_neurons, require_types
from .._card import Card, Named
from .._transport import AbstractTransportRule
from .._types import Types
from ..modprop._rule import check_membrane, ModProp
from ._from_modprop import filters_of
from ._response import as_filters, Exponentials, FiniteTaps, response_of
from ._trace import FilteredActivity


class Prepared(NamedTuple):
    """The filter in the dtype to compute in, `own` (C,) or None, and U, the one-hot types."""

    response: Exponentials | FiniteTaps
    own: Array | None
    hot: Float[Array, "n C"]


class TypeFilter(AbstractTransportRule):
    r"""Credit between neurons by any type-specific, time-invariant, causal filter.

    With \(q_t[a]\) the direct credit on the membranes of the neurons of type a, summed, D the
    own-neuron part of the Jacobian, and F the filter [secreting type a, receiving type b]:

    \[ r_t[b] = \sum_{s \ge 1} \sum_a F_s[a, b]\, q_{t+s}[a] - own_b\, \lambda_{t+1}, \qquad
       \lambda_t = c_t + D_{t+1} \lambda_{t+1} + h_t\, r_t \]

    \(r_t\) arrives on the message that a neuron sends, and so meets the neuron's own derivative
    \(h_t = \partial message_t / \partial s_t\) (`gated`; φ'(v_t) on `LeakyCell`), or on the
    membrane as it is, h = 1. Then it moves on inside the neuron. The filter is given as taps,
    F_s = `filters[s-1]`, 0 after the last; or as exponentials, `(rates, weights)`:

    \[ F_s = \mathrm{Re} \sum_k weights_k\, rates_k^{s-1} \]

    with rates in exp(-dt/τ), a complex one for an oscillation. `ModProp` with types is a case of it
    (`of_modprop`): \(F_s = (\bar D - \kappa_{self} + \kappa N)^{s-1} \kappa\), own = κ_self, not
    gated. `fit_filters` finds the filters that are closest to the exact gradient.

    Exact: what is local to a neuron, and `h`. Approximate: all that goes between neurons. No
    gradient passes through the filter's choice; by filters that are a `jax.Array` one can
    differentiate (meta-learning), offline.
    Time: e-prop's and O(n·C + K·C²) a step, with S in place of K for taps. Memory when streamed:
    (1+K)(n+m) an example on cells of one leak where it is not gated (C times that with `own`);
    else n(n+m)(1+K·C), K·C traces a synapse beside e-prop's. A complex rate counts twice.
    Locality: a synapse knows its eligibility trace and each type's modulators, filtered by taps of
    its type; gated, also what its neuron's derivative was when they came.

    Errors: a ValueError for rates above 1 in absolute value, whose credit grows without bound (of
    arrays under `jit`: with `check=True`), and for an `own` that makes a neuron's own credit do
    that. Taps end, and so can't.

    Source: the form is that of ModProp, Liu, Smith, Mihalas, Shea-Brown & Sümbül, NeurIPS 2022
    (arXiv 2206.01338); free filters are not in the paper.
    """

    card: ClassVar[Card] = Card(
        facing="both",
        structure="δ_si B_ij + Σ_c U_sc B_cij, U the one-hot types, for any filter",
        bias="biased",
        when="exact where W_rec = 0 and the filter is 0",
        memory="(1+K*C)*n*(n+m+1)",
        leaky="(1+K)*(n+m+1)",
        time="(1+K*C)*n*(n+m+1)",
        synapse="its eligibility trace and each type's modulators, by any filter of its type",
        source="Liu et al. 2022, with free filters",
        called="type filters",
        credit="over any timespan, through any type-specific filters that do not change in time",
        use="filters that were measured or fitted: what credit of ModProp's locality can do",
        papers=("liu2022modprop",),
        place=65,
        names=(
            Named(
                "type_filter",
                "one exponential for all pairs of types: strength/n times the credit of all "
                "neurons, fading by rate a step; strength=0.1, rate=0.9",
                {"strength": float, "rate": float},
                lambda rule, types, strength=0.1, rate=0.9: _alike(rule, types, strength, rate),
                place=45,
            ),
        ),
    )

    filters: Any
    types: tuple[int, ...] = eqx.field(static=True)
    gated: bool = eqx.field(static=True)
    own: Array | FrozenArray | None

    def __init__(
        self,
        filters: Numbers | tuple[Numbers, Numbers],
        types: Numbers,
        *,
        gated: bool = True,
        own: Numbers | None = None,
    ):
        """**Arguments:**

        - `filters`: taps (S, C, C) [lag - 1, secreting type, receiving type]; or
            `(rates, weights)` of shapes (K,) and (K, C, C).
        - `types`: cell type 0 ... C-1 of each neuron.
        - `gated`: what arrives is multiplied by the receiving neuron's derivative.
        - `own`: (C,), what the filter says of a neuron's own credit in a step and its cell does
            not do: κ_self of `ModProp`; None: nothing.
        """
        self.filters = as_filters(filters)
        self.types = arguments.cell_types("types", types)
        self.gated = arguments.boolean("gated", gated)
        count = max(self.types) + 1
        if _count(self.filters) != count:
            raise ValueError(
                f"filters are for {_count(self.filters)} cell types, but types has {count}: both "
                "last axes of filters are C long."
            )
        self.own = None if own is None else _as_own(own, count)
        self._check_bounded()

    @staticmethod
    def of_modprop(
        rule: ModProp, cell: AbstractCell, taps: int | None = None, *, gated: bool = False
    ) -> "TypeFilter":
        r"""ModProp's filter at the cell's present weights.

        \[ F_s = A^{s-1} \kappa, \qquad A = \bar D - \kappa_{self} + \kappa N \]

        **Arguments:** `taps`: the first S; None: all, by the eigenvalues of A. `gated`: the last
        factor μ of each path is the receiving neuron's own derivative. Its gradient is that of
        `rule`, but for `gated` and for segments or sequences longer than `taps`.

        **Errors:** ValueError for a μ that is measured, or taps of its own, for weights that are
        not known, and for an A that has too few eigenvectors (give `taps`).
        """
        filters, types, own = filters_of(rule, cell, taps, arguments.boolean("gated", gated))
        return TypeFilter(filters, types, gated=gated, own=own)

    def taps(self, n: int) -> Float[Array, "n C C"]:
        """F_1 ... F_n [lag - 1, secreting type, receiving type], to look at or to plot."""
        filters = jax.tree.map(thawed, self.filters, is_leaf=_is_frozen)
        last = filters[1] if isinstance(filters, tuple) else filters
        return response_of(filters, jnp.finfo(last.dtype).dtype).series(arguments.size("n", n))

    @property
    def cell_types(self) -> Types:
        """The cell types."""
        return self.types

    def check(self, cell: AbstractCell) -> None:
        """Needs neurons with a membrane, a type each, and credit that stays bounded."""
        inner = require_neurons(self, cell)
        require_types(self, self.types, inner.hidden_size)
        check_membrane(inner)
        self._check_bounded()
        if self.own is None or self.gated or arguments.is_traced((self.own, inner)):
            return
        with jax.ensure_compile_time_eval():
            own = np.asarray(content(self.own))
            decay = np.asarray(over_members(lambda cell: _leaks(cell), inner)) - own[[*self.types]]
        if np.abs(decay).max() > 1 + 1e-5:
            raise ValueError(
                f"TypeFilter is unstable on this {type(inner).__name__}: leak - own is "
                f"{decay[np.abs(decay) == np.abs(decay).max()][0]:.4f} in some neurons, beyond 1, "
                "so their own credit grows without bound. Make own smaller."
            )

    def in_range(self) -> dict[str, Any]:
        """Rates of at most 1 in absolute value, where they are arrays."""
        if not isinstance(self.filters, tuple) or isinstance(self.filters[0], FrozenArray):
            return {}
        return {"rates must be at most 1 in absolute value": _bounded(self.filters[0])}

    def prepare(self, cell: NeuronCell) -> Prepared:
        """The filter in the cell's dtype."""
        dtype = wide(cell.dtype)
        own = None if self.own is None else jnp.asarray(content(self.own), dtype)
        return Prepared(response_of(self.filters, dtype), own, one_hot(self.types, dtype))

    def modulator(self, cell: NeuronCell, batch_shape: tuple[int, ...]) -> Array:
        """The filter remembers nothing."""
        response = response_of(self.filters, wide(cell.dtype))
        return jnp.zeros((*batch_shape, response.modes * response.count), wide(cell.dtype))

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """Presynaptic where arrivals meet nothing but the leak; else a synapse's own, and more."""
        if not self.gated and Presynaptic.serves(on):
            return FilteredActivity(self.types, self.own is not None)
        return PerSynapse(filter_is_local=False)

    def receives(self, on: AbstractProgram) -> bool:
        """Credit on the membranes is all."""
        return True

    def receive(self, on: AbstractProgram, direct: Credit) -> Credit:
        """Direct credit also enters the filter."""
        summed = on.cell.membrane(direct.state) @ on.weights.hot
        return direct._replace(modulator=on.weights.response.enter(summed))

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """Own dynamics for all credit; what the filter makes of direct credit arrives beside it."""
        cell, (response, own, hot) = on.cell, on.weights
        total = add(credit.state, direct)
        memory = credit.modulator + self.receive(on, Credit(direct)).modulator
        (before,) = pullback(lambda s: cell.integrate(s, point.drive), point.before)(total)
        received = response.read(memory) @ hot.T
        if own is not None:
            membrane = cell.membrane(total)
            received -= jnp.broadcast_to(hot @ own, membrane.shape) * membrane
        arrives = cell.message if self.gated else cell.membrane
        (sent,) = pullback(arrives, point.before)(received)
        message = received if self.gated else None
        return Back(total, Credit(add(before, sent), response.older(memory)), message)

    def _check_bounded(self) -> None:
        if not isinstance(self.filters, tuple) or arguments.is_traced(self.filters[0]):
            return
        rates = np.asarray(content(self.filters[0]))
        if not np.isfinite(rates).all() or np.abs(rates).max() > 1 + 1e-5:
            raise ValueError(
                "TypeFilter is unstable: the rates of filters must be at most 1 in absolute value, "
                f"but the largest is {np.abs(rates).max():.6g}, so credit grows without bound. A "
                "rate is what is left after a step, exp(-dt/tau)."
            )


def _is_frozen(node: Any) -> bool:
    return isinstance(node, FrozenArray)


def _bounded(rates: Any) -> Array:
    return jnp.all(jnp.abs(rates) <= 1 + 1e-5)


def _leaks(cell: NeuronCell) -> Array:
    computes: Any = computing(cell)
    return jnp.broadcast_to(jnp.asarray(computes.leak), (cell.hidden_size,))


def _as_own(own: Any, count: int) -> Array | FrozenArray:
    if not arguments.is_real(own) or np.shape(own) != (count,):
        raise ValueError(
            f"own must have one number a cell type ({count},), but is {arguments.shown(own)}."
        )
    arguments.check_range("own", own, arguments.FINITE)
    return own if isinstance(own, jax.Array) else FrozenArray(np.asarray(own, float))


def _count(filters: Any) -> int:
    return (filters[1] if isinstance(filters, tuple) else filters).shape[-1]


def _alike(rule: type, types: tuple[int, ...], strength: float, rate: float) -> TypeFilter:
    count = max(types) + 1
    return rule(([rate], np.full((1, count, count), strength / len(types))), types)
