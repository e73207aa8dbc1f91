"""A cell's parameters as a matrix: a row for each unit, of what acts on that unit alone."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..._cell import NeuronCell, SeparableCell
from ..._cell._claims import check_own, check_units
from ..._precision import start_of, widened
from ..._synapses import Dense
from ..._synapses._base import described
from ..._trace._entries import maps_in
from ..._tree import inexact


def kept(cell: SeparableCell, tree: PyTree) -> PyTree:
    """Of a tree shaped as the cell's parameters, those that act on single units; else None."""
    if isinstance(cell, NeuronCell):
        return inexact(tree)
    names = [name for name in cell.unit_parameters if getattr(cell, name) is not None]
    parts = [getattr(tree, name) for name in names]
    nothing = jax.tree.map(lambda _: None, tree)
    return eqx.tree_at(
        lambda c: [getattr(c, name) for name in names], nothing, parts, is_leaf=lambda x: x is None
    )


def by_unit(cell: SeparableCell, tree: PyTree, lead: int = 0) -> Float[Array, "*lead n p"]:
    """Parameters, each (*lead, gates x units, ...), as a row for each unit."""
    n = cell.hidden_size

    def rows(leaf):
        lead_shape = leaf.shape[:lead]
        size = math.prod(leaf.shape[lead + 1 :])
        each = leaf.reshape(*lead_shape, -1, n, size)
        return jnp.moveaxis(each, lead, lead + 1).reshape(*lead_shape, n, -1)

    return jnp.concatenate([rows(leaf) for leaf in jax.tree.leaves(kept(cell, tree))], axis=-1)


def from_units(cell: SeparableCell, values: Float[Array, "n p"]) -> PyTree:
    """The inverse of `by_unit`, with zeros for the other parameters."""
    leaves, structure = jax.tree.flatten(kept(cell, cell))
    n = cell.hidden_size
    cuts = np.cumsum([leaf.size // n for leaf in leaves])[:-1]

    def one(part, leaf):
        each = part.reshape(n, leaf.shape[0] // n, *leaf.shape[1:])
        return jnp.moveaxis(each, 0, 1).reshape(leaf.shape)

    parts = [one(p, leaf) for p, leaf in zip(jnp.split(values, cuts, -1), leaves, strict=True)]
    others = jax.tree.map(jnp.zeros_like, widened(inexact(cell)))
    return eqx.combine(jax.tree.unflatten(structure, parts), others)


def width(cell: SeparableCell) -> int:
    """How many parameters a unit has."""
    return sum(leaf.size for leaf in jax.tree.leaves(kept(cell, cell))) // cell.hidden_size


def variables(cell: SeparableCell) -> int:
    """How many float variables a unit has."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda: inexact(start_of(cell))))
    return sum(leaf.size for leaf in leaves) // cell.hidden_size


def check_rows(who: str, cell: SeparableCell) -> None:
    """A ValueError unless all that moves the state is a row for each unit."""
    name = type(cell).__name__
    if isinstance(cell, NeuronCell):
        check_own(who, cell, emits=False)
        fields = {"weight_rec": cell.weight_rec, "weight_in": cell.weight_in}
    else:
        check_units(who, cell, emits=False)
        fields = {field: getattr(cell, field) for field in cell.unit_parameters}
    for field, value in fields.items():
        for synapses in maps_in(value):
            if not isinstance(synapses, Dense):
                raise ValueError(
                    f"{who} keeps a row of parameters for each unit, but {field} of this {name} "
                    f"holds a {described(synapses)}: give it a matrix (with mask= for missing "
                    "synapses), or use SnAp(1) or UORO."
                )
    n = cell.hidden_size
    paths, _ = jax.tree_util.tree_flatten_with_path(kept(cell, cell))
    for path, leaf in paths:
        if not leaf.shape or leaf.shape[0] % n:
            raise ValueError(
                f"{who} keeps a row of parameters for each unit, but "
                f"{name}{jax.tree_util.keystr(path)}, which trains, is of shape {leaf.shape} and "
                f"acts on all units: give it one value a unit (n={n}), or as a float or a NumPy "
                "array, which does not train."
            )


def existing(cell: SeparableCell) -> Float[Array, "n p"] | None:
    """1 for a parameter that there is, 0 for one that the cell's mask takes away; None: all are.

    `cell`: as it came. What its `effective` does to parameters, done to ones.
    """
    masked = getattr(cell, "connectivity", None) is not None
    if not (masked or isinstance(cell, NeuronCell) and not cell.autapses):
        return None
    wide = widened(cell)
    ones = jax.tree.map(jnp.ones_like, inexact(wide))
    return by_unit(wide, eqx.combine(ones, wide).effective())
