from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..._cell import AbstractCell, SeparableCell
from ..._cell._emission import AbstractEmission
from ..._inputs import drive_of
from ..._precision import start_of, widened
from ..._tree import inexact, pullback
from .._base import require_units
from .._card import Card, Named
from .._noise import Noise
from ._base import AbstractStochasticRule, scaled, size_of
from ._rank_one import Linearised, pushforward, Tangent


class NodePerturbation(AbstractStochasticRule):
    r"""Node perturbation by derivatives: noise on drives, and what each synapse did to that noise.

    \[ T_t = J_t T_{t-1} + D_t\, \xi_t, \qquad P_t = P_{t-1} + \xi_t \otimes \hat a_t, \qquad
       \nabla_W = \sum_t (c_t \cdot T_t)\, P_t \]

    with \(J_t = \partial s_t/\partial s_{t-1}\), \(D_t = \partial s_t/\partial\mathrm{drive}_t\),
    \(\hat a_t\) the presynaptic activity (messages, inputs, 1), \(c_t\) the direct credit on the
    state, and \(\xi_t\) (`noise`) independent numbers of mean 0 and variance 1, one for each
    drive, drawn anew at every step. T is shaped as the state, P as the parameters. It is the limit
    of small noise of `perturbed_value_and_grad(loss, "node")`, with no second pass and no change of
    the value, and `UORO` without its balance (\(p_0 = p_1 = 1\)), with noise where synapses act.

    Exact: the expectation, that of RTRL from the carry of `init`. One draw: each step's noise meets
    the errors from that step on. Without that causality, with the P of the last step, it would be
    \(E |g - \nabla|^2 = n \Lambda A + |\nabla|^2 - 2 \sum_t |\lambda_t|^2 |\hat a_t|^2\) for noise
    ±1, with \(\Lambda = \sum_t |\lambda_t|^2\) of the exact credit on drives and
    \(A = \sum_t |\hat a_t|^2\): about n T times the squared gradient. What stays is .45 to .65 of
    that: 202 times the squared gradient on a `RateCell` of 16 neurons and 4 inputs (alpha 0.5, 40
    steps), where `UORO`'s is 37.

    A `Filtered` emission's memory has a tangent beside T. Inputs get credit from their own step
    alone.

    Memory O(n + P) an example and probe for n numbers of state and P parameters; time that of a
    forward pass and its tangent, and O(P), a step. A segment of more than one step advances the
    trace twice, for the carry and for the gradient. Locality: a synapse knows its presynaptic
    activity, its neuron's noise, and the scalar \(c \cdot T\), which is global.

    Errors: ValueError for a cell that is not separable, or in which anything but the weights and
    biases of the drive trains; without a key in `init`, and for a bare state.

    Sources: Williams, Machine Learning 8 (1992); Fiete & Seung, Physical Review Letters 97 (2006),
    both with noise of finite size and a loss in place of its derivative.
    """

    card: ClassVar[Card] = Card(
        facing="past",
        structure="T_s P_ij, P the sum of noise times presynaptic activity",
        stochastic=True,
        bias="unbiased",
        when="in the mean over noise, from the carry of `init`",
        memory="n+n*(n+m+1)",
        time="n*(n+m+1)",
        synapse="its presynaptic activity, its neuron's noise, and one scalar of the network, c·T",
        source="Williams 1992; Fiete & Seung 2006",
        called="node perturbation",
        credit="all, in expectation: unbiased, with a variance that grows with neurons and steps",
        use="the baseline of learning by noise on neurons; without a derivative: "
        "`perturbed_value_and_grad`",
        papers=("williams1992simple", "fiete2006gradient"),
        place=106,
        names=(
            Named(
                "node_perturbation",
                "node perturbation: noise on drives times its effect, on streams; probes=1",
                {"probes": int},
                online=True,
                place=135,
            ),
        ),
    )

    def __init__(self, *, noise: Noise = "rademacher", probes: int = 1):
        """**Arguments:**

        - `noise`: `"rademacher"` (±1) or `"normal"`; or recorded numbers, an array (T, k) or
            (T, *batch, k) whose row t is that of an example's step t, k numbers of drive. Past its
            end they are NaN.
        - `probes`: independent estimates whose mean is taken; the variance falls as 1/probes.
        """
        AbstractStochasticRule.__init__(self, noise, probes)

    def check(self, cell: AbstractCell) -> None:
        """Needs a separable cell whose drive reads all that trains."""
        inner = require_units(self, cell)
        others, _ = inner.split()
        if jax.tree.leaves(others):
            paths, _ = jax.tree_util.tree_flatten_with_path(others)
            names = ", ".join(jax.tree_util.keystr(path).lstrip(".") for path, _ in paths)
            raise ValueError(
                f"NodePerturbation sees what the drive reads, but {names} of this "
                f"{type(inner).__name__} trains too: use UORO or ForwardGradient, or give it as a "
                "float or a NumPy array, which does not train."
            )
        AbstractStochasticRule.check(self, cell)

    def draws(self, cell: SeparableCell, emission: AbstractEmission) -> int:
        """One for each number of the drive."""
        state = start_of(cell)
        x = jnp.zeros(cell.in_size, jax.tree.leaves(inexact(state))[0].dtype)
        return size_of(jax.eval_shape(lambda: cell.drive(cell.message(state), x)))

    def columns(self, cell: AbstractCell) -> tuple[int, ...]:
        """None: T is one tangent."""
        return ()

    def factor(self, cell: AbstractCell) -> PyTree:
        """P."""
        return jax.tree.map(jnp.zeros_like, widened(inexact(cell)))

    def move(
        self, step: Linearised, tangent: Tangent, factor: PyTree, noise: Float[Array, " k"]
    ) -> tuple[Tangent, PyTree]:
        """T (`tangent`) and P (`factor`) after one more step."""
        message = step.cell.message(step.before)
        drive = drive_of(step.cell, message, step.inputs)
        _, shaped = ravel_pytree(drive)
        drawn = shaped(noise)
        driven = pushforward(lambda d: step.cell.integrate(step.before, d), drive, drawn)
        (met,) = pullback(lambda cell: cell.drive(message, step.x), step.cell)(drawn)
        tangent = jax.tree.map(jnp.add, step.push(tangent), step.fresh(driven))
        return tangent, jax.tree.map(jnp.add, factor, met)

    def gradient(self, cell: Any, credit: Array, factor: PyTree) -> PyTree:
        """`Σ (c · T) P`."""
        return scaled(credit, factor)
