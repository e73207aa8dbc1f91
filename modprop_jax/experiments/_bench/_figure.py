"""Time against network size, and memory against time steps, as a figure."""

from collections.abc import Sequence
from typing import Any

from ... import _figures as figures
from .._rule_styles import RuleStyle, styles
from .._rules import RULES
from ._results import Line


_RATIOS = 0.15, 60


def figure(lines: Sequence[Line]) -> dict[str, bytes]:
    """Files by suffix: a column a mode; a row for time at each T, and one for memory at the
    largest n. Of the first network alone.

    Lines are rules, `plain` is black; those far slower than plain leave the panel at its top.
    """
    with figures.styled():
        canvas = _drawn(lines)
        head = ["program", "mode", "n", "T", "ratio", "low", "high", "megabytes"]
        rows = [
            [x.program, x.mode, x.n, x.steps, x.ratio, x.low, x.high, x.megabytes]
            for x in lines
            if x.network == lines[0].network
        ]
        found = figures.files("", canvas, [head, *rows])
    return {name.removeprefix("."): content for name, content in found.items()}


def _drawn(lines: Sequence[Line]) -> Any:
    own = [line for line in lines if line.network == lines[0].network]
    measured = [line for line in own if line.ratio is not None]
    modes = list(dict.fromkeys(line.mode for line in measured))
    steps = sorted({line.steps for line in measured})
    names = list(dict.fromkeys(line.program for line in measured))
    look = _looks(names)
    canvas = figures.blank(figures.PAGE, 1.7 * (len(steps) + 1) + 0.5)
    axes = canvas.subplots(len(steps) + 1, len(modes), squeeze=False, sharey="row")
    largest = max((line.n for line in measured), default=0)
    for column, mode in enumerate(modes):
        of_mode = [line for line in measured if line.mode == mode]
        for row, length in enumerate(steps):
            at = axes[row][column]
            at.set(xlabel="neurons", title=f"{mode}, T = {length}")
            at.axhline(1, color="black", lw=0.8, ls=":")
            for name in names:
                chosen = [x for x in of_mode if (x.program, x.steps) == (name, length)]
                _draw(at, look[name], [(x.n, x.ratio) for x in chosen])
        at = axes[-1][column]
        at.set(xlabel="time steps", title=f"{mode}, n = {largest}")
        for name in names:
            chosen = [x for x in of_mode if (x.program, x.n) == (name, largest)]
            points = [(x.steps, x.megabytes) for x in chosen if x.megabytes is not None]
            _draw(at, look[name], points)
    for row, label in enumerate(["time / plain"] * len(steps) + ["temporaries, MB"]):
        axes[row][0].set_ylabel(label)
    for row, at in ((row, at) for row, line in enumerate(axes) for at in line):
        time, ticks = row < len(steps), sorted({line.n for line in measured})
        at.set(xscale="log", yscale="log")
        if time:
            at.set(ylim=_RATIOS, yticks=(0.2, 0.5, 1, 2, 5, 10, 20, 50))
            at.yaxis.set_major_formatter("{x:g}")
        at.set_xticks(ticks if time else steps, minor=False)
        at.xaxis.set_major_formatter("{x:g}")
        at.minorticks_off()
    handles = {}
    for at in axes.flat:
        handles |= dict(zip(*reversed(at.get_legend_handles_labels())))
    shown = [look[name].name for name in names if look[name].name in handles]
    canvas.legend([handles[name] for name in shown], shown, loc="outside lower center", ncols=5)
    return canvas


def _looks(names: Sequence[str]) -> dict[str, RuleStyle]:
    """Rules as in every figure; plain JAX and other packages, which are none, in greys."""
    rules = [name for name in names if name.partition(":")[0] in RULES]
    found = styles(rules)
    others = [name for name in names if name not in rules]
    for place, name in enumerate(others):
        line: dict[str, Any] = {"color": str(0.25 * place % 0.9), "ls": (0, (1, 1))}
        line |= {"marker": figures.MARKERS[place % len(figures.MARKERS)], "mfc": "white"}
        found[name] = RuleStyle(name, line, place)
    return found


def _draw(at: Any, look: RuleStyle, points: Sequence[tuple]) -> None:
    if points:
        at.plot(*zip(*sorted(points)), label=look.name, **look.line)
