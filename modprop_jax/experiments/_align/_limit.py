"""How close any filters of ModProp's locality would come, on the networks that `align` trains."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Key, PyTree

from ..._rule import EProp
from ...diagnostics import credit_limit
from ...tasks import Preset, TASKS
from .. import _schema as schema
from .._network import cell_types
from .._processes import whole
from .._setup import setup
from .._train import Loss
from ._config import AlignConfig


# training batches: those that filters are fitted to, and those that they are judged on
_FITTED, _HELD_OUT = 8, 4


def limit_names(config: AlignConfig) -> tuple[str, ...]:
    """Of what is measured: numbers of types, without and with a gate."""
    return tuple(f"{count} types{gate}" for gate in ("", ", gated") for count in config.limit)


def limits(config: AlignConfig) -> Callable[[PyTree, Key[Array, " seeds"]], list[list[float]]]:
    """A function of networks and keys: the best filters' held-out cosine with BPTT, of each of
    `limit_names` by seed; the same function for the same settings."""
    settings = schema.as_text(config.settings)
    return _limits(setup(config.run).loss, config.run.task, settings, config.limit)


@functools.lru_cache(maxsize=8)
def _limits(loss: Loss, task: str, settings: str, counts: tuple[int, ...]) -> Callable:
    preset = schema.from_text(Preset, settings)
    types = cell_types(preset.network)

    def scalar(*args):
        return loss(*args)[0]

    @jax.jit
    def trials(key):
        keys = jr.split(key, _FITTED + _HELD_OUT)
        return [TASKS[task].batch(each, preset.schedule.batch, **preset.data) for each in keys]

    def of_seed(arrays, static, key):
        # the largest number of exponentials only: `credit_limit` has the others
        found = credit_limit(
            scalar,
            eqx.combine(jax.tree.map(jnp.asarray, arrays), static),
            [tuple(batch) for batch in trials(jr.fold_in(key, 3))],  # 0 to 2 are others'
            types=types,
            counts=counts,
            memory=(5,),
            held_out=_HELD_OUT,
            rules=EProp(),
        )
        return found.held_out_cosine[:, :, 0].ravel()

    def measure(model, keys):
        arrays, static = eqx.partition(whole(model), eqx.is_array)
        arrays = jax.tree.map(np.asarray, arrays)
        each = [
            of_seed(jax.tree.map(lambda a, s=seed: a[s], arrays), static, key)
            for seed, key in enumerate(keys)
        ]
        return np.stack(each, axis=1).tolist()

    return measure
