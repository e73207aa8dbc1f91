"""Rules that learn to predict credit from state and labels."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from ... import _arguments as arguments
from ..._cell import AbstractCell
from ..._cell._base import dynamics
from ..._precision import start_of
from ..._trace._rows import to_rows
from .._base import require_neurons
from .._estimating import AbstractEstimatingRule
from ._trace import SyntheticGradient


def identity(credit: Array) -> Array:
    """Credit as it is."""
    return credit


class AbstractPredictingRule(AbstractEstimatingRule):
    """A rule whose trace is a `SyntheticGradient`; `learn_jacobian`: None for the exact one."""

    labels: int = eqx.field(static=True)
    learn: optax.GradientTransformation = eqx.field(static=True)
    learn_jacobian: optax.GradientTransformation | None = eqx.field(static=True)
    squash: Callable[[Array], Array] = eqx.field(static=True)
    refresh: int = eqx.field(static=True)

    @abc.abstractmethod
    def initial(self, key: PRNGKeyArray, size: int, dtype: DTypeLike) -> Float[Array, "s f"]:
        """A before it has learnt, for a state of `size` numbers."""

    @property
    def needs_key(self) -> bool:
        """For the initial A."""
        return True

    @property
    def context_size(self) -> int:
        """The labels."""
        return self.labels

    def estimator(self, cell: AbstractCell) -> SyntheticGradient:
        """What predicts credit, and what it learns from."""
        return SyntheticGradient()


def require_one_variable(rule: AbstractPredictingRule, cell: AbstractCell) -> None:
    """A ValueError unless the state is one number a neuron."""
    n = require_neurons(rule, cell).hidden_size
    (size,) = jax.eval_shape(lambda: to_rows(start_of(cell))).shape
    if size != n:
        filtered = ", filtered," if cell.parts()[1].remembers else ""
        raise ValueError(
            f"{type(rule).__name__} learns to predict a state of one number a neuron, but this "
            f"{type(dynamics(cell)).__name__}{filtered} has {size} for {n} neurons: use "
            'DNI(jacobian="exact").'
        )


def normal_rows(
    key: PRNGKeyArray, rows: int, columns: int, dtype: DTypeLike
) -> Float[Array, "r c"]:
    """Entries N(0, 1/columns)."""
    return jr.normal(key, (rows, columns), dtype) / jnp.sqrt(jnp.asarray(columns, dtype))


def as_learner(
    labels: object, learn: object, squash: object, refresh: object
) -> tuple[int, Any, Any, int]:
    """The arguments that these rules share, or a ValueError."""
    return (
        arguments.count("labels", labels),
        arguments.transformation("learn", learn),
        squash if squash is identity else arguments.elementwise("squash", squash),
        arguments.size("refresh", refresh),
    )
