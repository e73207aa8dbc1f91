"""From the measurements of `align_stream` to its tables."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._summary import Spread
from ._config import StreamAlignConfig


Metrics = Sequence[dict[str, Any]]


class Means(NamedTuple):
    """Over all blocks that count, by seed: (seeds, R, R) and, the norms, (seeds, R)."""

    cosine: np.ndarray
    weighted: np.ndarray
    norm: np.ndarray


@dataclasses.dataclass(frozen=True)
class RuleRow:
    """One rule's gradient beside the learner's; None: the run stopped before there was a mean."""

    rule: str
    cosine: Spread | None = None
    weighted: Spread | None = None
    """The mean of cosines weighted by the product of both norms."""
    norm: Spread | None = None
    """Its mean norm, by the learner's."""

    def cells(self) -> list[str]:
        """The row as text."""
        found = (self.cosine, self.weighted, self.norm)
        return [self.rule, *("–" if each is None else each.text(2) for each in found)]


def means(config: StreamAlignConfig, metrics: Metrics) -> Means | None:
    """Means over all steps but those of the first blocks; None if the run did not get beyond."""
    lines = metrics[config.left_out :]
    if not lines:
        return None
    steps = np.array([line["steps"] for line in lines], dtype=float)
    cosine, weighted, weight, norm = (
        np.array([line[name] for line in lines])
        for name in ("cosine", "weighted", "weight", "norm")
    )
    weight = weight * steps[:, None, None, None]
    total = weight.sum(0)
    return Means(
        np.average(cosine, axis=0, weights=steps),
        (weighted * weight).sum(0) / np.where(total > 0, total, 1),
        np.average(norm, axis=0, weights=steps),
    )


def summarise(config: StreamAlignConfig, metrics: Metrics) -> list[RuleRow]:
    """A row for each rule, in the order of the configuration."""
    found, rules = means(config, metrics), config.run.rules
    if found is None:
        return [RuleRow(rule) for rule in rules]
    own = rules.index(config.learner)
    # of a learner that gives no gradient, no ratio
    scale = np.where(found.norm[:, own] > 0, found.norm[:, own], np.nan)

    def row(index: int) -> RuleRow:
        ratio = found.norm[:, index] / scale
        columns = found.cosine[:, own, index], found.weighted[:, own, index], ratio
        return RuleRow(rules[index], *(Spread.of(c[np.isfinite(c)].tolist()) for c in columns))

    return list(map(row, range(len(rules))))


def headers(config: StreamAlignConfig) -> list[str]:
    """Titles of the columns."""
    return [
        "rule",
        f"cosine to\n{config.learner}",
        "weighted\nby norms",
        f"norm /\n{config.learner}'s",
    ]


def caption(config: StreamAlignConfig) -> str:
    """What the tables show."""
    run, iterations = config.run, config.settings.schedule.iterations
    return (
        f"{run.task}, preset {run.preset}, mean ± sd over {run.seeds} "
        f"seed{'s' if run.seeds > 1 else ''}: gradients of the recurrent layer by single steps, "
        f"while {config.learner} trains the network for {iterations} steps, of "
        "which the first sixth is left out. Cosine, its mean; and its mean weighted by the product "
        "of both norms."
    )


def markdown(
    config: StreamAlignConfig, rows: Sequence[RuleRow], metrics: Metrics, diverged: str | None
) -> str:
    """The tables as a Markdown file: each rule with the learner, and all with all."""
    rules, found = config.run.rules, means(config, metrics)
    titles = [title.replace("\n", " ") for title in headers(config)]
    parts = [caption(config), _table(titles, [row.cells() for row in rows])]
    if found is not None:
        cosine, weighted = found.cosine.mean(0), found.weighted.mean(0)
        pairs = [[f"{c:.2f} [{w:.2f}]" for c, w in zip(*both)] for both in zip(cosine, weighted)]
        parts.append("All rules with all: mean cosine [weighted by norms], mean over seeds.")
        parts.append(_table(["", *rules], [[rule, *row] for rule, row in zip(rules, pairs)]))
    if diverged:
        parts.append(f"- {diverged}")
    return "\n\n".join(parts) + "\n"


def summary(config: StreamAlignConfig, rows: Sequence[RuleRow], metrics: Metrics) -> dict[str, Any]:
    """What `alignment.json` has beside the measurements; matrices are means over seeds."""
    found = means(config, metrics)
    return {
        "caption": caption(config),
        "rules": config.run.rules,
        "learner": config.learner,
        "rows": [dataclasses.asdict(row) for row in rows],
        "cosine": None if found is None else found.cosine.mean(0).tolist(),
        "weighted": None if found is None else found.weighted.mean(0).tolist(),
    }


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
