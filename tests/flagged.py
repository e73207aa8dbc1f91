"""Sequences that end, pause or are padded inside a segment, and gradients of them."""

import functools

import jax.numpy as jnp
import numpy as np
from helpers import data, jit

import modprop_jax as mpj


# two examples of two sequences each, of four steps; 0 is padding
ORDER = np.array([[1, 1, 1, 1, 0, 0, 2, 2, 2, 2, 0], [0, 3, 3, 3, 3, 4, 4, 4, 4, 0, 0]])
MASK = jnp.asarray((ORDER > 0).T)
DONE = jnp.asarray(((ORDER > 0) & (np.diff(ORDER, append=0) != 0)).T)


def loss_of(outputs, ys, mask):
    return jnp.sum(jnp.where(mask[..., None], 0.5 * (outputs - ys) ** 2 + 0.1 * outputs**3, 0))


@jit
def flagged(model, xs, ys, done, mask):
    def loss(model):
        return loss_of(model(xs, done=done, valid=mask), ys, mask)

    return mpj.value_and_grad(loss)(model)


@functools.cache
def stream(segment):
    def segment_loss(model, carry, xs, ys):
        xs, done, mask = xs
        carry, outputs = model(xs, carry, done=done, valid=mask)
        return loss_of(outputs, ys, mask), carry

    return jit(mpj.online_value_and_grad(segment_loss, segment=segment))


def padded():
    """The data, with padding that must not be read."""
    xs, ys = data()
    return jnp.where(MASK[..., None], xs, jnp.nan), ys
