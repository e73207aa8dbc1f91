"""Learning curves as a figure."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._config import Config


# Okabe and Ito's colours, which colour-blind readers tell apart; black is the exact
# gradient.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_STYLES = ("-", ":", "-.")


def learning_curves(config: Config, metrics: Sequence[dict[str, Any]]) -> bytes:
    """Validation loss and accuracy, or the task's score, against iterations, as a PNG.

    A line is the mean over seeds, its band reaches from the lowest to the highest seed.
    """
    # Imported here: it takes a second that --help should not.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and none of pyplot's global state
    left, right = figure.subplots(1, 2)
    others = [rule for rule in config.rules if rule != "bptt"]
    for rule in config.rules:
        lines = [line for line in metrics if line["rule"] == rule]
        if not lines:
            continue
        black = rule == "bptt"
        turn, index = (0, 0) if black else divmod(others.index(rule), len(_COLOURS))
        colour, style = ("black", "--") if black else (_COLOURS[index], _STYLES[turn % 3])
        at = np.array([line["iteration"] for line in lines])
        for axes, quantity in ((left, "loss"), (right, "accuracy")):
            values = np.array([line[quantity] for line in lines], dtype=float)
            axes.plot(
                at, values.mean(1), color=colour, lw=1.8, ls=style,
                label=rule,
            )  # fmt: skip
            axes.fill_between(at, values.min(1), values.max(1), color=colour, alpha=0.15, lw=0)
    of = "validation" if config.settings.segment is None else "online"
    # a loss with floors is read against them, any other over orders of magnitude
    left.set(ylabel=f"{of} loss", yscale="linear" if config.entry.floors else "log")
    for name, level in config.entry.floors.items():
        left.axhline(level, color="grey", lw=0.8, ls=":")
        left.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), fontsize="x-small",
            ha="right", va="bottom", color="grey",
        )  # fmt: skip
    # A score may start anywhere below 0; how far below, the loss says.
    lowest = min((min(line["accuracy"]) for line in metrics), default=0)
    right.set(ylabel=f"{of} {config.entry.score}", ylim=(max(min(lowest, 0), -1) - 0.02, 1.02))
    right.axhline(config.settings.criterion, color="grey", lw=0.8, ls=":")
    for axes in (left, right):
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if metrics and len(config.rules) > 6:
        figure.set_size_inches(11.5, 3.8)
        figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    elif metrics:
        right.legend(frameon=False, fontsize="small")
    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    figure.suptitle(
        f"{config.task} ({config.preset}): mean and range of {seeds}", fontsize="medium"
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
