"""How close any rule of ModProp's locality can come to exact credit."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import _arguments as arguments
from .._arguments import Numbers
from .._rule import EProp, MDGL, ModProp, TypeFilter
from ._clusters import clustered
from ._credit_limit_arguments import counts_of, gates_of, memory_of
from ._filter_basis import Basis, basis_of, by_mode
from ._filter_moments import judge, moments
from ._filter_problem import precision_of, Problem, problem_of
from ._filter_solve import above_rounding, chosen_ridge, combined, residual, solve
from ._fit_filters import split
from ._pairs import named, Rules


RATES = tuple(float(np.exp(-1 / tau)) for tau in (3, 10, 30, 100, 300))
"""Of exponentials from 3 to 300 steps."""
# the ridge where types and exponentials are compared
_LEAST = 1e-6


class CreditLimit(eqx.Module):
    """What the best type filters reach, [gated, number of types, number of exponentials].

    `cosine`, `held_out_cosine`: with BPTT's gradient, mean over the fitted batches and over the
    others; `residual`, `held_out_residual`: ‖exact - g‖² / ‖exact‖². `types`: the cell types of
    each [gated, number of types], and `rates` the exponentials [gated, types, memory], in the order
    in which they were taken up. `rule_cosine`: of each of `names`, held-out batches.
    """

    gated: tuple[bool, ...] = eqx.field(static=True)
    counts: tuple[int, ...] = eqx.field(static=True)
    memory: tuple[int, ...] = eqx.field(static=True)
    types: tuple[tuple[tuple[int, ...], ...], ...] = eqx.field(static=True)
    rates: tuple[tuple[tuple[float, ...], ...], ...] = eqx.field(static=True)
    cosine: Float[np.ndarray, "gated counts memory"]
    held_out_cosine: Float[np.ndarray, "gated counts memory"]
    residual: Float[np.ndarray, "gated counts memory"]
    held_out_residual: Float[np.ndarray, "gated counts memory"]
    names: tuple[str, ...] = eqx.field(static=True)
    rule_cosine: Float[np.ndarray, " names"]


def credit_limit(
    loss: Callable[..., Any],
    model: Any,
    batches: Sequence[Any],
    *,
    types: Numbers | None = None,
    counts: Sequence[int] | None = None,
    rates: Numbers = RATES,
    memory: Sequence[int] | None = None,
    gated: Sequence[bool] = (False, True),
    ridge: float | Sequence[float] | None = None,
    held_out: int | None = None,
    rounds: int = 2,
    rules: Rules | None = None,
) -> CreditLimit:
    r"""How close any type-specific, time-invariant filters can come to exact credit.

    \[ \min_{types} \min_{rates} \min_w \|g^{BPTT} - g^{TypeFilter}\|^2 \]

    by number of types, by memory (exponentials a pair of types), and with and without a gate, on
    batches that no fit has seen. The inner minimum is `fit_filters`'s; the outer ones are greedy,
    so that another choice may be better: what is reported can be reached.

    Types: those given; for more, neurons are split within them by a regression by clusters, so that
    each group's one response leaves least of its neurons' gradients; senders are first of the given
    types, then, in further `rounds`, of the groups found. Exponentials: those of `rates` that, one
    after the other, leave least.

    On trained networks more types raise the limit, and more exponentials hardly do
    (`reproductions/credit_limit.py`). Many types need many batches: where what is left of the
    gradient differs from batch to batch, as on trained digits, eight types fit eight batches much
    better than others.

    **Arguments:**

    - `loss`, `model`, `batches`, `ridge`, `held_out`: as in `fit_filters`.
    - `types`: where to begin; None: all neurons are alike.
    - `counts`: numbers of types, at least those given; None: these, and 2 and 4 times as many.
    - `rates`: exp(-dt/τ) of exponentials to choose from; by default τ of 3 ... 300 steps.
    - `memory`: numbers of exponentials; None: 1, 2, ... of `rates`.
    - `gated`: one of these, or both.
    - `rounds`: how often to cluster.
    - `rules`: marks to compare with, name -> rule; None: e-prop, MDGL and ModProp("auto") of the
        given types. BPTT has 1.

    **Returns:** a `CreditLimit`, which `plot_credit_limit` draws. Cost: for each gate and number of
    types C a compiled scan of (2 rounds) K C gradients a batch, and products of (K C)² numbers a
    batch and neuron, where it clusters.

    **Errors:** as `fit_filters`.
    """
    problem = problem_of(loss, model, batches)
    n = _neurons(problem)
    given = arguments.cell_types("types", np.zeros(n, int) if types is None else types)
    start = max(given) + 1
    counts = counts_of(counts, start, n)
    gated = gates_of(gated)
    all_rates = basis_of(given, rates, None, False).rates
    memory = memory_of(memory, len(all_rates))
    rounds = arguments.size("rounds", rounds)
    fitted, ridges = split(len(batches), held_out, ridge)
    if fitted == len(batches):
        raise ValueError(
            f"held_out must be at least 1, but {fitted} of {len(batches)} batches are fitted: what "
            "no fit has seen is what counts here."
        )
    if rules is None:
        by_types: Any = given
        rules = {"e-prop": EProp(), "MDGL": MDGL(by_types), "ModProp": ModProp("auto", by_types)}
    names, marks = named(rules)

    eps = precision_of(problem)
    found, types_of, rates_of = [], [], []
    for gate in gated:
        for count in counts:
            basis = Basis(given, all_rates, 0, gate)
            basis, seen = _best_types(problem, basis, count, fitted, rounds, eps)
            usable = ridges
            if ridge is None:
                usable = above_rounding(ridges, basis.modes * basis.kinds, eps)
            filters, taken = _bymemory_of(seen, basis, memory, usable, eps)
            judged = judge(problem, filters)
            seen_by, others = slice(fitted), slice(fitted, None)
            found.append(
                [
                    judged.cosine[:, seen_by].mean(1),
                    judged.cosine[:, others].mean(1),
                    judged.residual(seen_by),
                    judged.residual(others),
                ]
            )
            types_of.append(basis.types)
            rates_of.append(tuple(all_rates[k] for k in taken))
    each = np.moveaxis(np.array(found), 1, 0).reshape(4, len(gated), len(counts), len(memory))

    def by_gate(values):
        return tuple(
            tuple(values[g * len(counts) : (g + 1) * len(counts)]) for g in range(len(gated))
        )

    return CreditLimit(
        gated,
        counts,
        memory,
        by_gate(types_of),
        by_gate(rates_of),
        each[0],
        each[1],
        each[2],
        each[3],
        names,
        judge(problem, marks).cosine[:, fitted:].mean(1),
    )


def _best_types(
    problem: Problem, basis: Basis, count: int, fitted: int, rounds: int, eps: float
) -> tuple[Basis, np.ndarray]:
    """The basis with its types, and products by them of the fitted batches."""
    given, best = basis.types, None
    seen = problem.first(fitted)
    if count == basis.kinds:
        return basis, moments(seen, basis)
    for _ in range(rounds):
        by_neuron = moments(seen, basis, groups=range(len(given)), summed=True)[0]
        columns = range(2, by_neuron.shape[-1])
        basis = basis._replace(types=clustered(by_neuron, columns, 1, given, count, eps))
        products = moments(seen, basis)
        columns = range(2, products.shape[-1])
        weights = solve(products.sum(0), columns, 1, _LEAST, eps).weights
        left = residual(products, combined(products.shape[-1], columns, 1, weights))
        if best is None or left < best[0]:
            best = left, basis, products
    assert best is not None
    return best[1:]


def _bymemory_of(
    products: np.ndarray,
    basis: Basis,
    memory: tuple[int, ...],
    ridges: tuple[float, ...],
    eps: float,
) -> tuple[list[TypeFilter], list[int]]:
    """The filter of each memory, all in one form, and modes in the order they were taken up."""
    height, total, taken, filters = products.shape[-1], products.sum(0), [], []

    def columns(modes):
        return [2 + mode * basis.kinds + c for mode in modes for c in range(basis.kinds)]

    def left(mode):
        chosen = columns([*taken, mode])
        weights = solve(total, chosen, 1, max(min(ridges), _LEAST), eps).weights
        return residual(products, combined(height, chosen, 1, weights))

    while len(taken) < max(memory):
        taken.append(min(set(range(basis.modes)) - set(taken), key=left))
        if len(taken) not in memory:
            continue
        chosen = columns(taken)
        ridge = chosen_ridge(products, chosen, 1, ridges, eps)
        rows = combined(height, chosen, 1, solve(total, chosen, 1, ridge, eps).weights)
        weights = jnp.asarray(by_mode(rows[:, 2:], basis))
        filters.append(basis.rule(weights))
    return filters, taken


def _neurons(problem: Problem) -> int:
    inner: Any = problem.cell.parts()[0]
    return inner.hidden_size
