"""The rows of `filter_learning`, and what they say: tables and a figure."""

import json
import pathlib
from typing import Any

import numpy as np
from filter_learning_parts import EVERY, LEARNING_RATES, METHODS, SCHEDULE

from modprop_jax import _figures as figures
from modprop_jax.experiments._statistics import centre, holm, interval, p_value, time_to_criterion


# seeds of rates, and of what is reported
TUNING, TEST = (1000, 1001, 1002, 1003), tuple(range(12))
# a loss that counts for one that is larger, or not a number; chance is 0.69
WORST = 1.0
GIVEN = METHODS[:5]


class Rows:
    """What has been run, a line of JSON each: (method, seed, rate)."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def read(self) -> list[dict[str, Any]]:
        """All of them, also those of other processes."""
        found = []
        for path in sorted(self.folder.glob("rows*.jsonl")):
            found += map(json.loads, path.read_text("utf-8").splitlines())
        return found

    def add(self, row: dict[str, Any], method: str) -> None:
        """To the file of this method."""
        with (self.folder / f"rows-{METHODS.index(method):02d}.jsonl").open(
            "a", encoding="utf-8"
        ) as f:
            f.write(json.dumps(row) + "\n")


def score(row: dict[str, Any]) -> float:
    """The held-out loss, mean over learning."""
    return float(np.mean(losses(row)))


def losses(row: dict[str, Any]) -> np.ndarray:
    """At most `WORST`."""
    found = np.array([np.nan if x is None else x for x in row["loss"]], float)
    return np.where(np.isfinite(found), np.minimum(found, WORST), WORST)


def best_rate(rows: list[dict[str, Any]], method: str) -> float:
    """Of the tuning seeds."""

    def mean(rate):
        mine = [r for r in rows if r["method"] == method and r["rate"] == rate]
        return np.mean([score(r) for r in mine if r["seed"] in TUNING])

    return min(LEARNING_RATES, key=mean)


def tested(rows: list[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """The test seeds at the best rate, in order."""
    done = {(r["seed"], r["rate"]) for r in rows if r["method"] == method}
    if not {(seed, rate) for seed in TUNING for rate in LEARNING_RATES} <= done:
        return []
    rate = best_rate(rows, method)
    mine = {r["seed"]: r for r in rows if r["method"] == method and r["rate"] == rate}
    return [mine[seed] for seed in TEST if seed in mine]


def criterion(row: dict[str, Any]) -> int | None:
    """The iteration of the first of five evaluations in a row without an error."""
    right = [x == 1 for x in row["accuracy"]]
    for place in range(len(right) - 4):
        if all(right[place : place + 5]):
            return place * EVERY
    return None


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each method."""
    titles = [
        "rule", "rate", "loss, mean over learning", "last five", "learnt", "iterations to 100 %",
        "cosine at the start", "half way", "at the end", "ms an iteration",
    ]  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for method in METHODS:
        mine = tested(rows, method)
        if not mine:
            continue
        around = centre([score(r) for r in mine])
        last = np.mean([losses(r)[-5:].mean() for r in mine])
        reached = time_to_criterion([criterion(r) for r in mine], SCHEDULE.iterations)
        median = "–" if reached.median is None else f"{reached.median:.0f}"
        angle = np.array([[np.nan if x is None else x for x in r["cosine"]] for r in mine], float)
        at = [np.nanmean(angle[:, place]) for place in (0, angle.shape[1] // 2, -1)]
        ms = np.median([r["seconds"] for r in mine]) / SCHEDULE.iterations * 1e3
        cells = [
            method, f"{mine[0]['rate']:g}",
            f"{around.mean:.3f} ({around.low:.3f} to {around.high:.3f})", f"{last:.3f}",
            f"{reached.count}/{reached.seeds}", median, *(f"{x:.2f}" for x in at), f"{ms:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(rows: list[dict[str, Any]]) -> str:
    """Each way to have filters against e-prop and ModProp, seed by seed, in the mean loss; p by the
    paired t test, with Holm's correction over all of these."""
    scores = {m: np.array([score(r) for r in tested(rows, m)]) for m in METHODS}
    scores = {m: each for m, each in scores.items() if len(each) == len(TEST)}
    given = [m for m in GIVEN if m in scores and m not in ("BPTT", "MDGL")]
    pairs = [(m, g) for m in scores if m not in GIVEN for g in given]
    found = [scores[m] - scores[g] for m, g in pairs]
    lines = ["| filters | rule | difference in loss | interval | p (Holm) |", "|---" * 5 + "|"]
    for (first, second), each, p in zip(pairs, found, holm([p_value(d) for d in found])):
        low, high = interval(each)
        lines.append(
            f"| {first} | {second} | {each.mean():+.3f} | {low:+.3f} to {high:+.3f} | {p:.3f} |"
        )
    return "\n".join(lines)


def figure(rows: list[dict[str, Any]]) -> Any:
    """Losses and cosines along learning: rules that are given, and filters."""
    with figures.styled():
        made = figures.blank(figures.PAGE, 4.6)
        grid = made.subplots(2, 2, sharex=True, sharey="row")
        for column, names in enumerate((GIVEN, METHODS[len(GIVEN) :])):
            names = [*names, *(("e-prop", "ModProp, μ measured") if column else ())]
            for place, method in enumerate(names):
                mine = tested(rows, method)
                if len(mine) < 2:
                    continue
                grey = column and method in GIVEN
                colour = "grey" if grey else [*figures.COLOURS, "black"][place % 7]
                kind = figures.LINES[place % len(figures.LINES)]
                at = EVERY * np.arange(len(mine[0]["loss"]))
                angle = [[np.nan if x is None else x for x in r["cosine"]] for r in mine]
                for axes, values in (
                    (grid[0, column], np.array([losses(r) for r in mine])),
                    (grid[1, column], np.nan_to_num(np.array(angle, float))),
                ):
                    low, high = interval(values.T)
                    axes.plot(at, values.mean(0), color=colour, ls=kind, label=method)
                    axes.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
            grid[0, column].set_title(("rules that are given", "filters, and two of these")[column])
            grid[1, column].set_xlabel("iteration")
            grid[0, column].legend(fontsize=5.5)
        grid[0, 0].set(ylabel="held-out loss")
        grid[1, 0].set(ylabel="cosine with BPTT")
    return made
