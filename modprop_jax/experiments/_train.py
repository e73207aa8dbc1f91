"""The training loop: any model, loss, optimizer and data; several seeds in one program."""

import functools
import math
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._grad import value_and_grad
from .._precision import widened
from .._rule import AbstractRule, BPTT
from ..diagnostics._pairs import cosine
from ._devices import device_mesh, mesh_of, over_seeds, placed
from ._processes import check_divided, whole
from ._soundness import diverged, fault, held_back, radius_of, raise_first, Stops, unstable


Data = Callable[[PRNGKeyArray], tuple[Array, Array]]
Loss = Callable[[Any, Array, Array], tuple[Array, Array]]


class Record(NamedTuple):
    """One evaluation; `loss` and `accuracy` have the shape of `train`'s key."""

    iteration: int
    loss: np.ndarray
    accuracy: np.ndarray
    seconds: float
    """Per iteration since the last evaluation, without compilation; NaN at first."""
    radius: np.ndarray | None = None
    """Spectral radius of the rule's transport, where it has one; of the shape of `loss`."""
    stopped: Mapping[int, str] = types.MappingProxyType({})
    """Why which seeds went no further, since the last evaluation, where seeds may stop alone."""


class State(eqx.Module):
    """All that a run carries over an iteration; arrays lead with an axis of seeds."""

    model: PyTree
    opt_state: PyTree
    iteration: Int[Array, ""]
    carry: PyTree = None
    """On streams: what the networks carry from segment to segment."""
    stopped: Int[Array, " seeds"] | None = None
    """Where a seed met NaN, infinity or an unstable rule, after which it is as it was at its last
    evaluation, while others go on; −1: nowhere. None: then all stop."""


def train(
    model: PyTree,
    data: Data,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    key: Array,
    iterations: int,
    rule: AbstractRule | None = None,
    evaluate: Data | None = None,
    eval_every: int = 100,
) -> tuple[PyTree, list[Record]]:
    """Train a model under a credit rule.

    Data, gradient and optimizer steps between two evaluations are one compiled loop on
    the device; the host sees results once in `eval_every` iterations.

    **Arguments:**

    - `model`: any equinox model with `RNN` layers.
    - `data(key) -> (xs, ys)`: a training batch, xs of shape `(T, batch, features)`.
      Iteration i gets its own key, whatever the rule: two rules with one `key` see the
      same data.
    - `loss(model, xs, ys) -> (loss, accuracy)`: scalars; the gradient is that of
      `loss`.
    - `optimizer`: any optax transformation.
    - `key`: a PRNG key; or several, of shape `(S,)`, to train S models at once: then
      the array leaves of `model` have a leading axis S (as
      `eqx.filter_vmap(make_model)(keys)` makes them). Seeds and batch are spread over
      all devices.
    - `iterations`: number of optimizer steps.
    - `rule`: the credit rule of every `RNN` layer; by default each layer's own.
    - `evaluate(key) -> (xs, ys)`: data to evaluate on, one fixed draw; by default as
      `data`.
    - `eval_every`: iterations from one evaluation to the next.

    **Returns:** the trained model, and a `Record` for the start and for each
    evaluation.

    **Raises:** `TrainingDiverged` as soon as an evaluation finds NaN or infinity in the
    loss, or in any gradient or parameter since the last one; `RuleUnstable` as soon as one finds
    that the weights make ModProp's transport unstable.

    **Example:**

    >>> import jax, optax, modprop_jax as mpj
    >>> from modprop_jax.experiments import Network, train
    >>> k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
    >>> cell = mpj.LeakyCell(2, 8, tau=5.0, key=k1)
    >>> net = Network(mpj.RNN(cell), mpj.Readout(8, 2, key=k2))
    >>> def data(key):
    ...     return mpj.tasks.delayed_xor(key, 16, cue=4, delay=2)
    >>> def loss(net, xs, ys):
    ...     return mpj.tasks.cross_entropy(net(xs), ys)
    >>> net, history = train(
    ...     net, data, loss, optax.adam(1e-2), key=k3, iterations=4, eval_every=2,
    ...     rule=mpj.EProp(),
    ... )
    >>> [record.iteration for record in history]
    [0, 2, 4]
    """
    if iterations < 0 or eval_every < 1:
        raise ValueError(
            "train needs iterations >= 0 and eval_every >= 1, but got "
            f"iterations={iterations}, eval_every={eval_every}."
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim > 1:
        raise ValueError(
            "train needs typed keys, jax.random.key(seed), one or a vector of them, but got "
            f"{key.dtype} of shape {key.shape}."
        )
    single = key.ndim == 0
    arrays, static = eqx.partition(model, eqx.is_array)
    if single:
        arrays = jax.tree.map(lambda a: a[None], arrays)
    state = initial_state(eqx.combine(arrays, static), optimizer)
    history = []
    for state, record in iterate(
        state,
        key[None] if single else key,
        loss=loss,
        data=data,
        evaluate=evaluate or data,
        optimizer=optimizer,
        rule=rule,
        iterations=iterations,
        eval_every=eval_every,
    ):
        if single:
            record = record._replace(loss=record.loss[0], accuracy=record.accuracy[0])
        history.append(record)
    if single:
        arrays, static = eqx.partition(state.model, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda a: a[0], arrays), static), history
    return state.model, history


