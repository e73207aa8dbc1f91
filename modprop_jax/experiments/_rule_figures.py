"""Figures with a line for each rule: panels of at most eight rules, one column wide if they fit."""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _figures as figures
from .._figures import Style
from ._rule_styles import is_exact, RuleStyle, styles
from ._statistics import interval


MOST = 8
"""Rules in one panel."""


class Drawing:
    """What draws one rule into a panel, and keeps the data for the CSV.

    `style`: the rule's; `quantity`: what the panel shows.
    """

    def __init__(self, rows: list[list[Any]]):
        self._rows = rows

    def along(
        self,
        axes: Any,
        rule: str,
        style: RuleStyle,
        quantity: str,
        at: Sequence[float],
        by_seed: np.ndarray,
    ) -> None:
        """The mean over seeds (the last axis of `by_seed`), and a 95 % interval as a band."""
        if not len(at):
            return
        by_seed = np.asarray(by_seed, float)
        mean, seeds = by_seed.mean(1), by_seed.shape[1]
        low, high = interval(by_seed) if seeds > 1 else (mean, mean)
        # some eight markers a line, each rule's elsewhere than another's
        every = max(1, math.ceil(len(at) / 8))
        offset = style.place * every // MOST % every
        axes.plot(at, mean, label=style.name, markevery=(offset, every), **style.line)
        if seeds > 1:
            axes.fill_between(at, low, high, color=style.line["color"], alpha=0.15, lw=0)
        for x, *ends, values in zip(at, mean, low, high, by_seed):
            around = ends if seeds > 1 else [ends[0], "", ""]
            self.point(rule, quantity, x, around, values)

    def point(
        self, rule: str, quantity: str, at: float, ends: Sequence[Any], seeds: Sequence[float]
    ) -> None:
        """A row of the CSV: mean, low, high, and the seeds that they are of."""
        self._rows.append([rule, quantity, at, *ends, *seeds])


Panel = tuple[Callable[[Drawing, Any, str, RuleStyle], None], Callable[[Any], None]]
"""How one rule is drawn, and what is said about the axes."""


def by_rule(
    name: str,
    title: str,
    rules: Sequence[str],
    panels: Sequence[Panel],
    *,
    at: str = "iteration",
    height: float = 1.55,
    style: Style = None,
) -> dict[str, bytes]:
    """Files of a figure: a row for each of `panels`, a column for each eight rules or fewer.

    Where there are several columns, the exact rule is in each of them.
    """
    look, groups = styles(rules), grouped(rules)
    rows: list[list[Any]] = []
    drawing = Drawing(rows)
    with figures.styled(style):
        lines = max(math.ceil(len(group) / 2) for group in groups)
        size = height * len(panels) + 0.35 + 0.16 * (lines if len(groups) == 1 else 2 * lines)
        figure = figures.blank(figures.COLUMN if len(groups) == 1 else figures.PAGE, size)
        grid = figure.subplots(len(panels), len(groups), squeeze=False, sharex="row", sharey="row")
        for (draw, finish), across in zip(panels, grid):
            for axes, group in zip(across, groups):
                for rule in group:
                    draw(drawing, axes, rule, look[rule])
                finish(axes)
            for axes in across[1:]:
                axes.set_ylabel("")
        if len(groups) == 1:
            handles = grid[0, 0].get_legend_handles_labels()
            if handles[0]:
                figure.legend(*handles, loc="outside lower center", ncols=2)
        else:
            for axes, above in zip(grid[-1], grid[0]):
                place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.3)}
                axes.legend(*above.get_legend_handles_labels(), **place)
        figure.suptitle(textwrap.fill(title, 56 if len(groups) == 1 else 115))
        head = ["rule", "quantity", at, "mean", "low", "high"]
        most = max((len(row) for row in rows), default=6) - 6
        return figures.files(name, figure, [[*head, *map("seed {}".format, range(most))], *rows])


def grouped(rules: Sequence[str]) -> list[list[str]]:
    """The rules of each column: all of them if they are few enough, or as many in each."""
    if len(rules) <= MOST:
        return [list(rules)]
    exact = [rule for rule in rules if is_exact(rule)][:1]
    others = [rule for rule in rules if rule not in exact]
    count = math.ceil(len(others) / (MOST - len(exact)))
    return [[*part, *exact] for part in map(list, np.array_split(others, count))]


def matrices(
    name: str,
    title: str,
    labels: Sequence[str],
    panels: dict[str, np.ndarray],
    *,
    style: Style = None,
) -> dict[str, bytes]:
    """Files of a figure of rules against rules: a panel for each matrix of cosines."""
    names, n = [look.name for look in styles(labels).values()], len(labels)
    columns = min(len(panels), 3 if n <= 5 else 2 if n <= 10 else 1)
    down = math.ceil(len(panels) / columns)
    width = figures.COLUMN if len(panels) == 1 and n <= 8 else figures.PAGE
    side = width / columns
    with figures.styled(style):
        figure = figures.blank(width, 0.8 + 0.85 * (side - 0.2) * down)
        grid = figure.subplots(down, columns, squeeze=False).ravel()
        # numbers are as large as their fields are wide
        size = min(7.0, 72 * (side - 0.9) / n / 2.6)
        image = None
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for place, (axes, (above, cosine)) in enumerate(zip(grid, panels.items())):
            image = axes.imshow(cosine, vmin=-1, vmax=1, cmap="RdBu_r")
            for (i, j), value in np.ndenumerate(cosine):
                colour = "white" if abs(value) > 0.6 else "black"
                text = f"{value:.2f}"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)
            lowest, first = place + columns >= len(panels), place % columns == 0
            axes.set_xticks(range(n), names if lowest else [""] * n, rotation=45, ha="right")
            axes.set_yticks(range(n), names if first else [""] * n)
            axes.tick_params(labelsize=6)
            axes.set_title(above)
            axes.grid(False)
        if image is not None:
            figure.colorbar(image, ax=list(grid), shrink=0.7, label="cosine of gradients")
        figure.suptitle(textwrap.fill(title, 56 if width == figures.COLUMN else 115))
        rows: list[list[Any]] = [["panel", "rule", *labels]]
        for above, cosine in panels.items():
            rows += [[above, rule, *line] for rule, line in zip(labels, cosine.tolist())]
        return figures.files(name, figure, rows)


def shown(what: str, seeds: int) -> str:
    """What a figure shows of its seeds."""
    if seeds == 1:
        return "1 seed"
    return (
        f"{what} of {seeds} seeds" if what == "mean" else f"{seeds} seeds, mean and 95 % interval"
    )
