"""What the rows of `filter_learning` say: tables and a figure."""

from typing import Any

import numpy as np
from filter_learning_parts import EVERY, METHODS, SCHEDULE
from filter_learning_rows import losses, score, TEST, tested, WORST

from modprop_jax import _figures as figures
from modprop_jax.experiments._statistics import centre, holm, interval, p_value, time_to_criterion


GIVEN = METHODS[:5]
# seeds of the fewest that are compared
FEWEST = 5


def criterion(row: dict[str, Any]) -> int | None:
    """The iteration of the first of five evaluations in a row without an error."""
    right = [x == 1 for x in row["accuracy"]]
    for place in range(len(right) - 4):
        if all(right[place : place + 5]):
            return place * EVERY
    return None


def cosines(rows: list[dict[str, Any]]) -> np.ndarray:
    """[seed, evaluation], NaN where there was none."""
    return np.array([[np.nan if x is None else x for x in r["cosine"]] for r in rows], float)


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each method."""
    titles = [
        "rule", "rate", "loss, mean over learning", "median of seeds", "last five", "learnt",
        "iterations to 100 %", "cosine, mean over learning", "median", "seeds above 1",
    ]  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for method in METHODS:
        mine = tested(rows, method)
        if not mine:
            continue
        around = centre([score(r) for r in mine])
        low_high = "" if around.low is None else f" ({around.low:.3f} to {around.high:.3f})"
        curves = np.array([losses(r) for r in mine])
        reached = time_to_criterion([criterion(r) for r in mine], SCHEDULE.iterations)
        median = "–" if reached.median is None else f"{reached.median:.0f}"
        angle = cosines(mine)
        above = sum(any(x is None or x > WORST for x in r["loss"]) for r in mine)
        cells = [
            method, f"{mine[0]['rate']:g}",
            f"{around.mean:.3f}{low_high}", f"{around.median:.3f}", f"{curves[:, -5:].mean():.3f}",
            f"{reached.count}/{reached.seeds}", median, f"{np.nanmean(angle):.2f}",
            f"{np.nanmedian(angle):.2f}", f"{above}/{reached.seeds}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(rows: list[dict[str, Any]], seeds: tuple[int, ...] = TEST) -> str:
    """Each way to have filters against e-prop and ModProp, in the mean loss, on the seeds that both
    have; p by the paired t test, with Holm's correction over all of these."""
    scores = {m: {r["seed"]: score(r) for r in tested(rows, m, seeds)} for m in METHODS}
    given = [m for m in GIVEN if m not in ("BPTT", "MDGL")]
    pairs, found = [], []
    for pair in [(m, g) for m in METHODS if m not in GIVEN for g in given]:
        first, second = (scores[m] for m in pair)
        both = sorted(first.keys() & second.keys())
        if len(both) >= FEWEST:
            pairs.append(pair)
            found.append(np.array([first[seed] - second[seed] for seed in both]))
    lines = ["| filters | rule | seeds | difference in loss | interval | p (Holm) |"]
    lines += ["|---" * 6 + "|"]
    for (first, second), each, p in zip(pairs, found, holm([p_value(d) for d in found])):
        low, high = interval(each)
        lines.append(
            f"| {first} | {second} | {len(each)} | {each.mean():+.3f} | {low:+.3f} to {high:+.3f} "
            f"| {p:.3f} |"
        )
    return "\n".join(lines)


def ageing(rows: list[dict[str, Any]], method: str = "refitted each 100", every: int = 100) -> str:
    """The cosine of filters by the iterations since they were fitted."""
    mine = tested(rows, method)
    if not mine:
        return ""
    angle = cosines(mine)[:, 1:]
    at = EVERY * np.arange(1, angle.shape[1] + 1)
    # an evaluation comes before the fit of its iteration
    ages = (at - 1) % every + 1
    lines = [f"| {method}, {len(mine)} seeds: age | cosine |", "|---|---|"]
    for age in np.unique(ages):
        lines.append(f"| {age} | {np.nanmean(angle[:, ages == age]):.2f} |")
    return "\n".join(lines)


# a panel each: what is drawn, and what of it is grey
PANELS = (
    ("held-out loss, rules that are given", GIVEN, ()),
    ("held-out loss, filters", METHODS[len(GIVEN) :], ("e-prop",)),
    ("cosine with BPTT", METHODS[len(GIVEN) :], ("e-prop", "ModProp, μ measured")),
)


def figure(rows: list[dict[str, Any]]) -> Any:
    """Losses and cosines along learning, means and intervals over seeds."""
    with figures.styled():
        made = figures.blank(figures.COLUMN, 7)
        panels = made.subplots(3, 1, sharex=True)
        for axes, (title, names, grey) in zip(panels, PANELS):
            for method in (*grey, *names):
                mine = tested(rows, method)
                if len(mine) >= FEWEST:
                    values = (
                        np.nan_to_num(cosines(mine))
                        if title.startswith("cosine")
                        else np.array([losses(r) for r in mine])
                    )
                    _curve(axes, method, values, method in grey)
            axes.set(title=title)
        panels[0].legend(fontsize=5.5)
        panels[-1].set(xlabel="iteration")
        handles = panels[-1].get_legend_handles_labels()
        made.legend(*handles, loc="outside lower center", ncols=2, fontsize=6)
    return made


def _curve(axes: Any, method: str, values: np.ndarray, grey: bool) -> None:
    place = METHODS.index(method)
    place -= len(GIVEN) if place >= len(GIVEN) else 0
    colour = "0.55" if grey else [*figures.COLOURS, "black", "0.3"][place]
    at = EVERY * np.arange(values.shape[1])
    low, high = interval(values.T)
    axes.plot(
        at,
        values.mean(0),
        color=colour,
        ls="-" if not grey else "--" if method == "e-prop" else ":",
        marker=None if grey else figures.MARKERS[place],
        markevery=(place, 5),
        label=method,
    )
    axes.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
