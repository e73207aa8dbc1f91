import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import times, times_back, wide
from .._static import FrozenArray
from .._synapses._masked import existing
from .._tree import with_fields
from ._base import Final
from ._constants import as_mask, connectivity
from ._separable import SeparableCell


Cell = TypeVar("Cell", bound="GatedCell")
Namesake = TypeVar("Namesake", eqx.nn.GRUCell, eqx.nn.LSTMCell)


class GatedCell(SeparableCell):
    """What GRUCell and LSTMCell share: the weights of all gates stacked, and their connectivity."""

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

    weight_ih: Float[Array, "gates m"]
    weight_hh: Float[Array, "gates n"]
    bias: Float[Array, " gates"] | None
    connectivity: FrozenArray | Bool[Array, "post n"] | None

    def __init__(self, like: eqx.nn.GRUCell | eqx.nn.LSTMCell, mask: Numbers | None):
        """**Arguments:** `like`: a new cell of equinox, whose arrays it takes; with a `mask`
        (connectivity), a unit's recurrent weights to a gate grow by √(n / those that exist).
        """
        n = like.hidden_size
        self.weight_ih = like.weight_ih
        self.weight_hh = like.weight_hh
        self.bias = like.bias
        self.connectivity = connectivity(mask, n, len(like.weight_hh) // n)
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
        """The weights."""
        return "weight_ih", "weight_hh"

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
        return times_back(jnp.concatenate(self.recurrent(drive), axis=-1), self.weight_hh)

    def received_own(self, drive: PyTree, like: Array) -> Float[Array, "*batch n"]:
        """`Σ diag(U) drive` over the gates, of a cell whose mask is applied."""
        del like
        n = self.hidden_size
        weight = self.weight_hh.reshape(-1, n, n)
        own = jnp.diagonal(weight, axis1=1, axis2=2).astype(wide(weight.dtype))
        each = [jnp.broadcast_to(w, d.shape) * d for w, d in zip(own, self.recurrent(drive))]
        return functools.reduce(jnp.add, each)

    def effective(self) -> "GatedCell":
        """The same cell with masked weights and no mask (so the mask is applied only once)."""
        return with_fields(self, weight_hh=self._masked(), connectivity=None)

    def _gates(self, message: Array, x: Array) -> tuple[list[Array], list[Array]]:
        """What units receive from outside and from each other, gate by gate."""
        outside = plus(times(x, self.weight_ih.T), self.bias)
        inside = times(message, self._masked().T)
        gates = self.weight_hh.shape[0] // self.hidden_size
        return jnp.split(outside, gates, axis=-1), jnp.split(inside, gates, axis=-1)

    def _masked(self) -> Float[Array, "gates n"]:
        return existing(self.weight_hh, self.connectivity)


def made(
    namesake: type[Namesake],
    gates: int,
    in_size: int,
    hidden_size: int,
    use_bias: bool,
    mask: Numbers | None,
    dtype: DTypeLike | None,
    key: PRNGKeyArray,
) -> Namesake:
    """A cell of `equinox.nn`, from checked arguments."""
    in_size, n = arguments.size("in_size", in_size), arguments.size("hidden_size", hidden_size)
    use_bias = arguments.boolean("use_bias", use_bias)
    connectivity(mask, n, gates)
    dtype = arguments.dtype("dtype", dtype)
    return namesake(in_size, n, use_bias, dtype, key=arguments.key("key", key))


def taken(make: Callable[..., Cell], namesake: type, cell: Any, mask: Numbers | None) -> Cell:
    """One of our cells with the arrays of its namesake in `equinox.nn`."""
    arguments.require(
        cell,
        namesake,
        f"from_equinox needs cell to be an equinox.nn.{namesake.__name__}, but it is "
        f"{arguments.shown(cell)}.",
    )
    sizes, key = (cell.input_size, cell.hidden_size), jax.random.key(0)
    new = make(*sizes, use_bias=cell.use_bias, mask=mask, key=key)

    def arrays(cell):
        each = [getattr(cell, name) for name in new.drive_parameters]
        return [array for array in each if array is not None]

    new = eqx.tree_at(arrays, new, arrays(cell))
    return with_fields(new, weight_hh=new.effective().weight_hh)


def plus(array: Float[Array, "*batch n"], bias: Float[Array, " n"] | None) -> Array:
    """The sum; without a bias, the array."""
    if bias is None:
        return array
    return array + jnp.broadcast_to(bias.astype(array.dtype), array.shape)
