"""From a configuration to the functions that train it."""

import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from .._rate_cost import rate_cost
from ..tasks import Preset, Task
from . import _own as own
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


def setup(config: Config) -> Setup:
    """The same objects for the same settings: compiled functions are kept by their identity."""
    settings = json.dumps(config.to_dict()["settings"], sort_keys=True)
    if config.network is None:
        return _setup(config.task, config.tuning, settings)
    return _own_setup(config.task, config.tuning, settings, config.network)


def seed_keys(config: Config) -> tuple[Key[Array, " seeds"], Key[Array, " seeds"]]:
    """Keys of the initial weights and of the training; seed s has the same in any run."""
    seeds = config.first_seed + jnp.arange(config.seeds)
    pairs = jax.vmap(lambda seed: jr.split(jr.key(seed)))(seeds)
    return pairs[:, 0], pairs[:, 1]


@functools.lru_cache(maxsize=16)
def _setup(task_name: str, tuning: bool, settings: str) -> Setup:
    task, preset = _task(task_name, tuning), Preset(**json.loads(settings))
    optimizer = build_optimizer(preset)

    @eqx.filter_jit
    def make(keys, wires):
        models = eqx.filter_vmap(lambda key: build_network(task, preset, key, wires))(keys)
        return initial_state(models, optimizer)

    def start(keys: Key[Array, " seeds"]) -> State:
        # lists are arguments: as constants the program would hold them
        return make(keys, wires_of(task, preset))

    def loss(model: Network, xs: Array, ys: Array) -> tuple[Array, Array]:
        zs = model.emissions(xs)
        value, score = task.loss(model.read(zs), ys)
        if preset.rate_cost:
            counts = zs[-1, ..., model.readout.weight.shape[-1] :]
            cost = rate_cost(counts, len(xs), target=preset.rate_target, strength=preset.rate_cost)
            # Its gradient only: the loss that is reported is the task's.
            value = value + (cost - jax.lax.stop_gradient(cost))
        return value, score

    steps = {} if preset.segment is None else {"steps": preset.iterations * preset.segment}
    return Setup(
        start,
        loss,
        functools.partial(task.batch, batch=preset.batch, **{**preset.data, **steps}),
        functools.partial(task.evaluation, **preset.data),
        optimizer,
    )


def _task(name: str, tuning: bool) -> Task:
    task = own.find_task(name)
    return task.of_tuning() if tuning else task


@functools.lru_cache(maxsize=16)
def _own_setup(task_name: str, tuning: bool, settings: str, network: str) -> Setup:
    """Of a network of one's own."""
    task, preset = _task(task_name, tuning), Preset(**json.loads(settings))
    optimizer = build_optimizer(preset)

    def make(key: PRNGKeyArray) -> eqx.Module:
        return own.make_network(network, task, preset, key)

    @eqx.filter_jit
    def start(keys: Key[Array, " seeds"]) -> State:
        return initial_state(eqx.filter_vmap(make)(keys), optimizer)

    def loss(model: PyTree, xs: PyTree, ys: PyTree) -> tuple[Array, Array]:
        outputs, cost = own.outputs_of(model, xs, preset.readout_steps or task.readout)
        value, score = task.loss(outputs, ys)
        # Its gradient only: the loss that is reported is the task's.
        return value if cost is None else value + (cost - jax.lax.stop_gradient(cost)), score

    data = functools.partial(task.batch, batch=preset.batch, **preset.data)
    evaluate = functools.partial(task.evaluation, **preset.data)
    if own.takes_key(jax.eval_shape(make, jr.key(0))):
        data, evaluate = own.with_key(data), own.with_key(evaluate)
    return Setup(start, loss, data, evaluate, optimizer)
