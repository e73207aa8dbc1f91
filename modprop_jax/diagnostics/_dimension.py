"""How many directions a population's activity takes."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from .. import _figures as figures
from ._activity import emissions


class ParticipationRatio(NamedTuple):
    """`value`: between 1 and n; `variances` (n,): along the principal components, largest first."""

    value: float
    variances: Float[np.ndarray, " n"]


def participation_ratio(zs: npt.ArrayLike) -> ParticipationRatio:
    r"""The dimension of a population's activity.

    \[ PR = \frac{(\sum_i \lambda_i)^2}{\sum_i \lambda_i^2} \]

    with λ the eigenvalues of the covariance of the n neurons over steps and examples: 1 if all
    activity is along one direction, n if it is alike in all of them.

    **Arguments:** `zs` (T, *batch, n): emissions, as of `firing_rates`, or states.

    Of activity that never changes it is NaN. Biased downwards where there are not many more steps
    and examples than neurons. NumPy, outside of `jit`. Cost: O(T batch n²) time, O(T batch n)
    memory.

    **Errors:** ValueError unless `zs` is at least (T, n) and finite.

    Source: Gao, Trautmann, Yu, Santhanam, Ryu, Shenoy & Ganguli, bioRxiv 214262 (2017).
    """
    flat = emissions("zs", zs)
    flat = flat.reshape(-1, flat.shape[-1]).astype(float)
    centred = flat - flat.mean(0)
    # what rounding leaves of a constant is no direction
    centred[:, np.ptp(flat, axis=0) == 0] = 0
    values = np.linalg.svd(centred, compute_uv=False) ** 2 / max(len(flat) - 1, 1)
    variances = np.zeros(flat.shape[-1])
    variances[: len(values)] = values
    squared = (variances**2).sum()
    return ParticipationRatio(
        float(variances.sum() ** 2 / squared) if squared else float("nan"), variances
    )


def plot_participation_ratio(found: ParticipationRatio) -> Any:
    """A matplotlib figure: the share of the variance that the first components hold."""
    variances = found.variances
    share = np.cumsum(variances) / variances.sum()
    with figures.styled():
        figure = figures.blank(figures.COLUMN, 2.3)
        axes = figure.subplots()
        axes.plot(np.arange(1, len(share) + 1), share, "o-", color="black", ms=2.5)
        axes.axvline(found.value, color=figures.COLOURS[0], ls="--")
        axes.annotate(
            f"PR = {found.value:.1f}",
            (found.value, 0.05),
            xytext=(3, 0),
            textcoords="offset points",
            color=figures.COLOURS[0],
        )
        axes.set(xlabel="principal components", ylabel="share of variance", ylim=(0, 1.03))
    return figure
