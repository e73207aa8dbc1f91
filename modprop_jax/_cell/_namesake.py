"""Gated cells from those of `equinox.nn` that have their names."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from .. import _arguments as arguments
from .._arguments import Numbers
from .._synapses import as_gates, Maps
from .._tree import with_fields
from ._constants import connectivity
from ._gated import GatedCell


Cell = TypeVar("Cell", bound=GatedCell)
Namesake = TypeVar("Namesake", eqx.nn.GRUCell, eqx.nn.LSTMCell)


def made(
    namesake: type[Namesake],
    gates: int,
    in_size: int,
    hidden_size: int,
    use_bias: bool,
    mask: Numbers | None,
    recurrent: Maps | None,
    inputs: Maps | None,
    dtype: DTypeLike | None,
    key: PRNGKeyArray,
) -> Namesake:
    """A cell of `equinox.nn`, from checked arguments; with `Gates` in place of weights for which
    maps came, which are then not made."""
    in_size, n = arguments.size("in_size", in_size), arguments.size("hidden_size", hidden_size)
    use_bias = arguments.boolean("use_bias", use_bias)
    connectivity(mask, n, gates)
    if recurrent is not None and mask is not None:
        raise ValueError(
            "recurrent came with a mask, but a map says itself which synapses there are: leave "
            "mask at None."
        )
    options = in_size, n, use_bias, arguments.dtype("dtype", dtype), arguments.key("key", key)
    maps = {}
    if recurrent is not None:
        maps["weight_hh"] = as_gates("recurrent", recurrent, gates, (n, n))
    if inputs is not None:
        maps["weight_ih"] = as_gates("inputs", inputs, gates, (n, in_size))
    rest = _without(tuple(maps), namesake, *options) if maps else _new(namesake, *options)
    return with_fields(rest, **maps)


def _new(
    namesake: type[Namesake],
    in_size: int,
    n: int,
    use_bias: bool,
    dtype: DTypeLike,
    key: PRNGKeyArray,
) -> Namesake:
    return namesake(in_size, n, use_bias, dtype, key=key)


@eqx.filter_jit
def _without(names: tuple[str, ...], *options: Any) -> Any:
    """A new one without these weights, of which a compiled program makes nothing."""
    return with_fields(_new(*options), **dict.fromkeys(names))


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
