"""Gradients of models under a credit rule: offline, streamed and checkpointed."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import _arguments as arguments
from ._budget import auto_checkpoint, auto_segment
from ._cell import AbstractCell
from ._cell._base import dynamics
from ._check import check_early
from ._fold import fold
from ._precision import wide, widened
from ._rnn import Imposed, imposing, is_layer, layers
from ._rule import AbstractRule, BPTT, Carry, DiagonalRTRL, EICredit, RTRL
from ._rule._base import as_rule
from ._rule._estimating import with_next
from ._sharding import vary, varying
from ._trace._by_error import by_error, tokens, with_traces
from ._tree import (
    accumulate,
    accumulator,
    as_arrays,
    as_dtypes,
    as_sequences,
    inexact,
    nodes,
    slice_time,
    stop,
    total,
    zeros_of,
)


def with_rule(
    model: PyTree, rule: AbstractRule, where: Callable[[PyTree], Any] | None = None
) -> PyTree:
    """The model with its recurrent layers under another credit rule.

    **Arguments:** `rule`: the new rule. `where`: selects one `RNN` or several, as in
    `eqx.tree_at`; every RNN layer by default.

    Nothing else changes: the leaves may be of any kind, None or booleans of a part of a model too.

    **Errors:** ValueError if the model has no RNN layer, or `where` selects something else; or for
    a cell that has its weights and that the rule can't serve (`scan` checks the others).
    """
    rule = as_rule("rule", rule)
    if where is not None:
        arguments.function("where", where, "where(model) -> RNN layers")
    chosen = model if where is None else where(model)
    selected = jax.tree.leaves(chosen, is_leaf=is_layer)
    if where is None:
        selected = list(filter(is_layer, selected))
    if not selected or not all(map(is_layer, selected)):
        raise ValueError(
            f"with_rule needs RNN layers of the model to set {type(rule).__name__} on, but found "
            f"{len(selected)} in {type(model).__name__}: wrap a cell as RNN(cell), or select "
            "RNN layers with `where`."
        )
    for layer in selected:
        check_early(rule, layer.cell)

    def swap(node):
        return node.under(rule) if is_layer(node) else node

    if where is None:
        return jax.tree.map(swap, model, is_leaf=is_layer)
    return eqx.tree_at(where, model, replace_fn=swap, is_leaf=is_layer)


def value_and_grad(
    loss: Callable[..., Any],
    rule: AbstractRule | None = None,
    *,
    has_aux: bool = False,
    check: bool = False,
) -> Callable[..., tuple[Any, PyTree]]:
    """`eqx.filter_value_and_grad`, under a credit rule.

    **Arguments:**

    - `loss`: `loss(model, *args) -> scalar`, or `(scalar, aux)` with `has_aux`.
    - `rule`: every RNN layer that the loss calls runs under it, also in a part of the model that
        the loss puts in (`eqx.combine`, `eqx.nn.Shared`), except for layers that the loss makes
        or sets a rule on; None: each layer's own rule.
    - `check`: raise at run time if the loss or a gradient is NaN or infinite, or if a constant of
        a cell has been trained out of its range (a negative `tau`).

    **Returns:** `(model, *args) -> (loss, gradients)`; the gradients have the model's structure,
    with None for what does not train.

    **Errors:** ValueError if `rule` is given and the model has no RNN layer.
    """

    arguments.function("loss", loss, "loss(model, *args)")
    rule = None if rule is None else as_rule("rule", rule)
    has_aux, check = (
        arguments.boolean(name, flag) for name, flag in (("has_aux", has_aux), ("check", check))
    )

    @eqx.filter_value_and_grad(has_aux=has_aux)
    def under_rule(model, args, kwargs):
        if rule is None:
            return loss(model, *args, **kwargs)
        with imposing(Imposed(rule)):
            return loss(model, *args, **kwargs)

    def wrapped(model, *args, **kwargs):
        if rule is None:
            _check_rules(model)
        else:
            with_rule(model, rule)  # whether it can be set
        value, gradients = under_rule(model, args, kwargs)
        return checked(model, value, gradients, rule) if check else (value, gradients)

    return wrapped


def online_value_and_grad(
    segment_loss: Callable[..., tuple[Any, PyTree]],
    *,
    segment: int | Literal["auto"] = 32,
    memory: int | None = None,
    check: bool = False,
) -> Callable[..., tuple[tuple[Any, PyTree], PyTree]]:
    """Gradients of a stream, in memory O(segment) whatever its length.

    Each segment's gradient is taken on its own and the past comes through the traces in the
    carry, so for a rule with a trace and one recurrent layer the sum equals the offline gradient.
    Below the top layer of a stack, credit through the upper layers' memory is cut at segment
    boundaries. With BPTT, which has no trace, this is truncated BPTT.

    **Arguments:**

    - `segment_loss`: `(model, carry, xs, ys) -> (loss, carry)` over one segment. The carry holds
        the `Carry` of each recurrent layer (`rnn.init(batch_shape)`).
    - `segment`: steps a segment; the last one is shorter if they do not divide T. "auto": as many
        as `memory` holds, where the gradient does not depend on it: one recurrent layer, under a
        rule with a trace.
    - `memory`: bytes for the states of a segment, with "auto"; by default 4 MB on CPU and 64 MB
        elsewhere.
    - `check`: as in `value_and_grad`.

    **Returns:** `(model, carry, xs, ys) -> ((loss, carry), gradients)`, summed over segments at
    fixed weights; in float32 at least, with an error of 1e-6 at most however long the stream (a
    plain sum of 10⁶ terms may be 1 % off). `xs` and `ys` are pytrees of (T, ...) arrays.
    """

    _check_segments(segment_loss, segment, memory)
    check = arguments.boolean("check", check)

    @eqx.filter_value_and_grad(has_aux=True)
    def gradient(differentiated, carry, xs, ys):
        model, traces = differentiated
        loss, after = segment_loss(model, with_traces(carry, traces), xs, ys)
        # traces go on with the error, also where the loss does not read a segment
        for token in tokens(after):
            loss = loss + token.astype(loss.dtype)
        return loss, after

    def wrapped(model, carry, xs, ys):
        _check_rules(model)
        carry, (xs, ys) = as_arrays(carry), as_sequences("A sequence of xs or ys", (xs, ys))
        # else the next values would be summed over the devices of a shard_map
        traces = vary(by_error(carry), varying((model, carry, xs, ys)))
        carry, size = with_traces(carry, traces), segment
        if size == "auto":
            _check_free_of_segments(model, carry)
            size = auto_segment(carry, (xs, ys), _length((xs, ys)), memory)

        def one(carry, seen):
            (loss, after), (fresh, traces) = gradient((model, by_error(carry)), carry, *seen)
            return with_next(after, traces), (loss, fresh)

        loss, carry = _start(segment_loss, model, carry, xs, ys, size)
        start = stop(carry), (loss, zeros_of(model))
        carry, (loss, sums) = _over_segments(one, *start, (xs, ys), size)
        value, gradients = (loss, carry), as_dtypes(sums, model)
        return checked(model, value, gradients) if check else (value, gradients)

    return wrapped


def checkpointed_value_and_grad(
    segment_loss: Callable[..., tuple[Any, PyTree]],
    *,
    segment: int | Literal["auto"] = "auto",
    check: bool = False,
) -> Callable[..., tuple[tuple[Any, PyTree], PyTree]]:
    """Exact gradients with the states kept at segment boundaries only.

    As `online_value_and_grad`, but credit flows through the boundaries: each segment runs again
    in the reverse pass. The carry holds bare states (`cell.init(batch_shape)`). Memory
    O(T / segment + segment), least near √T steps ("auto"); time one more forward pass.

    For exact rules only (ValueError): what others send, or have seen, beyond a bare state would be
    lost at each boundary. Stream those with `online_value_and_grad`.
    """

    _check_segments(segment_loss, segment, None)
    check = arguments.boolean("check", check)

    @eqx.filter_value_and_grad(has_aux=True)
    def summed(wider, model, carry, xs, ys):
        def one(at, seen):
            carry, losses = at
            # narrow here, inside of the loop, whose reverse then sums the gradient wide
            narrow = eqx.combine(as_dtypes(inexact(wider), model), wider)
            loss, carry = segment_loss(narrow, carry, *seen)
            return (carry, accumulate(losses, loss)), ()

        size = auto_checkpoint(_length((xs, ys))) if segment == "auto" else segment
        loss, carry = _start(segment_loss, model, carry, xs, ys, size)
        start = (carry, accumulator(loss)), ()
        # the reverse sums plainly: two levels of about as many terms each
        near = auto_checkpoint(_length((xs, ys)) // size)
        end, _ = _over_segments(one, *start, (xs, ys), size, jax.checkpoint, near)
        carry, losses = end
        return total(losses), carry

    def wrapped(model, carry, xs, ys):
        _check_rules(model)
        for layer in layers(model):
            arguments.require(
                layer.rule,
                _EXACT,
                "checkpointed_value_and_grad is for exact gradients, but a layer's rule is "
                f"{type(layer.rule).__name__}: use with_rule(model, BPTT()), or stream it with "
                "online_value_and_grad.",
            )
        carry, (xs, ys) = as_arrays(carry), as_sequences("A sequence of xs or ys", (xs, ys))
        value, sums = summed(widened(model), stop(model), carry, xs, ys)
        gradients = as_dtypes(sums, model)
        return checked(model, value, gradients) if check else (value, gradients)

    return wrapped


_EXACT = BPTT, RTRL, DiagonalRTRL, EICredit


def _over_segments(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    carry: PyTree,
    zeros: PyTree,
    sequences: PyTree,
    segment: int,
    wrap: Callable[[Callable], Callable] = lambda body: body,
    blocks_of: int = 0,
) -> tuple[PyTree, PyTree]:
    """Fold `carry, terms = step(carry, segment of the sequences)` over time, the terms summed.

    The last segment may be shorter. `zeros`: what the terms are summed in. `wrap` transforms what
    runs for each segment, the slicing of the sequences included: under `jax.checkpoint`, the slices
    are then not kept for the reverse pass. `blocks_of`: see `fold`.
    """
    loops, rest = divmod(_length(sequences), segment)
    arrays, static = eqx.partition(carry, eqx.is_array)

    def of_size(size):
        @wrap
        def body(index, arrays):
            seen = slice_time(sequences, index * segment, size)
            carry, terms = step(eqx.combine(arrays, static), seen)
            return eqx.filter(carry, eqx.is_array), terms

        return body

    sums = zeros
    if loops:
        # not a scan over indices: they would be an array that grows with T
        arrays, sums = fold(of_size(segment), arrays, zeros, loops, blocks_of)
    if rest:
        arrays, terms = of_size(rest)(loops, arrays)
        sums = jax.tree.map(lambda s, t: s + t.astype(s.dtype), sums, terms)
    return eqx.combine(arrays, static), sums


def _check_segments(segment_loss: object, segment: object, memory: object) -> None:
    arguments.function("segment_loss", segment_loss, "(model, carry, xs, ys) -> (loss, carry)")
    if segment != "auto":
        try:
            arguments.size("segment", segment)
        except ValueError as error:
            raise ValueError(f'{error} Or pass "auto".') from None
    if memory is not None and segment != "auto":
        raise ValueError(
            f'memory is a number of bytes, to be used with segment="auto", but memory={memory} '
            f"came with segment={segment!r}."
        )
    if memory is not None:
        arguments.size("memory", memory)


def _length(sequences: PyTree) -> int:
    # of a number 0 steps
    lengths = {max(jnp.shape(leaf)[:1], default=0) for leaf in jax.tree.leaves(sequences)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "xs and ys must be arrays of the same number of time steps, at least one, but have "
            f"{lengths}."
        )
    return lengths.pop()


def _start(
    segment_loss: Callable, model: PyTree, carry: PyTree, xs: PyTree, ys: PyTree, segment: int
) -> tuple[Array, PyTree]:
    """A loss of 0, in float32 at least, and the carry as wide as a segment returns it."""
    size = min(segment, _length((xs, ys)))
    seen = jax.tree.map(lambda a: a[:size], (xs, ys))
    loss, after = eqx.filter_eval_shape(segment_loss, model, carry, *seen)

    def one(leaf, after):
        wider = eqx.is_inexact_array(leaf) and wide(leaf.dtype) == after.dtype
        return leaf.astype(after.dtype) if wider else leaf

    if jax.tree.structure(after) == jax.tree.structure(carry):
        carry = jax.tree.map(one, carry, after)
    return jnp.zeros((), wide(loss.dtype)), carry


def checked(
    model: PyTree, value: PyTree, gradients: PyTree, rule: AbstractRule | None = None
) -> tuple[PyTree, PyTree]:
    """The same, or an error at run time: a constant out of its range, a rule out of its own, or
    what is not finite."""
    for condition, holds in in_range(model).items():
        value, gradients = eqx.error_if(
            (value, gradients),
            ~holds,
            f"{condition}, but it has been trained out of that: give the cell Positive(value), or "
            "Between(value, low, high), which can't leave its range.",
        )
    for used in nodes(model, AbstractRule) if rule is None else [rule]:
        for condition, holds in used.in_range().items():
            value, gradients = eqx.error_if(
                (value, gradients),
                ~holds,
                f"{type(used).__name__}: {condition}; beyond that credit grows without bound.",
            )
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(inexact((value, gradients)))]
    return eqx.error_if(
        (value, gradients),
        ~jnp.stack(finite).all(),
        "The loss, the carry or a gradient is NaN or infinite: lower the learning rate, or for "
        "ModProp lower mu.",
    )


def in_range(model: PyTree) -> dict[str, Array]:
    """What should hold of the constants that the model's cells train, in words, and whether."""

    found: dict[str, Array] = {}
    for cell in nodes(model, AbstractCell):
        name = type(dynamics(cell)).__name__
        for condition, holds in cell.in_range().items():
            condition = f"{name}.{condition}"
            found[condition] = found[condition] & holds if condition in found else holds
    return found


def _check_rules(model: PyTree) -> None:
    """Each layer's rule and cell, while the weights are still concrete if they ever are."""
    for layer in layers(model):
        check_early(layer.rule, layer.cell)


def _check_free_of_segments(model: PyTree, carry: PyTree) -> None:
    # not from the cells: their weights may come in the loss
    carried = nodes(carry, Carry)
    found = layers(model)
    if not len(found) == len(carried) == 1 or carried[0].trace is None:
        rules = ", ".join(type(layer.rule).__name__ for layer in found) or "no recurrent layer"
        raise ValueError(
            'segment="auto" needs one recurrent layer under a rule with a trace, whose gradient '
            f"does not depend on the segment, but the model has {rules}: choose a number of steps."
        )
