"""From the measurements of `align` to its tables."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...diagnostics import curvature_bound, matched_rates
from ...tasks import Preset
from .._summary import Spread
from ._config import AlignConfig, sweep_labels
from ._limit import limit_names
from ._measure import plain


Metrics = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class AlignRow:
    """One rule's results; None: not known. Gaps are train minus test, of the last checkpoint."""

    rule: str
    iteration: int
    cosine_start: Spread | None = None
    cosine_end: Spread | None = None
    projection_start: Spread | None = None
    projection_end: Spread | None = None
    curvature: Spread | None = None
    bound: float | None = None
    """2/(ηρ) of plain SGD at the last checkpoint, with ρ the mean over seeds."""
    train_loss: Spread | None = None
    test_loss: Spread | None = None
    test_accuracy: Spread | None = None
    loss_gap: Spread | None = None
    noisy_loss_gap: Spread | None = None
    accuracy_gap: Spread | None = None
    noisy_accuracy_gap: Spread | None = None
    limit_start: dict[str, Spread | None] = dataclasses.field(default_factory=dict)
    """Held-out cosine with BPTT of the best filters, by `limit_names`."""
    limit_end: dict[str, Spread | None] = dataclasses.field(default_factory=dict)
    diverged: str | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Where one training of the sweep ended; None: not known."""

    rate: float
    test_loss: Spread | None = None
    curvature: Spread | None = None
    loss_gap: Spread | None = None
    diverged: str | None = None


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """A rule at a multiple of the learning rate, and BPTT at the rate matched by ρ, if any."""

    rule: str
    factor: float
    own: Outcome
    exact: Outcome | None


def of_rule(metrics: Metrics, rule: str) -> list[dict[str, Any]]:
    """The lines of one training run, in order."""
    return [line for line in metrics if line["rule"] == rule]


def values(line: dict[str, Any], name: str) -> np.ndarray:
    """A measurement by seed, NaN where it was not finite."""
    found = line[name]
    return np.array(found[line["rule"]] if isinstance(found, dict) else found, dtype=float)


def gap(line: dict[str, Any], name: str) -> np.ndarray:
    """Train minus test, by seed: `name` is loss, accuracy, noisy_loss or noisy_accuracy."""
    return values(line, f"train_{name.removeprefix('noisy_')}") - values(line, name)


def finished(config: AlignConfig, lines: Metrics) -> list[dict[str, Any]]:
    """The last line of a run that reached the end; one that diverged has no minimum to speak of."""
    return [line for line in lines if line["iteration"] == config.settings.schedule.iterations]


def rate_at(settings: Preset, iteration: int) -> float:
    """The learning rate of an iteration."""
    optimizer = settings.optimizer
    return optimizer.learning_rate * optimizer.decay ** (iteration // optimizer.decay_every)


def matched_rate(metrics: Metrics, rule: str, rate: float) -> float | None:
    """ρη, with ρ the mean over the rule's checkpoints and seeds; None if ρ is not positive."""
    found = [values(line, "projection") for line in of_rule(metrics, rule)]
    rho = float(np.nanmean(found)) if np.isfinite(found).any() else 0.0
    return float(matched_rates(rate, rho)) if rho > 0 else None


def correlations(config: AlignConfig, metrics: Metrics) -> dict[str, float | None]:
    """Pearson's r of the gap in loss with λ₁, over rules and seeds at the end of training."""
    runs = [of_rule(metrics, rule) for rule in config.run.rules]
    lines = [line for run in runs for line in finished(config, run)]
    return {name: _correlation(lines, name) for name in ("loss", "noisy_loss")}


def summarise(config: AlignConfig, metrics: Metrics, diverged: dict[str, str]) -> list[AlignRow]:
    """A row for each rule, in the order of the configuration."""
    return [
        _row(config, rule, of_rule(metrics, rule), diverged.get(rule)) for rule in config.run.rules
    ]


def sweep_rows(config: AlignConfig, metrics: Metrics, diverged: dict[str, str]) -> list[SweepRow]:
    """A row for each rule and learning rate of the sweep."""

    def outcome(label: str, rate: float) -> Outcome:
        last = (of_rule(metrics, label) or [{}])[-1]
        if "curvature" not in last:  # it is measured at its end only
            return Outcome(rate, diverged=diverged.get(label))
        loss, curvature = (_spread(values(last, name)) for name in ("loss", "curvature"))
        return Outcome(rate, loss, curvature, _spread(gap(last, "loss")))

    rows = []
    for rule, factor in config.swept:
        own, exact = sweep_labels(rule, factor)
        rate = factor * config.settings.optimizer.learning_rate
        matched = matched_rate(metrics, rule, rate)
        rows.append(
            SweepRow(
                rule,
                factor,
                outcome(own, rate),
                None if matched is None else outcome(exact, matched),
            )
        )
    return rows


def headers(config: AlignConfig) -> list[str]:
    """Titles of the columns."""
    return [
        "rule",
        f"test\n{config.run.entry.score}",
        "cosine\nto BPTT",
        "ρ\non BPTT",
        "λ₁",
        "2/(ηρ)",
        "gap\nin loss",
        "the same\nwith noise",
        *(f"best filters\n{name}" for name in limit_names(config)),
    ]


def cells(row: AlignRow) -> list[str]:
    """A row as text."""

    def change(start: Spread | None, end: Spread | None) -> str:
        return " → ".join("–" if each is None else f"{each.mean:.2f}" for each in (start, end))

    return [
        row.rule + (f" (stopped after {row.iteration})" if row.diverged else ""),
        "–" if row.test_accuracy is None else f"{row.test_accuracy.mean:.3f}",
        change(row.cosine_start, row.cosine_end),
        change(row.projection_start, row.projection_end),
        _text(row.curvature, 1),
        "–" if row.bound is None else f"{row.bound:.1f}",
        _text(row.loss_gap, 2),
        _text(row.noisy_loss_gap, 2),
        *(change(row.limit_start[name], end) for name, end in row.limit_end.items()),
    ]


def caption(config: AlignConfig, correlation: dict[str, float | None] | None = None) -> str:
    """What the table shows."""
    run, rate = config.run, config.settings.optimizer.learning_rate
    iterations = config.settings.schedule.iterations
    bound = 2 / rate_at(config.settings, iterations)
    descent = (
        f"plain SGD at η = {rate:g}, 2/η = {bound:.1f}"
        if config.optimizer == "sgd"
        else f"Adam at η = {rate:g}; 2/η = {bound:.1f} at the end and 2/(ηρ) "
        "bound the curvature under plain SGD only"
    )
    text = (
        f"{run.task}, preset {run.preset}: mean ± sd over {run.seeds} "
        f"seed{'s' if run.seeds > 1 else ''}, {iterations} iterations of {descent}. "
        f"Cosine and projection ρ of the rule's gradient: start → end, on {config.measure} "
        "training trials. λ₁: largest eigenvalue of the exact loss's Hessian by the recurrent "
        "weights, at the end. Gap: train minus test; noise: sd "
        f"{config.noise:g} on the test inputs."
    )
    if config.limit:
        text += (
            " Best filters: cosine with BPTT of the type filters that least squares finds, on "
            "training batches that the fit has not seen, start → end."
        )
    if correlation is None:
        return text
    clean, noisy = (
        "–" if correlation[name] is None else f"{correlation[name]:.2f}"
        for name in ("loss", "noisy_loss")
    )
    return (
        f"{text} Correlation of the gap in loss with λ₁ over rules and seeds: r = {clean}, "
        f"with noise {noisy}."
    )


def markdown(
    config: AlignConfig, rows: list[AlignRow], sweep: list[SweepRow], metrics: Metrics
) -> str:
    """The tables as a Markdown file."""
    titles = [title.replace("\n", " ") for title in headers(config)]
    parts = [caption(config, correlations(config, metrics)), _table(titles, map(cells, rows))]
    broken = [row.diverged for row in rows if row.diverged]
    if broken:
        parts.append("\n".join(f"- {message}" for message in broken))
    if sweep:
        parts.append(
            "Learning-rate sweep: each rule at η, and BPTT at the matched rate ρη, with ρ the "
            "mean over the rule's checkpoints. Loss: test; gap: in loss, train minus test."
        )
        columns = ["rule", "η", "loss", "λ₁", "gap", "ρη", "loss of BPTT", "λ₁", "gap"]
        parts.append(_table(columns, map(_sweep_cells, sweep)))
    return "\n\n".join(parts) + "\n"


def _row(config: AlignConfig, rule: str, lines: Metrics, diverged: str | None) -> AlignRow:
    names = limit_names(config)
    nothing: dict[str, Spread | None] = dict.fromkeys(names)
    if not lines:
        return AlignRow(rule, 0, diverged=diverged, limit_start=nothing, limit_end=nothing)
    first, last = lines[0], lines[-1]

    def limit(line: dict[str, Any]) -> dict[str, Spread | None]:
        return {name: _spread(np.array(line["limit"][name], float)) for name in names}

    rho = float(values(last, "projection").mean())
    rate = rate_at(config.settings, last["iteration"])
    return AlignRow(
        rule,
        last["iteration"],
        cosine_start=_spread(values(first, "cosine")),
        cosine_end=_spread(values(last, "cosine")),
        projection_start=_spread(values(first, "projection")),
        projection_end=_spread(values(last, "projection")),
        curvature=_spread(values(last, "curvature")),
        bound=plain(curvature_bound(rate, rho)),
        train_loss=_spread(values(last, "train_loss")),
        test_loss=_spread(values(last, "loss")),
        test_accuracy=_spread(values(last, "accuracy")),
        loss_gap=_spread(gap(last, "loss")),
        noisy_loss_gap=_spread(gap(last, "noisy_loss")),
        accuracy_gap=_spread(gap(last, "accuracy")),
        noisy_accuracy_gap=_spread(gap(last, "noisy_accuracy")),
        limit_start=limit(first),
        limit_end=limit(last),
        diverged=diverged,
    )


def _spread(found: np.ndarray) -> Spread | None:
    return Spread.of(found[np.isfinite(found)].tolist())


def _correlation(lines: Metrics, name: str) -> float | None:
    if not lines:
        return None
    pairs = np.concatenate([np.stack([values(x, "curvature"), gap(x, name)]) for x in lines], 1)
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    if pairs.shape[1] < 3 or (pairs.std(1) == 0).any():
        return None
    return float(np.corrcoef(pairs)[0, 1])


def _sweep_cells(row: SweepRow) -> list[str]:
    def four(end: Outcome | None) -> list[str]:
        if end is None:
            return ["–"] * 4
        found = [_text(end.curvature, 1), _text(end.loss_gap, 2)]
        loss = "diverged" if end.diverged else _text(end.test_loss, 3)
        return [f"{end.rate:.3g}", loss, *found]

    return [row.rule, *four(row.own), *four(row.exact)]


def _table(titles: list[str], rows: Iterable[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(spread: Spread | None, digits: int) -> str:
    return "–" if spread is None else spread.text(digits)
