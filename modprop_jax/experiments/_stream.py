"""Online learning on endless streams: an optimizer step after every segment of a few steps."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._grad import online_value_and_grad, with_rule
from .._rule import AbstractRule, BPTT
from .._synapses import Sparse
from .._tree import nodes
from ._devices import device_mesh, over_seeds, placed
from ._processes import check_alone
from ._soundness import diverged, fault, radius_of, raise_first, unstable
from ._train import Data, initial_state, Record, State, stream_keys


# of the outputs of some steps: (outputs, ys) -> (loss, score)
OutputLoss = Callable[[Array, Array], tuple[Array, Array]]


@runtime_checkable
class StreamNetwork(Protocol):
    """What learns from a stream: `Network`, what a method makes of it, or any of one's own that has
    these."""

    def init(self, batch_shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> PyTree:
        """The carry of every layer, with no past."""
        ...

    def online(
        self, xs: Float[Array, "T *batch m"], carry: PyTree, *, context: PyTree = None
    ) -> tuple[PyTree, Float[Array, "T *batch k"]]:
        """The carry to go on from, and the outputs; only rules read `context`."""
        ...


class Streaming(NamedTuple):
    """How a stream is learnt; all in time steps."""

    iteration: int
    """What counts as one."""
    segment: int
    """From one optimizer step to the next."""
    block: int
    """From one evaluation to the next."""
    total: int


def stream_state(
    model: PyTree,
    keys: Key[Array, " seeds"],
    *,
    rule: AbstractRule | None,
    batch: int,
    optimizer: optax.GradientTransformation,
) -> State:
    """Iteration 0 of networks on streams: under this rule, with its carry of no past.

    None: under those that their layers have. The optimizer's state has the structure of the
    gradients, rule included.
    """

    @eqx.filter_vmap
    def start(model, key):
        model = model if rule is None else with_rule(model, rule)
        return model, model.init((batch,), key=key)

    _, carry_keys = stream_keys(keys)
    model, carry = start(model, carry_keys)
    fresh = initial_state(model, optimizer)
    return State(model, fresh.opt_state, fresh.iteration, carry)


def iterate_stream(
    state: State,
    keys: Key[Array, " seeds"],
    *,
    loss: OutputLoss,
    data: Data,
    optimizer: optax.GradientTransformation,
    rule: AbstractRule | None,
    streaming: Streaming,
    label: str,
) -> Iterator[tuple[State, Record]]:
    """As `iterate`, online: yields the state after each block of a stream.

    `rule`: of all layers, which are under it already; None: each has its own.
    `data(key)` is the whole stream, (T, batch, ...), of a seed. The loss and score of a record are
    those of the outputs while learning, over the block before it; of the first one, those of
    the untrained network on the first block. The optimizer gets the sum of a segment's gradients.
    Seeds run side by side.
    """
    segment, block = streaming.segment, streaming.block
    check_alone()
    # Side by side, lists of synapses would each be gathered by indices of their own, which is slow.
    mesh = None if nodes(state.model, Sparse) else device_mesh(len(keys), 1)
    state = placed(state, mesh)
    xs, ys = placed(_drawn(data, stream_keys(keys)[0]), mesh)
    given: dict[str, Any] = dict(
        xs=xs, ys=ys, loss=loss, update=optimizer.update, streaming=streaming, mesh=mesh
    )

    def record(value, score, seconds):
        value, score = np.asarray(value), np.asarray(score)
        iteration = int(state.iteration)
        at = np.full(len(keys), iteration)
        raise_first(diverged(label, ~np.isfinite(value), at))
        radius = radius_of(state.model, rule=rule)
        if radius is not None:
            radius = np.asarray(radius)
            raise_first(unstable(state.model, rule, label, iteration, radius))
        return Record(iteration, value, score, seconds, radius)

    if state.iteration == 0:
        first = xs[:, :block], ys[:, :block]
        # one program for all rules, which are no part of it
        plain = with_rule(state.model, BPTT())
        untrained = _untrained(plain, *first, loss=loss, segment=segment, mesh=mesh)
        yield state, record(*untrained, math.nan)
    done = int(state.iteration) * streaming.iteration
    compiled: dict[int, Any] = {}
    advance: Any = _advance
    while done < streaming.total:
        count = min(block, streaming.total - done) // segment
        if count not in compiled:
            compiled[count] = advance.lower(state, **given, count=count).compile()
        began = time.perf_counter()
        advanced = compiled[count](state, **given, count=count)
        state, broken, value, score = jax.block_until_ready(advanced)
        seconds = (time.perf_counter() - began) / (count * segment // streaming.iteration)
        done += count * segment
        at, faults = np.asarray(broken).T
        raise_first(diverged(label, at >= 0, at + 1, faults, state.model))
        yield state, record(value, score, seconds)


@eqx.filter_jit
def _drawn(data: Data, keys: Key[Array, " seeds"]) -> tuple[Array, Array]:
    """Every seed's whole stream."""
    return jax.vmap(data)(keys)


