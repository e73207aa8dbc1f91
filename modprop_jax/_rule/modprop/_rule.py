import warnings
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ... import _arguments as arguments
from ..._arguments import Numbers
from ..._cell import AbstractCell, LeakyCell, NeuronCell
from ..._cell._base import as_cell, dynamics
from ..._cell._claims import check_apart
from ..._cell._membrane import membrane_place
from ..._cell._separable import stopped_message
from ..._program._transport import Transport
from ..._static import Constant, constant, is_constant
from ..._synapses import AbstractSynapses, Blocks
from .._base import AbstractRule, Carry, over_members, require_neurons, require_types
from .._card import Card, Named
from .._transport import AbstractTransportRule, transported
from .._types import as_types, Types
from ._filter import (
    counts,
    Filter,
    filter_of,
    filter_radius,
    is_stable,
    stable_share,
    to_neurons,
)
from ._measured import Measured
from ._steady import Steady
from ._taps import Taps


# entries of a streamed trace that are worth a word: 50 neurons
_LARGE = 2**17


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

    **μ measured.** With `mu="auto"`, μ of a type is the mean over its neurons and the steps
    1 ... t so far of \(h_t = \partial message_t/\partial drive_t / gain\) (φ'(v_t) on `LeakyCell`),
    for each example on its own; cell-specific: of each neuron. Credit crosses from step t+1 to t
    with the mean up to t. The mean is part of the carry, so that no segmentation changes it.

    **Taps.** With `taps=S` credit crosses between neurons in the S most recent steps before each
    loss only, at lag s by \(\hat J^{\min(s,S)}\eta^{\max(0,s-S)}\). On cells with one leak.

    Exact: what is local to a neuron. Approximate: transport between neurons. Time: e-prop's and
    O(n·C + C²) a step (cell-specific: BPTT's; taps: twice that, and a shift of S n numbers).
    Memory when streamed: O((n+m)(C+C²)) an example on leaky cells with types, since the filters
    act on presynaptic activity; (S+1)(n+m) with taps; O(n(n+m)(1+C)) on other neuron cells;
    n(n+m)·n if cell-specific, which streams as slowly as `RTRL`, and warns where that is much.
    Locality: a synapse knows its eligibility trace and the type-summed modulators, filtered by taps
    of its type of synapse; "auto": and the mean of its type.

    Errors: a ValueError if the weights are concrete and the transport has a spectral radius above
    1 (credit would grow without bound), unless μ is "auto" or `taps` ends it.

    Departure: the authors' published type-specific mode gives gradients that are identical to the
    cell-specific ones; this is the rule as their paper states it. On cells other than `LeakyCell`
    the nominal leak replaces the true one on the communicated path. `mu="auto"` is not in
    the paper, which tunes μ.

    Source: Liu, Smith, Mihalas, Shea-Brown & Sümbül, NeurIPS 2022 (arXiv 2206.01338).
    """

    card: ClassVar[Card] = Card(
        facing="both",
        structure="δ_si B_ij + Σ_c U_sc B_cij, U the one-hot types",
        bias="biased",
        when="exact where W_rec = 0, and cell-specific on linear neurons with mu = 1",
        memory="(1+C)*n*(n+m+1)",
        leaky="(C+C**2)*(n+m+1)",
        time="(1+C)**2*n*(n+m+1)",
        synapse="its eligibility trace and each type's modulators, filtered by taps of its type",
        source="Liu et al. 2022",
        called="ModProp",
        credit="over any timespan, through type-specific filters that do not change in time",
        use="with types, more credit than e-prop at nearly its cost; else what is closest to BPTT",
        papers=("liu2022modprop",),
        place=60,
        names=(
            Named(
                "modprop",
                "ModProp: credit over any timespan, type-specific modulatory filters; "
                "mu=0.25 or auto",
                {"mu": float, "taps": int},
                lambda rule, types, **options: rule(types=types, **options),
                place=10,
            ),
            Named(
                "modprop_cell",
                "ModProp with a weight for every pair of cells, not of types; mu=0.25 or auto",
                {"mu": float, "taps": int},
                place=20,
            ),
        ),
    )

    mu: Array | Constant | None
    types: Types = eqx.field(static=True)
    taps: int | None = eqx.field(static=True)

    def __init__(
        self,
        mu: Numbers | Constant | Literal["auto"],
        types: Numbers | None = None,
        *,
        taps: int | None = None,
    ):
        """**Arguments:**

        - `mu`: μ of the sending neuron: a float, one value a type (C,), or one a neuron (n,); or
            "auto": measured. The published run has 0.25. By a `jax.Array` one can differentiate
            (meta-learning), offline.
        - `types`: cell type 0 ... C-1 of each neuron; None: cell-specific.
        - `taps`: S, steps in which credit crosses between neurons; None: no limit.
        """
        measured = isinstance(mu, str)
        given = not measured and not is_constant(mu)
        if measured and mu != "auto":
            raise ValueError(
                f'mu must be a number, one a type or one a neuron, or "auto", but is {mu!r}.'
            )
        if given and not arguments.is_real(mu):
            raise ValueError(
                'mu must be a number, one a type or one a neuron, or "auto", but is '
                f"{arguments.shown(mu)}."
            )
        if given:
            arguments.check_range("mu", mu, arguments.FINITE)
        taps = None if taps is None else arguments.count("taps", taps)
        if taps is not None and measured:
            raise ValueError(
                "taps must be a number of steps, 0 or more, with a mu that is not measured, but "
                f"taps={taps!r} came with mu={mu!r}: filters of finitely many taps do not change "
                "in time."
            )
        self.mu = None if measured else constant(mu)
        self.types = as_types(types)
        self.taps = taps

    @property
    def cell_types(self) -> Types:
        """The cell types."""
        return self.types

    @property
    def transport(self) -> AbstractTransportRule:
        """How its credit moves: by a given μ, to the end or in taps, or by a measured one."""
        if self.mu is None:
            return Measured(self.types)
        if self.taps is not None:
            return Taps(mu=self.mu, types=self.types, taps=self.taps)
        return Steady(mu=self.mu, types=self.types)

    def init(self, cell: AbstractCell, state: PyTree, *, key: PRNGKeyArray | None = None) -> Carry:
        """As of any rule; a large trace of all pairs of neurons does not come without a word."""
        inner = dynamics(as_cell("cell", cell))
        if self.types is None and self.taps is None and isinstance(inner, NeuronCell):
            n, m = inner.hidden_size, inner.in_size
            size = n * n * (n + m + 1)
            if size > _LARGE:
                warnings.warn(
                    f"Cell-specific ModProp streams with a trace of n²(n + m + 1) = {size:,} "
                    "numbers an example, as slowly as RTRL: pass types=, or take MDGL or EProp.",
                    stacklevel=2,
                )
        return AbstractRule.init(self, cell, state, key=key)

    def on(
        self, cell: AbstractCell, in_size: int | None = None, *, streams: bool = True
    ) -> Transport:
        """The program of its transport."""
        return transported(self.transport, self, cell, streams=streams)

    def check(self, cell: AbstractCell) -> None:
        """Needs a cell that fits, and stable transport where the weights are concrete."""
        inner = self.check_fits(cell)
        if self.taps is None and self.mu is not None:
            self._check_stable(inner)

    def check_fits(self, cell: AbstractCell) -> NeuronCell:
        """The dynamics, if they fit: neurons with gain and membrane, a type each, and the mu."""
        inner = require_neurons(self, cell)
        require_types(self, self.types, inner.hidden_size)
        over_members(self._check_member, inner)
        return inner

    def _check_member(self, cell: NeuronCell) -> None:
        n = cell.hidden_size
        _ = cell.gain
        check_membrane(cell)
        if self.mu is None:
            check_apart('ModProp(mu="auto")', cell, "message")
            return
        shape = np.shape(self.mu)
        if shape not in {(), (n,), counts(self.types, n).shape}:
            raise ValueError(
                f"mu must be a number, or have one value a type or one a neuron (n={n}), but has "
                f"shape {shape}."
            )
        if self.taps is not None and not (isinstance(cell, LeakyCell) and cell.uniform_leak):
            raise ValueError(
                "ModProp(taps=...) needs a LeakyCell with one tau for all neurons, whose filters "
                f"do not change in time, but the cell is a {type(cell).__name__}: leave taps at "
                "None."
            )

    def filter(self, cell: NeuronCell) -> Filter:
        """κ and what goes with it, from the current weights."""
        return filter_of(constant(1.0) if self.mu is None else self.mu, self.types, cell)

    def radius(self, cell: NeuronCell) -> Float[Array, "*members"] | None:
        """Of Ĵ; None where μ is measured or taps end the transport."""
        if self.mu is None or self.taps is not None:
            return None
        return filter_radius(over_members(self.filter, cell))

    def step(self, cell: NeuronCell, state: PyTree, x: Array) -> PyTree:
        """The cell's step; on `LeakyCell` its derivative is ModProp's."""
        if not isinstance(cell, LeakyCell) or not (cell.uniform_leak or self.types is None):
            raise ValueError(
                "ModProp has a one-step derivative on LeakyCell with one tau for all neurons "
                f"(or cell-specific), but the cell is a {type(cell).__name__}. Use scan."
            )
        if self.taps is not None or self.mu is None:
            raise ValueError(
                "ModProp has a one-step derivative without taps and with a mu that is not "
                "measured: these depend on other steps. Use scan."
            )
        filters = self.filter(cell)
        kappa = filters.kappa
        across = kappa if self.types is None else Blocks(kappa.as_matrix(), self.types)
        own = to_neurons(filters.self_kappa, self.types)
        following = cell.integrate(state, cell.drive(stopped_message(cell, state), x))
        return following + _phantom(across, own, state)

    def _check_stable(self, cell: NeuronCell) -> None:
        if arguments.is_traced((self, cell)):
            return
        with jax.ensure_compile_time_eval():
            filters = over_members(self.filter, cell)
            # rounding of the radius is no instability
            if is_stable(filters, limit=1 + 1e-5):
                return
            radius, share = float(filter_radius(filters).max()), stable_share(filters)
        mu = np.asarray(self.mu)
        safe = f"mu={share * float(mu):.3g}" if mu.ndim == 0 else f"{share:.3g} times this mu"
        raise ValueError(
            "ModProp is unstable on these weights: its transport has the spectral radius "
            f"{radius:.4f} > 1, so credit grows without bound. {safe} is safe; or let "
            'mu="auto" measure it, or end the transport with taps=.'
        )


def transport_radius(rule: AbstractRule, cell: AbstractCell) -> Float[Array, "*members"] | None:
    """Spectral radius of a rule's transport, where the weights alone decide it; else None."""
    return rule.radius(require_neurons(rule, cell)) if isinstance(rule, ModProp) else None


def check_membrane(cell: NeuronCell) -> None:
    """A ValueError unless `membrane` selects a variable of the state."""
    if membrane_place(cell) is None:
        raise ValueError(
            f"{type(cell).__name__}.membrane has to select one of the float variables of the state "
            "as it is, such as state[0]: the rule also takes that variable of credit by it."
        )


@jax.custom_jvp
def _phantom(
    across: AbstractSynapses, own: Float[Array, " n"], state: Float[Array, "*batch n"]
) -> Array:
    """Zero, with the derivative `across(state) - own · state`."""
    return jnp.zeros_like(state)


@_phantom.defjvp
def _phantom_jvp(primals, tangents):
    (across, own, state), (*_, tangent) = primals, tangents
    return jnp.zeros_like(state), across(tangent) - jnp.broadcast_to(own, tangent.shape) * tangent
