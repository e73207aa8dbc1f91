from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, SeparableCell
from .._cell._base import batch_shape
from .._credit import Back, Credit, Point
from .._precision import start_of
from .._program._base import AbstractProgram
from .._trace import AbstractTrace
from .._trace._tape import Tape
from .._tree import add, inexact
from ._base import require_separable
from ._bptt import BPTT
from ._card import Card, Named
from ._transport import AbstractTransportRule


class FutureBPTT(AbstractTransportRule):
    r"""Future-facing BPTT: exact credit from the emissions of the next `horizon` steps.

    \[ \lambda_s = \sum_{u=s}^{s+h-1} c_u\, J_u J_{u-1} \cdots J_{s+1}, \qquad
       \nabla_\theta = \sum_s \lambda_s F_s \]

    with h = `horizon`, \(c_u\) the direct credit of the emission, \(J\) the exact Jacobian of a
    step and \(F\) the step's derivative by the parameters. The last h - 1 steps of a sequence are
    charged with the credit that is still to come (trailing credits). A sliding window: unlike
    BPTT in segments, every step's loss reaches the same h steps.

    Exact: `horizon` ≥ T is BPTT for all parameters (`T + 1` for a bare initial state too), and the
    emission's own filter (`Filtered`) is transported in full. Approximate: longer paths, those
    within a neuron among them. `horizon` = 1 is what a step does to its own emission: `EProp`
    where nothing of a neuron's state stays, as on `RateCell` with alpha = 1.

    Streaming keeps a tape of the last h steps instead of a trace per parameter: memory O(h·(n+m))
    an example. The online program of the source delays: at t it emits the credit of step t - h + 1,
    by then complete. Here what comes at t is the credit of \(c_t\) on the last h steps: another
    order of the same terms, hence the same sum. The tape is linearised at the current weights.
    A `Filtered` cell learns offline only. Time: h times BPTT's transposed recurrence, offline and,
    on neuron cells, one step at a time; otherwise a segment adds up to h² steps of it.
    Locality: none.

    Source: Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """

    card: ClassVar[Card] = Card(
        facing="future",
        structure="λ_i of h errors, its own step's and the next",
        bias="biased",
        when="exact where the horizon h is the sequence's length or more",
        memory="h*(n+m)",
        time="h*n*(n+m+1)",
        synapse="the next h steps of the whole network",
        source="Marschall, Cho & Savin 2020",
        called="F-BPTT, future-facing BPTT",
        credit="of the next h emissions, exactly",
        use="exact credit of the next h emissions, at every step of a stream",
        papers=("marschall2020unified",),
        place=120,
        names=(
            Named(
                "future_bptt",
                "future-facing BPTT: exact credit of the next steps; horizon=10",
                {"horizon": int},
                lambda rule, types, horizon=10: rule(horizon),
                place=100,
            ),
        ),
    )

    horizon: int = eqx.field(static=True)
    driven: bool = eqx.field(static=True)

    def __init__(self, horizon: int, *, driven: bool = False):
        """**Arguments:**

        - `horizon`: h, the emissions that a step is charged with, 1 or more.
        - `driven`: whether streams come with `drive=`, which the tape then keeps too.
        """
        self.horizon = arguments.size("horizon", horizon)
        self.driven = arguments.boolean("driven", driven)

    def check(self, cell: AbstractCell) -> None:
        """Needs a separable cell."""
        require_separable(self, cell)

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """The last h steps."""
        return Tape(self.horizon, self.driven)

    def modulator(self, cell: SeparableCell, batch_shape: tuple[int, ...]) -> PyTree:
        """No credit of age 1 ... h - 1, on an axis after those of the batch."""

        def ages(leaf):
            features = leaf.shape[len(batch_shape) :]
            return jnp.zeros((*batch_shape, self.horizon - 1, *features), leaf.dtype)

        return jax.tree.map(ages, inexact(start_of(cell, batch_shape)))

    def receives(self, on: AbstractProgram) -> bool:
        """Credit of no age yet reaches all of the tape: the ages need not be told apart."""
        return True

    def receive(self, on: AbstractProgram, direct: Credit) -> Credit:
        """Without ages."""
        return Credit(direct.state)

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """All ages at once through the cell's Jacobian, but for the oldest."""
        exact, aged = BPTT(), credit.modulator
        if not jax.tree.leaves(aged):
            return exact.back(on, point, credit, direct)
        axis = len(batch_shape(on.cell, point.before))

        def one_older(ages, state, direct):
            # more credit than its ages came over the end of a segment, straight onto its last state
            new = direct + state - ages.sum(axis)
            both = jnp.concatenate([jnp.expand_dims(new, axis), ages], axis)
            return lax.slice_in_dim(both, 0, self.horizon - 1, axis=axis)

        ages = jax.tree.map(one_older, aged, credit.state, direct)

        def through(credit):
            return exact.back(on, point, Credit(credit), None)

        back = jax.vmap(through, in_axes=axis, out_axes=axis)(ages)
        before, message = jax.tree.map(lambda a: a.sum(axis), (back.credit.state, back.message))
        return Back(add(credit.state, direct), Credit(before, back.credit.state), message)
