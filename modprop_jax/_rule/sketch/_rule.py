import functools
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ... import _arguments as arguments
from ..._cell import AbstractCell, SeparableCell
from ..._cell._claims import check_apart, linear_drive
from ..._precision import start_of
from ..._trace._influence import AbstractInfluence
from ..._tree import inexact
from .._base import Carry, is_carry, require_units
from .._card import Card, Named
from .._influence import AbstractInfluenceRule
from ._influence import Sketched
from ._rank import resized
from ._sketch import size_of, Truncation
from ._units import check_rows
from ._weights import Weights, weights_of


class Certificate(NamedTuple):
    """How far the influence of each example may be from that of exact RTRL, in Frobenius norm.

    `bound`: e, at least |M - M̂|. `lost`: η, what the last step has dropped. `size`: √(|S|² + |Z|²),
    the scale to compare both with. Each (*batch,).
    """

    bound: Float[Array, "*batch"]
    lost: Float[Array, "*batch"]
    size: Float[Array, "*batch"]


def maker_of(carry: object) -> "SKRTRL":
    """The SKRTRL that has made a carry; else a ValueError."""
    rule = carry.rule if is_carry(carry) else None
    if not isinstance(rule, SKRTRL):
        what = f"a carry of {carry.made_by}" if is_carry(carry) else arguments.shown(carry)
        raise ValueError(
            f"carry must be one that SKRTRL has made (rule.init, or RNN.init), but is {what}."
        )
    return rule


