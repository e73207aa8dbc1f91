"""The figures of `align`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..._figures import Style
from ...diagnostics import curvature_bound
from .._rule_figures import by_rule, Drawing, matrices, Panel, shown
from .._rule_styles import name_of, RuleStyle
from ._config import AlignConfig
from ._limit import limit_names
from ._summary import correlations, finished, gap, Metrics, of_rule, rate_at, values


Files = dict[str, bytes]


def figures(config: AlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """Files by name: along training, all rules with all, by lag, curvature."""
    if not metrics:  # every rule broke at its start
        return {}
    drawn = [alignment_figure, matrix_figure, curvature_figure]
    if "credit" in metrics[0]:
        drawn.append(credit_figure)
    if config.limit:
        drawn.append(limit_figure)
    found = {}
    for draw in drawn:
        found |= draw(config, metrics, style)
    return found


def alignment_figure(config: AlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """Cosine and projection of each rule's gradient, on its own network, along training."""

    def panel(name: str, label: str, last: bool) -> Panel:
        def draw(drawing: Drawing, axes: Any, rule: str, look: RuleStyle) -> None:
            _along(drawing, axes, rule, look, name, of_rule(metrics, rule))

        def finish(axes: Any) -> None:
            axes.set(ylabel=label, xlabel="iteration" if last else "")

        return draw, finish

    panels = [
        panel("cosine", "cosine to BPTT", False),
        panel("projection", "projection ρ on BPTT", True),
    ]
    return by_rule("alignment", _title(config), config.run.rules, panels, style=style)


