"""The figure of `credit_limit`."""

from typing import Any

from .. import _arguments as arguments
from ._credit_limit import CreditLimit


COLOURS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


def plot_credit_limit(limit: CreditLimit) -> Any:
    """A matplotlib figure of `credit_limit`: cosine with BPTT, held out, by number of types.

    A line for each memory, a panel without and with a gate; rules are horizontal marks, BPTT at 1.
    """
    arguments.instance("limit", limit, CreditLimit, "what credit_limit returns")
    # imported here: it takes a second, and only this function needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = len(limit.gated)
    figure = Figure(figsize=(3.6 * panels + 1.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes_of = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    marks = [*zip(limit.names, limit.rule_cosine.tolist()), ("BPTT", 1.0)]
    for axes, gate, cosines in zip(axes_of, limit.gated, limit.held_out_cosine):
        for index, count in enumerate(limit.memory):
            label = f"{count} exponential{'s' * (count > 1)}"
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(limit.counts, cosines[:, index], "o-", ms=4, color=colour, label=label)
        for place, (name, height) in enumerate(sorted(marks, key=lambda mark: mark[1])):
            axes.axhline(height, color="grey", lw=0.8, ls="--")
            axes.annotate(
                name,
                # side by side, as marks may lie close
                (1.0 - 0.3 * (place % 3), height),
                xycoords=("axes fraction", "data"),
                fontsize=7,
                ha="right",
                va="bottom",
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(limit.counts, [str(count) for count in limit.counts])
        axes.set_xlabel("cell types")
        axes.set_title("gated" if gate else "not gated", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    axes_of[0].set_ylabel("cosine with BPTT, held out")
    axes_of[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure
