"""Credit back in time over all steps at once, where each step back is the same."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from .._cell._claims import check_leaky
from .._cell._membrane import variables
from .._credit import Credit
from ._base import AbstractProgram


class Among(NamedTuple):
    """What type-summed credit G (*batch, C) does in a step back: G becomes `G @ summed`, and the
    neurons get `G @ received`."""

    types: Float[Array, "n C"]
    summed: Float[Array, "C C"]
    received: Float[Array, "C n"]


class Decay(NamedTuple):
    """A step back that is the same at all steps, of neurons of one variable: credit on each is
    multiplied by `own`, and what its types' sums bring is added."""

    own: Float[Array, "#n"]
    among: Among | None = None


def leaks_alike(on: AbstractProgram) -> bool:
    """Whether all that a neuron's own dynamics do to its credit is one leak, the same for all."""
    if not (on.neurons and on.cell.uniform_leak) or variables(on.cell) > 1:
        return False
    check_leaky(on.name, on.cell)
    return True


def side_by_side(decay: Decay, direct: PyTree, credit: Credit) -> tuple[Credit, PyTree, None]:
    """`transport` by a `Decay`, in about 2 log T operations on all steps, twice as many with types.

    Credit before the first step, the total at each, and no credit on messages.
    """
    (came,), structure = jax.tree.flatten(direct)
    (last,) = jax.tree.leaves(credit.state)
    each, modulator = came.at[-1].add(last), credit.modulator
    received = jnp.zeros_like(last)
    if decay.among is not None:
        types, summed, across = (a.astype(came.dtype) for a in decay.among)
        by_type = _repeated((came @ types).at[-1].add(modulator), summed)
        arrives = by_type @ across
        each = each.at[:-1].add(arrives[1:])
        modulator, received = by_type[0] @ summed, arrives[0]
    own = jnp.broadcast_to(jnp.asarray(decay.own, each.dtype), each.shape[-1:])
    # (*batch, n) with as many sizes of 1 as there are axes of a batch
    own = own.reshape((1,) * (each.ndim - 2) + own.shape)

    def later(after, here):
        return after[0] * here[0], here[1] + here[0] * after[1]

    factor = jnp.broadcast_to(own[None], (len(each), *own.shape))
    total = lax.associative_scan(later, (factor, each), reverse=True)[1]
    state = structure.unflatten([own * total[0] + received])
    return credit._replace(state=state, modulator=modulator), structure.unflatten([total]), None


def _repeated(each: Float[Array, "T *batch C"], step: Float[Array, "C C"]) -> Array:
    """`G_t = each_t + G_{t+1} step`: sums over 1, 2, 4, ... steps, by powers of the one matrix."""
    span = 1
    while span < len(each):
        each = each.at[:-span].add(each[span:] @ step)
        span, step = 2 * span, step @ step
    return each
