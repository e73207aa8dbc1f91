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


class KFRTRL(AbstractBalancedRule):
    r"""Kronecker-factored RTRL: what a neuron receives times a matrix of sensitivities.

    \[ A_t = \nu_0 p_0 A_{t-1} + \nu_1 p_1 \hat a_t, \qquad
       B_t = \frac{\nu_0}{p_0} J_t B_{t-1} + \frac{\nu_1}{p_1} \mathrm{diag}(d_t), \qquad
       \nabla_{W_{ij}} = \sum_t (c_t B_t)_i A_{t,j} \]
    \[ p_0 = \sqrt{|J_t B_{t-1}| / |A_{t-1}|}, \qquad p_1 = \sqrt{|d_t| / |\hat a_t|} \]

    with \(\hat a = [message; x; 1]\) what every synapse of a neuron sees (\(W = [W_{rec} | W_{in} |
    b]\), 1 if there is a bias), \(d = \partial\,\mathrm{integrate}/\partial drive\),
    \(J_t = \partial s_t/\partial s_{t-1}\), \(c_t\) the direct credit on the state, and two
    independent numbers \(\nu\) (`noise`) of mean 0 and variance 1 a step. B has a column for each
    postsynaptic neuron, with all of the state's variables.

    Exact: the expectation, that of RTRL from zero traces. \(F_t\) is a product already, so only the
    sum with what came before takes noise, and the variance is far below that of `UORO` (figures
    there). `epsilon` and inputs are as in `UORO`; so is a `Filtered` emission, whose memory has
    \(\bar B_t = (\nu_0 / p_0)\,leak\,\bar B_{t-1} + s_{out} (\partial z/\partial s) B_t\) beside
    B.

    Memory O(n² + m) an example and probe, for m synapses a neuron; time O(n³) a step. Locality:
    none, B takes J.

    Errors: ValueError for a cell that is no `NeuronCell` or has parameters other than `weight_rec`,
    `weight_in`, `bias`; without a key in `init`, and for a bare state.

    Sources: Mujika, Meier & Steger, NeurIPS 2018 (arXiv 1805.10842); in this notation Marschall,
    Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """

    card: ClassVar[Card] = Card(
        facing="past",
        structure="A_j B_si",
        stochastic=True,
        bias="unbiased",
        when="in the mean over noise, from the carry of `init`",
        memory="n**2+n+m+1",
        time="n**3+n*(n+m+1)",
        synapse="its presynaptic A_j, and how its neuron moves the whole network",
        source="Mujika, Meier & Steger 2018",
        called="KF-RTRL, Kronecker-factored RTRL",
        credit="all, in expectation: unbiased, noisy; `probes=` averages",
        use="an unbiased gradient online, with a variance far below that of `UORO`",
        papers=("mujika2018kfrtrl", "marschall2020unified"),
        place=90,
        names=(
            Named(
                "kf_rtrl",
                "KF-RTRL: an unbiased Kronecker-factored estimate, on streams; probes=1",
                {"probes": int},
                online=True,
                place=120,
            ),
        ),
    )

    def __init__(
        self, *, noise: Noise = "rademacher", probes: int = 1, epsilon: float | int = 1e-7
    ):
        """**Arguments:** those of `UORO`; k = 2 numbers a step."""
        AbstractBalancedRule.__init__(self, noise, probes, epsilon)

    def check(self, cell: AbstractCell) -> None:
        """Needs a neuron cell whose weights are all that trains."""
        require_weights(self, cell)
        AbstractBalancedRule.check(self, cell)

    def draws(self, cell: NeuronCell, emission: AbstractEmission) -> int:
        """Two."""
        return 2

    def columns(self, cell: NeuronCell) -> tuple[int, ...]:
        """One for each postsynaptic neuron."""
        return (cell.hidden_size,)

    def factor(self, cell: NeuronCell) -> Float[Array, " m"]:
        """A."""
        return jnp.zeros(synapses(cell), wide(cell.dtype))

    def move(
        self, step: Linearised, tangent: Tangent, factor: PyTree, noise: Float[Array, " k"]
    ) -> tuple[Tangent, PyTree]:
        """B (`tangent`) and A (`factor`) after one more step."""
        moved = jax.vmap(step.push)(tangent)
        fresh = jax.vmap(step.fresh)(jax.tree.map(jnp.diag, driven(step)))
        received = presynaptic(step)
        p0, p1 = self.ratio(moved, factor), self.ratio(fresh, received)
        tangent = mix(noise[0] / p0, moved, noise[1] / p1, fresh)
        return tangent, mix(noise[0] * p0, factor, noise[1] * p1, received)

    def gradient(self, cell: NeuronCell, credit: Array, factor: Array) -> PyTree:
        """`Σ (c B)ᵀ A`."""
        return as_weights(cell, credit, factor)
