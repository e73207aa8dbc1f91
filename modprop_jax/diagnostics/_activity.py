"""Firing rates, how regular they are, and rasters."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from .. import _arguments as arguments, _figures as figures


class FiringRates(NamedTuple):
    """Activity of n neurons, by `firing_rates`.

    `neuron` (n,): mean rate of each; `example` (*batch, n): the same by example; `population` (T,):
    mean over neurons and examples at each step; `silent`: share of neurons that never emit; `cv`
    (n,): coefficient of variation of the intervals between spikes, 0 of a clock and 1 of a Poisson
    process, NaN where there are fewer than two intervals, or no spikes but graded rates.
    """

    neuron: Float[np.ndarray, " n"]
    example: Float[np.ndarray, "*batch n"]
    population: Float[np.ndarray, " T"]
    silent: float
    cv: Float[np.ndarray, " n"]


def firing_rates(zs: npt.ArrayLike, *, dt: float = 1.0) -> FiringRates:
    r"""Rates of neurons from what they emit, and how regularly they spike.

    \[ r_i = \frac{1}{T\,dt} \sum_t z_{t,i}, \qquad
       CV_i = \frac{\mathrm{sd}(\Delta_i)}{\mathrm{mean}(\Delta_i)} \]

    with Δ the intervals between the spikes of a neuron, of all examples.

    **Arguments:** `zs` (T, *batch, n): emissions of the layer, as `rnn(xs)` returns them: spikes
    (0 and 1), or graded rates. Of a `Filtered` cell those of the cell inside. `dt`: length of a
    step; in seconds, the rates of spikes are in Hz.

    Exact. NumPy, outside of `jit`. Cost: O(T batch n) in time and memory.

    **Errors:** ValueError unless `zs` is at least (T, n) and finite.

    Source of the measure of regularity: Softky & Koch, J. Neurosci. 13 (1993).
    """
    zs, dt = emissions("zs", zs), arguments.number("dt", dt, arguments.POSITIVE)
    example = zs.mean(0) / dt
    flat = zs.reshape(len(zs), -1, zs.shape[-1])
    neuron = example.reshape(-1, zs.shape[-1]).mean(0)
    cv = np.full(zs.shape[-1], np.nan)
    if np.isin(zs, (0, 1)).all():
        for i, trains in enumerate(np.moveaxis(flat, -1, 0)):
            gaps = [np.diff(np.flatnonzero(train)) for train in trains.T]
            gaps = np.concatenate(gaps)
            if len(gaps) > 1:
                cv[i] = gaps.std() / gaps.mean()
    silent = float(np.mean(~flat.any((0, 1))))
    return FiringRates(neuron, example, flat.mean((1, 2)) / dt, silent, cv)


def plot_raster(
    zs: npt.ArrayLike, *, example: int = 0, types: Sequence[int] | None = None, dt: float = 1.0
) -> Any:
    """A matplotlib figure of one example: a raster above, the population's rate below.

    Spikes (0 and 1) are dots; graded rates are shades. With `types` (one integer a neuron) neurons
    are sorted by them, and each has its own colour and line of the rate. `zs`, `dt`: as of
    `firing_rates`; `example`: its place among all, batch axes flattened.
    """
    zs, dt = emissions("zs", zs), arguments.number("dt", dt, arguments.POSITIVE)
    n = zs.shape[-1]
    flat = zs.reshape(len(zs), -1, n)
    example = arguments.whole("example", example, 0)
    if example >= flat.shape[1]:
        raise ValueError(f"example must be below {flat.shape[1]}, but is {example}.")
    kinds = np.zeros(n, int) if types is None else np.array(arguments.cell_types("types", types))
    if len(kinds) != n:
        raise ValueError(f"types must be one a neuron, {n}, but has {len(kinds)} entries.")
    order = np.argsort(kinds, kind="stable")
    shown, time = flat[:, example, order], dt * np.arange(len(zs))
    with figures.styled():
        figure = figures.blank(figures.COLUMN, 3.0)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        spikes = np.isin(zs, (0, 1)).all()
        if not spikes:
            extent = (-dt / 2, time[-1] + dt / 2, -0.5, n - 0.5)
            look: Any = {"aspect": "auto", "origin": "lower", "cmap": "Greys", "extent": extent}
            image = above.imshow(shown.T, **look)
            figure.colorbar(image, ax=above, label="rate", pad=0.02)
        for kind in range(kinds.max() + 1):
            colour = "black" if types is None else figures.COLOURS[kind % len(figures.COLOURS)]
            rows = np.flatnonzero(kinds[order] == kind)
            if spikes:
                at, row = np.nonzero(shown[:, rows])
                above.plot(time[at], rows[row], "|", color=colour, ms=2.5, mew=0.7)
            line = figures.LINES[kind % len(figures.LINES)]
            name = None if types is None else f"type {kind}"
            below.plot(time, shown[:, rows].mean(1) / dt, color=colour, ls=line, label=name)
        above.set(ylabel="neuron", ylim=(-0.5, n - 0.5))
        above.grid(False)
        below.set(xlabel="time", ylabel="mean rate")
        if types is not None:
            figure.legend(loc="outside lower center", ncols=4)
    return figure


def emissions(name: str, value: npt.ArrayLike) -> np.ndarray:
    """(T, *batch, n) as NumPy's, finite."""
    found = np.asarray(value)
    if found.ndim < 2 or found.dtype.kind not in "fiub" or not found.size:
        raise ValueError(
            f"{name} must be numbers (T, *batch, n), such as rnn(xs), but is "
            f"{arguments.shown(value)}."
        )
    found = found.astype(float) if found.dtype.kind != "f" else found
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, but holds NaN or infinity.")
    return found
