"""The figures of `align`."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..diagnostics import curvature_bound
from ._align_config import AlignConfig
from ._align_summary import correlations, finished, gap, Metrics, of_rule, rate_at, values
from ._plots import _COLOURS


def figures(config: AlignConfig, metrics: Metrics) -> dict[str, bytes]:
    """File names and PNGs: along training, all rules with all, by lag, curvature."""
    if not metrics:  # every rule broke at its start
        return {}
    found = {
        "alignment.png": alignment_figure(config, metrics),
        "matrix.png": matrix_figure(config, metrics),
        "curvature.png": curvature_figure(config, metrics),
    }
    if "credit" in metrics[0]:
        found["credit.png"] = credit_figure(config, metrics)
    return found


def alignment_figure(config: AlignConfig, metrics: Metrics) -> bytes:
    """Cosine and projection of each rule's gradient, on its own network, along training."""

    def draw(figure):
        left, right = figure.subplots(1, 2)
        for axes, name in ((left, "cosine"), (right, "projection")):
            for rule, style in _styles(config):
                _along(axes, of_rule(metrics, rule), lambda line: values(line, name), rule, style)
            axes.set_xlabel("iteration")
        left.set(ylabel="cosine to BPTT")
        right.set(ylabel="projection ρ on BPTT")
        right.legend(frameon=False, fontsize="small")
        figure.suptitle(_title(config), fontsize="medium")

    return _png((9.0, 3.6), draw)


def matrix_figure(config: AlignConfig, metrics: Metrics) -> bytes:
    """Cosine of all rules with all: at the start, and on the network that each rule trained."""
    panels = _ends(config, metrics)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)

    def draw(figure):
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        names, image = config.measured, None
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, line) in zip(grid, panels):
            cosine = np.array(line["matrix"]["cosine"], dtype=float)
            image = axes.imshow(cosine, vmin=-1, vmax=1, cmap="RdBu_r")
            for (i, j), value in np.ndenumerate(cosine):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.set_title(title, fontsize="small")
        if image is not None:
            figure.colorbar(image, ax=list(grid), shrink=0.7, label="cosine of gradients")
        figure.suptitle(_title(config, "mean"), fontsize="medium")

    return _png((3.4 * columns + 1, 3.3 * rows + 0.5), draw)


def credit_figure(config: AlignConfig, metrics: Metrics) -> bytes:
    """Size and direction of the credit at each lag, against exact, at the start and the end."""
    panels = _ends(config, metrics)
    end = dict(panels[1:])

    def draw(figure):
        grid = figure.subplots(2, 2, sharex=True)
        for (above, below), time in zip(grid.T, ("start", "end")):
            for rule, style in _styles(config):
                line = panels[0][1] if time == "start" else end.get(_trained_by(rule))
                if line is None:
                    continue
                row = config.measured.index(rule)
                for axes, name in ((above, "ratio"), (below, "cosine")):
                    by_lag = np.array(line["credit"][name][row], dtype=float)
                    if name == "ratio":  # no credit at all has no place on a log scale
                        by_lag[by_lag <= 0] = np.nan
                    axes.plot(np.arange(len(by_lag)), by_lag, label=rule, **style)
            above.set(yscale="log", title=f"{time} of training")
            below.set(xlabel="steps before the last")
        grid[0, 0].set_ylabel("‖credit‖ / ‖exact‖")
        grid[1, 0].set_ylabel("cosine to exact")
        grid[0, 0].legend(frameon=False, fontsize="small")
        figure.suptitle(f"credit on the drive, {_title(config, 'mean')}", fontsize="medium")

    return _png((9.0, 6.0), draw)


def curvature_figure(config: AlignConfig, metrics: Metrics) -> bytes:
    """λ₁ along training beside its bounds, and the generalisation gap against it."""

    def draw(figure):
        left, right = figure.subplots(1, 2)
        for rule, style in _styles(config):
            lines = of_rule(metrics, rule)
            _along(left, lines, lambda line: values(line, "curvature"), rule, style)
            _along(left, lines, _own_bound(config), None, style | {"ls": ":", "lw": 1}, band=False)
            for line in finished(config, lines):
                x, colour = values(line, "curvature"), style["color"]
                for name, face in (("loss", colour), ("noisy_loss", "none")):
                    right.scatter(x, gap(line, name), s=22, facecolor=face, edgecolor=colour)
        exact = 2 / rate_at(config.settings, config.settings.iterations)
        left.axhline(exact, color="grey", lw=1, ls="-.", label="2/η")
        left.plot([], [], color="grey", lw=1, ls=":", label="2/(ηρ)")
        only = "" if config.optimizer == "sgd" else " (bounds: plain SGD's only)"
        left.set(xlabel="iteration", ylabel=f"λ₁ by the recurrent weights{only}", yscale="symlog")
        figure.legend(loc="outside lower center", ncols=8, frameon=False, fontsize="small")
        clean, noisy = (
            "–" if r is None else f"{r:.2f}" for r in correlations(config, metrics).values()
        )
        right.set(
            xlabel="λ₁ at the end",
            xscale="symlog",
            ylabel="gap in loss, train minus test",
            title=f"filled: clean, r = {clean}; open: with noise, r = {noisy}",
        )
        right.title.set_fontsize("small")
        figure.suptitle(_title(config), fontsize="medium")

    return _png((9.5, 4.0), draw)


def _own_bound(config: AlignConfig) -> Callable[[dict[str, Any]], np.ndarray]:
    def bound(line):
        rho = values(line, "projection").mean()
        return np.asarray(curvature_bound(rate_at(config.settings, line["iteration"]), rho))[None]

    return bound


def _along(
    axes: Any,
    lines: Metrics,
    measure: Callable[[dict[str, Any]], np.ndarray],
    label: str | None,
    style: dict[str, Any],
    *,
    band: bool = True,
) -> None:
    """Mean over seeds along training, and a band from the lowest to the highest."""
    if not lines:
        return
    at = [line["iteration"] for line in lines]
    by_seed = np.array([measure(line) for line in lines])
    axes.plot(at, by_seed.mean(1), label=label, **style)
    if band:
        low, high = by_seed.min(1), by_seed.max(1)
        axes.fill_between(at, low, high, color=style["color"], alpha=0.15, lw=0)


def _ends(config: AlignConfig, metrics: Metrics) -> list[tuple[str, dict[str, Any]]]:
    """The line of the common start, and of the end of each rule that reached it."""
    found = [line for rule in config.run.rules for line in of_rule(metrics, rule)[:1]]
    panels = [("start", line) for line in found[:1]]
    for rule in config.run.rules:
        last = finished(config, of_rule(metrics, rule))
        panels += [(_trained_by(rule), line) for line in last]
    return panels


def _trained_by(rule: str) -> str:
    return f"end, trained by {rule}"


def _styles(config: AlignConfig) -> Sequence[tuple[str, dict[str, Any]]]:
    """Each rule's line; the exact gradient is black and dashed, as in `compare`."""
    others = [rule for rule in config.run.rules if rule != "bptt"]

    def style(rule):
        if rule == "bptt":
            return {"color": "black", "ls": "--", "lw": 1.6}
        return {"color": _COLOURS[others.index(rule) % len(_COLOURS)], "lw": 1.8}

    return [(rule, style(rule)) for rule in config.run.rules]


def _title(config: AlignConfig, shown: str = "mean and range") -> str:
    run = config.run
    seeds = f"{run.seeds} seed{'s' if run.seeds > 1 else ''}"
    return f"{run.task} ({run.preset}), {config.optimizer}: {shown} of {seeds}"


def _png(size: tuple[float, float], draw: Callable[[Any], None]) -> bytes:
    # Imported here: it takes a second that --help should not.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and none of pyplot's global state
    draw(figure)
    for axes in figure.axes:
        if axes.lines:
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
