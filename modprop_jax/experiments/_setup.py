"""From a configuration to the functions that train it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from .._rate_cost import rate_cost
from ..tasks import Preset, Task
from . import _own as own, _own_network as own_network, _schema as schema
from ._config import Config
from ._network import build_network, build_optimizer, Network
from ._train import Data, initial_state, Loss, State
from ._wiring import wires_of


class Setup(NamedTuple):
    """What all rules of a configuration share."""

    start: Callable[[Key[Array, " seeds"]], State]
    loss: Loss
    data: Data
    evaluate: Data
    optimizer: optax.GradientTransformation


class _Made(NamedTuple):
    """What all learning rates share, too."""

    models: Callable[[Key[Array, " seeds"]], PyTree]
    loss: Loss
    data: Data
    evaluate: Data


class _Same:
    """A key of a cache that is what it holds: two things of one name are two."""

    def __init__(self, thing: Any):
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing


def setup(config: Config) -> Setup:
    """The same objects for the same settings: compiled functions are kept by their identity."""
    network = None if config.network is None else _Same(own.find(config.network))
    settings = schema.as_text(config.settings)
    return _setup(_Same(own.find_task(config.task)), config.tuning, settings, network)


@functools.lru_cache(maxsize=64)
def _setup(task: _Same, tuning: bool, settings: str, network: _Same | None) -> Setup:
    preset = schema.from_text(Preset, settings)
    optimizer = build_optimizer(preset)
    # what is compiled at one learning rate serves all others
    shared = schema.as_text(preset.replace(learning_rate=1.0))
    if network is None:
        made = _made(task, tuning, shared)
    else:
        made = _own_made(task, tuning, shared, network)

    def start(keys: Key[Array, " seeds"]) -> State:
        return initial_state(made.models(keys), optimizer)

    return Setup(start, made.loss, made.data, made.evaluate, optimizer)


def seed_keys(config: Config) -> tuple[Key[Array, " seeds"], Key[Array, " seeds"]]:
    """Keys of the initial weights and of the training; seed s has the same in any run."""
    seeds = config.first_seed + jnp.arange(config.seeds)
    pairs = jax.vmap(lambda seed: jr.split(jr.key(seed)))(seeds)
    return pairs[:, 0], pairs[:, 1]


@functools.lru_cache(maxsize=16)
def _made(given: _Same, tuning: bool, settings: str) -> _Made:
    task, preset = _task(given, tuning), schema.from_text(Preset, settings)
    objective = preset.objective

    @eqx.filter_jit
    def make(keys, wires):
        return eqx.filter_vmap(lambda key: build_network(task, preset, key, wires))(keys)

    def models(keys: Key[Array, " seeds"]) -> PyTree:
        # lists are arguments: as constants the program would hold them
        return make(keys, wires_of(task, preset))

    def loss(model: Network, xs: Array, ys: Array) -> tuple[Array, Array]:
        zs = model.emissions(xs)
        value, score = task.loss(model.read(zs), ys)
        if objective.rate_cost:
            counts = zs[-1, ..., model.readout.weight.shape[-1] :]
            target, strength = objective.rate_target, objective.rate_cost
            cost = rate_cost(counts, len(xs), target=target, strength=strength)
            # Its gradient only: the loss that is reported is the task's.
            value = value + (cost - jax.lax.stop_gradient(cost))
        return value, score

    return _Made(models, loss, *_drawn(task, preset))


def _drawn(task: Task, preset: Preset) -> tuple[Data, Data]:
    """Training batches, or the whole stream; and what is evaluated on."""
    schedule, segment = preset.schedule, preset.schedule.segment
    steps = {} if segment is None else {"steps": schedule.iterations * segment}
    return (
        functools.partial(task.batch, batch=schedule.batch, **{**preset.data, **steps}),
        functools.partial(task.evaluation, **preset.data),
    )


def _task(given: _Same, tuning: bool) -> Task:
    return given.thing.of_tuning() if tuning else given.thing


@functools.lru_cache(maxsize=16)
def _own_made(given: _Same, tuning: bool, settings: str, network: _Same) -> _Made:
    """Of a network of one's own."""
    task, preset = _task(given, tuning), schema.from_text(Preset, settings)

    def make(key: PRNGKeyArray) -> eqx.Module:
        return own_network.make_network(network.thing, task, preset, key)

    @eqx.filter_jit
    def models(keys: Key[Array, " seeds"]) -> PyTree:
        return eqx.filter_vmap(make)(keys)

    def loss(model: PyTree, xs: PyTree, ys: PyTree) -> tuple[Array, Array]:
        reads = preset.objective.readout_steps or task.readout
        outputs, cost = own_network.outputs_of(model, xs, reads)
        value, score = task.loss(outputs, ys)
        # Its gradient only: the loss that is reported is the task's.
        return value if cost is None else value + (cost - jax.lax.stop_gradient(cost)), score

    data, evaluate = _drawn(task, preset)
    draws = own_network.takes_key(jax.eval_shape(make, jr.key(0)))
    if preset.schedule.segment is None and draws:
        data, evaluate = own_network.with_key(data), own_network.with_key(evaluate)
    return _Made(models, loss, data, evaluate)