class SKRTRL(AbstractInfluenceRule):
    r"""SnAp(1), and a sketch of rank r of all that it leaves out, with a bound of what is missing.

    \[ M_t \approx S_t + U_t Z_t^T, \qquad \nabla_\theta = \sum_t c_t M_t \]
    \[ U_t Z_t^T = [\, J_t U_{t-1} Z_{t-1}^T + O_t S_{t-1} \,]_r \]

    S: the influence of each unit's parameters on itself, exact, which is that of `SnAp(1)`. O: the
    part of the state's Jacobian J through other units' messages. \([\cdot]_r\): brought back to
    r columns, those that keep most of it: U (kn, r) is orthonormal, for n units of k variables, and
    Z has a row for each parameter. For that the Gram matrix G (kn, kn) of the bracket's rows is
    multiplied with few columns, and is never formed; of the parameters, no decomposition is made.

    `rank=0` is SnAp(1), and a rank of kn or more RTRL. In between it is biased, without noise;
    truncation is greedy, so a little more rank is not always a little better. The rank of a run may
    change between segments: `resized`, and `AdaptiveRank`, which says when.

    **The certificate.** Along runs

    \[ e_t = \rho_t e_{t-1} + \eta_t \ge |M_t - \hat M_t|_F, \qquad \rho_t \ge |J_t|_2 \]

    with η what a step drops: so the gradient is off by at most \(\sum_t |c_t| e_t\) in each
    example. It is algebra, not probability, and holds whatever subspace is kept, up to rounding: η
    is a difference, which sees nothing below √ε of the influence (3e-4 of it in float32).
    \(\rho\) is the least of \(|J|_F\), \(\sqrt{|J|_1 |J|_\infty}\) and
    \(\max|D| + \max|R|\,\sigma_{max}(W)\,\max|Q|\), with D, R and Q the derivatives of `integrate`
    by state and drive, and of `message`. It says something where ρ stays below 1 (clip the largest
    singular value of W); else e grows without end, also where the rule is good. If weights move,
    RTRL with the same stale influence is what it is compared with.

    Exact: everything within a unit; the emission. Inputs, and layers below, get the credit of their
    own step. A bare initial state gets credit by a sketch of its own. Cells: neurons, GRU and LSTM,
    or any `SeparableCell` of one message a unit, whose parameters are matrices, or one value a
    unit. A `Filtered` one learns offline alone.

    Time O(r²P + rP) a step and example, for P parameters, and O(rn²) with one QR of n x r; memory
    (r + 1)P + nr + r², for units of one variable. Once a segment come 2n³ operations, and 12n³ for
    the certificate's σ_max(W): most of the time where segments are of a step or few. A segment of
    more than one step is gone through twice. Locality: none; S is local.

    Errors: ValueError for a cell without messages (`DiagonalRTRL` is exact there), with a map of
    synapses other than a matrix, or a value that acts on all units and trains; for a `Filtered`
    cell's carry; for the certificate of a rule that keeps none.

    Departures from the public program (`sonaradarcn/sketched-rtrl`): it drops most of the new part
    before it looks at the old one, which `iterations=None` without extra does not: it equals the
    program's run without that step. The third ρ is new; with the first two alone e was 10¹¹ to
    10³⁰ times the truth. Its recurrent gradients are divided by the batch once more than the
    loss is.

    Source: the program `sonaradarcn/sketched-rtrl` (commit bb6055e; its paper is under review).
    """

    card: ClassVar[Card] = Card(
        facing="past",
        structure="δ_si B_ij + A_sa B_ija, summed over a sketch's r columns a",
        bias="biased",
        when="exact for a rank r of all state variables; SnAp(1) for r = 0",
        memory="(r+1)*n*(n+m+1)+n*r+r**2+2",
        time="(r+3)*r*n*(n+m+1)+8*r*n**2",
        synapse="its unit's own trace, and r numbers of how its weight moves the whole network",
        source="sonaradarcn 2026",
        called="SK-RTRL, sketched RTRL",
        credit="all within units, r directions of the rest; says how much it drops",
        use="more than SnAp(1) where RTRL does not fit, with a bound of its error",
        papers=("sonaradarcn2026sketched",),
        place=75,
        names=(
            Named(
                "sk_rtrl",
                "SK-RTRL: SnAp(1) and a sketch of the rest; rank=4",
                {"rank": int},
                build=lambda rule, types, rank=4: rule(rank),
                place=95,
            ),
        ),
    )

    rank: int = eqx.field(static=True)
    iterations: int | None = eqx.field(static=True)
    extra: int = eqx.field(static=True)
    keeps_certificate: bool = eqx.field(static=True)

    def __init__(
        self,
        rank: int,
        iterations: int | None = 1,
        extra: int = 0,
        certificate: bool = True,
    ):
        """**Arguments:**

        - `rank`: r, columns of the sketch; 0: none.
        - `iterations`: products with G at a step, from where the last step left the subspace; more
            of them come nearer to the best one. None: the best one, by a decomposition of G, which
            is slow beyond some 100 units.
        - `extra`: columns that are tried beside the r that are kept, of which the best are taken.
        - `certificate`: keep e and η. It takes a few products of W with a vector at a step, and
            six products of matrices (n, n) a segment, for σ_max(W): leave it out where segments
            are of one step and n is large.
        """
        self.rank = arguments.count("rank", rank)
        self.iterations = None
        if iterations is not None:
            self.iterations = arguments.size("iterations", iterations)
        self.extra = arguments.count("extra", extra)
        self.keeps_certificate = arguments.boolean("certificate", certificate)

    def certificate(self, carry: Carry) -> Certificate:
        """What is known of the error in a carry, for each example."""
        if not self.keeps_certificate:
            raise ValueError(
                "this SKRTRL keeps no certificate: make it with SKRTRL(rank, certificate=True)."
            )
        if not maker_of(carry).keeps_certificate:
            raise ValueError("carry comes from an SKRTRL(certificate=False): there is none in it.")
        held = jax.tree.map(lambda a: a[0], carry.trace.state)
        size = size_of
        for _ in range(held.bound.ndim):
            size = jax.vmap(size)
        return Certificate(held.bound, held.lost, size(held))

    def resized(self, carry: Carry, rank: int) -> Carry:
        """The carry at another rank, from which the rule `carry.rule` of that rank goes on.

        Of a smaller rank the best is kept, and the norm of the rest is added to the certificate's e
        and η; of a larger one the new columns are empty. `AdaptiveRank` says when.
        """
        old = maker_of(carry)
        rule = SKRTRL(rank, old.iterations, old.extra, old.keeps_certificate)
        held = carry.trace.state
        one: Any = functools.partial(
            resized, rank=rule.rank, extra=rule.extra, certificate=rule.keeps_certificate
        )
        for _ in range(held.bound.ndim):
            one = jax.vmap(one)
        held = one(held)
        return Carry(carry.state, type(carry.trace)(held), carry.observed, rule)

    def check(self, cell: AbstractCell) -> None:
        """Needs units of one message each, and parameters of units."""
        name, inner = type(self).__name__, require_units(self, cell)
        check_apart(name, inner, "message")
        state = jax.eval_shape(lambda: inexact(start_of(inner)))
        message = jax.eval_shape(lambda: inner.message(start_of(inner)))
        if message is None:
            raise ValueError(
                f"{name} keeps a sketch of what units do to each other, but those of "
                f"{type(inner).__name__} send nothing: use DiagonalRTRL, which is exact."
            )
        shapes = {leaf.shape for leaf in jax.tree.leaves((state, message))}
        one = not isinstance(message, tuple | dict | list)
        if not one or shapes != {(inner.hidden_size,)} or not linear_drive(inner):
            raise ValueError(
                f"{name} needs units of one message and of variables (*batch, n), "
                f"n={inner.hidden_size}, and a drive that is linear in the message, which "
                f"{type(inner).__name__} has not: use UORO or RTRL."
            )
        check_rows(name, inner)

    def influence(self, cell: AbstractCell, in_size: int | None) -> AbstractInfluence:
        """The units' own, and the sketch."""
        inner, emission = cell.parts()
        if emission.remembers:
            raise ValueError(
                f"SKRTRL does not stream a Filtered {type(inner).__name__}: filter its readout "
                "instead, use SnAp(1) or RTRL, or learn offline (from a bare state)."
            )
        return Sketched(self.rank, self._how)

    def from_start(self, cell: AbstractCell, in_size: int | None) -> AbstractInfluence:
        """A sketch of the first state's influence."""
        return Sketched(self.rank, self._how, of_state=True)

    def prepare(self, cell: AbstractCell) -> Weights:
        """What is made of the weights alone."""
        assert isinstance(cell, SeparableCell)
        return weights_of(cell, certificate=self.keeps_certificate)

    @property
    def _how(self) -> Truncation:
        return Truncation(self.iterations, self.extra, self.keeps_certificate)
