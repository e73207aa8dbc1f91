"""What a learner of a stream has between two calls, and what it was made for."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._precision import widened
from .._tree import as_array, Data, distinct
from ._model import bare, begin


class StreamCarry(eqx.Module):
    """What a learner of a stream has between two calls of `learn_stream`, beside the model.

    `opt_state` is the optimizer's. `carry` is where the learner is, with its traces; `ahead`, with
    a delay, where the copy is that predicts, without traces. `waiting` holds xs, ys and done of the
    last steps, those that the learner has not seen. A pytree of arrays, as a `Carry` is.
    """

    opt_state: PyTree
    carry: PyTree
    ahead: PyTree
    waiting: tuple[PyTree, PyTree, Bool[Array, "waiting *batch"] | None]


class Settings(eqx.Module):
    """What a program is compiled for."""

    loss: Callable = eqx.field(static=True)
    optimizer: Any = eqx.field(static=True)
    segment: int = eqx.field(static=True)
    delay: int = eqx.field(static=True)
    check: bool = eqx.field(static=True)

    def transformation(self, rate: Array | None) -> optax.GradientTransformation:
        """The optimizer."""
        return self.optimizer if rate is None else self.optimizer(rate)

    def fresh(self, model: Any, rate: Array | None) -> PyTree:
        """The optimizer's first state."""
        params = eqx.filter(model, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
            return self.transformation(rate).init(params)

    def updated(
        self, model: Any, grads: PyTree, opt_state: PyTree, rate: Array | None
    ) -> tuple[PyTree, PyTree]:
        """The optimizer's updates and its next state."""
        params = eqx.filter(model, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):
            return self.transformation(rate).update(grads, opt_state, params)


def start(
    settings: Settings, model: Any, seen: PyTree, rate: Array | None, key: PRNGKeyArray | None
) -> StreamCarry:
    """Before the first step."""
    batch_shape = jax.tree.leaves(seen[0])[0].shape[1:-1]
    held = widened(begin(model, batch_shape, key))
    ahead = distinct(bare(held), held) if settings.delay else None
    waiting = jax.tree.map(lambda a: a[:0], seen)
    return StreamCarry(settings.fresh(model, rate), held, ahead, waiting)


def joined(waiting: PyTree, seen: PyTree) -> PyTree:
    """What waited, then what came; no sequence ended where nothing was said about it."""
    if not length(waiting):
        return seen
    (*before, was), (*now, done) = waiting, seen
    if was is None and done is not None:
        was = jnp.zeros((length(waiting), *done.shape[1:]), bool)
    if done is None and was is not None:
        done = jnp.zeros((length(seen), *was.shape[1:]), bool)
    pairs = (*before, was), (*now, done)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *pairs)


def length(seen: PyTree) -> int:
    """Steps of a stream, or of a part of it."""
    return jax.tree.leaves(seen)[0].shape[0]


def as_optimizer(optimizer: Any, learning_rate: Any) -> Any:
    """A transformation, or where a rate came what makes one of it; else a ValueError."""
    if learning_rate is None:
        return arguments.transformation("optimizer", optimizer)
    words = "of the learning rate that came, such as optax.adam"
    return arguments.function("optimizer", optimizer, words)


def as_flags(done: Data, xs: PyTree) -> Array | None:
    """`done` as an array, if it fits; else a ValueError."""
    if done is None:
        return None
    flags, shape = as_array("done", done), np.shape(jax.tree.leaves(xs)[0])[:-1]
    if flags.shape != shape or flags.dtype != jnp.bool_:
        raise ValueError(
            f"done must be boolean of shape (T, *batch) = {shape}, but is {flags.dtype} of shape "
            f"{flags.shape}."
        )
    return flags


def check_lengths(seen: PyTree) -> None:
    """A ValueError unless all arrays have the same steps."""
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(seen)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "xs and ys must be arrays of the same number of time steps, at least one, but have "
            f"{lengths}."
        )


def check_carry(settings: Settings, model: Any, carry: object, rate: Array | None) -> None:
    """A ValueError unless the carry is one of this delay and optimizer."""
    words = "what learn_stream returned last"
    state: StreamCarry = arguments.instance("carry", carry, StreamCarry, words)
    waits, delay = length(state.waiting), settings.delay
    if waits > delay or (state.ahead is None) != (delay == 0):
        raise ValueError(
            f"carry was made with another delay than delay={delay} ({waits} steps wait in it): go "
            "on with the delay that it began with."
        )
    due = eqx.filter_eval_shape(settings.fresh, model, rate)
    if _outline(due) != _outline(state.opt_state):
        raise ValueError(
            "carry holds the state of another optimizer, or of another model: go on with those "
            "that it began with."
        )


def _outline(tree: PyTree) -> tuple:
    return jax.tree.structure(tree), [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
