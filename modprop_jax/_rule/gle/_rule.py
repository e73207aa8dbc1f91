from typing import ClassVar

import equinox as eqx
import jax

from ... import _arguments as arguments
from ..._cell import AbstractCell, GLECell
from ..._tree import inexact
from .._card import Card, Named
from .._estimating import AbstractEstimatingRule
from ._errors import ProspectiveErrors


class GLE(AbstractEstimatingRule):
    r"""Generalized Latent Equilibrium: errors that each neuron of a `GLECell` predicts forward.

    With \(a_L = -\varphi'(\breve u_L) \odot \partial E/\partial r_L\), the loss's credit on the
    emission, and \(a_l = \varphi'(\breve u_l) \odot W_{l+1}^T e_{l+1}\) below,

    \[ \tau^r_l \dot v_l = -v_l + a_l, \qquad e_l = v_l + \tau^m_l \dot v_l, \qquad
       \nabla W_l = -e_l \otimes r_{l-1}, \quad \nabla b_l = -e_l, \quad
       \nabla \tau^m_l = e_l \odot \dot u_l \]

    by forward Euler, with the v of before the step: the time constants of a neuron's activity,
    exchanged. The gradient is the derivative of the mismatch energy \(\frac12 \sum_l
    |u_l + \tau^m_l \dot u_l - W_l r_{l-1} - b_l|^2\) at fixed activity. In a "sync" cell each layer
    reads slopes and messages \(W^T e\) of the step before, a delay of `dt` a layer up and down.

    Without `prospective_errors`, \(e_l = v_l = a_l\): instantaneous backpropagation of errors.

    For a signal of frequency ω, the error filter \((1 + i\omega\tau^m)/(1 + i\omega\tau^r)\) has
    the phase of the exact, anti-causal one, \((1 - i\omega\tau^r)/(1 - i\omega\tau^m)\), and its
    inverse gain. So it is exact where \(\tau^m = \tau^r\), for "sweep" the gradient of BPTT; good
    for slow signals; and beyond \(\omega\tau^m \approx 3\) far too large. Gradients point the
    right way, but are inflated in lower layers: compare by cosine, and use Adam.

    With the cell's γ > 0, errors nudge the membranes of the same step, \(\tau^m \dot u = -u + s +
    \gamma e\): stream one step at a time, `online_value_and_grad(..., segment=1)`, which returns
    the nudged state. The nudge is the loss's own credit: sum the loss over the batch, and divide
    gradients by its size afterwards.

    Time O(Σ_l N_l N_{l-1}) a step and example, as backpropagation within the step; memory of one
    (v) or two floats a neuron, and one more with γ > 0; nothing grows with time. The trace advances
    with the error: stream it with `online_value_and_grad`; the gradient does not depend on the
    segments. From a bare state errors start at 0, and states between segments carry no credit, so a
    sequence that is cut over bare states has another gradient.
    Locality: e, u' and v are a neuron's own; a synapse sees its presynaptic rate and e; errors come
    down by the transposed weights.

    Source: Ellenberger, Haider, Jordan, Max, Jaras, Kriener, Benitez & Petrovici, "Backpropagation
    through space, time and the brain", Nature Communications (arXiv 2403.16933), from the
    equations. The authors state that their procedures are registered for patent protection.
    """

    card: ClassVar[Card] = Card(
        facing="future",
        structure="λ_i ∝ e_i, the error at i low-pass filtered by τ_r and looking ahead by τ_m",
        bias="biased",
        when="exact where every τ_m = τ_r, in a sweep; costs are those of one layer of `GLECell`",
        memory="n",
        time="n*(m+1)",
        synapse="its presynaptic rate and its neuron's prospective error",
        source="Ellenberger et al. 2024",
        called="GLE, generalized latent equilibrium",
        credit="through neurons' own time constants, in phase but with inflated gain",
        use="memory in the neurons' time constants in place of recurrent weights, online",
        papers=("ellenberger2025gle",),
        place=170,
        names=(
            Named("gle", "GLE: prospective errors, run forward in time: cell gle", place=180),
            Named(
                "gle_instantaneous",
                "GLE without prospective errors, instantaneous backpropagation: cell gle",
                build=lambda rule, types: rule(prospective_errors=False),
                place=190,
            ),
        ),
    )

    prospective_errors: bool = eqx.field(static=True)

    def __init__(self, *, prospective_errors: bool = True):
        """**Arguments:** `prospective_errors`: False for instantaneous errors, to compare with."""
        self.prospective_errors = arguments.boolean("prospective_errors", prospective_errors)

    def check(self, cell: AbstractCell) -> None:
        """Needs a `GLECell`."""
        layered = arguments.require(
            cell,
            GLECell,
            f"GLE needs a GLECell, whose neurons have prospective rates, but the cell is a "
            f"{type(cell).__name__}: make a GLECell, or use BPTT or EProp.",
        )
        constants = {"dt": layered.dt} | {
            f"layers[{index}].tau_r": layer.tau_r for index, layer in enumerate(layered.layers)
        }
        trained = [name for name, value in constants.items() if jax.tree.leaves(inexact(value))]
        if trained:
            raise ValueError(
                f"GLE has no gradient for {', '.join(trained)} of this GLECell, which train: give "
                "them as numbers or NumPy arrays, or use BPTT, which is exact."
            )

    def estimator(self, cell: AbstractCell) -> ProspectiveErrors:
        """Each neuron's error."""
        return ProspectiveErrors()
