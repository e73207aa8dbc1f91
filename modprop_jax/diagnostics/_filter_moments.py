"""What least squares by filters needs: products of gradients, batch by batch, in one compiled scan.

A gradient under `TypeFilter` is linear in the filter, and the part that arrives at a neuron moves
on inside of it alone. So the response to one secreting type and one exponential, to all neurons at
once, holds those of each receiving type side by side: K C reverse passes serve K C² weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._grad import value_and_grad
from .._rnn import layers
from .._rule import AbstractRule, BPTT
from ._assigned import Assigned
from ._filter_basis import Basis, told
from ._filter_problem import group_of_parameters, Problem, reached
from ._pairs import cosine, norm


def moments(
    problem: Problem,
    basis: Basis,
    start: AbstractRule | None = None,
    groups: Sequence[int] | None = None,
    *,
    summed: bool = False,
) -> Float[np.ndarray, "N groups rows rows"]:
    """Products of gradients, of each batch and group of receiving neurons (of a type, or `groups`).

    Rows: the exact gradient, that of `start` (None: of the filter of zeros), and the responses
    [mode, secreting type]. `summed`: over batches, N = 1.
    """
    groups = basis.types if groups is None else tuple(groups)
    types, of_neuron = jnp.asarray(basis.types), jnp.asarray(groups)
    known = basis.of_any_types, max(groups) + 1, summed
    found = _products(problem, start, types, of_neuron, *known)
    return np.asarray(found[None] if summed else found, float)


class Judged(NamedTuple):
    """Gradients of rules, as they are, against the exact one, batch by batch."""

    cosine: Float[np.ndarray, "rules N"]
    error: Float[np.ndarray, "rules N"]
    exact: Float[np.ndarray, " N"]

    def residual(self, which: slice) -> Float[np.ndarray, " rules"]:
        """‖exact - g‖² / ‖exact‖² over these batches; NaN of none."""
        total = np.sum(self.exact[which] ** 2)
        error = np.sum(self.error[:, which] ** 2, axis=1)
        return error / total if total > 0 else np.full(len(error), np.nan)


def judge(problem: Problem, rules: Sequence[AbstractRule]) -> Judged:
    """Not by products, of which rounding may leave nothing: by each rule's own gradient."""
    given = tuple(told(rule) for rule in rules)
    cosine, error, exact = (np.asarray(a, float) for a in _judged(problem, given))
    return Judged(cosine.T, error.T, exact)


@eqx.filter_jit
def _judged(problem: Problem, rules: tuple[AbstractRule, ...]) -> tuple[Array, Array, Array]:
    def gradient(rule, args):
        return reached(value_and_grad(problem.loss, rule)(problem.model, *args)[1])

    def one(args):
        exact = gradient(BPTT(), args)
        each = [gradient(rule, args) for rule in rules]
        cosines = jnp.stack([cosine(g, exact) for g in each])
        return cosines, jnp.stack([norm(exact - g) for g in each]), norm(exact)

    return jax.lax.map(one, problem.batches)


@eqx.filter_jit
def _products(
    problem: Problem,
    start: AbstractRule | None,
    types: Array,
    groups: Array,
    basis: Basis,
    count: int,
    summed: bool,
) -> Array:
    def of(weights):
        return Assigned(basis.rule(weights), types)

    shape = basis.modes, basis.kinds, basis.kinds

    def one(args):
        given = problem.loss, problem.model, args, of, shape
        return products_of(*given, start=start, groups=groups, count=count)

    if not summed:
        return jax.lax.map(one, problem.batches)
    like = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], problem.batches))

    def body(total, args):
        return total + one(args), ()

    return jax.lax.scan(body, jnp.zeros(like.shape, like.dtype), problem.batches)[0]


def products_of(
    loss: Callable[..., Any],
    model: Any,
    args: tuple[Any, ...],
    of: Callable[[Array], AbstractRule],
    shape: tuple[int, int, int],
    *,
    start: AbstractRule | None = None,
    groups: Int[Array, " n"],
    count: int,
) -> Float[Array, "count rows rows"]:
    """As `moments`, of one batch; pure. `of` makes the rule of weights of this shape."""
    member = group_of_parameters(layers(model)[0].cell, groups)

    def gradient(rule):
        return reached(value_and_grad(loss, rule)(model, *args)[1])

    exact = gradient(BPTT())
    nothing = jnp.zeros(shape, exact.dtype)
    zero = gradient(of(nothing))

    def mode(k):
        def response(c):
            return gradient(of(nothing.at[k, c].set(1.0))) - zero

        return jax.vmap(response)(jnp.arange(shape[1]))

    # one mode after the other, as side by side they are a batch of K C gradients
    responses = jax.lax.map(mode, jnp.arange(shape[0])).reshape(-1, len(exact))
    base = zero if start is None else gradient(start)
    rows = jnp.concatenate([jnp.stack([exact, base]), responses])

    def product(group):
        mine = jnp.where(jnp.broadcast_to(member == group, rows.shape), rows, 0)
        return jnp.matmul(mine, rows.T, precision="highest")

    return jax.lax.map(product, jnp.arange(count))
