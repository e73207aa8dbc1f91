"""From metrics to the numbers of the table."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from ._config import Config
from ._seed_tables import (
    centre_cells,
    centre_headers,
    iterations,
    pair_cells,
    pair_headers,
    verdict,
)
from ._statistics import Centre, centre, Pair, paired_differences, Reached, time_to_criterion


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
    criterion: Reached | None
    """Iterations to criterion; seeds that never met it count as longer than the run."""
    seconds: float | None
    cosine_start: float | None
    cosine_end: float | None
    diverged: str | None = None
    """Why all seeds stopped."""
    centre: Centre | None = None
    """Of the score."""
    loss_centre: Centre | None = None
    stopped: tuple[str, ...] = ()
    """Why seeds stopped alone; they count from there on as untrained."""
    collapsed: int | None = None
    """Seeds that had met the criterion, and ended below half way from it back to their start."""
    radius_start: float | None = None
    """Of the recurrent weights, mean over seeds: the largest magnitude of an eigenvalue."""
    radius_end: float | None = None


def counted(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the loss and score of each seed's first evaluation from where it stopped alone."""
    first: dict[str, dict[str, Any]] = {}
    stopped: dict[str, dict[int, str]] = {}
    found = []
    for line in metrics:
        rule = line["rule"]
        start, out = first.setdefault(rule, line), stopped.setdefault(rule, {})
        out |= {int(seed): why for seed, why in line.get("stopped", {}).items()}
        if out:
            of_start = {
                name: [start[name][s] if s in out else v for s, v in enumerate(line[name])]
                for name in ("loss", "accuracy")
            }
            line = line | of_start
        found.append(line)
    return found


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
            config.settings.objective.criterion,
            config.settings.objective.patience,
        )
        for seed in range(config.seeds)
    ]
    seconds = [line[SECONDS] for line in lines if line[SECONDS] is not None]
    cosine = {line["iteration"]: line["cosine"] for line in lines if "cosine" in line}
    scores, losses = (_final(config, lines, name) for name in ("accuracy", "loss"))
    end = cosine.get(config.settings.schedule.iterations)
    stopped = tuple(why for line in lines for why in line.get("stopped", {}).values())
    return Row(
        rule,
        last["iteration"],
        Spread.of(scores),
        Spread.of(losses),
        time_to_criterion(reached, last["iteration"]),
        statistics.median(seconds) if seconds else None,
        _mean(cosine.get(0)),
        _mean(end),
        diverged,
        centre(scores),
        centre(losses),
        stopped,
        _collapsed(config, lines, reached, scores),
        *(_mean(line.get("recurrent_radius")) for line in (lines[0], last)),
    )


def _mean(values: Sequence[float | None] | None) -> float | None:
    """Of those that are known."""
    known = [value for value in values or () if value is not None]
    return statistics.fmean(known) if known else None


def _collapsed(
    config: Config,
    lines: list[dict[str, Any]],
    reached: Sequence[int | None],
    scores: Sequence[float],
) -> int:
    level = config.settings.objective.criterion
    return sum(
        time is not None and score < (level + start) / 2
        for time, score, start in zip(reached, scores, lines[0]["accuracy"])
    )


def _final(config: Config, lines: list[dict[str, Any]], quantity: str) -> list[float]:
    """By seed, at the end of training."""
    ending = lines[-1:]
    if config.settings.schedule.segment is not None:
        # online losses are of a few outputs each
        begin = 0.9 * lines[-1]["iteration"]
        ending = [line for line in lines if line["iteration"] > begin] or ending
    return [statistics.fmean(values) for values in zip(*(line[quantity] for line in ending))]


def differences(
    config: Config,
    metrics: Sequence[dict[str, Any]],
    diverged: dict[str, str],
    quantity: str = "accuracy",
) -> list[Pair]:
    """Between all rules that reached the end: a difference of what ended early has no meaning."""
    by_rule = {
        rule: [line for line in metrics if line["rule"] == rule]
        for rule in config.rules
        if rule not in diverged
    }
    return paired_differences(
        {rule: _final(config, lines, quantity) for rule, lines in by_rule.items() if lines}
    )


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
    score, criterion = config.entry.score, config.settings.objective.criterion
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
    to_criterion = f"{iterations(row.criterion)} " if row.criterion else ""
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
    schedule, patience = config.settings.schedule, config.settings.objective.patience
    online = ", online: means over the last tenth of the stream" if schedule.segment else ""
    return (
        f"{config.task}, preset {config.preset}: mean ± sd over {config.seeds} "
        f"seed{'s' if config.seeds > 1 else ''}, {schedule.iterations} iterations{online}; "
        f"criterion: {patience} evaluations in a row, one every "
        f"{schedule.eval_every} iterations: median time (how many seeds met it), where a seed that "
        "did not counts as longer than the run; "
        "time: median, without compilation; cosine of the gradient, start → end."
    )


def lost_seeds(config: Config, rows: Sequence[Row]) -> list[str]:
    """In words: seeds that stopped alone, and those that lost what they had learnt."""
    found = []
    for row in rows:
        if row.stopped:
            found.append(
                f"{row.rule}: {len(row.stopped)} of {config.seeds} seeds stopped, and count from "
                f"there on as untrained: {'; '.join(row.stopped)}"
            )
        if row.collapsed:
            found.append(
                f"{row.rule}: {row.collapsed} of {config.seeds} seeds met the criterion and lost "
                "at least half of it again."
            )
    return found


def radii(rows: Sequence[Row]) -> str:
    """In words: how training moves the eigenvalues of the recurrent weights; empty if not known."""
    said = [
        f"{row.rule} {row.radius_start:.2f} → {row.radius_end:.2f}"
        for row in rows
        if row.radius_start is not None and row.radius_end is not None
    ]
    about = "Largest magnitude of an eigenvalue of the recurrent weights, mean over seeds"
    return f"{about}, start → end: {', '.join(said)}." if said else ""


def markdown(config: Config, rows: Sequence[Row], pairs: Sequence[Pair] = ()) -> str:
    """The tables as a Markdown file."""
    diverged = {row.rule: row.diverged for row in rows if row.diverged}
    parts = [caption(config), table(headers(config), [cells(row, config.seeds) for row in rows])]
    said = [*diverged.values(), *lost_seeds(config, rows)]
    if said:
        parts.append("\n".join(f"- {message}" for message in said))
    parts.append(radii(rows))
    parts.append(
        "Over seeds: mean with a bootstrap interval, median, mean of the middle half; times to "
        "criterion by Kaplan and Meier, and their mean with the end of the run for seeds that did "
        "not meet it."
    )
    parts.append(
        table(
            centre_headers(config),
            (centre_cells(row.rule, row.centre, row.loss_centre, row.criterion) for row in rows),
        )
    )
    parts.append(verdict(config, pairs, diverged))
    if pairs:
        parts.append(table(pair_headers(config), map(pair_cells, pairs)))
    return "\n\n".join(filter(None, parts)) + "\n"


def table(titles: list[str], rows: Iterable[list[str]]) -> str:
    """As Markdown."""
    titles = [title.replace("\n", " ") for title in titles]
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
