"""What stops a run: NaN or infinity, a constant out of its range, or an unstable transport."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from .._cell._base import dynamics
from .._grad import in_range
from .._rnn import layers
from .._rule import AbstractRule
from .._rule.modprop._rule import transport_radius
from .._tree import inexact
from ._processes import whole


class TrainingDiverged(FloatingPointError):
    """The loss, a gradient or a parameter became NaN or infinite, or left its range."""

    def __init__(self, label: str, seed: int, iteration: int, condition: str | None = None):
        came = "NaN or infinity in the loss, a gradient or a parameter"
        fix = (
            "Try a smaller learning rate, clipped gradients (optax.clip_by_global_norm) or, for "
            "ModProp, a smaller mu. A network that does not settle has a NaN gradient: weaker "
            "weights or damping may help."
        )
        if condition is not None:
            came = f"{condition}, but it has been trained out of that"
            fix = "Give the cell Positive(value) or Between(value, low, high), which stay in range."
        message = f"rule {label}, seed {seed}: {came} at iteration {iteration}. {fix}"
        FloatingPointError.__init__(self, message)
        self.seed, self.iteration = seed, iteration


class RuleUnstable(ValueError):
    """The transport of a rule has a spectral radius above 1: credit would grow without bound."""

    def __init__(self, label: str, seed: int, iteration: int, why: object):
        ValueError.__init__(self, f"rule {label}, seed {seed}, iteration {iteration}: {why}")
        self.seed, self.iteration = seed, iteration


@eqx.filter_jit
def radius_of(model: PyTree, *, rule: AbstractRule | None) -> Array | None:
    """The largest of the layers' radii, by seed; None if no rule has one."""

    def one_seed(model):
        pairs = [(rule or layer.rule, dynamics(layer.cell)) for layer in layers(model)]
        found = [transport_radius(*pair) for pair in pairs]
        found = [radius for radius in found if radius is not None]
        return jnp.stack(found).max() if found else None

    return eqx.filter_vmap(one_seed)(model)


def all_finite(tree: PyTree) -> Array:
    """Whether no array of the tree holds NaN or infinity."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, finite)


def fault(model: PyTree, tree: PyTree) -> Int[Array, ""]:
    """0: none; 1: NaN or infinity in a parameter or in `tree`; 2 + k: condition k of the model."""
    conditions = in_range(model).values()
    found = jnp.int32(0)
    for index, holds in reversed(list(enumerate(conditions))):
        found = jnp.where(holds, found, 2 + index)
    return jnp.where(all_finite((inexact(model), tree)), found, 1)


Stops = dict[int, TrainingDiverged | RuleUnstable]
"""Why which seed can't go on."""


def unstable(
    model: PyTree, rule: AbstractRule | None, label: str, iteration: int, radius: np.ndarray
) -> Stops:
    """Seeds in which the rule's own check fails, from the largest radius down to the first in which
    it holds; its message names a safe mu."""
    found: Stops = {}
    for seed in np.argsort(-radius).tolist():
        try:
            for layer in layers(jax.tree.map(lambda a: a[seed] if eqx.is_array(a) else a, model)):
                (rule or layer.rule).check(layer.cell)
        except ValueError as error:
            found[seed] = RuleUnstable(label, seed, iteration, error)
        else:
            break
    return found


def diverged(
    label: str,
    bad: np.ndarray,
    iterations: np.ndarray,
    faults: np.ndarray | None = None,
    model: PyTree = None,
) -> Stops:
    """Seeds that are bad, with the iteration at which they were; the first to break first.

    `faults`: what `fault` has found of the model, by seed.
    """
    found: Stops = {}
    for seed in np.argsort(iterations, kind="stable").tolist():
        if bad[seed]:
            number = 1 if faults is None else int(faults[seed])
            condition = list(in_range(model))[number - 2] if number > 1 else None
            found[seed] = TrainingDiverged(label, seed, int(iterations[seed]), condition)
    return found


def raise_first(stops: Stops) -> None:
    """Raise the first, if there is any."""
    for error in stops.values():
        raise error


def held_back(state: Any, before: Any, stops: Stops) -> Any:
    """A `State` with the seeds that can't go on, now or earlier, as they were `before`.

    Raises the first of `stops` if seeds may not stop alone (`stopped` is None), or if none is left.
    """
    if state.stopped is None:
        raise_first(stops)
        return state
    stopped = np.array(whole(state.stopped))
    new = {seed: error for seed, error in stops.items() if stopped[seed] < 0}
    for seed, error in new.items():
        stopped[seed] = error.iteration
    if (stopped >= 0).all():
        raise_first(new)
    if not (stopped >= 0).any():
        return state
    parts = [(each.model, each.opt_state) for each in (before, state)]
    (model, opt_state), held = _of_seeds(stopped, *parts)
    return dataclasses.replace(state, model=model, opt_state=opt_state, stopped=held)


@eqx.filter_jit
def _of_seeds(
    stopped: Int[np.ndarray, " seeds"], one: PyTree, other: PyTree
) -> tuple[PyTree, Array]:
    """Arrays that lead with seeds, of the one tree where these have stopped, else of the other."""

    def choose(a, b):
        first = stopped.reshape(-1, *[1] * (a.ndim - 1)) >= 0 if eqx.is_array(a) else None
        return b if first is None else jnp.where(first, a, b)

    # NumPy's, which several processes have alike: made an array with theirs
    return jax.tree.map(choose, one, other), jnp.asarray(stopped)
