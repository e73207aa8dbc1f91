from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, EquilibriumCell
from .._cell._base import dynamics
from .._cell._equilibrium import as_relaxation, Equilibrium
from .._cell._relax import relax, Relaxed
from .._cell._settle import Found
from .._credit import Back, Credit, Point
from .._precision import widened
from .._program._base import AbstractProgram
from .._trace import AbstractTrace
from .._trace._nothing import Nothing
from .._tree import add
from ._card import Card, Named
from ._transport import AbstractSurrogateRule


class EICredit(AbstractSurrogateRule):
    r"""Credit that relaxes over the network by retrograde signalling, to its own equilibrium.

    \[ a \leftarrow e + W^T (f \odot a), \qquad \nabla_W = (f \odot a) \otimes r, \qquad
       \nabla_b = f \odot a \]

    with r the rates at the equilibrium of an `EquilibriumCell`, \(e = \partial E/\partial r\) and
    f the balance: \(\sigma'\) of the net input, largest where excitation and inhibition leave a
    neuron most responsive; 0 for clamped inputs. Neuron i sends \(f_i a_i W_{ij}\) back through
    the synapse from j, and a synapse changes by credit, balance and presynaptic rate. The source's
    credit is -a: it descends.

    Exact: with \(f = \sigma'\) and `output="source"`, a is the implicit gradient's credit, and
    backpropagation's in a layered network. It converges where firing does, at the same rate: its
    Jacobian is the transposed one. Approximate: with `output="clamp"`, as published, credit of
    output neurons is held at e, which is exact if and only if they send no synapses (else as if
    what they send had no derivative), and may diverge where firing settles; another `balance`
    (the derivative of a network with that surrogate); `sweeps`, whose error falls as ρ^sweeps, ρ
    the spectral radius of \( W^T \mathrm{diag}(f) \).

    Credit that has not settled in `max_steps`, or diverges, is NaN and with it the gradient:
    `value_and_grad(..., check=True)` raises. So is that of a firing equilibrium that was not
    reached. `relax` shows sweeps and convergence.

    Equilibria share no credit over time, so nothing is carried, and streamed is offline; for a
    `Filtered` cell offline only. Inputs get the credit of their units, \(a\). Time O(n²) a sweep
    and example, with about as many sweeps as firing takes; memory O(n) an example, however many.
    Second derivatives: with `sweeps` only.
    Locality: a synapse knows its presynaptic rate, and its neuron's credit and balance.

    Errors: ValueError on another cell.

    Source: Fan & Mysore 2024 (arXiv 2405.14139), for layered networks with clamped credit. The
    additive source, zero balance of inputs, and signs of presynaptic units are extensions.
    """

    card: ClassVar[Card] = Card(
        facing="neither",
        structure="λ_i of the present equilibrium, relaxed by W^T diag(f)",
        bias="exact",
        when="output='source', f = σ', to tolerance; equilibria have no past",
        memory="0",
        time="n*(n+m+1)",
        synapse="its presynaptic rate, and its neuron's credit and balance",
        source="Fan & Mysore 2024",
        called="E-I balance credit, credit at equilibrium",
        credit="of an `EquilibriumCell`'s present equilibrium: exact",
        use="a network that settles at every step, Dale's law included",
        papers=("fan2024balance",),
        place=160,
        names=(
            Named(
                "ei_credit",
                "retrograde credit that relaxes to equilibrium: cell equilibrium; sweeps, damping",
                {"sweeps": int, "damping": float},
                place=200,
            ),
            Named(
                "ei_credit_clamp",
                "the same with the credit of output units held, as published; sweeps, damping",
                {"sweeps": int, "damping": float},
                lambda rule, types, **options: rule(output="clamp", **options),
                place=210,
            ),
        ),
    )

    output: Literal["source", "clamp"] = eqx.field(static=True)
    balance: Callable[[Array], Array] | None = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    damping: float | None = eqx.field(static=True)
    sweeps: int | None = eqx.field(static=True)

    def __init__(
        self,
        *,
        output: Literal["source", "clamp"] = "source",
        balance: Callable[[Array], Array] | None = None,
        rtol: float = 1e-6,
        atol: float = 1e-6,
        max_steps: int = 1000,
        damping: float | None = None,
        sweeps: int | None = None,
    ):
        r"""**Arguments:**

        - `output`: "source" adds e at every sweep; "clamp" holds the credit of the cell's `outputs`
            at e.
        - `balance`: elementwise f of the net input; None: the derivative of the activation.
        - `rtol`, `atol`: settled when a sweep moves no credit a by more than
            rtol·\|a\| + atol·max \|e\|, whatever the scale of the loss, or by rounding alone.
        - `max_steps`: sweeps at most.
        - `damping`: share of each sweep that is taken, in (0, 1]; None: all of it. An equilibrium
            that needs damping needs it here too.
        - `sweeps`: so many sweeps from a = e, converged or not; 0 charges synapses onto neurons
            that the loss reads. None: until settled.
        """
        self.output = arguments.choice("output", output, ("source", "clamp"))
        self.balance = None if balance is None else arguments.elementwise("balance", balance)
        options = as_relaxation(rtol, atol, max_steps, damping)
        self.rtol, self.atol, self.max_steps, self.damping = options
        self.sweeps = None if sweeps is None else arguments.count("sweeps", sweeps)

    def check(self, cell: AbstractCell) -> None:
        """Needs an `EquilibriumCell`."""
        inner = dynamics(cell)
        arguments.require(
            inner,
            EquilibriumCell,
            f"EICredit needs an EquilibriumCell, but the cell is a {type(inner).__name__}: for "
            "credit over time use BPTT, or QuasiStatic on a NeuronCell.",
        )

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """Nothing of the past is needed."""
        if on.emission.remembers:
            raise ValueError(
                "EICredit carries nothing from segment to segment, but the memory of a Filtered "
                "emission brings credit to all steps before: learn offline (from a bare state), or "
                "filter what the cell emits in the loss."
            )
        return Nothing()

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """None goes back in time."""
        total = add(credit.state, direct)
        return Back(total, Credit(jax.tree.map(jnp.zeros_like, total)), None)

    def step(self, cell: EquilibriumCell, state: Equilibrium, x: Array) -> Equilibrium:
        """The cell's step; credit relaxes in its derivative, which is for reverse mode."""
        self.check(cell)
        return cell.step_with(state, x, self.find)

    def relax(
        self,
        cell: EquilibriumCell,
        state: Equilibrium,
        direct: Float[Array, "*batch n"],
    ) -> Found:
        """What credit relaxes to at an equilibrium, for telemetry and plots.

        **Arguments:** `state`: at the equilibrium. `direct`: e, the loss's credit on the rates.

        **Returns:** `credit` a and `balance` f (*batch, n); `sweeps` and `converged` (*batch).
        """
        self.check(cell)
        return self.find(widened(cell.effective()), *widened((state.rates, direct)))

    def find(self, cell: EquilibriumCell, rates: Array, direct: Array) -> Found:
        """`relax`, of a cell that is effective."""
        balance = self.balance_at(cell, cell.drive(rates))
        sweep = self.sweep(cell, balance, direct)
        if self.sweeps is None:
            found = relax(
                sweep,
                direct,
                rtol=self.rtol,
                atol=self.atol * jnp.abs(direct).max(-1),
                max_steps=self.max_steps,
                damping=self.damping,
            )
        else:
            share = 1.0 if self.damping is None else self.damping
            value = lax.fori_loop(0, self.sweeps, lambda _, a: a + share * (sweep(a) - a), direct)
            batch = direct.shape[:-1]
            found = Relaxed(value, jnp.full(batch, self.sweeps, jnp.int32), jnp.ones(batch, bool))
        return Found(found.value, balance, found.sweeps, found.converged)

    def balance_at(
        self, cell: EquilibriumCell, drive: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """f; 0 for clamped inputs."""
        if self.balance is None:
            return cell.slope(drive)
        clamped = np.broadcast_to(cell.inputs.numpy(), drive.shape)
        return jnp.where(clamped, 0, self.balance(drive))

    def sweep(
        self,
        cell: EquilibriumCell,
        balance: Float[Array, "*batch n"],
        direct: Float[Array, "*batch n"],
    ) -> Callable[[Array], Array]:
        """`a -> e + W^T (f a)`, of a cell that is effective."""
        held = np.broadcast_to(cell.outputs.numpy(), direct.shape)

        def sent_back(credit):
            received = (balance * credit) @ cell.weight
            if self.output == "clamp":
                received = jnp.where(held, 0, received)
            return direct + received

        return sent_back
