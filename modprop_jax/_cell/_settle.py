"""The derivative of an equilibrium: credit on its rates, found one way or another."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._tree import inexact
from .._vjp import with_derivative


class Found(NamedTuple):
    """Credit on the rates, the balance that it meets, and how it was found."""

    credit: Float[Array, "*batch n"]
    balance: Float[Array, "*batch n"]
    sweeps: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]


def equilibrium_with_credit(
    cell: PyTree, state: PyTree, x: Array, find: Callable[[Any, Array, Array], Found]
) -> PyTree:
    """The cell's next equilibrium, with credit as its derivative.

    `cell` is effective. `find(cell, rates, direct)` returns credit on all rates from that of the
    loss. It meets the parameters as (credit · balance) ⊗ rates; the state before, a start for the
    relaxation only, gets none. Where firing or credit has not settled, it is NaN.
    """

    def relaxed(pack):
        cell, state, x = pack
        found = cell.relax(state.rates, x)
        return (state.after(found), found.converged), (found.value, found.converged)

    def backward(pack, residuals, cotangents):
        cell, state, x = pack
        rates, settled = residuals
        direct = cotangents[0].rates
        if direct is None:
            return None, None, None

        found = find(cell, rates, direct)
        # where the loss does not look (padding), nothing is asked of an equilibrium
        valid = (settled & found.converged) | (direct == 0).all(-1)
        credit = jnp.where(valid[..., None], found.credit, jnp.nan)
        n = rates.shape[-1]
        rows, sent = (credit * found.balance).reshape(-1, n), rates.reshape(-1, n)
        bias = None if cell.bias is None else rows.sum(0)
        nothing = jax.tree.map(lambda _: None, state)
        return with_gradient(cell, rows.T @ sent, bias), nothing, cell.clamped_part(credit)

    def again(pack):
        # residuals with a derivative of their own, for second derivatives
        after, settled = with_derivative(relaxed, backward)(pack)
        return (after, settled), (after.rates, settled)

    after, _ = with_derivative(again, backward)((cell, state, x))
    return after


def with_gradient(cell: eqx.Module, weight: Array, bias: Array | None) -> PyTree:
    """A gradient of the cell: its weights and bias."""
    empty = jax.tree.map(lambda _: None, inexact(cell))
    return eqx.tree_at(
        lambda c: (c.weight, c.bias), empty, (weight, bias), is_leaf=lambda x: x is None
    )
