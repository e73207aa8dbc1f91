"""Filters that are fitted while a network learns: normal equations that are kept, and solved."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import _arguments as arguments
from .._rule import TypeFilter
from .._static import content
from ._filter_basis import is_frozen
from ._filter_equations import (
    as_real_filter,
    columns_of,
    FilterEquations,
    weights_for,
    weights_of,
    with_weights,
)


def refit(
    rule: TypeFilter,
    equations: FilterEquations,
    *,
    ridge: float | Array = 1e-3,
    towards: TypeFilter | None = None,
    trust: float | Array | None = None,
) -> TypeFilter:
    r"""The filter with the weights that solve the equations, or a step towards them.

    \[ w^* = \arg\min_w \|g^{BPTT} - g^0 - X w\|^2 + ridge \sum_k \|X_k\|^2 (w_k - w^0_k)^2,
       \qquad w = w_{last} + s\,(w^* - w_{last}) \]

    with \(s = \min(1, trust\, \|g^{BPTT}\| / \|X (w^* - w_{last})\|)\): a step changes the gradient
    by at most so much of the exact one's length. Small eigenvalues of the equations, which blow up
    as weights move, are what the ridge and the step are against. A running average of
    the equations helps more: by it networks learnt about as well as by e-prop and ModProp, with
    `trust` or without; by filters fitted anew each 20 or 100 iterations they did not (delayed XOR,
    `reproductions/filter_learning.py`).

    **Arguments:**

    - `rule`: the filter so far, with weights w_last.
    - `equations`: of `filter_equations`, summed or averaged over batches.
    - `ridge`: relative to each column's own square; at least what rounding adds, about
        K C times the precision.
    - `towards`: w⁰, a filter of the same form; None: 0, no credit between neurons; `rule` itself:
        the last filters.
    - `trust`: None: s = 1.

    **Returns:** `rule` with its weights as a `jax.Array`, for offline gradients: one compiled loop
    serves all of them. To stream with it, pass its weights as a NumPy array. Pure; runs under
    `jit`, `vmap` and `scan`. Cost: O(C (K C)³).

    **Example:** filters that follow a network by a running average, one batch old.

    >>> import equinox as eqx, jax, jax.numpy as jnp, modprop_jax as mpj
    >>> model = mpj.RNN(mpj.LeakyCell(2, 4, tau=5.0, key=jax.random.key(0)))
    >>> def loss(model, xs):
    ...     return jnp.mean(model(xs) ** 2)
    >>> rule = mpj.TypeFilter(([0.9, 0.5], jnp.zeros((2, 2, 2))), [0, 0, 1, 1])
    >>> xs = jnp.ones((6, 3, 2))
    >>> past = mpj.filter_equations(loss, model, xs, rule=rule)
    >>> @eqx.filter_jit
    ... def step(model, rule, past, xs):
    ...     _, gradients = mpj.value_and_grad(loss, rule)(model, xs)
    ...     model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.01 * g, gradients))
    ...     past = past.averaged(mpj.filter_equations(loss, model, xs, rule=rule), 0.9)
    ...     return model, mpj.refit(rule, past, towards=rule, trust=0.1), past
    >>> model, rule, past = step(model, rule, past, xs)
    >>> rule.filters[1].shape
    (2, 2, 2)

    **Errors:** ValueError for equations or a `towards` of another form, and a ridge below rounding.
    """
    rule = as_real_filter("rule", rule)
    weights, dtype = weights_for(rule, equations), equations.products.dtype
    ridge = _ridge(ridge, equations)
    last = columns_of(weights.astype(dtype))
    aim = jnp.zeros_like(last)
    if towards is not None:
        aim = columns_of(_alike(towards, rule).astype(dtype))
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(equations.gram, axis1=1, axis2=2), 0))
    known = scale > 0
    inverse = jnp.where(known, 1 / jnp.where(known, scale, 1), 0)
    normal = equations.gram * inverse[:, :, None] * inverse[:, None, :]
    normal = normal + (ridge * jnp.eye(normal.shape[-1], dtype=normal.dtype))[None]
    right = equations.right * inverse + ridge * scale * aim
    solved = inverse * jnp.linalg.solve(normal, right[..., None])[..., 0]
    step = jnp.where(known, solved, aim) - last
    if trust is not None:
        share = arguments.amount("trust", trust, arguments.POSITIVE)
        moved = jnp.maximum(jnp.einsum("ck,ckl,cl->", step, equations.gram, step), 0)
        length = share * jnp.sqrt(equations.products[:, 0, 0].sum())
        step = step * jnp.minimum(1, length / jnp.sqrt(jnp.where(moved > 0, moved, 1)))
    return with_weights(rule, (last + step).T.reshape(weights.shape).astype(weights.dtype))


def _alike(towards: object, rule: TypeFilter) -> Array:
    given = as_real_filter("towards", towards)
    names = "types", "gated", "shape of weights", "rates", "own"
    differ = [n for n, *pair in zip(names, _form(given), _form(rule)) if not _same(*pair)]
    if differ:
        raise ValueError(
            "towards must be a filter as rule is, of the same types, gate, rates or number of taps "
            f"and own, but it has other {', '.join(differ)}."
        )
    return weights_of(given)


def _form(rule: TypeFilter) -> tuple[Any, ...]:
    """What weights are for."""
    filters, own = jax.tree.map(content, (rule.filters, rule.own), is_leaf=is_frozen)
    rates = filters[0] if isinstance(filters, tuple) else None
    return rule.types, rule.gated, weights_of(rule).shape, rates, own


def _same(one: Any, other: Any) -> bool:
    """As far as it is known."""
    if one is None or other is None:
        return one is other
    if arguments.is_traced((one, other)):
        return np.shape(one) == np.shape(other)
    return np.array_equal(one, other)


def _ridge(given: Any, equations: FilterEquations) -> Any:
    ridge = arguments.amount("ridge", given, arguments.POSITIVE)
    least = equations.gram.shape[-1] * float(jnp.finfo(equations.products.dtype).eps)
    if not arguments.is_traced(ridge) and np.any(np.asarray(ridge) < least):
        raise ValueError(
            f"ridge must be at least {least:.1e}, what rounding in {equations.products.dtype} adds "
            f"to {equations.gram.shape[-1]} columns, but is {arguments.shown(given)}."
        )
    return ridge
