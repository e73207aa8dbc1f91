from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from ... import _arguments as arguments
from ..._cell import AbstractCell
from .._card import Card, Named
from ._base import (
    AbstractPredictingRule,
    as_learner,
    identity,
    normal_rows,
    require_one_variable,
)


class DNI(AbstractPredictingRule):
    r"""Decoupled neural interfaces: credit is predicted from the state, and the prediction learnt.

    With features \(\tilde a_t = [s_t; y_t; 1]\) of the state and the labels, at each step

    \[ \tau_{t-1} = c_{t-1} + \psi(A^- \tilde a_t)\,\tilde J_t, \qquad
       A \leftarrow A - \eta_A\,(A \tilde a_{t-1} - \tau_{t-1}) \otimes \tilde a_{t-1}, \qquad
       \hat\lambda_t = A \tilde a_t, \qquad \nabla_\theta = \sum_t \hat\lambda_t F_t \]

    with \(c_t\) the direct credit of the emission, \(\psi\) = `squash`, \(A^-\) a copy of A that is
    refreshed every `refresh` steps, and \(\tilde J_t\) the Jacobian of the step, exact or learnt:
    \( \tilde J \leftarrow \tilde J - \eta_J (\tilde J s_{t-1} - s_t) \otimes s_{t-1} \), a linear
    predictor of the next state. A's and J̃'s gradients are means over the examples of a batch, and
    learn by `learn` and `learn_jacobian`; all of them live in the trace. The labels are `context`.

    Approximate: the credit is as good as a linear function of the state, and as what A has learnt;
    one step's bootstrap, no λ-return. Any cell with exact Jacobians. Time of A, J̃: O(n²) a step and
    example; memory O(n²), nothing grows with time. The trace advances with the error: stream it
    with `online_value_and_grad`; the gradient does not depend on its segments.
    Locality: with the exact Jacobian none (a transposed weight matrix); see `LocalDNI` for the
    learnt one.

    Departures: the first step's spurious update, from a zero state and the first label, is kept,
    and taken again when a sequence begins (`done`). A `Filtered` cell's memory is state too.

    Sources: Jaderberg et al., ICML 2017 (arXiv 1608.05343); Czarnecki et al., ICML 2017; this
    online form: Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """

    card: ClassVar[Card] = Card(
        facing="future",
        structure="λ_i ≈ A_il ã_l with ã = [state; labels; 1], A learned",
        learned=True,
        bias="biased",
        when="as good as what A has learned",
        memory="2*n+k+1",
        shared="2*n*(n+k+1)+1",
        time="n*(n+m+1)+n*(n+k+1)",
        synapse="its neuron's row of A and the whole state; A learns by the transposed Jacobian",
        source="Jaderberg et al. 2017; Marschall, Cho & Savin 2020",
        called="DNI, synthetic gradients, decoupled neural interfaces",
        credit="as predicted from state and label, learnt by bootstrapping",
        use="credit from the future on a stream, as well as a linear prediction learns it",
        papers=("jaderberg2017dni", "czarnecki2017synthetic", "marschall2020unified"),
        place=130,
        names=(
            Named(
                "dni",
                "DNI: synthetic gradients, on streams; rate=0.01, refresh=5",
                {"rate": float, "refresh": int, "labels": int},
                lambda rule, types, rate=0.01, **options: rule(learn=optax.sgd(rate), **options),
                online=True,
                place=150,
            ),
        ),
    )

    jacobian: Literal["exact", "learned"] = eqx.field(static=True)

    def __init__(
        self,
        *,
        labels: int = 0,
        jacobian: Literal["exact", "learned"] = "exact",
        learn: optax.GradientTransformation,
        learn_jacobian: optax.GradientTransformation | None = None,
        squash: Callable[[Array], Array] = identity,
        refresh: int = 5,
    ):
        """**Arguments:**

        - `labels`: number of features of `context`; 0: the prediction sees no labels.
        - `jacobian`: "exact", or "learned" (neuron cells of one state variable).
        - `learn`: how A learns, such as `optax.sgd(0.05)`.
        - `learn_jacobian`: how J̃ learns.
        - `squash`: elementwise ψ on the credit that is sent back, such as `jnp.tanh`.
        - `refresh`: steps from one copy of A to the next.
        """
        self.jacobian = arguments.choice("jacobian", jacobian, ("exact", "learned"))
        if (jacobian == "learned") != (learn_jacobian is not None):
            raise ValueError(
                f"jacobian={jacobian!r} came with learn_jacobian={learn_jacobian!r}: "
                '"learned" needs an optax transformation for it, and "exact" has none.'
            )
        if learn_jacobian is not None:
            arguments.transformation("learn_jacobian", learn_jacobian)
        self.learn_jacobian = learn_jacobian
        shared = as_learner(labels, learn, squash, refresh)
        self.labels, self.learn, self.squash, self.refresh = shared

    def check(self, cell: AbstractCell) -> None:
        """Needs a neuron cell of one state variable, if the Jacobian is learnt."""
        if self.jacobian == "learned":
            require_one_variable(self, cell)

    def initial(self, key: PRNGKeyArray, size: int, dtype: DTypeLike) -> Float[Array, "s f"]:
        """A ~ N(0, 1 / its number of columns)."""
        return normal_rows(key, size, size + self.labels + 1, dtype)
