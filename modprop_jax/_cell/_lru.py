import math
from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._precision import times, wide, widened
from ._base import batch_axes, BatchShape, Final
from ._ring import in_ring
from ._separable import SeparableCell


class LRUCell(SeparableCell):
    r"""Linear recurrent unit: complex, diagonal and linear, so that units never meet.

    \[ h_t = \lambda \odot h_{t-1} + e^{\gamma} \odot (B x_t), \qquad
       y_t = \mathrm{Re}(C h_t) + D \odot x_t, \qquad
       \lambda = \exp(-e^{\nu} + i e^{\theta}) \]

    with ν, θ, γ = `nu`, `theta`, `gamma_log` (n,), B = `B_re` + i `B_im` (n, m), C = `C_re` +
    i `C_im` (m, n) and D = `D` (m,). It emits as many features as come in. All arrays are real:
    an optimizer meets no complex conjugate. State: `(Re h, Im h, x)`, of n, n and m features;
    the last input is there because the emission reads it. Time O(n·m) a step and example.

    A unit receives nothing from others, so local credit is all credit: `DiagonalRTRL` (and
    `EProp`) give the exact gradient of one layer. Linear as it is, under a linear readout it is a
    linear predictor; what is not linear has to come behind it, such as an `eqx.nn.MLP`.

    Source: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu & De, ICML 2023 (arXiv 2303.06349).
    """

    papers: ClassVar[tuple[str, ...]] = ("orvieto2023lru",)
    _final: ClassVar[Final] = Final(
        (
            "in_size",
            "hidden_size",
            "drive",
            "received_own",
            "integrate",
            "message",
            "drive_parameters",
            "unit_parameters",
        ),
        "For other dynamics subclass SeparableCell.",
    )

    nu: Float[Array, " n"]
    theta: Float[Array, " n"]
    gamma_log: Float[Array, " n"]
    B_re: Float[Array, "n m"]
    B_im: Float[Array, "n m"]
    C_re: Float[Array, "m n"]
    C_im: Float[Array, "m n"]
    D: Float[Array, " m"]

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_size`, `hidden_size`: m inputs and outputs, n complex units.
        - `r_min`, `r_max`, `max_phase`: λ is drawn uniformly from the ring
            `r_min ≤ |λ| ≤ r_max` with a phase in (0, `max_phase`). Long memories need an `r_min`
            near 1, and then a small phase.
        - `dtype`: of the parameters, real; the JAX default if None.
        - `key`: for λ, `B ~ N(0, 1/m)` and `C ~ N(0, 2/n)` (both of complex entries), and
            `D ~ N(0, 1)`. `gamma_log` starts at log √(1 - |λ|²): white inputs of
            variance 1 then keep E|h|² = 1.
        """
        narrow = arguments.dtype("dtype", dtype)
        dtype = wide(narrow)
        n, m = arguments.size("hidden_size", hidden_size), arguments.size("in_size", in_size)
        keys = jr.split(arguments.key("key", key), 7)
        ring = in_ring((keys[0], keys[1]), n, r_min, r_max, max_phase, dtype)
        self.nu, self.theta = ring.nu.astype(narrow), ring.theta.astype(narrow)
        self.gamma_log = (0.5 * jnp.log(ring.missing)).astype(narrow)
        into, out = 1 / math.sqrt(2 * max(m, 1)), 1 / math.sqrt(n)
        self.B_re = (into * jr.normal(keys[2], (n, m), dtype)).astype(narrow)
        self.B_im = (into * jr.normal(keys[3], (n, m), dtype)).astype(narrow)
        self.C_re = (out * jr.normal(keys[4], (m, n), dtype)).astype(narrow)
        self.C_im = (out * jr.normal(keys[5], (m, n), dtype)).astype(narrow)
        self.D = jr.normal(keys[6], (m,), dtype).astype(narrow)

    @property
    def in_size(self) -> int:
        """Number of input and output features, m."""
        return self.B_re.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Number of complex units, n."""
        return self.B_re.shape[-2]

    @property
    def drive_parameters(self) -> tuple[str, ...]:
        """The input weights and their gain."""
        return "gamma_log", "B_re", "B_im"

    @property
    def unit_parameters(self) -> tuple[str, ...]:
        """All but those of the emission."""
        return "nu", "theta", "gamma_log", "B_re", "B_im"

    @property
    def emission_parameters(self) -> tuple[str, ...]:
        """The output weights and the skip connection."""
        return "C_re", "C_im", "D"

    @property
    def matmul_parameters(self) -> tuple[str, ...]:
        """B and C."""
        return "B_re", "B_im", "C_re", "C_im"

    def init(self, batch_shape: BatchShape = ()) -> tuple[Array, Array, Array]:
        """h = 0, and no input yet."""
        axes, dtype = batch_axes(batch_shape), wide(self.nu.dtype)
        sizes = self.hidden_size, self.hidden_size, self.in_size
        h_re, h_im, x = (jnp.zeros((*axes, size), dtype) for size in sizes)
        return h_re, h_im, x

    def message(self, state: tuple[Array, Array, Array]) -> None:
        """None: units send nothing to each other."""
        del state

    def drive(
        self, message: None, x: Float[Array, "*batch m"]
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"], Float[Array, "*batch m"]]:
        """`exp(γ) ⊙ (B x)`, real and imaginary part; and x itself, for the emission."""
        del message
        gain = jnp.exp(widened(self.gamma_log))[:, None]

        def into(weight):
            return times(x, (gain * widened(weight)).astype(weight.dtype).T)

        return into(self.B_re), into(self.B_im), widened(x)

    def integrate(
        self, state: tuple[Array, Array, Array], drive: tuple[Array, Array, Array]
    ) -> tuple[Array, Array, Array]:
        """Rotate and shrink each unit, and add its drive."""
        h_re, h_im, _ = state
        into_re, into_im, x = drive
        nu, theta = widened((self.nu, self.theta))
        modulus, phase = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
        a = jnp.broadcast_to(modulus * jnp.cos(phase), h_re.shape)
        b = jnp.broadcast_to(modulus * jnp.sin(phase), h_re.shape)
        return a * h_re - b * h_im + into_re, b * h_re + a * h_im + into_im, x

    def emit(self, state: tuple[Array, Array, Array]) -> Float[Array, "*batch m"]:
        """`Re(C h) + D ⊙ x`."""
        h_re, h_im, x = state
        skip = jnp.broadcast_to(widened(self.D), x.shape) * x
        return times(h_re, self.C_re.T) - times(h_im, self.C_im.T) + skip
