"""What the timings share: a model, the gradients of it, and the same by plain JAX.

Programs are compiled and timed as those of `modprop-jax bench` are.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import modprop_jax as mpj
from modprop_jax.experiments._bench._compile import (
    compile_gradient as compile_gradient,
    timed as timed,
)
from modprop_jax.experiments._bench._problem import plain_scan


class Model(eqx.Module):
    """A recurrent layer and its readout."""

    rnn: mpj.RNN
    readout: mpj.Readout


def error(outputs: jax.Array, ys: jax.Array) -> jax.Array:
    """Half the squared error of every step, a mean over examples."""
    return 0.5 * jnp.sum((outputs - ys) ** 2) / ys.shape[1]


@eqx.filter_value_and_grad
def plain(model: Model, xs: jax.Array, ys: jax.Array) -> jax.Array:
    """The yardstick: without this package's `scan`."""
    cell = model.rnn.cell
    _, zs = plain_scan(cell, cell.init(xs.shape[1:-1]), xs)
    return error(model.readout(zs), ys)


def offline(rule: Any) -> Callable[..., Any]:
    """(model, xs, ys) -> (loss, gradient) by a rule, over all steps at once."""
    return mpj.value_and_grad(lambda model, xs, ys: error(model.readout(model.rnn(xs)), ys), rule)


def streamed(rule: Any, segment: int) -> Callable[..., Any]:
    """The same, so many steps at a time."""
    labels = isinstance(rule, mpj.DNI | mpj.LocalDNI)

    def segment_loss(model, carry, xs, ys):
        carry, zs = model.rnn(xs, carry, context=ys if labels else None)
        return error(model.readout(zs), ys), carry

    gradient = mpj.online_value_and_grad(segment_loss, segment=segment)

    def run(model, xs, ys):
        model = mpj.with_rule(model, rule)
        carry = model.rnn.init(xs.shape[1:-1], key=jr.key(1))
        (loss, _), gradients = gradient(model, carry, xs, ys)
        return loss, gradients

    return run