def limit_figure(config: AlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """What the best filters would reach along training, on the network that each rule trains."""

    def panel(name: str, last: bool) -> Panel:
        def draw(drawing: Drawing, axes: Any, rule: str, look: RuleStyle) -> None:
            lines = of_rule(metrics, rule)
            found = np.array([line["limit"][name] for line in lines], float)
            at = [line["iteration"] for line in lines]
            drawing.along(axes, rule, look, f"best filters, {name}", at, found)

        def finish(axes: Any) -> None:
            axes.set(ylabel="cosine to BPTT", title=name, xlabel="iteration" if last else "")

        return draw, finish

    names = limit_names(config)
    panels = [panel(name, name == names[-1]) for name in names]
    title = f"best filters, on networks trained by each rule, {_title(config)}"
    return by_rule("limit", title, config.run.rules, panels, style=style)


def matrix_figure(config: AlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """Cosine of all rules with all: at the start, and on the network that each rule trained."""
    panels = {
        title: np.array(line["matrix"]["cosine"], dtype=float)
        for title, line in _ends(config, metrics)
    }
    return matrices("matrix", _title(config, "mean"), config.measured, panels, style=style)


def credit_figure(config: AlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """Size and direction of the credit at each lag, against exact, at the start and the end."""
    panels = _ends(config, metrics)
    end = dict(panels[1:])

    def panel(time: str, name: str, label: str, last: bool) -> Panel:
        def draw(drawing: Drawing, axes: Any, rule: str, look: RuleStyle) -> None:
            line = panels[0][1] if time == "start" else end.get(_trained_by(rule))
            if line is None:
                return
            by_lag = np.array(line["credit"][name][config.measured.index(rule)], dtype=float)
            if name == "ratio":  # no credit at all has no place on a log scale
                by_lag[by_lag <= 0] = np.nan
            drawing.along(
                axes, rule, look, f"{name} at the {time}", range(len(by_lag)), by_lag[:, None]
            )

        def finish(axes: Any) -> None:
            axes.set(ylabel=f"{time}: {label}", yscale="log" if name == "ratio" else "linear")
            if last:
                axes.set_xlabel("steps before the last")

        return draw, finish

    rows = [
        panel(time, name, label, last)
        for time, last in (("start", False), ("end", True))
        for name, label, last in (
            ("ratio", "norm / exact", False),
            ("cosine", "cosine", last),
        )
    ]
    title = f"credit on the drive, {_title(config, 'mean')}"
    return by_rule("credit", title, config.run.rules, rows, at="lag", height=1.35, style=style)


def curvature_figure(config: AlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """λ₁ along training beside its bounds, and the generalisation gap against it."""
    exact = 2 / rate_at(config.settings, config.settings.schedule.iterations)
    clean, noisy = (
        "–" if r is None else f"{r:.2f}" for r in correlations(config, metrics).values()
    )

    def along(drawing: Drawing, axes: Any, rule: str, look: RuleStyle) -> None:
        lines = of_rule(metrics, rule)
        _along(drawing, axes, rule, look, "curvature", lines)
        if lines:
            bound = [_own_bound(config)(line) for line in lines]
            at = [line["iteration"] for line in lines]
            axes.plot(at, bound, color=look.line["color"], ls=":", lw=0.8)

    def of_curvature(axes: Any) -> None:
        only = "" if config.optimizer == "sgd" else "\n(bounds: plain SGD's)"
        axes.axhline(exact, color="grey", lw=0.8, ls="-.", label="2/η")
        axes.plot([], [], color="grey", lw=0.8, ls=":", label="2/(ηρ), in the rule's colour")
        axes.set(xlabel="iteration", ylabel=f"λ₁, recurrent weights{only}")
        axes.set_yscale(_scale(axes.dataLim.intervaly))

    def against(drawing: Drawing, axes: Any, rule: str, look: RuleStyle) -> None:
        for line in finished(config, of_rule(metrics, rule)):
            x, colour = values(line, "curvature"), look.line["color"]
            for name, face in (("loss", colour), ("noisy_loss", "white")):
                y, marker = gap(line, name), look.line["marker"] or "x"
                axes.plot(x, y, marker, mfc=face, mec=colour, mew=0.8, ls="", alpha=0.9)
                for place, each in zip(x.tolist(), y.tolist()):
                    drawing.point(rule, f"gap of {name} at λ₁", place, ["", "", ""], [each])

    def of_gap(axes: Any) -> None:
        axes.set(xlabel="λ₁ at the end", ylabel="gap in loss, train − test")
        axes.set_xscale(_scale(axes.dataLim.intervalx))
        axes.set_title(f"filled: clean, r = {clean}; open: noise, r = {noisy}")

    panels: list[Panel] = [(along, of_curvature), (against, of_gap)]
    return by_rule("curvature", _title(config), config.run.rules, panels, height=1.9, style=style)


def _scale(interval: np.ndarray) -> str:
    """Over orders of magnitude, of both signs; what is small is all linear there."""
    return "symlog" if np.abs(interval).max() > 10 else "linear"


def _own_bound(config: AlignConfig) -> Callable[[dict[str, Any]], float]:
    def bound(line):
        rho = values(line, "projection").mean()
        return float(curvature_bound(rate_at(config.settings, line["iteration"]), rho))

    return bound


def _along(
    drawing: Drawing, axes: Any, rule: str, look: RuleStyle, name: str, lines: Metrics
) -> None:
    """A measurement of each seed along training."""
    at = [line["iteration"] for line in lines]
    drawing.along(axes, rule, look, name, at, np.array([values(line, name) for line in lines]))


def _ends(config: AlignConfig, metrics: Metrics) -> list[tuple[str, dict[str, Any]]]:
    """The line of the common start, and of the end of each rule that reached it."""
    found = [line for rule in config.run.rules for line in of_rule(metrics, rule)[:1]]
    panels = [("start", line) for line in found[:1]]
    for rule in config.run.rules:
        last = finished(config, of_rule(metrics, rule))
        panels += [(_trained_by(rule), line) for line in last]
    return panels


def _trained_by(rule: str) -> str:
    return f"trained by {name_of(rule)}"


def _title(config: AlignConfig, what: str = "interval") -> str:
    run = config.run
    return f"{run.entry.name} ({run.preset}), {config.optimizer}: {shown(what, run.seeds)}"
