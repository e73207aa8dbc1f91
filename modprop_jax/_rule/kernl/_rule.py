from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ... import _arguments as arguments
from ..._cell import AbstractCell, NeuronCell
from ..._precision import wide
from .._base import require_neurons
from .._card import Card, Named
from .._influence import AbstractInfluenceRule
from .._noise import as_noise, Drawn, Given, Noise
from ..stochastic._base import require_weights
from ._kernel import Kernel


def _build(
    rule: Callable[..., "KeRNL"],
    types: tuple[int, ...],
    rate: float | None = None,
    **options: float | int,
) -> "KeRNL":
    return rule(**options) if rate is None else rule(learn=optax.sgd(rate), **options)


class KeRNL(AbstractInfluenceRule):
    r"""Kernel RNN learning: e-prop's traces, and a learned sensitivity to say whom they reach.

    \[ P_t = k P_{t-1} + d_t \otimes pre_t, \qquad k = \max(0, 1 - \alpha), \qquad
       \nabla_W = \sum_t (c_t A)_i\, P_t[i, j] \]

    with \(d_t = \partial s_t/\partial drive_t\) and \(pre_t = (message_{t-1}, x_t, 1)\). The
    sensitivity A (n, n) and the inverse time-scales \(\alpha\) (n,) are learned from a twin
    \(\tilde s\) of the network: same weights and inputs, and noise \(\zeta\) of size `sigma`.

    \[ \tilde s_t = \mathrm{step}(\tilde s_{t-1}, x_t) + \zeta_t, \qquad
       \Omega_t = k \Omega_{t-1} + \zeta_t, \qquad \Gamma_t = k \Gamma_{t-1} - \Omega_{t-1}, \]
    \[ \epsilon_t = A \Omega_t - (\tilde s_t - s_t), \qquad
       \nabla_A = \epsilon_t \otimes \Omega_t, \qquad \nabla_\alpha = (\epsilon_t A)\,\Gamma_t \]

    At each step P, Ω and Γ move with the \(\alpha\) so far; then A and \(\alpha\) learn by `learn`
    from the mean over the batch; then the weights get their gradient with the new A. A starts as
    the identity and \(\alpha\) at 1 - the cell's leak, which is e-prop (RFLO) on cells of constant
    leak. What is learned goes along in the carry, also past `done`, where the twin begins anew.

    Departures from the public program, which `author_compat` brings back: it perturbs the twin
    before its step and shows Ω the noise one step early, so that A never sees what a neuron does to
    itself at once (\(\alpha = 1\) without recurrent weights: A decays to 0, here to 1); and it does
    not bound \(\alpha\), here in [0.01, 1], or from its first value where that is lower.

    Approximate and biased: one time-scale a neuron, and a sensitivity that does not follow the
    activity. Mean cosine of single steps to RTRL, with random \(c_t\) and fixed orthogonal weights
    (five networks of 5 neurons, the second half of 5,000 steps), on `RateCell` of alpha 1, 0.5,
    0.3: 0.80, 0.93, 0.94; e-prop 0.76, 0.81, 0.81; in the public order, all else as here, 0.58,
    0.91, 0.96.

    The difference of two runs has to be above rounding: `sigma` of 1e-4 or more in float32. Inputs
    get the credit of their own step; a bare initial state gets none. Time: the forward pass and one
    for the twin, and O(n(n+m)) a step. Memory: O(n(n+m)) an example, and A. Locality: a synapse
    knows its trace and, through A, the learning signals of the neurons that its own can move.

    Errors: ValueError for other cells than neurons of one state variable, for other trainable
    parameters than weights and bias, and for a `Filtered` emission.

    Sources: Roth, Kanitscheider & Fiete, ICLR 2019; the public program is that of Marschall, Cho &
    Savin, JMLR 2020 (arXiv 1907.02649).
    """

    card: ClassVar[Card] = Card(
        facing="past",
        structure="A_si B_ij, A and the decay of B learned",
        stochastic=True,
        learned=True,
        bias="biased",
        when="starts as e-prop on cells of constant leak",
        memory="n*(n+m+4)",
        shared="n**2+n",
        time="n*(n+m+1)",
        synapse="its eligibility trace and, through A, the learning signals of all neurons",
        source="Roth, Kanitscheider & Fiete 2019",
        called="KeRNL, kernel RNN learning",
        credit="a learnt sensitivity times a learnt decay",
        use="e-prop's traces, and whom they reach learnt by perturbing a twin",
        papers=("roth2019kernl", "marschall2020unified"),
        place=110,
        names=(
            Named(
                "kernl",
                "KeRNL: learnt sensitivities and decays, on streams; sigma, alpha, rate (of SGD)",
                {"sigma": float, "alpha": float, "rate": float},
                _build,
                online=True,
                place=140,
            ),
        ),
    )

    sigma: float = eqx.field(static=True)
    learn: optax.GradientTransformation = eqx.field(static=True)
    alpha: float | None = eqx.field(static=True)
    noise: Drawn | Given
    author_compat: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        sigma: float = 1e-2,
        learn: optax.GradientTransformation = optax.adam(1e-3),
        alpha: float | None = None,
        noise: Noise = "normal",
        author_compat: bool = False,
    ):
        """**Arguments:**

        - `sigma`: size of the noise. The gradients of A and alpha go with its square, so plain SGD
            learns at its rate times sigma²; Adam does not mind.
        - `learn`: how A and alpha learn; `optax.set_to_zero()` keeps them.
        - `alpha`: the first inverse time-scale of all neurons; None: 1 - the cell's leak. The
            public program's is 0.8.
        - `noise`: "normal" or "rademacher", each example its own, from the key that `init` then
            needs. Or an array (T, n) or (T, *batch, n), times sigma the noise of each step since
            `init`, NaN past its end (`author_compat` reads one row ahead).
        - `author_compat`: the order of the public program, and alpha without bounds.
        """
        self.sigma = arguments.number("sigma", sigma, arguments.POSITIVE)
        self.learn = arguments.transformation("learn", learn)
        if alpha is not None:
            alpha = arguments.number("alpha", alpha, arguments.POSITIVE_FRACTION)
        self.alpha = alpha
        self.noise = as_noise(noise, probes=1)
        self.author_compat = arguments.boolean("author_compat", author_compat)

    @property
    def needs_key(self) -> bool:
        """For the noise, unless it is given."""
        return self.noise.needs_key

    @property
    def by_place(self) -> bool:
        """With a table of noise for each example."""
        return self.noise.by_place

    def check(self, cell: AbstractCell) -> None:
        """Needs neurons of one state variable, of which weights and bias train, unfiltered."""
        inner = require_neurons(self, cell)
        if cell.parts()[1].remembers:
            raise ValueError(
                "KeRNL does not serve a Filtered emission, whose memory would need the sensitivity "
                "of each past step: use EProp, or filter in the loss what the cell emits."
            )
        leaves = jax.tree.leaves(jax.eval_shape(inner.init))
        if len(leaves) != 1 or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
            raise ValueError(
                f"KeRNL perturbs the one float variable of a neuron, but the state of "
                f"{type(inner).__name__} has {len(leaves)} arrays: use EProp, UORO or RTRL."
            )
        require_weights(self, cell)
        self.check_noise(inner, None)

    def check_noise(self, cell: AbstractCell, batch: tuple[int, ...] | None) -> None:
        """A ValueError if noise was given for other neurons, or another batch; None: any."""
        if not self.noise.needs_key:
            n = require_neurons(self, cell).hidden_size
            self.noise.check("KeRNL", type(cell).__name__, batch, n)

    def init_alpha(self, cell: NeuronCell) -> Float[Array, " n"]:
        """Before anything is learned."""
        n, dtype = cell.hidden_size, wide(cell.dtype)
        if self.alpha is not None:
            return jnp.full(n, self.alpha, dtype)
        leak = jnp.asarray(cell.leak, dtype)
        return jnp.broadcast_to(jnp.clip(1 - leak, 0, 1), (n,))

    def prepare(self, cell: Any) -> Float[Array, " n"]:
        """The lowest alpha that is allowed."""
        return jnp.minimum(self.init_alpha(cell), 0.01)

    def influence(self, cell: AbstractCell, in_size: int | None) -> Kernel:
        """The learned kernel."""
        return Kernel()
