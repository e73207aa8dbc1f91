"""What seeds, paired across rules, say about rules: centres, differences, times to a criterion."""

import dataclasses
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


SHARE = 0.95
"""Of intervals: what they are meant to cover."""
ALARMS = 0.05
"""Of tests: the share of tables, at most, that claim a difference where all rules are alike."""
POWER = 0.8
"""Chance to find a difference, for which seeds are counted."""
MOST = 1000
"""Seeds that are counted at most."""


@dataclasses.dataclass(frozen=True)
class Centre:
    """Where the values of `count` seeds lie: `low` to `high` is an interval of the mean.

    `iqm`: interquartile mean, that of the middle half. One seed has no interval.
    """

    mean: float
    low: float | None
    high: float | None
    median: float
    iqm: float
    count: int


@dataclasses.dataclass(frozen=True)
class Reached:
    """Iterations to a criterion, of `count` seeds that met it among `seeds`.

    A seed that did not meet it is one whose time is longer than the run (Kaplan and Meier).
    `median`: None if it is longer than the run; `low`, `high`: its interval, None where that end
    is not known. `mean`: of times up to the end of the run, `until`.
    """

    median: float | None
    low: float | None
    high: float | None
    mean: float
    count: int
    seeds: int
    until: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """The difference `first` minus `second`, seed by seed.

    - `mean`, `median`: of the differences; `low`, `high`: an interval of the mean.
    - `p`: of the paired t test; `holm`: corrected for the number of pairs.
    - `supported`: whether `holm` is at most 0.05.
    - `seeds`: how many there are; `needed`: how many would have a chance of 80 % to support this
        difference if it is as large, and scatters as much, as it does here; 1001 for more than
        1000, None where nothing can be said.
    """

    first: str
    second: str
    mean: float
    median: float
    low: float | None
    high: float | None
    p: float | None
    holm: float | None
    supported: bool
    seeds: int
    needed: int | None


