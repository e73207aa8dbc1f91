from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from ... import _arguments as arguments
from ..._cell import AbstractCell
from .._card import Card, Named
from ._base import AbstractPredictingRule, as_learner, normal_rows, require_one_variable


def _build(
    rule: Callable[..., "LocalDNI"],
    types: tuple[int, ...],
    rate: float = 0.01,
    jacobian_rate: float = 0.01,
    **options: int,
) -> "LocalDNI":
    return rule(learn=optax.sgd(rate), learn_jacobian=optax.sgd(jacobian_rate), **options)


class LocalDNI(AbstractPredictingRule):
    r"""Local plasticity with segregated compartments: each synapse sees what is at its own neuron.

    A neuron has three voltages: the soma's drive \(h_t = W \hat a_t\), a credit compartment
    \(v_t\), and a compartment that predicts the soma,

    \[ v_t = A a_t + B y_t + C, \qquad p_t = J a_{t-1} \]

    with rates \(a_t\) (the cell's state) and labels \(y_t\) (`context`). Four populations of
    synapses; three of them learn, each in a phase of its own, in this order, by a product of a
    postsynaptic error and a presynaptic rate:

    1. *forward*: neurons send \(a_t\). J learns to predict the soma's rate, \(\Delta J =
       -\eta_J\,(p_t - a_t) \otimes a_{t-1}\).
    2. *credit*: neurons send squashed credit \(\psi(v_t)\) (`squash`), which J brings back and
       the fixed feedback synapses \(W_{FB}\) complete: the credit compartment's teaching voltage
       for the step before, \( \tau_{t-1} = W_{FB}^T e_{t-1} + J^T \psi(v_t) \). A, B and C learn
       on the rates (labels, 1) of that step, \(\Delta A = -\eta_A\,(v_{t-1} - \tau_{t-1}) \otimes
       a_{t-1}\).
    3. *update*: \(\Delta W \propto -v_t\,(\partial a_t/\partial h_t) \otimes \hat a_t\), which is
       the gradient that goes to the optimizer.

    Use it with `Readout(feedback="random")`: the readout's derivative is \(W_{FB}\), and its own
    weights learn by the delta rule. `learn` is how A, B and C learn (\(\eta_A\)),
    `learn_jacobian` how J does; the labels enter v. `compartments` returns the voltages of a run.

    It is `DNI(jacobian="learned", squash=jnp.tanh)` with initial values by population.
    Approximate in everything but the readout's gradient: J is a linear predictor of the next
    state, not its Jacobian. Cost and streaming as there.

    Locality: a synapse onto W, A or J knows its presynaptic rate and one voltage or rate of its
    own neuron, and a synapse of \(W_{FB}\) the readout's error. The relay \(J^T\psi(v)\) uses J
    against the direction in which it predicts: strictly local only with reciprocal synapses of
    the same strength. The copy of A by which neurons send credit lags by up to `refresh` steps.

    From the paper (its abstract): neurons with segregated voltage compartments, sub-populations of
    synapses of different function, and network phases in which each learns by its own local rule.
    Reconstructed, from the public program and its history: which compartments there are, the
    equations above, and the order of the phases.

    Sources: Marschall, Cho & Savin, "Using local plasticity rules to train recurrent neural
    networks" (arXiv 1905.12100); program and history of Marschall, Cho & Savin, JMLR 2020.
    """

    card: ClassVar[Card] = Card(
        facing="future",
        structure="λ_i ≈ A_il ã_l, A and the Jacobian by which it learns both learned",
        learned=True,
        bias="biased",
        when="as good as what they have learned",
        memory="2*n+k+1",
        shared="2*n*(n+k+1)+n**2+1",
        time="n*(n+m+1)+n*(n+k+1)",
        synapse="its presynaptic rate, and one voltage or rate of its own neuron",
        source="Marschall, Cho & Savin 2019",
        called="DNI(b), local plasticity with segregated compartments",
        credit="as predicted from state and label, with a learnt Jacobian and fixed feedback",
        use="credit from the future where each synapse sees its own neuron only",
        papers=("marschall2019local", "marschall2020unified"),
        place=140,
        names=(
            Named(
                "local_dni",
                "DNI by local plasticity, random feedback, on streams; rate, jacobian_rate=0.01",
                {"rate": float, "jacobian_rate": float, "refresh": int, "labels": int},
                _build,
                online=True,
                settings={"feedback": "random"},
                place=160,
            ),
        ),
    )

    def __init__(
        self,
        *,
        labels: int = 0,
        learn: optax.GradientTransformation,
        learn_jacobian: optax.GradientTransformation,
        squash: Callable[[Array], Array] = jnp.tanh,
        refresh: int = 5,
    ):
        """**Arguments:**

        - `labels`: number of features of `context`, k.
        - `learn`, `learn_jacobian`: how A, B, C and J learn, such as `optax.sgd(0.01)`.
        - `squash`: elementwise ψ of transmitted credit.
        - `refresh`: steps from one copy of A, B, C to the next.
        """
        self.learn_jacobian = arguments.transformation("learn_jacobian", learn_jacobian)
        shared = as_learner(labels, learn, squash, refresh)
        self.labels, self.learn, self.squash, self.refresh = shared

    def check(self, cell: AbstractCell) -> None:
        """Needs a neuron cell of one state variable."""
        require_one_variable(self, cell)

    def initial(self, key: PRNGKeyArray, size: int, dtype: DTypeLike) -> Float[Array, "s f"]:
        """A ~ N(0, 1/n), B ~ N(0, 1/k), C = 0, side by side."""
        key_a, key_b = jr.split(key)
        parts = [normal_rows(key_a, size, size, dtype), jnp.zeros((size, 1), dtype)]
        if self.labels:
            parts.insert(1, normal_rows(key_b, size, self.labels, dtype))
        return jnp.concatenate(parts, axis=1)
