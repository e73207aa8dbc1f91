"""How the gradients of many rules compare, step by step, while one of them trains the network."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._grad import online_value_and_grad, with_rule
from .._rnn import layers
from .._rule import AbstractRule, BPTT, Carry, FutureBPTT
from .._tree import slice_time, stop
from ._pairs import cosine, named, norm, Rules


class OnlineAlignment(eqx.Module):
    """Agreement of the rules' gradients over a training run, step by step.

    `names` are the R rules in order. Of rule i with rule j: `cosine`, a mean over the steps of a
    block, and `weighted`, the same weighted by the product of both norms, (blocks, R, R); `norm` of
    each rule's gradient, (blocks, R). `loss` while learning, (blocks,). A zero gradient has cosine
    0. Means over the run are means over blocks, of as many steps each.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    cosine: Float[Array, "blocks R R"]
    weighted: Float[Array, "blocks R R"]
    norm: Float[Array, "blocks R"]
    loss: Float[Array, " blocks"]


def online_alignment(
    segment_loss: Callable[..., tuple[Any, PyTree]],
    model: PyTree,
    xs: PyTree,
    ys: PyTree,
    *,
    init: Callable[[Any, PRNGKeyArray], PyTree],
    rules: Rules,
    learner: AbstractRule,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    blocks: int = 1,
) -> tuple[PyTree, OnlineAlignment]:
    r"""Train online under one rule, with any number of others running beside it.

    At each time step every rule gives its gradient of the recurrent layers, at the same weights and
    from a trace of its own; the optimizer steps by the learner's. What is measured are cosines of
    these single-step gradients, rule with rule.

    **Arguments:**

    - `segment_loss`: as in `online_value_and_grad`.
    - `model`, `xs`, `ys`: the model, and the stream, pytrees of (T, ...) arrays.
    - `init(model, key)`: a carry of no past, such as
        `lambda model, key: model.rnn.init(batch_shape, key=key)`.
    - `rules`: name -> rule, or a sequence of rules; they do not train the model.
    - `learner`: the rule that does, by `optimizer`; measure it by naming it among `rules` too.
    - `blocks`: T is divided into so many parts, with a mean of each.

    **Returns:** the trained model, and an `OnlineAlignment`.

    `FutureBPTT(h)` is future-facing: the credit of a step is known h - 1 steps later. Its gradient
    of a step is compared with what the other rules gave at that same step: their gradients wait.
    Each of the last h steps is run again for this, at the weights of now. The first h - 1 steps
    are left out. Runs under `jit` and `vmap`. Cost: one streamed gradient a rule.

    **Errors:** ValueError for no rules, or for T too short for the blocks and the lag.

    Source: the alignment study of Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """
    names, beside = named(rules)
    lag = max((rule.horizon - 1 for rule in beside if isinstance(rule, FutureBPTT)), default=0)
    total = jax.tree.leaves(xs)[0].shape[0]
    size = (total - lag) // blocks
    if size < 1:
        raise ValueError(
            f"The stream has {total} steps, too few for {blocks} blocks after a lag of {lag} steps."
        )
    gradient = online_value_and_grad(segment_loss, segment=1)
    keys = jax.random.split(key, len(beside) + 1)
    under = [with_rule(model, rule) for rule in (learner, *beside)]
    carries = [init(each, k) for each, k in zip(under, keys, strict=True)]
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    exact = with_rule(model, BPTT())
    window = jax.tree.map(
        lambda a: jnp.zeros((lag + 1, *a.shape), a.dtype), _bare(init(exact, key))
    )
    start = model, opt_state, carries, window, _silent(model, len(beside), lag)
    arrays, static = eqx.partition(start, eqx.is_array)

    def step(arrays, t):
        model, opt_state, carries, window, waiting = eqx.combine(arrays, static)
        seen = slice_time((xs, ys), t, 1)
        window = _push(window, _bare(carries[0]))
        found = []
        for index, rule in enumerate((learner, *beside)):
            if index and isinstance(rule, FutureBPTT):
                found.append(_future(segment_loss, model, rule.horizon, lag, window, xs, ys, t))
                continue
            (loss, carries[index]), grads = gradient(with_rule(model, rule), carries[index], *seen)
            if index == 0:
                value, update = loss, grads
            else:
                waiting = waiting.at[index - 1].set(_push(waiting[index - 1], _flat(grads)))
                found.append(waiting[index - 1, 0])
        params = eqx.filter(model, eqx.is_inexact_array)
        update = _as(update, params)
        with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
            update, opt_state = optimizer.update(update, opt_state, params)
        model = eqx.apply_updates(model, update)
        after = eqx.filter((model, opt_state, carries, window, waiting), eqx.is_array)
        return after, (jnp.stack(found), value)

    def measured(arrays, t):
        arrays, (rows, loss) = step(arrays, t)
        each = jax.vmap(jax.vmap(cosine, (None, 0)), (0, None))(rows, rows)
        lengths = jax.vmap(norm)(rows)
        return arrays, (each, lengths[:, None] * lengths, lengths, loss)

    def block(arrays, b):
        steps = lag + b * size + jnp.arange(size)
        arrays, (each, weight, lengths, loss) = lax.scan(measured, arrays, steps)
        weighted = jnp.sum(each * weight, 0) / _positive(jnp.sum(weight, 0))
        return arrays, (each.mean(0), weighted, lengths.mean(0), loss.mean())

    arrays, _ = lax.scan(step, arrays, jnp.arange(lag))
    arrays, found = lax.scan(block, arrays, jnp.arange(blocks))
    return eqx.combine(arrays, static)[0], OnlineAlignment(names, *found)


def _future(
    segment_loss: Callable,
    model: PyTree,
    horizon: int,
    lag: int,
    window: PyTree,
    xs: PyTree,
    ys: PyTree,
    t: Array,
) -> Float[Array, " P"]:
    """Gradient of the step `lag` steps ago, through its effect on it and the next h - 1 losses."""
    begin = jax.tree.map(lambda a: a[0], window)
    first = slice_time((xs, ys), t - lag, 1)

    def total(model):
        exact = with_rule(model, BPTT())
        loss, carry = segment_loss(exact, begin, *first)
        if horizon > 1:
            later = slice_time((xs, ys), t - lag + 1, horizon - 1)
            more, _ = segment_loss(stop(exact), carry, *later)
            loss = loss + more
        return loss

    return _flat(eqx.filter_grad(total)(model))


def _bare(carry: PyTree) -> PyTree:
    """The states in a carry, without traces: credit passes from segment to segment."""

    def one(node):
        return node.state if isinstance(node, Carry) else node

    return jax.tree.map(one, carry, is_leaf=lambda node: isinstance(node, Carry))


def _push(window: PyTree, new: PyTree) -> PyTree:
    """The newest last; the oldest leaves."""
    return jax.tree.map(lambda w, a: jnp.concatenate([w[1:], a[None]]), window, new)


def _flat(grads: PyTree) -> Float[Array, " P"]:
    """The gradient of the recurrent layers."""
    leaves = [leaf.ravel() for layer in layers(grads) for leaf in jax.tree.leaves(layer)]
    return jnp.concatenate(leaves)


def _silent(model: PyTree, rules: int, lag: int) -> Float[Array, "R lag P"]:
    size = _flat(eqx.filter(model, eqx.is_inexact_array))
    return jnp.zeros((rules, lag + 1, len(size)), size.dtype)


def _as(grads: PyTree, params: PyTree) -> PyTree:
    """Gradients without the rule that made them."""
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(grads))


def _positive(total: Array) -> Array:
    return jnp.where(total > 0, total, 1)