def interval(values: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of a 95 % interval of the mean over the last axis, by the bootstrap.

    The percentile interval, expanded for few values (Hesterberg, Am. Stat. 69 (2015)): percentiles
    so far out that of normal values it is as wide as that of the t distribution. Plain percentiles
    and BCa are narrower, and cover less, at any number of seeds that a lab can pay for. All of them
    lie between the smallest and the largest value, so of n values at most 1 - 2^(1-n) cover: six
    seeds are the fewest that can hold 95 %. The same values have the same interval.
    """
    from scipy import stats

    values = np.asarray(values, float)
    n = values.shape[-1]
    out = np.sqrt(n / (n - 1)) * stats.t.ppf((1 + SHARE) / 2, n - 1)
    level = float(1 - 2 * stats.norm.sf(out))
    found = stats.bootstrap(
        (values,),
        np.mean,
        axis=-1,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return found.low, found.high


def centre(values: Sequence[float]) -> Centre:
    """Mean with its interval, median and interquartile mean."""
    from scipy import stats

    found = np.asarray(values, float)
    low, high = map(float, interval(found)) if len(found) > 1 else (None, None)
    iqm = float(stats.trim_mean(found, 0.25))
    return Centre(float(found.mean()), low, high, float(np.median(found)), iqm, len(found))


def time_to_criterion(times: Sequence[int | None], until: int) -> Reached:
    """By Kaplan and Meier; None: not met in a run of `until` iterations."""
    from scipy import stats

    met = [time for time in times if time is not None]
    still = [until] * (len(times) - len(met))
    estimate = stats.ecdf(stats.CensoredData(uncensored=met, right=still)).sf
    with warnings.catch_warnings():  # an end that is not known is NaN, and said so
        warnings.simplefilter("ignore", RuntimeWarning)
        around = estimate.confidence_interval(SHARE, method="log-log")

    def median(share: np.ndarray) -> float | None:
        # of those left; after the last event nothing is known of the rest
        below = np.flatnonzero((share <= 0.5) & np.isin(estimate.quantiles, met))
        return float(estimate.quantiles[below[0]]) if below.size else None

    shares = estimate.probabilities, around.low.probabilities, around.high.probabilities
    return Reached(
        *map(median, shares),
        mean=float(np.mean([*met, *still])),
        count=len(met),
        seeds=len(times),
        until=until,
    )


def paired_differences(scores: Mapping[str, npt.ArrayLike]) -> list[Pair]:
    """All differences between rules, and which of them the seeds support.

    **Arguments:** `scores`: for each rule its score by seed, the same seeds (initial weights and
    data) in the same order for all.

    **Returns:** a `Pair` for each two rules. The test is the paired t test, two-sided, corrected
    by Holm's step-down for the number of pairs: at most 5 % of such tables claim a difference where
    all rules are alike. If two rules are alike their differences lie symmetrically around 0, and
    then the t test errs towards caution, however they are distributed; it does not hold its level
    where two rules have the same mean but one fails now and then and the other never does.

    With one seed nothing can be said: `p`, `low` and `high` are None.

    **Errors:** ValueError if rules have different numbers of seeds, or values are not finite.

    Sources: Holm, Scand. J. Stat. 6 (1979); on tests for few seeds: Colas, Sigaud & Oudeyer, arXiv
    1904.06979; on intervals and interquartile means: Agarwal et al., NeurIPS 2021 (arXiv
    2108.13264).
    """
    values = {name: np.asarray(each, float) for name, each in scores.items()}
    shapes = {name: each.shape for name, each in values.items()}
    if any(len(shape) != 1 or not shape[0] for shape in shapes.values()):
        raise ValueError(f"scores must be a vector for each rule, one value a seed: {shapes}.")
    if len(set(shapes.values())) > 1:
        raise ValueError(f"scores must be of the same seeds for all rules, but have {shapes}.")
    broken = [name for name, each in values.items() if not np.isfinite(each).all()]
    if broken:
        raise ValueError(f"scores of {broken[0]} are not finite: leave out what diverged.")
    names = list(itertools.combinations(values, 2))
    found = [values[a] - values[b] for a, b in names]
    p = [p_value(each) for each in found]
    corrected = holm(p) if len(next(iter(found), ())) > 1 else p
    open_pairs = sum(q is None or q > ALARMS for q in corrected)
    return [
        _pair(*pair, *about, ALARMS / max(open_pairs, 1))
        for pair, about in zip(names, zip(found, p, corrected))
    ]


def _pair(
    first: str,
    second: str,
    differences: np.ndarray,
    p: float | None,
    corrected: float | None,
    level: float,
) -> Pair:
    n = len(differences)
    low, high = map(float, interval(differences)) if n > 1 else (None, None)
    supported = corrected is not None and corrected <= ALARMS
    needed = n if supported else seeds_needed(differences, level)
    mean, median = float(differences.mean()), float(np.median(differences))
    return Pair(first, second, mean, median, low, high, p, corrected, supported, n, needed)


def p_value(differences: np.ndarray) -> float | None:
    """Of the paired t test; None of a single seed."""
    from scipy import stats

    n = len(differences)
    if n < 2:
        return None
    if np.ptp(differences) == 0:
        # no scatter that the t test could go by; that all signs agree has this chance
        return 2.0 ** (1 - n) if differences[0] else 1.0
    found: Any = stats.ttest_1samp(differences, 0)
    return float(found.pvalue)


def holm(p: Sequence[float | None]) -> list[float]:
    """Values of p corrected for their number, by Holm's step-down method."""
    found = np.array(p, float)
    order = np.argsort(found)
    steps = np.arange(len(found), 0, -1) * found[order]
    corrected = np.empty_like(found)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def seeds_needed(differences: np.ndarray, level: float) -> int | None:
    """Seeds at which a t test of this level finds this difference with a chance of 80 %.

    By the noncentral t distribution, at the mean and standard deviation that these seeds have:
    of few seeds a rough number. At least one more than there are.
    """
    n = len(differences)
    if n < 2 or not differences.mean() or np.ptp(differences) == 0:
        return None
    effect = abs(differences.mean()) / differences.std(ddof=1)
    low, high = n, MOST + 1  # not enough; enough, or too many to count
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(effect, middle, level) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def power(effect: float, seeds: int, level: float) -> float:
    """Chance that a paired t test of so many seeds finds a difference of `effect` sds."""
    from scipy import stats

    beyond = stats.t.isf(level / 2, seeds - 1)
    away = effect * np.sqrt(seeds)
    ends = stats.nct.sf(beyond, seeds - 1, away), stats.nct.cdf(-beyond, seeds - 1, away)
    # NaN where SciPy's series end: far from there, where it is 1 and 0
    return float(np.where(np.isnan(ends), (1, 0), ends).sum())