def initial_state(model: PyTree, optimizer: optax.GradientTransformation) -> State:
    """Iteration 0 of stacked models: the leading axis of every array is the seed."""
    opt_state = eqx.filter_vmap(lambda m: optimizer.init(eqx.filter(m, eqx.is_inexact_array)))(
        model
    )
    return State(model, opt_state, jnp.zeros((), jnp.int32))


def iterate(
    state: State,
    keys: Key[Array, " seeds"],
    *,
    loss: Loss,
    data: Data,
    evaluate: Data,
    optimizer: optax.GradientTransformation,
    rule: AbstractRule | None,
    iterations: int,
    eval_every: int,
    label: str = "",
) -> Iterator[tuple[State, Record]]:
    """Yield the state at each evaluation, from iteration 0 or from a later state on.

    Going on from a yielded state gives the same numbers as never having stopped.
    """
    label = label or ("of each layer" if rule is None else type(rule).__name__)
    data_keys, eval_keys = stream_keys(keys)
    batch = jax.tree.leaves(jax.eval_shape(data, keys[0])[0])[0].shape[1]
    mesh = device_mesh(len(keys), batch)
    check_divided(len(keys), batch, mesh)
    state = placed(state, mesh)
    advance = functools.partial(
        _advance, loss=loss, data=data, update=optimizer.update, rule=rule, mesh=mesh
    )
    iteration = int(state.iteration)

    def measured(state: State) -> tuple[np.ndarray, np.ndarray, Stops]:
        found = _evaluate(state.model, eval_keys, loss=loss, data=evaluate, mesh=mesh)
        value, accuracy = map(np.asarray, whole(found))
        at = np.full(len(keys), iteration)
        return value, accuracy, diverged(label, ~np.isfinite(value), at)

    def evaluated(
        state: State, before: State, stops: Stops, seconds: float
    ) -> tuple[State, Record]:
        already = [] if state.stopped is None else np.flatnonzero(whole(state.stopped) >= 0)
        state = held_back(state, before, stops)
        value, accuracy, found = measured(state)
        if found:
            if iteration == 0:  # as they were made: there is nothing to go back to
                raise_first(found)
            state, stops = held_back(state, before, found), stops | found
            value, accuracy, _ = measured(state)
        radius = whole(radius_of(state.model, rule=rule))
        if radius is not None:
            radius = np.asarray(radius)
            found = unstable(whole(state.model), rule, label, iteration, radius)
            state, stops = held_back(state, state, found), found | stops
        new = {seed: str(error) for seed, error in stops.items() if seed not in already}
        return placed(state, mesh), Record(iteration, value, accuracy, seconds, radius, new)

    if iteration == 0:
        state, found = evaluated(state, state, {}, math.nan)
        yield state, found
    if iteration < iterations:
        # No iteration at all, but the one compilation: times below are without it.
        jax.block_until_ready(advance(state, data_keys, jnp.int32(0)))
    while iteration < iterations:
        count = min(eval_every - iteration % eval_every, iterations - iteration)
        began, before = time.perf_counter(), state
        after, broken = jax.block_until_ready(advance(state, data_keys, jnp.int32(count)))
        seconds = (time.perf_counter() - began) / count
        iteration += count
        at, faults = np.asarray(whole(broken)).T
        stops = diverged(label, at >= 0, at + 1, faults, after.model)
        state, found = evaluated(after, before, stops, seconds)
        yield state, found


