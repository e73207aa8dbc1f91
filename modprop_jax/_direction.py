"""A random direction in the parameters of a model, along which a loss is tried."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._cell import AbstractCell, SeparableCell
from ._readout import Readout
from ._rule import AbstractRule
from ._rule._noise import LAWS
from ._tree import inexact, nothing, pullback
from ._vjp import with_derivative


def drawn(law: str, key: PRNGKeyArray, model: PyTree, whole: bool) -> PyTree:
    """A direction over the parameters that noise on drives does not reach; `whole`: over all.

    None where the loss can't depend on a number.
    """

    def chosen(node):
        if isinstance(node, SeparableCell) and not whole:
            return node.split()[0]
        if isinstance(node, AbstractRule):
            return nothing(node)
        if isinstance(node, Readout):
            return eqx.tree_at(
                lambda r: r.feedback_weight, inexact(node), None, is_leaf=lambda n: n is None
            )
        return inexact(node)

    def apart(node):
        return isinstance(node, SeparableCell | AbstractRule | Readout)

    moved = jax.tree.map(chosen, model, is_leaf=apart)
    leaves, structure = jax.tree.flatten(moved)
    keys = jax.random.split(key, max(len(leaves), 1))
    values = [LAWS[law](k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves)]
    direction = jax.tree.unflatten(structure, values)
    return _of_existing(model, direction) if whole else direction


def _of_existing(model: PyTree, direction: PyTree) -> PyTree:
    """The direction without what is stored at missing synapses."""

    def is_cell(node):
        return isinstance(node, AbstractCell)

    cells, structure = jax.tree.flatten(model, is_leaf=is_cell)
    parts = structure.flatten_up_to(direction)

    def one(cell, part):
        if not is_cell(cell):
            return part
        ones = jax.tree.map(jnp.ones_like, inexact(cell.effective()))
        # a mask, and 1 where there is none
        (exists,) = pullback(lambda cell: cell.effective(), cell)(ones)
        return jax.tree.map(lambda v, e: v * e, part, exists)

    return structure.unflatten([one(c, p) for c, p in zip(cells, parts)])


def plus(tree: PyTree, direction: PyTree, scale: Array | float) -> PyTree:
    """The tree, and `scale` times the direction where there is one."""

    def one(along, leaf):
        if along is None:
            return leaf
        return leaf + jnp.asarray(scale, along.dtype) * along

    return jax.tree.map(one, direction, tree, is_leaf=lambda v: v is None)


def watched(model: PyTree, reached: set[int]) -> PyTree:
    """The same model, whose derivative notes which of its separable cells it comes to."""
    cells, structure = jax.tree.flatten(model, is_leaf=_has_drive)

    def watch(index, cell):
        def backward(pack, residuals, cotangents):
            del pack, residuals
            reached.add(index)
            return cotangents

        moving, rest = eqx.partition(cell, eqx.is_inexact_array)
        return eqx.combine(with_derivative(lambda p: (p, ()), backward)(moving), rest)

    found = [watch(i, c) if _has_drive(c) else c for i, c in enumerate(cells)]
    return structure.unflatten(found)


def check_reached(model: PyTree, reached: set[int]) -> None:
    """A ValueError if the derivative came to a separable cell of the model not at all."""
    for index, cell in enumerate(jax.tree.leaves(model, is_leaf=_has_drive)):
        if _has_drive(cell) and index not in reached:
            raise ValueError(
                f"Noise on drives comes to what RNN or scan runs, but the loss does not run a "
                f"{type(cell).__name__} of the model in this way: do so, or perturb weights, "
                'perturbed_value_and_grad(loss, "weight", ...); leave a layer that the loss does '
                "not use out of the model (eqx.partition)."
            )


def _has_drive(node: object) -> bool:
    return isinstance(node, SeparableCell)
