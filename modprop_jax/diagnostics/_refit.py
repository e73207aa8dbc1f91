"""Filters that are fitted while a network learns: normal equations that are kept, and solved."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._rule import TypeFilter
from .._tree import with_fields
from ._filter_basis import as_arrays
from ._filter_moments import products_of
from ._filter_problem import check_layer


class FilterEquations(eqx.Module):
    r"""The normal equations of a type filter, of one batch or of many: a pytree to keep and to add.

    `products` (C, 2+KC, 2+KC): of each receiving type b, the inner products of the exact gradient,
    of that without credit between neurons, and of the responses X to one exponential (or tap) of
    one secreting type each, [mode, secreting type], over the parameters of its neurons.
    """

    products: Float[Array, "C rows rows"]

    @property
    def gram(self) -> Float[Array, "C KC KC"]:
        r"""\(X^T X\), by receiving type."""
        return self.products[:, 2:, 2:]

    @property
    def right(self) -> Float[Array, "C KC"]:
        r"""\(X^T (g^{BPTT} - g^0)\), by receiving type."""
        return self.products[:, 2:, 0] - self.products[:, 2:, 1]

    def averaged(self, new: "FilterEquations", decay: float | Array) -> "FilterEquations":
        """decay · these + (1 - decay) · `new`: a running average. Nothing in `refit` depends on the
        scale, so that it may begin at zeros."""
        decay = arguments.amount("decay", decay, arguments.FRACTION)
        new = arguments.instance("new", new, FilterEquations, "what filter_equations returns")
        if new.products.shape != self.products.shape:
            raise ValueError(
                f"new is of another filter: its products have the shape {new.products.shape}, but "
                f"these {self.products.shape}."
            )
        mixed = decay * self.products + (1 - decay) * new.products
        return FilterEquations(mixed.astype(self.products.dtype))

    def cosine(self, rule: TypeFilter) -> Float[Array, ""]:
        """Of the filter's gradient with the exact one, as these products have it; 0 if either is 0.
        Rounding takes what is less than about the square root of the precision."""
        rows = _rows(_columns(_known(rule, self).astype(self.products.dtype)))
        along = jnp.einsum("cr,cr->", self.products[:, 0], rows)
        square = jnp.einsum("cr,crs,cs->", rows, self.products, rows)
        both = jnp.maximum(square, 0) * self.products[:, 0, 0].sum()
        return jnp.where(both > 0, along / jnp.sqrt(jnp.where(both > 0, both, 1)), 0)


def filter_equations(
    loss: Callable[..., Any], model: PyTree, *batch: Any, rule: TypeFilter
) -> FilterEquations:
    r"""The normal equations of the type filter that is closest to BPTT's gradient, of one batch.

    \[ X^T X\, w = X^T (g^{BPTT} - g^0) \]

    with X and the problems by receiving type as in `fit_filters`; of `rule` the types, the gate,
    the rates or number of taps, and `own`: its weights do not matter. A pure function, which runs
    under `jit`, `vmap` and `scan`; equations of several batches add (`jax.tree.map(jnp.add, ...)`).

    **Arguments:** `loss(model, *batch) -> scalar`; one `RNN` layer of neurons. `rule`: with real
    rates.

    Cost: 2 + K C gradients, C of them side by side. One of them is the exact one, so this is no
    local rule: it says what a network would have to be told.

    **Errors:** as `fit_filters`.
    """
    arguments.function("loss", loss, "loss(model, *batch) -> scalar")
    check_layer(model)
    rule = _as_filter("rule", rule)
    weights = _weights(rule)

    def of(weights):
        return _with_weights(rule, weights)

    groups, count = jnp.asarray(rule.types), weights.shape[-1]
    shape: Any = weights.shape
    return FilterEquations(products_of(loss, model, batch, of, shape, groups=groups, count=count))


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
    as weights move, are what the ridge and the step are against.

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
    rule = _as_filter("rule", rule)
    weights, dtype = _known(rule, equations), equations.products.dtype
    ridge = _ridge(ridge, equations)
    last = _columns(weights.astype(dtype))
    aim = jnp.zeros_like(last) if towards is None else _columns(_alike(towards, rule).astype(dtype))
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(equations.gram, axis1=1, axis2=2), 0))
    known = scale > 0
    inverse = jnp.where(known, 1 / jnp.where(known, scale, 1), 0)
    normal = equations.gram * inverse[:, :, None] * inverse[:, None, :]
    normal = normal + (ridge * jnp.eye(normal.shape[-1], dtype=normal.dtype))[None]
    right = equations.right * inverse + ridge * scale * aim
    solved = inverse * jnp.linalg.solve(normal, right[..., None])[..., 0]
    step = jnp.where(known, solved, aim) - last
    if trust is not None:
        trust = arguments.amount("trust", trust, arguments.POSITIVE)
        moved = jnp.maximum(jnp.einsum("ck,ckl,cl->", step, equations.gram, step), 0)
        length = trust * jnp.sqrt(equations.products[:, 0, 0].sum())
        step = step * jnp.minimum(1, length / jnp.sqrt(jnp.where(moved > 0, moved, 1)))
    return _with_weights(rule, (last + step).T.reshape(weights.shape).astype(weights.dtype))


def _columns(weights: Float[Array, "K C C"]) -> Float[Array, "C KC"]:
    """[receiving type, mode x secreting type]."""
    return weights.reshape(-1, weights.shape[-1]).T


def _rows(columns: Float[Array, "C KC"]) -> Float[Array, "C rows"]:
    """The gradient as coefficients of the rows of products."""
    ones = jnp.ones((len(columns), 1), columns.dtype)
    return jnp.concatenate([jnp.zeros_like(ones), ones, columns], axis=1)


def _weights(rule: TypeFilter) -> Array:
    filters: Any = as_arrays(rule).filters
    return filters[1] if isinstance(filters, tuple) else filters


def _with_weights(rule: TypeFilter, weights: Array) -> TypeFilter:
    filters = (rule.filters[0], weights) if isinstance(rule.filters, tuple) else weights
    return with_fields(rule, filters=filters)


def _as_filter(name: str, given: object) -> TypeFilter:
    rule = arguments.instance(name, given, TypeFilter, "a TypeFilter")
    filters: Any = as_arrays(rule).filters
    for part in filters if isinstance(filters, tuple) else (filters,):
        if jnp.iscomplexobj(part):
            raise ValueError(
                f"{name} must have real rates and weights to be fitted, but has {part.dtype}: give "
                "several real rates in place of a complex one."
            )
    return rule


def _known(rule: TypeFilter, equations: FilterEquations) -> Array:
    """The weights, for which there are equations."""
    rule = _as_filter("rule", rule)
    arguments.instance("equations", equations, FilterEquations, "what filter_equations returns")
    weights = _weights(rule)
    modes, count, _ = weights.shape
    wanted = count, 2 + modes * count, 2 + modes * count
    if equations.products.shape != wanted:
        raise ValueError(
            f"equations are of another filter: products must have the shape {wanted} for {modes} "
            f"exponentials (or taps) and {count} types, but have {equations.products.shape}."
        )
    return weights


def _alike(towards: object, rule: TypeFilter) -> Array:
    weights = _weights(_as_filter("towards", towards))
    if weights.shape != _weights(rule).shape or towards.types != rule.types:
        raise ValueError(
            "towards must be a filter of rule's types and of as many exponentials or taps, with "
            f"weights {_weights(rule).shape}, but has {weights.shape}."
        )
    return weights


def _ridge(given: Any, equations: FilterEquations) -> Any:
    ridge = arguments.amount("ridge", given, arguments.POSITIVE)
    least = equations.gram.shape[-1] * float(jnp.finfo(equations.products.dtype).eps)
    if not arguments.is_traced(ridge) and np.any(np.asarray(ridge) < least):
        raise ValueError(
            f"ridge must be at least {least:.1e}, what rounding in {equations.products.dtype} adds "
            f"to {equations.gram.shape[-1]} columns, but is {arguments.shown(given)}."
        )
    return ridge
