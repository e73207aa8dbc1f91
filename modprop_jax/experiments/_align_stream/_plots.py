"""The figures of `align_stream`."""

from typing import Any

import numpy as np

from ..._figures import Style
from .._rule_figures import by_rule, Drawing, matrices, Panel, shown
from .._rule_styles import name_of, RuleStyle
from ._config import StreamAlignConfig
from ._summary import means, Metrics


Files = dict[str, bytes]


def figures(config: StreamAlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """Files by name: all rules with all, and each with the learner along training."""
    found = curves_figure(config, metrics, style) if metrics else {}
    if len(metrics) > config.left_out:
        found |= matrix_figure(config, metrics, style)
    return found


def matrix_figure(config: StreamAlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """Mean cosine of all rules with all, over steps and seeds: plain, and weighted by norms."""
    found = means(config, metrics)
    assert found is not None
    panels = {
        "mean cosine": found.cosine.mean(0),
        "weighted by norms": found.weighted.mean(0),
    }
    return matrices("matrix", _title(config, "mean"), config.run.rules, panels, style=style)


def curves_figure(config: StreamAlignConfig, metrics: Metrics, style: Style = None) -> Files:
    """Cosine to the learner, block by block, plain and weighted, and the learner's loss."""
    rules, learner = config.run.rules, name_of(config.learner)
    own = rules.index(config.learner)
    at = [line["iteration"] for line in metrics]

    def cosine(name: str, label: str) -> Panel:
        by_step = np.array([line[name] for line in metrics])

        def draw(drawing: Drawing, axes: Any, rule: str, look: RuleStyle) -> None:
            if rule != config.learner:
                by_seed = by_step[:, :, own, rules.index(rule)]
                drawing.along(axes, rule, look, name, at, by_seed)

        def finish(axes: Any) -> None:
            axes.axhline(0, color="grey", lw=0.8, ls=":")
            axes.set_ylabel(label)

        return draw, finish

    def loss(drawing: Drawing, axes: Any, rule: str, look: RuleStyle) -> None:
        if rule == config.learner:
            by_seed = np.array([line["loss"] for line in metrics])
            drawing.along(axes, rule, look, "loss", at, by_seed)

    def of_loss(axes: Any) -> None:
        axes.set(ylabel=f"loss, {learner} learning", xlabel="step")
        for level in config.run.entry.floors.values():
            axes.axhline(level, color="grey", lw=0.8, ls=":")

    panels: list[Panel] = [
        cosine("cosine", f"cosine to {learner}"),
        cosine("weighted", "weighted by norms"),
        (loss, of_loss),
    ]
    return by_rule("curves", _title(config, "interval"), rules, panels, at="step", style=style)


def _title(config: StreamAlignConfig, what: str) -> str:
    run, learner = config.run, name_of(config.learner)
    return f"{run.entry.name} ({run.preset}), {learner} learning: {shown(what, run.seeds)}"
