"""What the intervals and tests of `compare` are worth, on data whose answer is known.

python reproductions/seed_statistics.py > docs/results/seed-statistics.md
"""

from typing import Any

import numpy as np
from scipy import stats

from modprop_jax.experiments._statistics import holm, interval, power


RUNS, TABLES, SEEDS = 2000, 4000, (3, 5, 6, 8, 10, 20)
WHAT = {
    "normal": "normal",
    "heavy": "heavy tails (Student's t, 3 degrees of freedom)",
    "fails": "a run in five of either rule fails (by 20 times the scatter of the others)",
    "skewed": "lopsided (lognormal)",
}

INTRODUCTION = f"""# What seeds can say

Output of `python reproductions/seed_statistics.py` (half a minute). `compare` and
[`modprop_jax.experiments.paired_differences`][] on drawn data whose answer is known.

## Intervals: how often they cover the mean

Of {RUNS} draws, for intervals that are meant to cover 95 %: BCa, plain percentiles, and the
expanded percentiles that `compare` has. The last column is the t interval. Differences are
"""

EXPLANATION = """
Plain percentiles and BCa promise too much at any number of seeds that a lab has, BCa no less than
percentiles. The expanded ones keep more of their word. No bootstrap interval goes beyond the
smallest and the largest value, so of 3 seeds it covers 75 % at the most, of 5 seeds 94 %, where
they lie symmetrically. Where differences are lopsided no method knows of the tail that it has not
drawn.

## Tests: how often they see a difference where there is none

Share of tables with a false alarm, of all pairs of rules, where all rules are alike: the same
distribution of scores, and differences between seeds that they share. At most 5 % is promised.
"""

POWER = """
Without the correction a third of all tables of five rules has a false alarm, and two thirds of
those of nine. Where runs fail now and then, the t test is cautious.

The promise is for rules that are *alike*. These two are not: they have the same mean, but one is
steady, and the other fails in a fifth of its runs. Few seeds with no failure among them then look
like a difference. Look at the medians too, and at each seed.

STEADY

## Seeds needed: how often they find a difference that is there

The difference is given in standard deviations of the differences between seeds, the level is 5 % of
one pair and of the first of ten (Holm's first step); "found": share of RUNS draws of so many seeds.
"""


def draw(kind: str, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Scores of one rule."""
    if kind == "normal":
        return rng.normal(size=size)
    if kind == "heavy":
        return rng.standard_t(3, size=size)
    if kind == "fails":
        return (rng.random(size) < 0.2) + 0.05 * rng.normal(size=size)
    return rng.lognormal(size=size) - np.exp(0.5)


def table(titles: list[str], rows: list[list[str]]) -> str:
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in [titles, ["---"] * len(titles), *rows]
    )


def covered(found: Any, known: float = 0.0) -> str:
    low, high = found
    return f"{100 * np.mean((low <= known) & (known <= high)):.0f} %"


def coverage(kind: str) -> str:
    rng, rows = np.random.default_rng(0), []
    for n in SEEDS:
        values = draw(kind, rng, (RUNS, n))
        if kind != "skewed":  # of two rules that are alike
            values = values - draw(kind, rng, (RUNS, n))
        middle, around = values.mean(-1), stats.t.ppf(0.975, n - 1) * stats.sem(values, axis=-1)
        found = [_scipy(values, "BCa", rng), _scipy(values, "percentile", rng), interval(values)]
        found.append((middle - around, middle + around))
        rows.append([str(n), *map(covered, found)])
    return table(["seeds", "BCa", "percentile", "expanded", "t"], rows)


def _scipy(values: np.ndarray, method: Any, rng: np.random.Generator) -> Any:
    ends = []
    for some in np.array_split(values, 10):
        found = stats.bootstrap((some,), np.mean, axis=-1, n_resamples=1999, method=method, rng=rng)
        ends.append(found.confidence_interval)
    return [np.concatenate(end) for end in zip(*ends)]


def alarms(kind: str, rules: int, seeds: int) -> list[str]:
    rng, (a, b) = np.random.default_rng(1), np.triu_indices(rules, 1)
    scores = rng.normal(size=(TABLES, 1, seeds)) + draw(kind, rng, (TABLES, rules, seeds))
    found: Any = stats.ttest_1samp(scores[:, a] - scores[:, b], 0, axis=-1)
    corrected = np.array([holm(p) for p in found.pvalue])
    return [f"{100 * np.mean(p.min(-1) <= 0.05):.1f} %" for p in (corrected, found.pvalue)]


def steady(seeds: int) -> list[str]:
    """False alarms between a rule that fails now and then and one that never does."""
    rng = np.random.default_rng(3)
    differences = draw("fails", rng, (TABLES, seeds)) - 0.2
    found: Any = stats.ttest_1samp(differences, 0, axis=-1)
    return [str(seeds), f"{100 * np.mean(found.pvalue <= 0.05):.0f} %"]


def needed(effect: float, level: float) -> list[str]:
    rng = np.random.default_rng(2)
    n = next(n for n in range(2, 1001) if power(effect, n, level) >= 0.8)
    found: Any = stats.ttest_1samp(effect + rng.normal(size=(RUNS, n)), 0, axis=-1)
    return [
        f"{effect:g}",
        f"{100 * level:g} %",
        str(n),
        f"{100 * np.mean(found.pvalue <= level):.0f} %",
    ]


def main() -> None:
    print(INTRODUCTION)
    for kind, words in WHAT.items():
        print(f"{words}:\n\n{coverage(kind)}\n")
    print(EXPLANATION)
    rows = [
        [WHAT[kind].partition(" (")[0], str(rules), str(rules * (rules - 1) // 2), str(seeds)]
        + alarms(kind, rules, seeds)
        for kind in ("normal", "heavy", "fails")
        for rules in (2, 5, 9)
        for seeds in (5, 10)
    ]
    print(table(["scores", "rules", "pairs", "seeds", "alarms", "if not corrected"], rows))
    uneven = table(["seeds", "alarms"], [steady(n) for n in (5, 10, 20, 40)])
    print(POWER.replace("STEADY", uneven).replace("RUNS", str(RUNS)))
    rows = [needed(effect, level) for effect in (0.5, 1.0, 2.0) for level in (0.05, 0.005)]
    print(table(["difference", "level", "seeds needed", "found"], rows))


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")  # BCa of values that are all alike
    main()
