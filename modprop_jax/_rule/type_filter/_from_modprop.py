"""ModProp's filter, as taps or as exponentials of its eigenvalues."""

from typing import Any

import jax
import numpy as np

from ... import _arguments as arguments
from ..._cell import AbstractCell
from ..._static import constant
from .._base import require_neurons
from ..modprop._filter import filter_of
from ..modprop._rule import ModProp


def filters_of(
    rule: ModProp, cell: AbstractCell, taps: int | None, gated: bool
) -> tuple[Any, tuple[int, ...], np.ndarray | None]:
    """(filters, types, own) of ModProp on this cell; own is None where it is 0."""
    arguments.instance("rule", rule, ModProp, "ModProp with a given mu")
    if rule.mu is None or rule.taps is not None:
        raise ValueError(
            "of_modprop needs ModProp with a given mu and no taps of its own, whose filter does "
            f"not change in time, but got {arguments.shown(rule)}: measure mu with running_mu."
        )
    taps = None if taps is None else arguments.size("taps", taps)
    inner = require_neurons(rule, cell)
    if arguments.is_traced((rule, inner)):
        raise ValueError("of_modprop needs weights that are known, but is called under jit.")
    rule.check(cell)
    types = tuple(range(inner.hidden_size)) if rule.types is None else rule.types
    with jax.ensure_compile_time_eval():
        found = filter_of(rule.mu, types, inner)
        last = filter_of(constant(1.0), types, inner) if gated else found
        found, last = jax.tree.map(lambda a: np.asarray(a, float), (found, last))
    kappa = found.kappa.weight
    matrix = np.diag(found.leak - found.self_kappa) + kappa * found.count
    own = last.self_kappa if np.any(last.self_kappa) else None
    kappa = last.kappa.weight
    if taps is None:
        return _exponentials(matrix, kappa), types, own
    each = [kappa]
    for _ in range(taps - 1):
        each.append(matrix @ each[-1])
    return np.stack(each), types, own


def _exponentials(matrix: np.ndarray, kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rates, weights) of A^(s-1) κ; of two conjugate eigenvalues one, twice."""
    rates, vectors = np.linalg.eig(matrix)
    condition = np.linalg.cond(vectors)
    if condition > 1e8:
        raise ValueError(
            "of_modprop makes exponentials of eigenvectors, but those of this filter are nearly "
            f"dependent (condition {condition:.1e}): give taps."
        )
    weights = vectors.T[:, :, None] * np.linalg.solve(vectors, kappa.astype(vectors.dtype))[:, None]
    if not np.iscomplexobj(rates):
        return rates, weights
    turn = np.imag(rates)
    once = turn >= 0
    return rates[once], (weights * np.where(turn > 0, 2, 1)[:, None, None])[once]
