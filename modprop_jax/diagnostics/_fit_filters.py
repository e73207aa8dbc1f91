"""The filters between cell types that come closest to the exact gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from .. import _arguments as arguments
from .._arguments import Numbers
from .._rule import ModProp, TypeFilter
from .._static import content
from ._filter_basis import as_arrays, Basis, basis_of, by_mode, is_frozen
from ._filter_moments import judge, moments
from ._filter_problem import precision_of, problem_of
from ._filter_solve import above_rounding, chosen_ridge, solve


RIDGES = tuple(10.0**power for power in range(-10, 1))
"""From which the ridge is chosen."""


class FilterFit(eqx.Module):
    """Filters that were fitted, and how close they come to the exact gradient.

    `rule`: a `TypeFilter`. `cosine`: with the exact gradient on each fitted batch, and
    `held_out_cosine` on the others. `residual`, `held_out_residual`: what is left, ‖exact - g‖² /
    ‖exact‖² over batches. `ridge`: the one that was used. `condition`: of the normal equations
    without it, by receiving type, columns scaled to length 1; infinite where they are singular.
    """

    rule: TypeFilter
    cosine: Float[np.ndarray, " fitted"]
    held_out_cosine: Float[np.ndarray, " others"]
    residual: float
    held_out_residual: float
    ridge: float
    condition: Float[np.ndarray, " C"]


def fit_filters(
    loss: Callable[..., Any],
    model: PyTree,
    batches: Sequence[Any],
    *,
    types: Numbers,
    rates: Numbers | None = None,
    taps: int | None = None,
    gated: bool = True,
    ridge: float | Sequence[float] | None = None,
    towards: TypeFilter | ModProp | None = None,
    held_out: int | None = None,
) -> FilterFit:
    r"""The type filters whose gradient is closest to BPTT's, by least squares.

    \[ \min_w \sum_{batches} \|g^{BPTT} - g^{towards} - X w\|^2
       + ridge \sum_k \|X_k\|^2 w_k^2 \]

    with X the responses of the gradient to one exponential (or tap) between two types each. Credit
    that has arrived stays with its neuron, so receiving types are problems apart, and one response
    serves all of them. Over the parameters of the recurrent layer that belong to a neuron each:
    weights, biases, and parameters (n,) of the neurons; one value for all neurons takes no part.

    They fit the network as it is. As it learns they age, and filters that were fitted anew while it
    did taught it no better than e-prop, for all their cosine (`reproductions/filter_learning.py`).

    **Arguments:**

    - `loss`, `model`: `loss(model, *batch) -> scalar`; one `RNN` layer of neurons.
    - `batches`: a list of the loss's arguments, all of the same shapes.
    - `types`: cell type 0 ... C-1 of each neuron.
    - `rates`: real rates exp(-dt/τ) of the exponentials (K,); or `taps`: how many, S.
    - `gated`: as in `TypeFilter`.
    - `ridge`: relative to each column's own square; of several the one that leaves least of a
        fitted batch when it is left out; None: of 1e-10, ..., 1, those that are above rounding.
        With a single fitted batch one must be given.
    - `towards`: what the ridge pulls to, a `TypeFilter` as `gated` and of these types, or
        `ModProp`, whose own filters it then is (gated if `gated`); None: no credit between neurons.
    - `held_out`: how many of the last batches to judge on alone; None: a third of them.

    **Returns:** a `FilterFit`, judged by the gradient of its rule. One compiled scan over batches,
    3 + K C gradients each, C of them side by side; then products of (K C)² numbers a batch and
    type, solved in float64 as far as gradients are good: in float32 what fewer than about 1e-7 K C
    of the largest eigenvalue say is left at 0.

    **Errors:** ValueError for no or several recurrent layers, cells that are not made of neurons,
    maps whose parameters serve several neurons, batches of several shapes, and rates or a
    `towards` that do not fit.
    """
    problem = problem_of(loss, model, batches)
    basis = basis_of(types, rates, taps, gated)
    start = _start(towards, basis, problem.cell)
    basis = basis._replace(own=None if start is None else _own(start))
    fitted, ridges = split(len(batches), held_out, ridge)

    eps = precision_of(problem)
    if ridge is None:
        ridges = above_rounding(ridges, basis.modes * basis.kinds, eps)
    known = None if start is None else as_arrays(start)
    seen = moments(problem.first(fitted), basis, known)
    columns = range(2, seen.shape[-1])
    best = chosen_ridge(seen, columns, 1, ridges, eps)
    weights, condition = solve(seen.sum(0), columns, 1, best, eps)
    rule = _added(start, basis, by_mode(weights, basis))
    judged = judge(problem, [rule])
    return FilterFit(
        rule,
        judged.cosine[0, :fitted],
        judged.cosine[0, fitted:],
        float(judged.residual(slice(fitted))[0]),
        float(judged.residual(slice(fitted, None))[0]),
        float(best),
        condition,
    )


def split(
    count: int, held_out: int | None, ridge: float | Sequence[float] | None
) -> tuple[int, tuple[float, ...]]:
    """How many batches to fit, and the ridges to choose from."""
    others = count // 3 if held_out is None else arguments.count("held_out", held_out)
    others = max(others, 1) if held_out is None and count > 1 else others
    fitted = count - others
    if fitted < 1:
        raise ValueError(
            f"batches must leave at least one to fit, but there are {count} and held_out={others}."
        )
    given = RIDGES if ridge is None else ridge if isinstance(ridge, list | tuple) else (ridge,)
    if not given:
        raise ValueError("ridge is empty: pass a number, or several to choose from.")
    ridges = tuple(arguments.number("ridge", r, arguments.NOT_NEGATIVE) for r in given)
    if len(ridges) > 1 and fitted < 2:
        raise ValueError(
            "ridge is chosen by leaving fitted batches out in turn, but there is one: pass more "
            "batches, or one ridge."
        )
    return fitted, ridges


def _start(towards: Any, basis: Basis, cell: Any) -> TypeFilter | None:
    """What the ridge pulls to, as a filter of the basis's kind."""
    if towards is None:
        return None
    if isinstance(towards, ModProp):
        towards = TypeFilter.of_modprop(towards, cell, basis.taps or None, gated=basis.gated)
    arguments.instance("towards", towards, TypeFilter, "a TypeFilter or ModProp")
    same_kind = isinstance(towards.filters, tuple) == (bool(basis.rates))
    if towards.types != basis.types or towards.gated != basis.gated or not same_kind:
        raise ValueError(
            "towards must have the types, gated and the form (rates, or taps) of what is fitted, "
            f"but has gated={towards.gated}, "
            f"{'rates' if isinstance(towards.filters, tuple) else 'taps'} and "
            f"{max(towards.types) + 1} types: make it so, with ModProp("
            "mu, types) for example."
        )
    return towards


def _own(rule: TypeFilter) -> tuple[float, ...] | None:
    return None if rule.own is None else tuple(np.asarray(content(rule.own)).tolist())


def _added(start: TypeFilter | None, basis: Basis, weights: np.ndarray) -> TypeFilter:
    """The fitted filter and what it was pulled to, in one."""
    if start is None:
        return basis.rule(weights)
    known: Any = jax.tree.map(content, start.filters, is_leaf=is_frozen)
    if bool(basis.rates):
        rates, each = (np.asarray(part) for part in known)
        filters: Any = np.concatenate([rates, basis.rates]), np.concatenate([each, weights])
    else:
        size = max(len(known), len(weights))
        filters = np.zeros((size, *weights.shape[1:]))
        filters[: len(known)] += known
        filters[: len(weights)] += weights
    own = None if start.own is None else np.asarray(content(start.own))
    return TypeFilter(filters, basis.types, gated=basis.gated, own=own)
