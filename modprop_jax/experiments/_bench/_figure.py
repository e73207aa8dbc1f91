"""Time against network size, and memory against time steps, as a figure."""

import io
from collections.abc import Sequence

from ._results import Line


_RATIOS = 0.15, 60


def figure(lines: Sequence[Line]) -> bytes:
    """A PNG: a column a mode; a row for time at each T, and one for memory at the largest n. Of the
    first network alone.

    Lines are rules, `plain` is black; those far slower than plain leave the panel at its top.
    """
    # Imported here: it takes a second that --help should not.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    own = [line for line in lines if line.network == lines[0].network]
    measured = [line for line in own if line.ratio is not None]
    modes = list(dict.fromkeys(line.mode for line in measured))
    steps = sorted({line.steps for line in measured})
    names = list(dict.fromkeys(line.program for line in measured))
    canvas = Figure(figsize=(3.2 * len(modes) + 2, 3.2 * (len(steps) + 1)), layout="constrained")
    FigureCanvasAgg(canvas)  # no window system, and none of pyplot's global state
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
                _draw(at, names, name, [(x.n, x.ratio) for x in chosen])
        at = axes[-1][column]
        at.set(xlabel="time steps", title=f"{mode}, n = {largest}")
        for name in names:
            chosen = [x for x in of_mode if (x.program, x.n) == (name, largest)]
            points = [(x.steps, x.megabytes) for x in chosen if x.megabytes is not None]
            _draw(at, names, name, points)
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
        at.grid(alpha=0.25)
        at.spines[["top", "right"]].set_visible(False)
    handles = {}
    for at in axes.flat:
        handles |= dict(zip(*reversed(at.get_legend_handles_labels())))
    shown = [name for name in names if name in handles]
    canvas.legend(
        [handles[name] for name in shown], shown, loc="outside right upper", frameon=False
    )
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw(at, names: Sequence[str], name: str, points: Sequence[tuple]) -> None:
    if not points:
        return
    others = [other for other in names if other != "plain"]
    index = 0 if name == "plain" else others.index(name)
    colour = "black" if name == "plain" else f"C{index}"  # ten colours, then from the first
    marker = "osD^"[index // 10 % 4]
    at.plot(*zip(*sorted(points)), label=name, lw=1.5, marker=marker, ms=4, color=colour)
