"""From metrics to the numbers of the table."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from ._config import Config


SECONDS = "seconds_per_iteration"


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over `count` values."""

    mean: float
    sd: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        if not values:
            return None
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), sd, len(values))

    def text(self, digits: int) -> str:
        mean = f"{self.mean:.{digits}f}"
        return mean if self.count == 1 else f"{mean} ± {self.sd:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One rule's results. None: not known (yet)."""

    rule: str
    iteration: int
    accuracy: Spread | None
    loss: Spread | None
    criterion: Spread | None
    """Iterations to criterion, over the seeds that reached it."""
    seconds: float | None
    cosine_start: float | None
    cosine_end: float | None
    diverged: str | None = None


def summarise(
    config: Config, metrics: Sequence[dict[str, Any]], diverged: dict[str, str]
) -> list[Row]:
    """One row a rule, in the order of the configuration."""
    return [
        _row(
            config,
            rule,
            [line for line in metrics if line["rule"] == rule],
            diverged.get(rule),
        )
        for rule in config.rules
    ]


def _row(config: Config, rule: str, lines: list[dict[str, Any]], diverged: str | None) -> Row:
    if not lines:
        return Row(rule, 0, None, None, None, None, None, None, diverged)
    last = lines[-1]
    reached = [
        iterations_to_criterion(
            [line["iteration"] for line in lines],
            [line["accuracy"][seed] for line in lines],
            config.settings.criterion,
            config.settings.patience,
        )
        for seed in range(config.seeds)
    ]
    seconds = [line[SECONDS] for line in lines if line[SECONDS] is not None]
    cosine = {line["iteration"]: line["cosine"] for line in lines if "cosine" in line}
    ending = lines[-1:]
    if config.settings.segment is not None:
        # online losses are of a few outputs each
        ending = [line for line in lines if line["iteration"] > 0.9 * last["iteration"]] or ending
    end = cosine.get(config.settings.iterations)
    return Row(
        rule,
        last["iteration"],
        Spread.of(_mean_by_seed(ending, "accuracy")),
        Spread.of(_mean_by_seed(ending, "loss")),
        Spread.of([r for r in reached if r is not None]),
        statistics.median(seconds) if seconds else None,
        statistics.fmean(cosine[0]) if 0 in cosine else None,
        statistics.fmean(end) if end else None,
        diverged,
    )


def _mean_by_seed(lines: Sequence[dict[str, Any]], quantity: str) -> list[float]:
    return [statistics.fmean(values) for values in zip(*(line[quantity] for line in lines))]


def iterations_to_criterion(
    iterations: Sequence[int], accuracy: Sequence[float], level: float, patience: int
) -> int | None:
    """Where the first `patience` evaluations in a row at `level` or above begin."""
    streak = 0
    for index, value in enumerate(accuracy):
        streak = streak + 1 if value >= level else 0
        if streak == patience:
            return iterations[index - patience + 1]
    return None


def headers(config: Config) -> list[str]:
    """Titles of the columns, broken so that the table fits into 80 characters."""
    score, criterion = config.entry.score, config.settings.criterion
    # a share is said in per cent, another score by its name
    level = f"{100 * criterion:g} %" if score == "accuracy" else f"{score} {criterion:g}"
    return [
        "rule",
        score,
        "loss",
        f"iterations\nto {level}",
        "ms /\niteration",
        "cosine\nto BPTT",
    ]


def cells(row: Row, seeds: int) -> list[str]:
    """A row as text; `seeds` says how many could have reached the criterion."""

    def number(value: float | None, digits: int, scale: float = 1) -> str:
        return "–" if value is None else f"{scale * value:.{digits}f}"

    reached = row.criterion.count if row.criterion else 0
    to_criterion = f"{row.criterion.text(0)} " if row.criterion else ""
    state = f" (stopped after {row.iteration})" if row.diverged else ""
    return [
        row.rule + state,
        row.accuracy.text(3) if row.accuracy else "–",
        row.loss.text(3) if row.loss else "–",
        f"{to_criterion}({reached}/{seeds})",
        number(row.seconds, 2, 1e3),
        f"{number(row.cosine_start, 3)} → {number(row.cosine_end, 3)}",
    ]


def caption(config: Config) -> str:
    """What the table's columns are, in a sentence."""
    settings = config.settings
    online = "" if settings.segment is None else ", online: means over the last tenth of the stream"
    return (
        f"{config.task}, preset {config.preset}: mean ± sd over {config.seeds} "
        f"seed{'s' if config.seeds > 1 else ''}, {settings.iterations} iterations{online}; "
        f"criterion: {settings.patience} evaluations in a row, one every "
        f"{settings.eval_every} iterations, over the seeds that met it (how many); "
        "time: median, without compilation; cosine of the gradient, start → end."
    )


def markdown(config: Config, rows: Sequence[Row]) -> str:
    """The table as a Markdown file."""
    titles = [title.replace("\n", " ") for title in headers(config)]
    lines = [titles, ["---"] * len(titles), *(cells(row, config.seeds) for row in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    broken = "".join(f"\n- {row.diverged}" for row in rows if row.diverged)
    return f"{caption(config)}\n\n{table}\n{broken}"
