from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..._cell import AbstractCell, NeuronCell
from ..._cell._emission import AbstractEmission
from ..._precision import wide
from .._card import Card, Named
from .._noise import Noise
from ._base import (
    AbstractBalancedRule,
    as_weights,
    driven,
    mix,
    presynaptic,
    require_weights,
    synapses,
)
from ._rank_one import Linearised, Tangent


class RKFRTRL(AbstractBalancedRule):
    r"""Reverse Kronecker-factored RTRL: noise over neurons times a matrix of sensitivities.

    \[ A_t = p_0 A_{t-1} + p_1 \nu, \qquad
       B_t = \frac{1}{p_0} J_t B_{t-1} + \frac{1}{p_1} (\nu \odot d_t) \otimes \hat a_t, \qquad
       \nabla_{W_{ij}} = \sum_t A_{t,i} (c_t B_t)_j \]
    \[ p_0 = \sqrt{|J_t B_{t-1}| / |A_{t-1}|}, \qquad
       p_1 = \sqrt{|(\nu \odot d_t) \otimes \hat a_t| / \sqrt{n}} \]

    in the notation of `KFRTRL`, with n independent numbers \(\nu\) (`noise`) of mean 0 and variance
    1 a step, one a neuron. A is over postsynaptic neurons; B has a column for each synapse of a
    neuron, with all of the state's variables.

    Exact: the expectation, that of RTRL from zero traces. The variance is about that of `UORO`
    (figures there). `epsilon` and inputs are as in `UORO`; so is a `Filtered` emission, whose
    memory has \(\bar B_t = leak\,\bar B_{t-1} / p_0 + s_{out} (\partial z/\partial s) B_t\) beside
    B.

    Memory O(nm) an example and probe, for m synapses a neuron; time O(n²m) a step. Locality: none,
    B takes J.

    Errors: ValueError for a cell that is no `NeuronCell` or has parameters other than `weight_rec`,
    `weight_in`, `bias`; without a key in `init`, and for a bare state.

    Source: Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """

    card: ClassVar[Card] = Card(
        facing="past",
        structure="A_i B_sj",
        stochastic=True,
        bias="unbiased",
        when="in the mean over noise, from the carry of `init`",
        memory="n+n*(n+m+1)",
        time="n**2*(n+m+1)",
        synapse="its neuron's A_i, and how its presynaptic activity moves the whole network",
        source="Marschall, Cho & Savin 2020",
        called="R-KF-RTRL, reverse Kronecker-factored RTRL",
        credit="all, in expectation: unbiased, noisy; `probes=` averages",
        use="beside `KFRTRL` and `UORO`: unbiased too, with about the variance of `UORO`",
        papers=("marschall2020unified",),
        place=100,
        names=(
            Named(
                "rkf_rtrl",
                "R-KF-RTRL: KF-RTRL with the factors reversed, on streams; probes=1",
                {"probes": int},
                online=True,
                place=130,
            ),
        ),
    )

    def __init__(
        self, *, noise: Noise = "rademacher", probes: int = 1, epsilon: float | int = 1e-7
    ):
        """**Arguments:** those of `UORO`; k = n numbers a step, one a neuron."""
        AbstractBalancedRule.__init__(self, noise, probes, epsilon)

    def check(self, cell: AbstractCell) -> None:
        """Needs a neuron cell whose weights are all that trains."""
        require_weights(self, cell)
        AbstractBalancedRule.check(self, cell)

    def draws(self, cell: NeuronCell, emission: AbstractEmission) -> int:
        """One a neuron."""
        return cell.hidden_size

    def columns(self, cell: NeuronCell) -> tuple[int, ...]:
        """One for each synapse of a neuron."""
        return (synapses(cell),)

    def factor(self, cell: NeuronCell) -> Float[Array, " n"]:
        """A."""
        return jnp.zeros(cell.hidden_size, wide(cell.dtype))

    def move(
        self, step: Linearised, tangent: Tangent, factor: PyTree, noise: Float[Array, " k"]
    ) -> tuple[Tangent, PyTree]:
        """B (`tangent`) and A (`factor`) after one more step."""
        received = presynaptic(step)
        moved = jax.vmap(step.push)(tangent)
        drawn = jax.tree.map(lambda d: jnp.outer(received, noise * d), driven(step))
        fresh = jax.vmap(step.fresh)(drawn)
        p0 = self.ratio(moved, factor)
        p1 = self.ratio(fresh, jnp.sqrt(jnp.asarray(noise.size, noise.dtype)))
        return mix(1 / p0, moved, 1 / p1, fresh), mix(p0, factor, p1, noise)

    def gradient(self, cell: NeuronCell, credit: Array, factor: Array) -> PyTree:
        """`Σ Aᵀ (c B)`."""
        return as_weights(cell, factor, credit)
