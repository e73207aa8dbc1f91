from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._arguments import Numbers
from .._precision import wide
from .._synapses import Maps
from ._base import batch_axes, BatchShape
from ._gated import GatedCell, plus
from ._namesake import made, taken


class GRUDrive(NamedTuple):
    """What a GRU's units receive; the reset gate acts on the candidate's recurrent part alone."""

    reset: Array
    update: Array
    candidate: Array
    recurrent: Array


class GRUCell(GatedCell):
    r"""Gated recurrent units, those of `equinox.nn.GRUCell`.

    \[ r_t = \sigma(W_r x_t + U_r h_{t-1} + b_r), \qquad
       z_t = \sigma(W_z x_t + U_z h_{t-1} + b_z), \]
    \[ \tilde h_t = \tanh(W_n x_t + b_{in} + r_t \odot (U_n h_{t-1} + b_n)), \qquad
       h_t = \tilde h_t + z_t \odot (h_{t-1} - \tilde h_t) \]

    `weight_ih` (3n, m) stacks W and `weight_hh` (3n, n) stacks U in the order r, z, n; `bias` is
    (3n,) and `bias_n` (n,), or both None. State and emission: h (*batch, n). `from_equinox` takes
    the arrays of an equinox cell.

    The reset acts after the recurrent matmul, so each parameter belongs to one unit. To a local
    rule the path \(z_t \odot h_{t-1}\) is the unit's own, and \(U h_{t-1}\) is what it receives.
    Time O(n(n+m)) a step and example, three times a neuron cell's.

    Source: Cho et al., EMNLP 2014 (arXiv 1406.1078), with the reset after the matmul.
    """

    papers: ClassVar[tuple[str, ...]] = ("cho2014gru",)

    bias_n: Float[Array, " n"] | None

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        use_bias: bool = True,
        mask: Numbers | None = None,
        recurrent: Maps | None = None,
        inputs: Maps | None = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_size`, `hidden_size`: m inputs, n units.
        - `use_bias`: whether there are biases.
        - `mask`: boolean connectivity [post, pre], (n, n) of all gates or (3n, n), of an LSTM
            (4n, n), of each. Where it is False there is no synapse: weights are 0 at the start and
            in the drive and get zero gradient. It is a constant, no leaf, unless it is traced.
        - `recurrent`, `inputs`: maps (n, n) and (n, m) in place of the matrices: one, whose weights
            all gates share, or a tuple with one for each gate, in their order. They train as
            `weight_hh.maps` and `weight_ih.maps`; no `mask` beside `recurrent`.
        - `dtype`: of the parameters; the JAX default if None.
        - `key`: for the initial parameters, uniform in ±1/√n: equinox's own for this key. With a
            mask, recurrent weights are uniform in ±1/√k, k those that a unit has in a gate.
        """
        maps = recurrent, inputs
        like = made(eqx.nn.GRUCell, 3, in_size, hidden_size, use_bias, mask, *maps, dtype, key)
        GatedCell.__init__(self, like, mask)
        self.bias_n = like.bias_n

    @classmethod
    def from_equinox(cls, cell: eqx.nn.GRUCell, *, mask: Numbers | None = None) -> "GRUCell":
        """The cell with the arrays of an equinox cell, 0 where `mask` has no synapse.

        ValueError if it is anything else.
        """
        return taken(cls, eqx.nn.GRUCell, cell, mask)

    @property
    def drive_parameters(self) -> tuple[str, ...]:
        """All of them."""
        return "weight_ih", "weight_hh", "bias", "bias_n"

    def init(self, batch_shape: BatchShape = ()) -> Float[Array, "*batch n"]:
        """Zeros."""
        return jnp.zeros((*batch_axes(batch_shape), self.hidden_size), wide(self.weight_hh.dtype))

    def drive(self, message: Float[Array, "*batch n"], x: Float[Array, "*batch m"]) -> GRUDrive:
        """What enters the two gates, and the two parts of what enters the candidate."""
        (reset, update, candidate), inside = self._gates(message, x)
        recurrent = plus(inside[2], self.bias_n)
        return GRUDrive(reset + inside[0], update + inside[1], candidate, recurrent)

    def recurrent(self, drive: GRUDrive) -> tuple[Float[Array, "*batch n"], ...]:
        """All but the candidate's input."""
        return drive.reset, drive.update, drive.recurrent

    def message(self, state: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """h, whatever a subclass emits."""
        return state

    def integrate(
        self, state: Float[Array, "*batch n"], drive: GRUDrive
    ) -> Float[Array, "*batch n"]:
        """From the candidate (z = 0) to the old state (z = 1)."""
        reset, update = jax.nn.sigmoid(drive.reset), jax.nn.sigmoid(drive.update)
        candidate = jnp.tanh(drive.candidate + reset * drive.recurrent)
        return candidate + update * (state - candidate)

    def emit(self, state: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """h."""
        return state
