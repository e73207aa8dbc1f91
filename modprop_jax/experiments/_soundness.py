"""What stops a run: NaN or infinity, a constant out of its range, or an unstable transport."""

import functools

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


def check_stable(
    model: PyTree, rule: AbstractRule | None, label: str, iteration: int, radius: np.ndarray
) -> None:
    """The rule's own check, of the seed with the largest radius; its message names a safe mu."""
    seed = int(np.argmax(radius))
    for layer in layers(jax.tree.map(lambda a: a[seed] if eqx.is_array(a) else a, model)):
        try:
            (rule or layer.rule).check(layer.cell)
        except ValueError as error:
            message = f"rule {label}, seed {seed}, iteration {iteration}: {error}"
            raise RuleUnstable(message) from None


def check(
    label: str,
    bad: np.ndarray,
    iterations: np.ndarray,
    faults: np.ndarray | None = None,
    model: PyTree = None,
) -> None:
    """Raise `TrainingDiverged` where a seed is bad, with the iteration at which it was.

    `faults`: what `fault` has found of the model, by seed.
    """
    if bad.any():
        # The first to break, not the first in order of seeds.
        seed = int(np.argmin(np.where(bad, iterations, np.iinfo(iterations.dtype).max)))
        number = 1 if faults is None else int(faults[seed])
        condition = list(in_range(model))[number - 2] if number > 1 else None
        raise TrainingDiverged(label, seed, int(iterations[seed]), condition)
