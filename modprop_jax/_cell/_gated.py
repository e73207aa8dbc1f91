import abc
import functools
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .._arguments import Numbers
from .._precision import wide
from .._static import FrozenArray
from .._synapses import AbstractSynapses, as_synapses
from .._synapses._masked import existing
from .._tree import with_fields
from ._base import Final
from ._constants import as_mask, connectivity
from ._separable import SeparableCell


class GatedCell(SeparableCell):
    """What GRUCell and LSTMCell share: the weights of all gates stacked, and their connectivity.

    `weight_ih` and `weight_hh` are matrices, or `Gates`, which hold the maps that came instead.
    """

    _final: ClassVar[Final] = Final(
        (
            "weight_ih",
            "weight_hh",
            "bias",
            "in_size",
            "hidden_size",
            "drive",
            "recurrent",
            "received_own",
            "integrate",
            "message",
            "drive_parameters",
            "unit_parameters",
            "emission_parameters",
            "_gates",
            "_masked",
        ),
        "For other dynamics subclass SeparableCell.",
    )

    weight_ih: Any
    weight_hh: Any
    bias: Float[Array, " gates"] | None
    connectivity: FrozenArray | Bool[Array, "post n"] | None

    def __init__(self, like: eqx.nn.GRUCell | eqx.nn.LSTMCell, mask: Numbers | None):
        """**Arguments:** `like`: what `made` makes, a new cell of equinox, whose weights it takes;
        with a `mask` (connectivity), a unit's recurrent weights to a gate grow by √(n / those that
        exist).
        """
        n = like.hidden_size
        self.weight_ih = like.weight_ih
        self.weight_hh = like.weight_hh
        self.bias = like.bias
        self.connectivity = connectivity(mask, n, like.weight_hh.shape[0] // n)
        exists = self.mask
        if exists is not None:
            count = jnp.maximum(exists.sum(1), 1).astype(like.weight_hh.dtype)
            count = jnp.tile(count, len(like.weight_hh) // len(count))
            self.weight_hh = self._masked() * jnp.sqrt(n / count)[:, None]

    @property
    def mask(self) -> Bool[np.ndarray, "post n"] | Bool[Array, "... post n"] | None:
        """Which connections exist [post, pre], as given: of all gates or of each; None: all."""
        return as_mask(self.connectivity)

    @property
    def in_size(self) -> int:
        """Number of input features, m."""
        return self.weight_ih.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Number of units, n."""
        return self.weight_hh.shape[-1]

    @property
    def matmul_parameters(self) -> tuple[str, ...]:
        """Weights that are matrices."""
        names = "weight_ih", "weight_hh"
        return tuple(n for n in names if not isinstance(getattr(self, n), AbstractSynapses))

    @property
    def unit_parameters(self) -> tuple[str, ...]:
        """All of them."""
        return self.drive_parameters

    @abc.abstractmethod
    def recurrent(self, drive: PyTree) -> tuple[Float[Array, "*batch n"], ...]:
        """The part of each gate's drive, or of credit on it, that other units contribute to."""

    def received(self, drive: PyTree, like: PyTree, x: Array) -> Float[Array, "*batch n"]:
        """`weight_hhᵀ drive`, of a cell whose mask is applied (`effective`)."""
        del like, x
        credit = jnp.concatenate(self.recurrent(drive), axis=-1)
        return as_synapses(self.weight_hh).back(credit)

    def received_own(self, drive: PyTree, like: Array) -> Float[Array, "*batch n"]:
        """`Σ diag(U) drive` over the gates, of a cell whose mask is applied."""
        del like
        own = as_synapses(self.weight_hh).own().astype(wide(self.weight_hh.dtype))
        own = own.reshape(-1, self.hidden_size)
        each = [jnp.broadcast_to(w, d.shape) * d for w, d in zip(own, self.recurrent(drive))]
        return functools.reduce(jnp.add, each)

    def effective(self) -> "GatedCell":
        """The same cell with masked weights and no mask (so the mask is applied only once)."""
        fields = {"weight_hh": self._masked(), "connectivity": None}
        if isinstance(self.weight_ih, AbstractSynapses):
            fields["weight_ih"] = self.weight_ih.resolved()
        return with_fields(self, **fields)

    def _gates(self, message: Array, x: Array) -> tuple[list[Array], list[Array]]:
        """What units receive from outside and from each other, gate by gate."""
        outside = plus(as_synapses(self.weight_ih)(x), self.bias)
        inside = as_synapses(self._masked())(message)
        gates = self.weight_hh.shape[0] // self.hidden_size
        return jnp.split(outside, gates, axis=-1), jnp.split(inside, gates, axis=-1)

    def _masked(self) -> Any:
        weight = self.weight_hh
        if isinstance(weight, AbstractSynapses):
            return weight.resolved()
        return existing(weight, self.connectivity)


def plus(array: Float[Array, "*batch n"], bias: Float[Array, " n"] | None) -> Array:
    """The sum; without a bias, the array."""
    if bias is None:
        return array
    return array + jnp.broadcast_to(bias.astype(array.dtype), array.shape)
