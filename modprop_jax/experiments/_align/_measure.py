"""What `align` measures on a network: gradients, curvature, generalisation, credit by lag."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Key, PyTree

from ...diagnostics import alignment_matrix, credit_profile, generalisation_gap, hessian_top
from ...tasks import Preset, TASKS
from .. import _schema as schema
from .._cells import CELLS
from .._devices import mesh_of, over_seeds
from .._network import cell_types, recurrent_weights
from .._rules import build_rule
from .._setup import setup
from .._train import Data, Loss, stream_keys
from ._config import AlignConfig


# The training loss is over so many times the trials of the gradients.
_LARGER = 4
# Of a gradient with another's: fields of `AlignmentMatrix`.
_ANGLES = ("cosine", "projection", "norm_ratio", "sign_agreement")


class Measurements(NamedTuple):
    """Compiled functions of `(networks, keys)`, seed by seed, whose values are plain lists."""

    network: Callable[[PyTree, Key[Array, " seeds"]], dict[str, Any]]
    """Gradients, curvature and generalisation; `matrix`, all rules against each other, as means."""
    profile: Callable[[PyTree, Key[Array, " seeds"]], dict[str, Any]]
    """The credit by lag, as means over seeds; nothing for cells other than neuron cells."""


def measurements(config: AlignConfig) -> Measurements:
    """The same functions for the same settings."""
    parts = setup(config.run)
    settings = schema.as_text(config.settings)
    key = config.run.task, settings, config.measured, config.measure, config.noise
    return _measurements(parts.loss, parts.evaluate, *key)


@functools.lru_cache(maxsize=8)
def _measurements(
    loss: Loss,
    evaluate: Data,
    task: str,
    settings: str,
    labels: tuple[str, ...],
    size: int,
    noise: float,
) -> Measurements:
    preset = schema.from_text(Preset, settings)
    types = cell_types(preset.network)
    rules = {label: build_rule(label, types, mu=preset.mu) for label in labels}
    exact = labels.index("bptt")
    bounds = _unit_bounds(evaluate)

    def trials(key, count):
        return TASKS[task].batch(key, count, **preset.data)

    recurrent = recurrent_weights(preset.network)

    def scalar(*args):
        return loss(*args)[0]

    @_by_seed
    def network(model, key, eval_key):
        batch_key, larger_key, noise_key, start_key = jr.split(key, 4)
        batch = trials(batch_key, size)
        larger = trials(larger_key, _LARGER * size)
        top = hessian_top(scalar, model, *batch, where=recurrent, key=start_key)
        gap = generalisation_gap(
            loss, model, larger, evaluate(eval_key), key=noise_key, sd=noise, bounds=bounds
        )
        matrix = alignment_matrix(scalar, model, *batch, rules=rules)
        by_seed = {
            "curvature": top.eigenvalue,
            "curvature_residual": top.residual,
            "curvature_lowest": top.lowest,
            "train_loss": gap.train_loss,
            "train_accuracy": gap.train_accuracy,
            "noisy_loss": gap.noisy_loss.mean(),
            "noisy_loss_sd": gap.noisy_loss_sd,
            "noisy_accuracy": gap.noisy_accuracy.mean(),
            "noisy_accuracy_sd": gap.noisy_accuracy_sd,
        }
        return by_seed, {name: getattr(matrix, name) for name in _ANGLES}

    @_by_seed
    def credit(model, key, eval_key):
        del eval_key
        batch_key, *_ = jr.split(key, 4)
        found = credit_profile(scalar, model, *trials(batch_key, size), rules=rules)
        return {"ratio": found.ratio, "cosine": found.cosine, "norm": found.norm}

    def lists(model, keys):
        by_seed, matrix = network(model, keys)
        to_exact = {
            name: dict(zip(labels, plain(each[:, :, exact].T))) for name, each in matrix.items()
        }
        return jax.tree.map(plain, by_seed) | to_exact | {"matrix": _means(matrix)}

    def profile(model, keys):
        # the profile is of credit on neurons' drives
        if CELLS[preset.network.cell].synapses != "neurons":
            return {}
        return {"credit": _means(credit(model, keys))}

    return Measurements(lists, profile)


def _means(by_seed: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: plain(values.mean(0)) for name, values in by_seed.items()}


def plain(values: object) -> Any:
    """Nested lists for JSON, which has no NaN: None in its place."""
    values = np.asarray(values, dtype=float)
    objects = values.astype(object)
    objects[~np.isfinite(values)] = None
    return objects.tolist()


def _by_seed(measure: Callable) -> Callable:
    """A device takes one network after the other: batches are large, and Lanczos may stop early."""

    @eqx.filter_jit
    def compiled(model, keys, mesh):
        own_keys = jax.vmap(lambda key: jr.fold_in(key, 2))(keys)  # 0 and 1 are the streams'
        given = model, own_keys, stream_keys(keys)[1]
        return over_seeds(lambda each: measure(*each), given, mesh, in_turn=True)

    return lambda model, keys: jax.tree.map(np.asarray, compiled(model, keys, mesh_of(model)))


def _unit_bounds(evaluate: Data) -> tuple[float, float] | None:
    """(0, 1) for data that lie in it, as pixels do: noise is then clipped; else None."""
    xs, _ = evaluate(jr.key(0))
    inside = jnp.all((xs >= 0) & (xs <= 1))
    return (0.0, 1.0) if bool(inside) else None
