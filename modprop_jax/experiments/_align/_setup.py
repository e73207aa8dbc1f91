"""From a configuration of `align` to the functions that train its networks."""

import functools

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from ... import optim
from ...tasks import Preset
from .. import _schema as schema
from .._network import dales_law, only_existing, weights
from .._setup import Setup, setup
from .._train import initial_state, State
from ._config import AlignConfig


def align_setup(config: AlignConfig) -> Setup:
    """As `compare`'s, with the optimizer that `align` was asked for."""
    parts = setup(config.run)
    if config.optimizer == "adam":
        return parts
    return _with_sgd(parts, schema.as_text(config.settings))


def at_rate(state: State, rate: float) -> State:
    """The state of plain SGD at another learning rate, which compiles nothing anew."""
    return eqx.tree_at(
        lambda s: s.opt_state.hyperparams["learning_rate"],
        state,
        replace_fn=lambda old: jnp.full_like(old, rate),
    )


@functools.lru_cache(maxsize=16)
def _with_sgd(parts: Setup, settings: str) -> Setup:
    optimizer = plain_sgd(schema.from_text(Preset, settings))

    @eqx.filter_jit
    def start(keys: Key[Array, " seeds"]) -> State:
        return initial_state(parts.start(keys).model, optimizer)

    return parts._replace(start=start, optimizer=optimizer)


def plain_sgd(preset: Preset) -> optax.GradientTransformation:
    """SGD without momentum, the L2 term of the objective, and Dale's law.

    The learning rate is part of the optimizer's state.
    """

    def descend(learning_rate):
        steps = [
            optax.add_decayed_weights(preset.objective.l2, mask=weights),
            optax.sgd(learning_rate),
        ]
        network = preset.network
        return optax.chain(*steps, *only_existing(network), *dales_law(network, optim.dale))

    return optax.inject_hyperparams(descend)(learning_rate=preset.optimizer.learning_rate)
