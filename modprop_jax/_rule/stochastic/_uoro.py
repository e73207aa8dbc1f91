from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..._cell import AbstractCell
from ..._cell._emission import AbstractEmission
from ..._precision import start_of, widened
from ..._program._base import AbstractProgram
from ..._start import pull_start
from ..._trace._base import refusal
from ..._tree import inexact, pullback
from .._card import Card, Named
from .._noise import Noise
from ._base import AbstractBalancedRule, mix, parameters_read, scaled, size_of
from ._rank_one import Linearised, Tangent


class UORO(AbstractBalancedRule):
    r"""Unbiased online recurrent optimisation: the influence matrix as a noisy outer product.

    \[ A_t = p_0 J_t A_{t-1} + p_1 \nu, \qquad B_t = B_{t-1} / p_0 + \nu F_t / p_1, \qquad
       \nabla_\theta = \sum_t (c_t \cdot A_t)\, B_t \]
    \[ p_0 = \sqrt{|B_{t-1}| / |J_t A_{t-1}|}, \qquad p_1 = \sqrt{|\nu F_t| / \sqrt{k}} \]

    with \(J_t = \partial s_t/\partial s_{t-1}\), \(F_t = \partial s_t/\partial\theta\) at a fixed
    state, \(c_t\) the direct credit on the state, \(\nu\) (`noise`) k independent numbers of mean 0
    and variance 1, one for each number of the state, drawn anew at every step, and Frobenius norms
    over all leaves. A is shaped as the state, B as the parameters.

    Exact: nothing but the expectation. From the traces that `init` makes, which are zero, the mean
    over noise of the gradient is that of RTRL, for any cell. One draw is far from it: on a
    `RateCell` of 16 neurons (alpha 0.5, 40 steps, random \(c_t\)) its variance is 37 times the
    squared gradient, for `KFRTRL` 2.2 and for `RKFRTRL` 38 times. Both p are
    \(\sqrt{a / (b + \epsilon)} + \epsilon\) (`epsilon`), which keeps zero traces safe and is
    unbiased too; \(\epsilon = 0\) is the published form, for traces that are not zero.

    A `Filtered` emission's memory has \(\bar A_t = p_0\, leak\, \bar A_{t-1} + s_{out}
    (\partial z/\partial s) A_t\) beside A, counted in its norm, and noise of its own if the
    emission reads parameters. The gradient stays unbiased, but what one draw gives depends on how
    the sequence is cut, since within a segment the filter is exact; without a filter it does not.
    Each example and probe has its own stream of noise, which goes on after `done`; padding draws
    nothing. A start that learns has \(A = \nu\), \(B = \nu\,\partial\mathrm{init}/\partial\theta\).
    Inputs get credit from their own step alone.

    Memory O(n + P) an example and probe for n numbers of state and P parameters; time that of a
    forward and a reverse pass of one example, and O(P), a step. A segment of more than one step
    advances the trace twice, for the carry and for the gradient. Locality: the scalar
    \(c \cdot A\) is global.

    Errors: ValueError without a key in `init`, and for a bare state.

    Sources: Tallec & Ollivier, ICLR 2018 (arXiv 1702.05043); in this notation Marschall, Cho &
    Savin, JMLR 2020 (arXiv 1907.02649).
    """

    card: ClassVar[Card] = Card(
        facing="past",
        structure="A_s B_ij",
        stochastic=True,
        bias="unbiased",
        when="in the mean over noise, from the carry of `init`",
        memory="n+n*(n+m+1)",
        time="n*(n+m+1)",
        synapse="scalars that are the whole network's, c·A among them",
        source="Tallec & Ollivier 2018",
        called="UORO, unbiased online recurrent optimisation",
        credit="all, in expectation: unbiased, noisy; `probes=` averages",
        use="an unbiased gradient online, for any cell, where its noise averages away",
        papers=("tallec2018uoro", "marschall2020unified"),
        place=80,
        names=(
            Named(
                "uoro",
                "UORO: an unbiased estimate of rank one, on streams; probes=1",
                {"probes": int},
                online=True,
                place=110,
            ),
        ),
    )

    def __init__(
        self, *, noise: Noise = "rademacher", probes: int = 1, epsilon: float | int = 1e-7
    ):
        """**Arguments:**

        - `noise`: `"rademacher"` (±1) or `"normal"`; or recorded numbers, an array (T, k) or
            (T, *batch, k) whose row t is that of an example's step t. Past its end they are NaN.
        - `probes`: independent estimates whose mean is taken; the variance falls as 1/probes.
        - `epsilon`: the floor of p.
        """
        AbstractBalancedRule.__init__(self, noise, probes, epsilon)

    def draws(self, cell: AbstractCell, emission: AbstractEmission) -> int:
        """One for each number of the state; for an emission with parameters, of that too."""
        size = size_of(inexact(start_of(cell)))
        if emission.remembers and _emits_parameters(cell):
            return size + size_of(cell.emit(start_of(cell)))
        return size

    def columns(self, cell: AbstractCell) -> tuple[int, ...]:
        """None: A is one tangent."""
        return ()

    def factor(self, cell: AbstractCell) -> PyTree:
        """B."""
        return jax.tree.map(jnp.zeros_like, widened(inexact(cell)))

    def move(
        self, step: Linearised, tangent: Tangent, factor: PyTree, noise: Float[Array, " k"]
    ) -> tuple[Tangent, PyTree]:
        """A (`tangent`) and B (`factor`) after one more step."""
        flat, shaped = ravel_pytree(inexact(step.before))
        state, emitted = shaped(noise[: flat.size]), None
        if noise.size > flat.size:
            emitted = noise[flat.size :].reshape(jax.eval_shape(step.cell.emit, step.after).shape)

        def run(cell):
            z = None if emitted is None else cell.emit(step.after)
            return cell.step(step.before, step.inputs), z

        (drawn,) = pullback(run, step.cell)((state, emitted))
        moved = step.push(tangent)
        p0 = self.ratio(factor, moved)
        p1 = self.ratio(drawn, jnp.sqrt(jnp.asarray(noise.size, noise.dtype)))
        tangent = mix(p0, moved, p1, step.fresh(state, emitted))
        return tangent, mix(1 / p0, factor, 1 / p1, drawn)

    def start_draws(self, on: AbstractProgram) -> int:
        """One for each number of the state; given noise is that of steps."""
        if not self.noise.needs_key:
            raise refusal(on)
        return size_of(inexact(start_of(on.cell)))

    def of_start(self, on: AbstractProgram, noise: Float[Array, " k"]) -> tuple[PyTree, PyTree]:
        """`A = ν`, `B = ν ∂init/∂θ`."""
        _, shaped = ravel_pytree(inexact(start_of(on.cell)))
        return shaped(noise), pull_start(on.cell, shaped(noise))

    def gradient(self, cell: AbstractCell, credit: Array, factor: PyTree) -> PyTree:
        """`Σ (c · A) B`."""
        return scaled(credit, factor)


def _emits_parameters(cell: AbstractCell) -> bool:
    """Whether the emission reads any."""
    state = start_of(cell)
    return any(jax.tree.leaves(parameters_read(cell, lambda c: c.emit(state))))
