"""Least squares by products of gradients: weights, what they reach, and the ridge."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


EPS = float(np.finfo(float).eps)


class Solved(NamedTuple):
    """Weights of each group of receiving neurons, and how well posed they are."""

    weights: Float[np.ndarray, "groups columns"]
    condition: Float[np.ndarray, " groups"]


def solve(
    products: Float[np.ndarray, "groups rows rows"],
    columns: Sequence[int],
    base: int,
    ridge: float,
    eps: float = EPS,
) -> Solved:
    r"""w = argmin \(\|exact - base - X w\|^2 + ridge \sum_k \|X_k\|^2 w_k^2\), group by group.

    Products of row 0, the exact gradient; of row `base`; and of the `columns` X, good to `eps`.
    Directions in which they know nothing but rounding stay at 0.
    """
    normal = products[:, columns][:, :, columns]
    right = products[:, columns, 0] - products[:, columns, base]
    scale = np.sqrt(np.maximum(np.diagonal(normal, axis1=1, axis2=2), 0))
    inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0)
    values, vectors = np.linalg.eigh(normal * inverse[:, :, None] * inverse[:, None, :])
    rounding = len(columns) * eps * np.maximum(values[:, -1:], 0)
    known = values > rounding
    power = np.where(known, 1 / np.where(known, values + ridge, 1), 0)
    along = np.einsum("gck,gc->gk", vectors, right * inverse)
    weights = inverse * np.einsum("gck,gk->gc", vectors, power * along)
    smallest = np.where(known.all(1), values[:, 0], 0)
    condition = np.where(smallest > 0, values[:, -1] / np.where(smallest > 0, smallest, 1), np.inf)
    return Solved(weights, condition)


def combined(
    height: int, columns: Sequence[int], base: int, weights: Float[np.ndarray, "groups columns"]
) -> Float[np.ndarray, "groups rows"]:
    """The gradient base + X w, as coefficients of the rows."""
    rows = np.zeros((len(weights), height))
    rows[:, columns] = weights
    rows[:, base] += 1
    return rows


def residual(
    products: Float[np.ndarray, "N groups rows rows"], rows: Float[np.ndarray, "groups rows"]
) -> float:
    """‖exact - gradient‖² / ‖exact‖², over batches, as products have it: to choose by, as small
    ones are differences of large numbers."""
    error = -rows.copy()
    error[:, 0] += 1
    found = np.einsum("gr,bgrs,gs->", error, products, error)
    exact = products[:, :, 0, 0].sum()
    return float(max(found, 0) / exact) if exact > 0 else 0.0


def chosen_ridge(
    products: Float[np.ndarray, "N groups rows rows"],
    columns: Sequence[int],
    base: int,
    ridges: Sequence[float],
    eps: float = EPS,
) -> float:
    """The ridge with which a fit to all batches but one leaves least of that one, on average."""
    if len(ridges) == 1:
        return ridges[0]
    height, total = products.shape[-1], products.sum(0)

    def left(ridge):
        each = []
        for batch in products:
            weights = solve(total - batch, columns, base, ridge, eps).weights
            each.append(residual(batch[None], combined(height, columns, base, weights)))
        return np.mean(each)

    return min(ridges, key=left)


def above_rounding(ridges: Sequence[float], columns: int, eps: float) -> tuple[float, ...]:
    """Those that are more than what rounding adds to the products' eigenvalues; the largest one
    always."""
    kept = tuple(ridge for ridge in ridges if ridge >= 10 * columns * eps)
    return kept or (max(ridges),)
