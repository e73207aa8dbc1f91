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
from ._gated import GatedCell
from ._namesake import made, taken


class LSTMDrive(NamedTuple):
    """What an LSTM's units receive."""

    input: Array
    forget: Array
    candidate: Array
    output: Array


class LSTMCell(GatedCell):
    r"""Long short-term memory units, those of `equinox.nn.LSTMCell`.

    \[ (i, f, g, o)_t = W x_t + U h_{t-1} + b, \qquad
       c_t = \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t), \qquad
       h_t = \sigma(o_t) \odot \tanh(c_t) \]

    `weight_ih` (4n, m), `weight_hh` (4n, n) and `bias` (4n,) or None stack the gates in the order
    i, f, g, o. State: (h, c), each (*batch, n); it emits h. `from_equinox` takes the arrays of an
    equinox cell.

    To a local rule the path \(\sigma(f_t) \odot c_{t-1}\) is the unit's own, and \(U h_{t-1}\) is
    what it receives. Time O(n(n+m)) a step and example, four times a neuron cell's.

    Sources: Hochreiter & Schmidhuber, Neural Computation 9 (1997); Gers, Schmidhuber & Cummins,
    Neural Computation 12 (2000).
    """

    papers: ClassVar[tuple[str, ...]] = ("hochreiter1997lstm", "gers2000forget")

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
        """**Arguments:** those of `GRUCell`."""
        maps = recurrent, inputs
        like = made(eqx.nn.LSTMCell, 4, in_size, hidden_size, use_bias, mask, *maps, dtype, key)
        GatedCell.__init__(self, like, mask)

    @classmethod
    def from_equinox(cls, cell: eqx.nn.LSTMCell, *, mask: Numbers | None = None) -> "LSTMCell":
        """The cell with the arrays of an equinox cell, 0 where `mask` has no synapse.

        ValueError if it is anything else.
        """
        return taken(cls, eqx.nn.LSTMCell, cell, mask)

    @property
    def drive_parameters(self) -> tuple[str, ...]:
        """All of them."""
        return "weight_ih", "weight_hh", "bias"

    def init(
        self, batch_shape: BatchShape = ()
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
        """Zeros."""
        shape = *batch_axes(batch_shape), self.hidden_size
        dtype = wide(self.weight_hh.dtype)
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def drive(self, message: Float[Array, "*batch n"], x: Float[Array, "*batch m"]) -> LSTMDrive:
        """What enters the gates."""
        return LSTMDrive(*map(jnp.add, *self._gates(message, x)))

    def recurrent(self, drive: LSTMDrive) -> tuple[Float[Array, "*batch n"], ...]:
        """Every gate."""
        return tuple(drive)

    def message(
        self, state: tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]
    ) -> Float[Array, "*batch n"]:
        """h, whatever a subclass emits."""
        return state[0]

    def integrate(
        self, state: tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]], drive: LSTMDrive
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
        """The cell state, and what the output gate lets out of it."""
        _, c = state
        keep, add = jax.nn.sigmoid(drive.forget), jax.nn.sigmoid(drive.input)
        c = keep * c + add * jnp.tanh(drive.candidate)
        return jax.nn.sigmoid(drive.output) * jnp.tanh(c), c

    def emit(
        self, state: tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]
    ) -> Float[Array, "*batch n"]:
        """h."""
        return state[0]
