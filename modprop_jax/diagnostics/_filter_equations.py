"""The normal equations of type filters, batch by batch."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._rnn import layers
from .._rule import TypeFilter
from .._tree import with_fields
from ._filter_basis import as_arrays
from ._filter_moments import products_of
from ._filter_problem import check_layer, neurons_of


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
        rows = _rows(columns_of(weights_for(rule, self).astype(self.products.dtype)))
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
    rule = as_real_filter("rule", rule)
    neurons = neurons_of(layers(model)[0].cell).hidden_size
    if len(rule.types) != neurons:
        raise ValueError(
            f"rule must have a cell type for each of the layer's {neurons} neurons, but has "
            f"{len(rule.types)}."
        )
    weights = weights_of(rule)

    def of(weights):
        return with_weights(rule, weights)

    groups, count = jnp.asarray(rule.types), weights.shape[-1]
    shape: Any = weights.shape
    return FilterEquations(products_of(loss, model, batch, of, shape, groups=groups, count=count))


def columns_of(weights: Float[Array, "K C C"]) -> Float[Array, "C KC"]:
    """[receiving type, mode x secreting type]."""
    return weights.reshape(-1, weights.shape[-1]).T


def _rows(columns: Float[Array, "C KC"]) -> Float[Array, "C rows"]:
    """The gradient as coefficients of the rows of products."""
    ones = jnp.ones((len(columns), 1), columns.dtype)
    return jnp.concatenate([jnp.zeros_like(ones), ones, columns], axis=1)


def weights_of(rule: TypeFilter) -> Array:
    """What is fitted: taps, or the weights of exponentials."""
    filters: Any = as_arrays(rule).filters
    return filters[1] if isinstance(filters, tuple) else filters


def with_weights(rule: TypeFilter, weights: Array) -> TypeFilter:
    """The rule with others in their place."""
    filters = (rule.filters[0], weights) if isinstance(rule.filters, tuple) else weights
    return with_fields(rule, filters=filters)


def as_real_filter(name: str, given: object) -> TypeFilter:
    """The rule, if its filters are real; else a ValueError."""
    rule = arguments.instance(name, given, TypeFilter, "a TypeFilter")
    filters: Any = as_arrays(rule).filters
    for part in filters if isinstance(filters, tuple) else (filters,):
        if jnp.iscomplexobj(part):
            raise ValueError(
                f"{name} must have real rates and weights to be fitted, but has {part.dtype}: give "
                "several real rates in place of a complex one."
            )
    return rule


def weights_for(rule: TypeFilter, equations: FilterEquations) -> Array:
    """The weights, for which there are equations."""
    rule = as_real_filter("rule", rule)
    arguments.instance("equations", equations, FilterEquations, "what filter_equations returns")
    weights = weights_of(rule)
    modes, count, _ = weights.shape
    wanted = count, 2 + modes * count, 2 + modes * count
    if equations.products.shape != wanted:
        raise ValueError(
            f"equations are of another filter: products must have the shape {wanted} for {modes} "
            f"exponentials (or taps) and {count} types, but have {equations.products.shape}."
        )
    return weights
