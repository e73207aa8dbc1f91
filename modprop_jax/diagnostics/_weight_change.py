"""How learning has changed the weights, between each two types of neurons."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from .. import _arguments as arguments, _figures as figures
from .._cell._base import AbstractCell, is_cell
from ._eigenvalues import recurrent_matrix


class WeightChange(NamedTuple):
    r"""Change of the synapses from type b onto type a, arrays [a, b] (*members, C, C).

    - `relative`: \(\lVert \Delta W \rVert / \lVert W \rVert\), by Frobenius norms, W before.
    - `mean`: of ΔW over the synapses that exist before or after; `before`, `after`: mean weights.
    - `correlation`: of the weights before and after; NaN where either does not vary.
    - `flipped`: share of synapses that changed sign, or came or went.

    NaN where there is no synapse.
    """

    relative: Float[np.ndarray, "*members C C"]
    mean: Float[np.ndarray, "*members C C"]
    before: Float[np.ndarray, "*members C C"]
    after: Float[np.ndarray, "*members C C"]
    correlation: Float[np.ndarray, "*members C C"]
    flipped: Float[np.ndarray, "*members C C"]


def weight_change(
    before: AbstractCell | npt.ArrayLike,
    after: AbstractCell | npt.ArrayLike,
    types: Sequence[int] | None = None,
    *,
    presynaptic: Sequence[int] | None = None,
) -> WeightChange:
    """How weights have changed by learning, for each two cell types.

    **Arguments:**

    - `before`, `after`: cells, whose effective recurrent weights are compared; or matrices (post,
        pre), of any weights. Ensembles have leading axes.
    - `types`: the cell type of each postsynaptic neuron, 0 ... C - 1; all are one type if None.
    - `presynaptic`: that of each presynaptic one; by default the same `types`.

    **Returns:** a `WeightChange`. Exact. NumPy, outside of `jit`. Cost: O(n²) time and memory.

    **Errors:** ValueError if shapes or types do not fit.

    Source of the question, how much of the weights learning changes and along what: Schuessler,
    Mastrogiuseppe, Dubreuil, Ostojic & Barak, NeurIPS 2020 (arXiv 2006.11036).
    """
    old, new = _matrix("before", before), _matrix("after", after)
    if old.shape != new.shape:
        raise ValueError(f"before and after differ in shape: {old.shape} and {new.shape}.")
    post = _types("types", types, old.shape[-2])
    same = presynaptic is None and old.shape[-1] == old.shape[-2]
    pre = post if same else _types("presynaptic", presynaptic, old.shape[-1])
    pairs = [
        [_of_pair(old[..., post == a, :][..., pre == b], new[..., post == a, :][..., pre == b])
         for b in range(pre.max() + 1)]
        for a in range(post.max() + 1)
    ]  # fmt: skip
    # (C, C, 6, *members) -> 6 of (*members, C, C)
    return WeightChange(*np.moveaxis(np.array(pairs), (0, 1, 2), (-2, -1, 0)))


def _of_pair(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(6, *members)."""
    old, new = (each.reshape(*each.shape[:-2], -1) for each in (old, new))
    exists = (old != 0) | (new != 0)
    count = exists.sum(-1).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [np.sum(each, -1, where=exists) / count for each in (new - old, old, new)]
        relative = np.linalg.norm(new - old, axis=-1) / np.linalg.norm(old, axis=-1)
        x, y = (np.where(exists, each - mean[..., None], 0) for each, mean in
                ((old, means[1]), (new, means[2])))  # fmt: skip
        spread = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
        # of weights that are all alike, rounding would correlate
        level = 1e-12 * np.maximum((old**2).sum(-1), (new**2).sum(-1))
        correlation = np.where(spread > level, (x * y).sum(-1) / spread, np.nan)
        flipped = (exists & (np.sign(old) != np.sign(new))).sum(-1) / count
    return np.array([relative, *means, correlation, flipped])


def _matrix(name: str, value: Any) -> np.ndarray:
    found = recurrent_matrix(value) if is_cell(value) else np.asarray(value)
    if found.ndim < 2 or found.dtype.kind != "f":
        raise ValueError(
            f"{name} must be a cell or weights (post, pre), but is {arguments.shown(value)}."
        )
    return found.astype(float)


def _types(name: str, types: Sequence[int] | None, n: int) -> np.ndarray:
    found = np.zeros(n, int) if types is None else np.array(arguments.cell_types(name, types))
    if len(found) != n:
        raise ValueError(f"{name} must be one a neuron, {n}, but has {len(found)} entries.")
    return found


def plot_weight_change(found: WeightChange, *, names: Sequence[str] | None = None) -> Any:
    """A matplotlib figure: relative and mean change, onto each type (rows) from each (columns).

    `names`: of the types; by default their numbers. Of an ensemble, means over its members.
    """
    panels = {"relative change": found.relative, "mean change": found.mean}
    with figures.styled():
        figure = figures.blank(figures.COLUMN, 1.9)
        for axes, (title, values) in zip(figure.subplots(1, 2), panels.items()):
            shown = values.reshape(-1, *values.shape[-2:]).mean(0)
            most = np.nanmax(np.abs(shown), initial=0) or 1.0
            signed = title == "mean change"
            look: Any = (
                {"cmap": "RdBu_r", "vmin": -most} if signed else {"cmap": "Greys", "vmin": 0}
            )
            axes.imshow(shown, vmax=most, **look)
            for (a, b), value in np.ndenumerate(shown):
                colour = "white" if abs(value) > 0.6 * most else "black"
                text = "–" if np.isnan(value) else f"{value:.2g}"
                axes.text(b, a, text, ha="center", va="center", color=colour)
            for axis, count, what in zip("yx", shown.shape, ("onto", "from")):
                words = [f"{i}" for i in range(count)] if names is None else names
                axes.set(**{f"{axis}ticks": range(count), f"{axis}label": what})
                axes.set(**{f"{axis}ticklabels": words})
            axes.set_title(title)
            axes.grid(False)
    return figure
