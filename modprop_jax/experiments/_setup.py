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
from jaxtyping import Array, Key

from .._rate_cost import rate_cost
from ..tasks import Preset, TASKS
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
    return _setup(config.task, json.dumps(config.to_dict()["settings"], sort_keys=True))


def seed_keys(config: Config) -> tuple[Key[Array, " seeds"], Key[Array, " seeds"]]:
    """Keys of the initial weights and of the training; seed s has the same in any run."""
    pairs = jax.vmap(lambda seed: jr.split(jr.key(seed)))(jnp.arange(config.seeds))
    return pairs[:, 0], pairs[:, 1]


@functools.lru_cache(maxsize=16)
def _setup(task_name: str, settings: str) -> Setup:
    task, preset = TASKS[task_name], Preset(**json.loads(settings))
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
