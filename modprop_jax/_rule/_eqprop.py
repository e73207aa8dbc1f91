from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, EquilibriumCell
from .._cell._base import dynamics
from .._cell._equilibrium import Equilibrium
from .._cell._settle import Found
from .._credit import Back, Credit, Point
from .._precision import widened
from .._program._base import AbstractProgram
from .._trace import AbstractTrace
from .._trace._nothing import Nothing
from .._tree import add
from ._card import Card, Named
from ._transport import AbstractSurrogateRule


class EqProp(AbstractSurrogateRule):
    r"""Equilibrium propagation: the network settles again under a nudge, and the change is credit.

    \[ r^{\pm\beta} = M \sigma(W r^{\pm\beta} + b \mp \beta e) + (1 - M)\, x, \qquad
       v = -\frac{r^{+\beta} - r^{-\beta}}{2\beta} \]
    \[ \nabla_W = v \otimes r, \qquad \nabla_b = v, \qquad
       \nabla_x = (1 - M)\,(e + W^T v) \]

    with r the rates at the equilibrium of an `EquilibriumCell`, \(e = \partial E/\partial r\) the
    cotangent that arrives there, and M = 0 for clamped inputs, 1 for all others. The nudge enters
    the drive, where synapses do, and both phases start from r. `beta` is in units of the drive of
    the unit with the largest e of an example, whose scale it does not depend on. This is the
    vector-field form, which asks no symmetry of the dynamics: a synapse changes by its neuron's
    response and the presynaptic rate of the first phase.

    Exact: in the limit of small `beta`, where the weights among units that are not clamped are
    symmetric: \(dr/d\beta = -(1 - D W)^{-1} D e\), \(D = M \mathrm{diag}(\sigma')\), is then the
    implicit gradient's credit \((1 - D W^T)^{-1} D e\). At a finite `beta` the error is of order
    \(\beta^2\), one-sided (`symmetric=False`) \(\beta\); the cell's tolerance enters as
    tolerance / `beta`. Biased at any `beta` where weights are not symmetric: cosine with the
    implicit gradient .996, .959 and .658 in the mean of 30 random tanh networks of 12 units for
    an asymmetry of .1, .3 and 1. A layered network without feedback synapses has no credit below
    its outputs: make it `recurrent`. `optim.symmetric` ties weights. No derivative of σ is ever
    evaluated, and no linear phase is needed; `EICredit` is exact at any weights.

    A phase that has not settled in the cell's `max_steps` makes the gradient NaN, as a firing
    equilibrium that was not reached does: `value_and_grad(..., check=True)` raises.

    Equilibria share no credit over time, so nothing is carried, and streamed is offline; for a
    `Filtered` cell offline only. Time O(n²) a sweep and example, of two more relaxations (one if
    one-sided); memory O(n) an example. No second derivatives. Locality: a synapse knows its
    presynaptic rate, and by how much its neuron's rate differs between phases.

    Errors: ValueError on another cell.

    Sources: Scellier & Bengio, Frontiers in Computational Neuroscience 11 (2017); the vector-field
    form: Scellier et al. 2018 (arXiv 1808.04873); the symmetric nudge: Laborieux et al., Frontiers
    in Neuroscience 15 (2021). There the gradient is that of one weight for both directions, from
    products of rates of the nudged phases, which is this one's sum over the two directions as
    `beta` goes to 0; and the loss itself nudges, whose derivative here stays that of the first
    phase.
    """

    card: ClassVar[Card] = Card(
        facing="neither",
        structure="λ_i of the present equilibrium, by the response to a nudge",
        bias="biased",
        when="exact as beta goes to 0 where weights among free units are symmetric, to tolerance",
        memory="0",
        time="3*n*(n+m+1)",
        synapse="its presynaptic rate, and its neuron's change of rate under a nudge",
        source="Scellier & Bengio 2017; Scellier et al. 2018; Laborieux et al. 2021",
        called="EqProp, equilibrium propagation",
        credit="of an `EquilibriumCell`'s present equilibrium, if its weights are symmetric",
        use="physical networks that settle: no derivative, no phase of another dynamics",
        papers=("scellier2017eqprop", "scellier2018vector", "laborieux2021scaling"),
        place=165,
        names=(
            Named(
                "eqprop",
                "equilibrium propagation: two nudged phases: cell equilibrium; beta=0.1",
                {"beta": float},
                place=215,
            ),
        ),
    )

    beta: float = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)

    def __init__(self, beta: float | int = 0.1, *, symmetric: bool = True):
        r"""**Arguments:**

        - `beta`: β, the nudge in units of the drive, above 0.
        - `symmetric`: nudge both ways; else by +β alone, and compare with the first phase.
        """
        self.beta = arguments.number("beta", beta, arguments.POSITIVE)
        self.symmetric = arguments.boolean("symmetric", symmetric)

    def check(self, cell: AbstractCell) -> None:
        """Needs an `EquilibriumCell`."""
        inner = dynamics(cell)
        arguments.require(
            inner,
            EquilibriumCell,
            f"EqProp needs an EquilibriumCell, but the cell is a {type(inner).__name__}: for "
            "credit over time use BPTT, or QuasiStatic on a NeuronCell.",
        )

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """Nothing of the past is needed."""
        if on.emission.remembers:
            raise ValueError(
                "EqProp carries nothing from segment to segment, but the memory of a Filtered "
                "emission brings credit to all steps before: learn offline (from a bare state), or "
                "filter what the cell emits in the loss."
            )
        return Nothing()

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """None goes back in time."""
        total = add(credit.state, direct)
        return Back(total, Credit(jax.tree.map(jnp.zeros_like, total)), None)

    def step(self, cell: EquilibriumCell, state: Equilibrium, x: Array) -> Equilibrium:
        """The cell's step; the nudged phases are in its derivative, which is for reverse mode."""
        self.check(cell)
        return cell.step_with(state, x, self.find)

    def relax(
        self, cell: EquilibriumCell, state: Equilibrium, direct: Float[Array, "*batch n"]
    ) -> Found:
        """What the nudged phases find at an equilibrium, for telemetry and plots.

        **Arguments:** `state`: at the equilibrium. `direct`: e, the loss's credit on the rates.

        **Returns:** `credit` (*batch, n), v and, on clamped inputs, what they get; `balance`: 1,
        and 0 for those; `sweeps`, of all phases, and `converged` (*batch).
        """
        self.check(cell)
        return self.find(widened(cell.effective()), *widened((state.rates, direct)))

    def find(self, cell: EquilibriumCell, rates: Array, direct: Array) -> Found:
        """`relax`, of a cell that is effective."""
        most = jnp.abs(direct).max(-1, keepdims=True)
        push = self.beta * direct / jnp.where(most > 0, most, 1)
        x = cell.clamped_part(rates)
        up = cell.relax(rates, x, -push)
        if self.symmetric:
            down = cell.relax(rates, x, push)
            away, sweeps = (up.value - down.value) / 2, up.sweeps + down.sweeps
            converged = up.converged & down.converged
        else:
            away, sweeps, converged = up.value - rates, up.sweeps, up.converged
        response = -away * most / self.beta
        clamped = np.broadcast_to(cell.inputs.numpy(), rates.shape)
        credit = jnp.where(clamped, direct + response @ cell.weight, response)
        return Found(credit, jnp.where(clamped, 0, jnp.ones_like(rates)), sweeps, converged)
