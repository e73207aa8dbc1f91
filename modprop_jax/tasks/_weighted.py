"""Losses of tasks whose answers say what of them counts: trials of different length, and cues."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._task import cross_entropy


def classified(outputs: Array, ys: PyTree) -> tuple[Array, Array]:
    """Cross-entropy and accuracy, over what has weight.

    `ys`: labels, or a pair of these and of weights of their shape.
    """
    if not isinstance(ys, tuple):
        return cross_entropy(outputs, ys)
    labels, weight = ys[0], ys[1].astype(outputs.dtype)
    each = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[..., None], -1)[..., 0]
    right = (jnp.argmax(outputs, -1).astype(labels.dtype) == labels).astype(outputs.dtype)
    return -weighted_mean(each, weight), weighted_mean(right, weight)


def approximated(outputs: Array, ys: PyTree) -> tuple[Array, Array]:
    """Mean squared error, a sum over outputs, and R², over what has weight.

    `ys`: values, or a pair of these and of weights without their last axis.
    """
    targets, weight = ys if isinstance(ys, tuple) else (ys, jnp.ones(ys.shape[:-1]))
    weight = weight.astype(outputs.dtype)
    error = weighted_mean(jnp.sum((outputs - targets) ** 2, -1), weight)
    centre = jax.vmap(weighted_mean, (-1, None))(targets, weight)
    centre = jnp.broadcast_to(centre, targets.shape)
    spread = weighted_mean(jnp.sum((targets - centre) ** 2, -1), weight)
    moves = spread > 0
    return error, jnp.where(moves, 1 - error / jnp.where(moves, spread, 1), 0)


def weighted_mean(values: Array, weight: Array) -> Array:
    """0 where nothing has weight."""
    total = weight.sum()
    return jnp.sum(values * weight) / jnp.where(total > 0, total, 1)
