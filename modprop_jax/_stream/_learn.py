"""Learning a stream as it comes: predict, see the truth when it is known, then learn."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._grad import online_value_and_grad, with_rule
from .._rule import AbstractRule
from .._rule._base import as_rule
from .._tree import as_array, as_arrays, as_dtypes, as_sequences, Data, slice_time
from ._carry import (
    as_flags,
    as_optimizer,
    check_carry,
    check_lengths,
    joined,
    length,
    Settings,
    start,
    StreamCarry,
)
from ._model import as_online, bare, plain, reads_labels, run


def learn_stream(
    model: Any,
    xs: PyTree,
    ys: PyTree,
    *,
    loss: Callable[[Any, Any], Any],
    optimizer: optax.GradientTransformation | Callable[..., optax.GradientTransformation],
    learning_rate: Any = None,
    rule: AbstractRule | None = None,
    segment: int = 1,
    delay: int = 0,
    done: Data = None,
    carry: StreamCarry | None = None,
    key: PRNGKeyArray | None = None,
    check: bool = False,
) -> tuple[Any, PyTree, StreamCarry]:
    r"""Learn from a stream while predicting it: each output is made before its truth was learnt.

    With \(\theta_k\) the weights that have learnt the first k steps, e the loss of a step, U the
    optimizer and d the `delay`, for t = 0, 1, ...

    \[ \hat y_t = f(x_0 \dots x_t;\ \theta_{t-d}), \qquad\text{then}\qquad
       \theta_{t-d+1} = U\big(\theta_{t-d},\ \hat\nabla\, e_{t-d}\big) : \]

    after the prediction of step t the truth of step t − d is learnt, from t = d on. The gradient is
    the rule's, from traces that go on while the weights change.

    **Arguments:**

    - `model`: an `RNN`, an `eqx.nn.Sequential` of `RNN`s, `Readout`s and layers of equinox, which
        act on the features of one step, or a model of your own with `init(batch_shape)` and
        `model(xs, carry) -> (carry, outputs)`, as `RNN` has them (`done=` and `context=` come only
        if they are used). It may have no recurrent layer.
    - `xs`, `ys`: the stream, pytrees of arrays (T, *batch, ...).
    - `loss(outputs, ys)`: a scalar, of the outputs and targets of `segment` steps.
    - `optimizer`: an optax transformation; with `learning_rate`, a function that makes one of it,
        such as `optax.adam`. Then another rate, also a traced one, does not compile again; nor do
        hyper-parameters injected by optax, which are in `carry.opt_state`. Functions are the same
        if they are one object: define a loss once.
    - `rule`: the credit rule of all layers; None: each layer's own.
    - `segment`: steps from one update to the next; the last segment is shorter if they do not
        divide the steps.
    - `delay`: d, how many further steps come before a truth can be learnt. A target `horizon` steps
        ahead (`y[t] = x[t + horizon]`) is known when step t + horizon is about to be predicted:
        d = horizon − 1. With d = 0 it is learnt at once, which for a longer horizon is the look
        ahead of some published protocols: their weights know targets of the future. With d > 0 the
        learner lags, and a copy of the network with the newest weights and a state of its own
        predicts.
    - `done`: boolean (T, *batch): a sequence ends with this step, as in `scan`. For published
        programs that reset *before* a step: `as_done`.
    - `carry`: what an earlier call returned, to go on from it.
    - `key`: for rules that draw random numbers.
    - `check`: as in `value_and_grad`.

    **Returns:** `(model, outputs, carry)`: the model as it is then, under the rule, the outputs of
    all T steps, and what goes on. Several calls are one call, bit for bit, if the steps that each
    learns are a multiple of `segment`. A rule that reads labels (`DNI(labels=k)`) gets `ys` as
    `context`.

    **Cost:** one compiled `lax.scan`, of one streamed gradient and one optimizer step a segment,
    with a delay a forward step in addition. Memory: a segment's, the trace, d steps of the stream,
    and the outputs; nothing else grows with T. Runs under `jit` and `vmap` (over seeds, or over
    learning rates).

    Exact: what the rule streams exactly, at weights that change; a trace holds the past as it was
    at the weights of its time. With a delay, the state of the copy was made by the newest weights
    of each step, and that of the learner by those that it had d steps later; where errors nudge
    states (`GLE`) they do not nudge the copy's.

    **Errors:** ValueError for lengths that differ, a model that takes no carry, a loss that is no
    scalar, and a carry of another delay or optimizer.
    """
    arguments.sequences(xs=xs, ys=ys)
    if learning_rate is not None:
        rate = arguments.amount("learning_rate", learning_rate, arguments.NOT_NEGATIVE)
        learning_rate = jnp.asarray(rate, jnp.result_type(float))
    settings = Settings(
        arguments.function("loss", loss, "loss(outputs, ys) -> scalar"),
        as_optimizer(optimizer, learning_rate),
        arguments.size("segment", segment),
        arguments.count("delay", delay),
        arguments.boolean("check", check),
    )
    model = as_online("model", as_arrays(model))
    if rule is not None:
        model = with_rule(model, as_rule("rule", rule))
    if key is not None:
        arguments.key("key", key)
    seen = (*as_sequences("A sequence of xs or ys", (xs, ys)), as_flags(done, xs))
    check_lengths(seen)
    carry = start(settings, model, seen, learning_rate, key) if carry is None else as_arrays(carry)
    check_carry(settings, model, carry, learning_rate)
    return _learnt(model, carry, seen, learning_rate, settings)


def as_done(begins: Data, *, last: bool = False) -> Bool[Array, "T *batch"]:
    """`done` of a program that resets *before* steps: a step is the last one if the next begins.

    **Arguments:** `begins`: boolean (T, *batch), where a sequence begins with a step. Its first
    entry says nothing: the first step goes on from whatever carry it is given, and from a fresh
    start by itself. `last`: whether the step after these T begins one.
    """
    flags, last = as_array("begins", begins), arguments.boolean("last", last)
    if flags.ndim < 1 or flags.dtype != jnp.bool_:
        raise ValueError(
            f"begins must be boolean (T, *batch), but is {flags.dtype} of shape {flags.shape}."
        )
    end = jnp.full((1, *flags.shape[1:]), last)
    return jnp.concatenate([flags[1:], end])[: len(flags)]


@eqx.filter_jit
def _learnt(
    model: Any, carry: StreamCarry, seen: PyTree, rate: Array | None, settings: Settings
) -> tuple[Any, PyTree, StreamCarry]:
    """Steps that are only predicted, as nothing is known yet; then one is learnt for each."""
    past = joined(carry.waiting, seen)
    ready = max(length(past) - settings.delay, 0)
    quiet = length(seen) - ready
    ahead, parts = carry.ahead, []
    if quiet:
        ahead, outputs = _predicted(model, slice_time(seen, 0, quiet), ahead)
        parts.append(outputs)
    at = model, carry.opt_state, carry.carry, ahead
    arrays, static = eqx.partition(at, eqx.is_array)

    def advance(size):
        def one(arrays, first):
            now, then = slice_time(seen, quiet + first, size), slice_time(past, first, size)
            after, outputs = _segment(settings, rate, eqx.combine(arrays, static), now, then)
            return eqx.filter(after, eqx.is_array), outputs

        return one

    size = max(min(settings.segment, ready), 1)
    loops, rest = divmod(ready, size)
    if loops:
        arrays, outputs = jax.lax.scan(advance(size), arrays, size * jnp.arange(loops))
        parts.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), outputs))
    if rest:
        arrays, outputs = advance(rest)(arrays, jnp.asarray(loops * size))
        parts.append(outputs)
    model, opt_state, held, ahead = eqx.combine(arrays, static)
    outputs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    waiting = jax.tree.map(lambda a: a[ready:], past)
    return model, outputs, StreamCarry(opt_state, held, ahead, waiting)


def _segment(
    settings: Settings, rate: Array | None, at: tuple[Any, ...], now: PyTree, then: PyTree
) -> tuple[tuple[Any, ...], PyTree]:
    """Predict the steps of `now`, and learn those of `then`, which are the same without a delay."""
    model, opt_state, carry, ahead = at
    xs, ys, done = then
    foreseen = None
    if settings.delay:
        ahead, foreseen = _predicted(model, now, ahead)

    def segment_loss(model, carry, seen, truth):
        (xs, done), (ys, context) = seen, truth
        after, outputs = run(model, xs, carry[0], **_given(done=done, context=context))
        value = settings.loss(outputs, ys)
        if not eqx.is_inexact_array(value) or value.shape != ():
            raise ValueError(
                f"loss must return a scalar, a float, but it returned {arguments.shown(value)}."
            )
        return value, (after, outputs)

    context = ys if reads_labels(model) else None
    shapes = eqx.filter_eval_shape(run, plain(model), xs, bare(carry))[1]
    silent = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    gradient = online_value_and_grad(segment_loss, segment=length(then), check=settings.check)
    (_, (carry, made)), grads = gradient(model, (carry, silent), (xs, done), (ys, context))
    updates, opt_state = settings.updated(model, grads, opt_state, rate)
    model = eqx.apply_updates(model, as_dtypes(updates, model))
    return (model, opt_state, carry, ahead), foreseen if settings.delay else made


def _predicted(model: Any, seen: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """Steps whose truth is not known yet, by the newest weights."""
    xs, _, done = seen
    return run(plain(model), xs, state, **_given(done=done))


def _given(**flags: Array | None) -> dict[str, Array]:
    return {name: flag for name, flag in flags.items() if flag is not None}
