from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..._cell import AbstractCell
from ..._cell._emission import AbstractEmission
from ..._precision import start_of, widened
from ..._program._base import AbstractProgram
from ..._start import read_by_start
from ..._tree import inexact
from .._card import Card, Named
from .._noise import Noise
from ._base import AbstractStochasticRule, parameters_read, scaled, size_of
from ._rank_one import Linearised, pushforward, Tangent


class ForwardGradient(AbstractStochasticRule):
    r"""Forward gradient: the derivative along one random direction, times that direction.

    \[ T_t = J_t T_{t-1} + F_t v, \qquad \nabla_\theta = \Big( \sum_t c_t \cdot T_t \Big)\, v \]

    with \(J_t = \partial s_t/\partial s_{t-1}\), \(F_t = \partial s_t/\partial\theta\) at a fixed
    state, \(c_t\) the direct credit on the state, and v (`noise`) P independent numbers of mean 0
    and variance 1, one for each parameter that exists and that a step reads. v is drawn where a
    sequence begins and kept until it ends: in a stream without `done` it stays, and learning goes
    along v alone. T is shaped as the state, v as the parameters: what one `jax.jvp` over the
    sequence gives, advanced step by step.

    Exact: the expectation, that of RTRL from the carry of `init`, for any cell. One draw has
    \(E |g - \nabla|^2 = (P - 1)\,|\nabla|^2\) for noise ±1 and \((P + 1)\,|\nabla|^2\) for normal
    noise, whatever the cell and T: 335 on a `RateCell` of 16 neurons and 4 inputs, where `UORO`'s
    is 37 times the squared gradient at 40 steps.

    All examples and probes draw directions of their own. A learnt start has
    \(T = (\partial\mathrm{init}/\partial\theta)\, v\); a `Filtered` emission's memory has a tangent
    beside T. What the emission alone reads keeps its exact gradient, without a filter. Inputs get
    credit from their own step alone.

    Memory O(n + P) an example and probe for n numbers of state and P parameters; time that of a
    forward pass and its tangent a step, and, where `done` is given, of P random numbers. A segment
    of more than one step advances the trace twice, for the carry and for the gradient. Locality:
    the scalar \(c \cdot T\) is global; a synapse knows its own part of v.

    Errors: ValueError without a key in `init`, and for a bare state.

    Source: Baydin, Pearlmutter, Syme, Wood & Torr 2022 (arXiv 2202.08587). There v is normal (±1
    has the smaller variance), and the whole sequence is one derivative.
    """

    card: ClassVar[Card] = Card(
        facing="past",
        structure="T_s v_ij, v fixed over a sequence",
        stochastic=True,
        bias="unbiased",
        when="in the mean over noise, from the carry of `init`",
        memory="n+n*(n+m+1)",
        time="n*(n+m+1)",
        synapse="its own random number, and one scalar that is the whole network's, c·T",
        source="Baydin, Pearlmutter, Syme, Wood & Torr 2022",
        called="forward gradient, directional derivative",
        credit="all, in expectation: unbiased, with a variance of the number of parameters",
        use="the baseline of what one random direction tells: any cell, no reverse pass",
        papers=("baydin2022forward",),
        place=103,
        names=(
            Named(
                "forward_gradient",
                "forward gradient: the derivative along a random direction, on streams; probes=1",
                {"probes": int},
                online=True,
                place=132,
            ),
        ),
    )

    def __init__(self, *, noise: Noise = "rademacher", probes: int = 1):
        """**Arguments:**

        - `noise`: `"rademacher"` (±1) or `"normal"`; or recorded numbers, an array (T, P) or
            (T, *batch, P): the row of an example's step t is v, if a sequence begins there.
        - `probes`: independent directions whose mean is taken; the variance falls as 1/probes.
        """
        AbstractStochasticRule.__init__(self, noise, probes)

    def draws(self, cell: AbstractCell, emission: AbstractEmission) -> int:
        """One for each parameter."""
        return size_of(inexact(cell))

    def columns(self, cell: AbstractCell) -> tuple[int, ...]:
        """None: T is one tangent."""
        return ()

    def factor(self, cell: AbstractCell) -> PyTree:
        """v before it is drawn."""
        return jax.tree.map(jnp.zeros_like, widened(inexact(cell)))

    def prepare(self, cell: AbstractCell) -> PyTree:
        """1 for each parameter that exists, 0 for what is stored at missing synapses."""
        cell = widened(cell)
        ones = jax.tree.map(jnp.ones_like, inexact(cell))
        return pushforward(lambda cell: cell.effective(), cell, ones)

    @property
    def draws_once(self) -> bool:
        """v, for each sequence."""
        return True

    def start_draws(self, on: AbstractProgram) -> int:
        """One for each parameter."""
        return self.draws(on.cell, on.emission)

    def of_start(self, on: AbstractProgram, noise: Float[Array, " k"]) -> tuple[PyTree, PyTree]:
        """`T = ∂init/∂θ v`, and v."""
        _, shaped = ravel_pytree(on.weights)
        direction = jax.tree.map(jnp.multiply, shaped(noise), on.weights)
        return inexact(pushforward(start_of, widened(on.cell), direction)), direction

    def move(
        self, step: Linearised, tangent: Tangent, factor: PyTree, noise: Float[Array, " k"]
    ) -> tuple[Tangent, PyTree]:
        """T (`tangent`) after one more step, along v (`factor`)."""
        del noise
        direction = _that_count(step, factor)

        def run(at):
            cell, before = at
            return cell.step(before, step.inputs)

        state = pushforward(run, (step.cell, step.before), (direction, tangent.state))
        emitted = None
        if step.on.emission.remembers:
            emitted = pushforward(lambda cell: cell.emit(step.after), step.cell, direction)
        return Tangent(state, step.filtered(state, emitted, tangent.memory)), direction

    def gradient(self, cell: Any, credit: Array, factor: PyTree) -> PyTree:
        """`Σ (c · T) v`."""
        return scaled(credit, factor)


def _that_count(step: Linearised, direction: PyTree) -> PyTree:
    """The direction, among what a state, or the memory of an emission, depends on.

    What the emission alone reads has its exact gradient, and would get noise on top.
    """
    if step.on.emission.remembers:
        return direction
    read = parameters_read(step.cell, lambda cell: cell.step(step.before, step.inputs))

    def one(along, read, read_by_start):
        return along if read or read_by_start else jnp.zeros_like(along)

    return jax.tree.map(one, direction, read, read_by_start(step.cell))
