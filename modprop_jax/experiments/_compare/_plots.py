"""Learning curves as a figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._figures import Style
from .._config import Config
from .._rule_figures import by_rule, Drawing, Panel, shown
from .._rule_styles import RuleStyle


def learning_curves(
    config: Config,
    metrics: Sequence[dict[str, Any]],
    style: Style = None,
) -> dict[str, bytes]:
    """Validation loss and accuracy, or the task's score, against iterations: files by name.

    A line is the mean over seeds, its band a 95 % interval of that mean.
    """
    of = "validation" if config.settings.schedule.segment is None else "online"

    def panel(quantity: str, finish: Any) -> Panel:
        def draw(drawing: Drawing, axes: Any, rule: str, look: RuleStyle) -> None:
            lines = [line for line in metrics if line["rule"] == rule]
            at = [line["iteration"] for line in lines]
            drawing.along(axes, rule, look, quantity, at, np.array([x[quantity] for x in lines]))

        return draw, finish

    def of_loss(axes: Any) -> None:
        # a loss with floors is read against them, any other over orders of magnitude
        axes.set(ylabel=f"{of} loss", yscale="linear" if config.entry.floors else "log")
        for name, level in config.entry.floors.items():
            axes.axhline(level, color="grey", lw=0.8, ls=":")
            axes.annotate(
                name, (1, level), xycoords=("axes fraction", "data"), fontsize="x-small",
                ha="right", va="bottom", color="grey",
            )  # fmt: skip

    def of_score(axes: Any) -> None:
        # A score may start anywhere below 0; how far below, the loss says.
        lowest = min((min(line["accuracy"]) for line in metrics), default=0)
        bounds = (max(min(lowest, 0), -1) - 0.02, 1.02)
        axes.set(ylabel=f"{of} {config.entry.score}", ylim=bounds, xlabel="iteration")
        axes.axhline(config.settings.objective.criterion, color="grey", lw=0.8, ls=":")

    title = f"{config.entry.name} ({config.preset}): {shown('interval', config.seeds)}"
    panels = [panel("loss", of_loss), panel("accuracy", of_score)]
    return by_rule("curves", title, config.rules, panels, style=style)
