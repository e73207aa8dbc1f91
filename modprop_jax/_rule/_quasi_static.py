from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, NeuronCell
from .._cell._claims import check_apart
from .._cell._relax import solved
from .._credit import Back, Credit, Point, Record
from .._precision import widened
from .._program._base import AbstractProgram
from .._trace import AbstractTrace, PerSynapse
from .._tree import add, each, inexact, pullback, with_fields
from ._base import require_neurons
from ._card import Card, Named
from ._eprop import EProp
from ._transport import AbstractTransportRule


class QuasiStatic(AbstractTransportRule):
    r"""Credit that is at equilibrium at every step, times e-prop's eligibility trace.

    \[ \hat c_t = c_t + \hat c_t\, R_t W H_t, \qquad
       \lambda_t = \hat c_t + \lambda_{t+1} D_{t+1}, \qquad
       \nabla_W = \sum_t \hat c_t\, \epsilon_t \]

    with \(c_t\) the direct credit on the state, \(D_t\) the own-neuron part of the state Jacobian,
    \(\epsilon_t\) e-prop's eligibility trace, \(H_t = \partial message / \partial s_t\), and
    \(R_t = (1 - D_t)^{-1}\, \partial s_t / \partial drive_t\) what a neuron makes of a constant
    drive (1 on `LeakyCell`). W and the present state alone say how credit spreads: as if the
    network had all the time that it needs to settle before anything changes.

    Exact: in the limit of inputs that are slow against the neurons, in a network that settles (the
    stationary limit of BPTT). Approximate: lags of credit between neurons are dropped, so that for
    fast inputs the solution is little better than e-prop, or worse; e-prop is `sweeps=0`. A
    truncated series, \(\hat c_t = \sum_{k \le sweeps} c_t (R_t W H_t)^k\), is what so many sweeps
    of retrograde signalling deliver within a step. Mean cosine to BPTT (three networks of 40 leaky
    tanh neurons; spectral radius of W; correlation time of the inputs in units of the neurons';
    `reproductions/quasi_static.py`):

    | radius | inputs | e-prop | 1 sweep | solution | ridge 0.1 |
    |---|---|---|---|---|---|
    | 0.5 | 0.3 | 0.968 | 0.986 | 0.977 | 0.988 |
    | 0.5 | 10 | 0.951 | 0.996 | 0.999 | 1.000 |
    | 0.9 | 0.3 | 0.875 | 0.964 | 0.919 | 0.979 |
    | 0.9 | 10 | 0.848 | 0.966 | 0.994 | 0.994 |
    | 1.2 | 0.3 | 0.743 | 0.890 | 0.634 | 0.925 |
    | 1.2 | 10 | 0.746 | 0.914 | 0.969 | 0.962 |

    **Near-singular steps.** The series converges where the spectral radius of \(R_t W H_t\) is
    below 1. Where an eigenvalue comes near 1, such steps dominate the gradient; at 1 it is not
    finite, which `value_and_grad(..., check=True)` raises. `ridge` bounds how much credit is
    amplified, `sweeps` leaves the solution out.

    Streamed as offline with e-prop's trace, O(n+m) where one leak serves all neurons, else
    O(n(n+m)); n times that under a `Filtered` emission. Time: e-prop's, and O(n³) a step and
    example for the solution or O(n²) a sweep. Inputs get the rule's credit.
    Locality: a synapse knows its presynaptic activity, its neuron's state and its neuron's credit,
    which needs the weights of the synapses that its neuron makes.

    Errors: ValueError unless the cell is made of neurons with one float variable; and for `step`.

    Sources: retrograde credit at equilibrium, Fan & Mysore 2024 (arXiv 2405.14139); eligibility
    traces, Murray, eLife 8 (2019).
    """

    card: ClassVar[Card] = Card(
        facing="both",
        structure="Σ_k ((1 - R W H)^-1)_sk δ_ki B_ij",
        bias="biased",
        when="exact where W_rec = 0, and in the limit of slow inputs",
        memory="n*(n+m+1)",
        leaky="n+m+1",
        time="n**3",
        synapse="its presynaptic activity, its neuron's state and credit, sent back by its targets",
        source="Fan & Mysore 2024; Murray 2019",
        called="credit at equilibrium, quasi-static credit",
        credit="as if the state had settled: for slow inputs",
        use="inputs that are slow against the neurons, in a network that settles",
        papers=("fan2024balance", "murray2019rflo"),
        place=150,
        names=(
            Named(
                "quasi_static",
                "credit at equilibrium at every step, times e-prop's trace: slow inputs; "
                "sweeps, ridge",
                {"sweeps": int, "ridge": float},
                place=170,
            ),
        ),
    )

    sweeps: int | None = eqx.field(static=True)
    ridge: float = eqx.field(static=True)

    def __init__(self, *, sweeps: int | None = None, ridge: float = 0.0):
        """**Arguments:**

        - `sweeps`: terms of the series after the first; None: the solution.
        - `ridge`: ε of a solution by least squares, ε times the squared credit added: what neurons
            send on is at most 1 / (2 √ε) times the direct credit, in the norm over neurons. 0.01
            to 0.1 does well where the radius is above 1.
        """
        self.sweeps = None if sweeps is None else arguments.count("sweeps", sweeps)
        self.ridge = arguments.number("ridge", ridge, arguments.NOT_NEGATIVE)
        if ridge and sweeps is not None:
            raise ValueError(
                f"ridge must be 0 where sweeps are given, as it is for the solution, sweeps=None, "
                f"but got ridge={ridge} and sweeps={sweeps}."
            )

    def check(self, cell: AbstractCell) -> None:
        """Needs neurons of one float variable."""
        inner = require_neurons(self, cell)
        leaves = jax.tree.leaves(jax.eval_shape(inner.init))
        count = sum(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
        if count != 1:
            raise ValueError(
                f"QuasiStatic needs neurons of one float variable, but {type(inner).__name__} has "
                f"{count}: use EProp or ModProp."
            )
        check_apart("QuasiStatic", inner, "message")

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """e-prop's trace; credit on a filtered emission's memory reaches other neurons."""
        if on.emission.remembers:
            return PerSynapse(filter_is_local=self.sweeps == 0)
        return _Eligibility(EProp().trace(on))

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """The direct part spreads at once; all credit then stays with its neuron."""
        cell, message = on.cell, None
        if self.sweeps != 0:
            message, spread = self._spread(cell, point, direct)
            direct = add(direct, spread)
        total = add(credit.state, direct)
        (before,) = pullback(lambda s: cell.integrate(s, point.drive), point.before)(total)
        return Back(total, Credit(before), message)

    def _spread(self, cell: NeuronCell, point: Point, direct: PyTree) -> tuple[Array, PyTree]:
        """Credit on the message, and what that makes on the state: ĉ = direct + it."""
        pull = pullback(cell.integrate, point.before, point.drive)
        unit = jax.tree.map(jnp.ones_like, direct)
        own, gain = pull(unit)
        response = gain / (1 - _only(own))
        after = cell.integrate(point.before, point.drive)
        send = pullback(cell.message, after)
        (slope,) = send(jnp.ones_like(response))
        received = response * _only(direct)
        synapses, loop = widened(cell.recurrent), response * _only(slope)
        if self.sweeps is not None:
            credit = received
            for _ in range(self.sweeps - 1):
                credit = received + loop * synapses.back(credit)
        else:
            weight = synapses.as_matrix()

            def one(loop, received):
                return self._settled(weight, loop, received)

            credit = each(one, loop.ndim - 1)(loop, received)
        message = synapses.back(credit)
        return message, send(message)[0]

    def _settled(
        self, weight: Float[Array, "n n"], loop: Float[Array, " n"], received: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """`q = received + loop (q W)`."""
        eye = jnp.eye(len(loop), dtype=weight.dtype)
        matrix = eye - loop[:, None] * weight.T
        if not self.ridge:
            return solved(matrix, received)
        return solved(matrix.T @ matrix + self.ridge * eye, matrix.T @ received)


class _Eligibility(AbstractTrace):
    """e-prop's trace: credit that has arrived stays with its neuron, nothing is left to spread."""

    trace: AbstractTrace

    def init(self, on: AbstractProgram, state: PyTree) -> PyTree:
        """Zeros."""
        return self.trace.init(self._local(on), state)

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """That of e-prop."""
        return self.trace.of_start(self._local(on), batch)

    def contract(self, on: AbstractProgram, trace: PyTree, credit: Credit) -> PyTree:
        """Credit meets the eligibility of its own neuron's synapses."""
        return self.trace.contract(self._local(on), trace, credit)

    def extend(self, on: AbstractProgram, record: Record, trace: PyTree) -> PyTree:
        """Eligibility after the segment."""
        return self.trace.extend(self._local(on), record, trace)

    def _local(self, on: AbstractProgram) -> AbstractProgram:
        return with_fields(on, rule=EProp())


def _only(state: PyTree) -> Array:
    """The neurons' one float variable."""
    (variable,) = jax.tree.leaves(inexact(state))
    return variable
