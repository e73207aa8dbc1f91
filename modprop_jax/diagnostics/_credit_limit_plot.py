"""The figure of `credit_limit`."""

from typing import Any

from .. import _arguments as arguments, _figures as figures
from ._credit_limit import CreditLimit


def plot_credit_limit(limit: CreditLimit) -> Any:
    """A matplotlib figure of `credit_limit`: cosine with BPTT, held out, by number of types.

    A line for each memory, a panel without and with a gate; rules are horizontal marks, BPTT at 1.
    """
    arguments.instance("limit", limit, CreditLimit, "what credit_limit returns")
    marks = [*zip(limit.names, limit.rule_cosine.tolist()), ("BPTT", 1.0)]
    panels = len(limit.gated)
    with figures.styled():
        figure = figures.blank(figures.COLUMN if panels == 1 else figures.PAGE, 2.9)
        axes_of = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        for axes, gate, cosines in zip(axes_of, limit.gated, limit.held_out_cosine):
            for index, count in enumerate(limit.memory):
                axes.plot(
                    limit.counts,
                    cosines[:, index],
                    color=figures.COLOURS[index % len(figures.COLOURS)],
                    marker=figures.MARKERS[index % len(figures.MARKERS)],
                    label=f"{count} exponential{'s' * (count > 1)}",
                )
            for place, (name, height) in enumerate(sorted(marks, key=lambda mark: mark[1])):
                axes.axhline(height, color="grey", lw=0.8, ls="--")
                axes.annotate(
                    name,
                    # side by side, as marks may lie close
                    (1.0 - 0.3 * (place % 3), height),
                    xycoords=("axes fraction", "data"),
                    fontsize=6,
                    ha="right",
                    va="bottom",
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks(limit.counts, [str(count) for count in limit.counts])
            axes.set(xlabel="cell types", title="gated" if gate else "not gated")
        axes_of[0].set_ylabel("cosine with BPTT, held out")
        handles = axes_of[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3)
    return figure