@eqx.filter_jit
def _advance(
    state: State,
    *,
    xs: Float[Array, "seeds T batch m"],
    ys: Array,
    loss: OutputLoss,
    update: Callable[..., Any],
    streaming: Streaming,
    count: int,
    mesh: Mesh | None,
) -> tuple[State, Int[Array, "seeds 2"], Float[Array, " seeds"], Float[Array, " seeds"]]:
    """`count` segments of every seed; the first that was not sound (or −1) and its `fault`, the
    loss and the score."""
    segment, iterations = streaming.segment, streaming.segment // streaming.iteration
    gradient = online_value_and_grad(functools.partial(_segment_loss, loss), segment=segment)

    def one_seed(each):
        model, opt_state, carry, xs, ys = each
        arrays, static = eqx.partition((model, opt_state, carry), eqx.is_array)
        shape = eqx.filter_eval_shape(_outputs, with_rule(model, BPTT()), xs[:segment])
        silent = jnp.zeros(shape.shape, shape.dtype)

        def step(arrays, start):
            model, opt_state, carry = eqx.combine(arrays, static)
            seen = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, segment), (xs, ys))
            (_, (carry, outputs)), grads = gradient(model, (carry, silent), *seen)
            params = eqx.filter(model, eqx.is_inexact_array)
            with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
                updates, opt_state = update(grads, opt_state, params)
            model = eqx.apply_updates(model, updates)
            found = fault(model, (grads, outputs))
            return eqx.filter((model, opt_state, carry), eqx.is_array), (outputs, found)

        first = state.iteration * streaming.iteration
        starts = first + segment * jnp.arange(count, dtype=first.dtype)
        arrays, (outputs, faults) = jax.lax.scan(step, arrays, starts)
        labels = jax.lax.dynamic_slice_in_dim(ys, first, count * segment)
        value, score = loss(outputs.reshape(count * segment, *outputs.shape[2:]), labels)
        index = jnp.argmax(faults > 0)
        after = state.iteration + iterations * index.astype(first.dtype)
        broken = jnp.stack([jnp.where(faults[index] > 0, after, -1), faults[index]])
        return arrays, broken, value, score

    before = state.model, state.opt_state, state.carry
    arrays, *rest = _each_seed(one_seed, (*before, xs, ys), mesh)
    model, opt_state, carry = eqx.combine(arrays, before)
    after = State(model, opt_state, state.iteration + iterations * count, carry)
    return placed(after, mesh), *rest


def _outputs(model: StreamNetwork, xs: Array) -> Array:
    """Of a first segment."""
    return model.online(xs, model.init(xs.shape[1:2]))[1]


def _segment_loss(
    loss: OutputLoss, model: StreamNetwork, carry: PyTree, xs: Array, ys: Array
) -> tuple[Array, PyTree]:
    """A segment's loss, a sum over its steps; its outputs go along in the carry."""
    carry, outputs = model.online(xs, carry[0], context=ys)
    return len(xs) * loss(outputs, ys)[0], (carry, outputs)


@eqx.filter_jit
def _untrained(
    model: StreamNetwork,
    xs: Array,
    ys: Array,
    *,
    loss: OutputLoss,
    segment: int,
    mesh: Mesh | None,
) -> tuple[Array, Array]:
    """Segment by segment, as large networks have too many emissions to hold more of them."""

    def one_seed(each):
        model, xs, ys = each
        cut = xs.reshape(-1, segment, *xs.shape[1:])
        _, outputs = jax.lax.scan(lambda c, x: model.online(x, c), model.init(xs.shape[1:2]), cut)
        return loss(outputs.reshape(-1, *outputs.shape[2:]), ys)

    return _each_seed(one_seed, (model, xs, ys), mesh)


def _each_seed(function: Callable[[PyTree], PyTree], tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Of each seed's part: those of a device side by side, with lists of synapses in turn."""
    return over_seeds(function, tree, mesh, in_turn=bool(nodes(tree, Sparse)))