def cosines(
    model: PyTree,
    keys: Key[Array, " seeds"],
    iteration: int,
    *,
    loss: Loss,
    data: Data,
    rule: AbstractRule | None,
) -> np.ndarray:
    """Cosine of the rule's gradient to BPTT's on that iteration's batch, by seed."""
    data_keys, _ = stream_keys(keys)
    at = model, data_keys, jnp.int32(iteration)
    options: dict[str, Any] = dict(loss=loss, data=data, mesh=mesh_of(model))
    # a program for each rule: that of BPTT serves all
    found = _cosine(*(_gradient(*at, **options, rule=each) for each in (rule, BPTT())))
    return np.asarray(whole(found))


def stream_keys(
    keys: Key[Array, " seeds"],
) -> tuple[Key[Array, " seeds"], Key[Array, " seeds"]]:
    """Keys of the training and of the evaluation data of each seed."""
    pairs = jax.vmap(jr.split)(keys)
    return pairs[:, 0], pairs[:, 1]


@eqx.filter_jit
def _advance(
    state: State,
    keys: Key[Array, " seeds"],
    count: Int[Array, ""],
    *,
    loss: Loss,
    data: Data,
    update: Callable[..., Any],
    rule: AbstractRule | None,
    mesh: Mesh | None,
) -> tuple[State, Int[Array, "seeds 2"]]:
    """`count` iterations of every seed, and the first one that was not sound (or −1), with `fault`.

    `count` is traced, so that a shorter last block is no second compilation.
    """
    gradient = value_and_grad(loss, rule, has_aux=True)

    def one_seed(start, key):
        arrays, static = eqx.partition(start, eqx.is_array)

        def step(i, carry):
            arrays, broken = carry
            model, opt_state = eqx.combine(arrays, static)
            xs, ys = data(jr.fold_in(key, i))
            if mesh is not None:
                over_batch = NamedSharding(mesh, P(None, "batch"))
                xs = jax.tree.map(
                    lambda a: jax.lax.with_sharding_constraint(a, over_batch) if a.ndim > 1 else a,
                    xs,
                )
            (value, _), grads = gradient(model, xs, ys)
            params = eqx.filter(model, eqx.is_inexact_array)
            with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
                updates, opt_state = update(grads, opt_state, params)
            model = eqx.apply_updates(model, updates)
            found = fault(model, (value, grads))
            broken = jnp.where((broken[0] < 0) & (found > 0), jnp.stack([i, found]), broken)
            return eqx.filter((model, opt_state), eqx.is_array), broken

        first, last = state.iteration, state.iteration + count
        return jax.lax.fori_loop(first, last, step, (arrays, jnp.array([-1, 0], jnp.int32)))

    start = (state.model, state.opt_state)
    arrays, broken = _each_seed(one_seed, start, keys, mesh)
    model, opt_state = eqx.combine(arrays, start)
    after = State(model, opt_state, state.iteration + count, stopped=state.stopped)
    return placed(after, mesh), broken


@eqx.filter_jit
def _evaluate(
    model: PyTree, keys: Key[Array, " seeds"], *, loss: Loss, data: Data, mesh: Mesh | None
):
    return _each_seed(lambda m, key: loss(m, *data(key)), model, keys, mesh)


@eqx.filter_jit
def _gradient(
    model: PyTree,
    keys: Key[Array, " seeds"],
    iteration: Int[Array, ""],
    *,
    loss: Loss,
    data: Data,
    rule: AbstractRule | None,
    mesh: Mesh | None,
) -> Float[Array, "seeds P"]:
    def one_seed(model, key):
        xs, ys = data(jr.fold_in(key, iteration))
        _, found = value_and_grad(lambda *a: loss(*a)[0], rule)(model, xs, ys)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(widened(found))])

    return _each_seed(one_seed, model, keys, mesh)


@jax.jit
def _cosine(found: Float[Array, "seeds P"], exact: Float[Array, "seeds P"]) -> Array:
    return jax.vmap(cosine)(found, exact)


def _each_seed(
    function: Callable[[PyTree, PRNGKeyArray], PyTree],
    tree: PyTree,
    keys: Key[Array, " seeds"],
    mesh: Mesh | None,
) -> PyTree:
    """The function of each seed's part of `tree`.

    On a CPU those of a device go one after the other: side by side they share its cache, which took
    twice the time for large networks, and saved none for small ones.
    """
    in_turn = jax.default_backend() == "cpu"
    return over_seeds(lambda each: function(*each), (tree, keys), mesh, in_turn=in_turn)
