"""Follow alignment, curvature and generalisation along training, rule by rule."""

import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Array, Key
from rich.console import Console

from .._figures import check_style, Style
from ._align_config import AlignConfig, sweep_labels
from ._align_limit import limit_names, limits
from ._align_measure import Measurements, measurements
from ._align_plots import figures
from ._align_setup import align_setup, at_rate
from ._align_summary import (
    AlignRow,
    caption,
    cells,
    correlations,
    headers,
    markdown,
    matched_rate,
    summarise,
    sweep_rows,
    SweepRow,
)
from ._network import cell_types
from ._progress import Reporter
from ._rules import build_rule
from ._runs import advising, check_precision, drive, introduce, Run, saved
from ._setup import seed_keys, Setup
from ._storage import RunFolder
from ._summary import SECONDS
from ._train import iterate, State


@dataclasses.dataclass(frozen=True)
class Alignments:
    """Results of `align`: a row for each rule and comparison of the sweep, and all measurements."""

    folder: Path
    config: AlignConfig
    rows: list[AlignRow]
    sweep: list[SweepRow]
    metrics: list[dict[str, Any]]


def align(
    task: str,
    rules: Sequence[str] | None = None,
    *,
    seeds: int = 5,
    preset: str = "small",
    out: str | os.PathLike | None = None,
    quiet: bool = False,
    style: Style = None,
    optimizer: str = "sgd",
    checkpoints: int = 6,
    measure: int = 256,
    noise: float = 0.2,
    sweep: bool = False,
    limit: Sequence[int] = (),
    **settings: object,
) -> Alignments:
    r"""Train as `compare` does, and measure what each rule's gradient is like and where it leads.

    Of networks that train in batches; `align_stream` is for those that learn online.

    At each checkpoint, on each rule's own network and a fixed batch of training data: cosine,
    projection ρ and norm ratio of every rule's gradient to every other's (`alignment_matrix`), λ₁
    of the exact loss by the recurrent weights (`hessian_top`), and the `generalisation_gap`, clean
    and with input noise; at the start and the end also the `credit_profile` of neuron cells.

    **Arguments:**

    - `task`, `rules`, `seeds`, `preset`, `out`, `quiet`, `style`, `settings`: as in `compare`.
    - `optimizer`: `"sgd"`, plain and at a constant rate, or `"adam"`, as `compare`'s. The bounds
        2/η and 2/(ηρ) on the curvature are those of plain SGD.
    - `checkpoints`: how often to measure, start and end included.
    - `measure`: trials of the batch for gradients and curvature.
    - `noise`: its standard deviation on the test inputs; where these lie in [0, 1], as pixels do,
        the noisy ones are clipped to it.
    - `sweep`: then train each rule at half, one and two times the learning rate η, and BPTT at
        the matched rate ρη, with ρ the mean over the rule's own checkpoints.
    - `limit`: numbers of cell types, for which `credit_limit` says at each checkpoint how close any
        type-specific filters would come to BPTT's gradient, without and with a gate: fitted to 8
        training batches and judged on 4 others. Of cells made of neurons.

    **Returns:** an `Alignments`.

    **Raises:** `ValueError` for an unknown name or an impossible setting.

    Source of the questions: Liu, Ghosh, Richards, Shea-Brown & Lajoie, NeurIPS 2022
    (arXiv 2206.00823).
    """
    config = AlignConfig.make(
        task,
        preset,
        rules,
        seeds,
        optimizer=optimizer,
        checkpoints=checkpoints,
        measure=measure,
        noise=noise,
        sweep=sweep,
        limit=limit,
        **settings,
    )
    check_style(style)
    return execute_align(config, new_folder(config, out), Console(quiet=quiet), style)


def resume_align(
    folder: str | os.PathLike, *, quiet: bool = False, style: Style = None
) -> Alignments:
    """Continue an interrupted `align` from its folder, as `resume` does a `compare`."""
    check_style(style)
    run = RunFolder(Path(folder))
    return execute_align(reopen_align(run), run, Console(quiet=quiet), style)


def new_folder(config: AlignConfig, out: str | os.PathLike | None) -> RunFolder:
    """An empty folder for a run."""
    return RunFolder.create(config.run, out, kind="align", align=config.options())


def reopen_align(folder: RunFolder) -> AlignConfig:
    """A run's configuration, if it can go on here."""
    _, data = folder.read_config("align")
    with folder.reading_config():
        config = AlignConfig.from_dict(data)
        config.run.checked()
        config.checked()
    check_precision(config.run, folder)
    return config


def execute_align(
    config: AlignConfig, folder: RunFolder, console: Console, style: Style = None
) -> Alignments:
    """Do what is left to do of a run; all of it, if the folder is new."""
    swept = [label for each in config.swept for label in sweep_labels(*each)]
    labels = (*config.run.rules, *swept)

    def trainings() -> Iterator[Run]:
        for rule in config.run.rules:
            yield Run(rule, fresh, functools.partial(lines, rule, rule))

    def sweep() -> Iterator[Run]:
        for rule, factor in config.swept:
            own, exact = sweep_labels(rule, factor)
            rate = factor * config.settings.learning_rate
            matched = matched_rate(metrics, rule, rate)
            yield Run(own, at_rate(fresh, rate), functools.partial(lines, rule, own))
            if matched is None:
                reporter.say(f"{rule}: no positive ρ was measured, so BPTT has no matched rate")
            else:
                yield Run(exact, at_rate(fresh, matched), functools.partial(lines, "bptt", exact))

    reporter = Reporter(dataclasses.replace(config.run, rules=labels), console)
    with folder.locked(), reporter, advising("align", folder, reporter):
        introduce(config.run, folder, reporter)
        parts, (weight_keys, keys) = align_setup(config), seed_keys(config.run)
        fresh, measures = parts.start(weight_keys), measurements(config)
        states, metrics = saved(folder, dict.fromkeys(labels, fresh), config.settings.iterations)
        lines = functools.partial(_lines, config, keys, parts, measures)
        diverged = drive(trainings(), folder, states, metrics, reporter)
        diverged |= drive(sweep(), folder, states, metrics, reporter)
    rows = summarise(config, metrics, diverged)
    comparisons = sweep_rows(config, metrics, diverged)
    found = {
        "caption": caption(config),
        "rows": [dataclasses.asdict(row) for row in rows],
        "correlation": correlations(config, metrics),
        "sweep": [dataclasses.asdict(row) for row in comparisons],
        "measured": config.measured,
        "metrics": metrics,
    }
    folder.write("align.json", json.dumps(found, indent=1) + "\n")
    folder.write("table.md", markdown(config, rows, comparisons, metrics))
    for name, figure in figures(config, metrics, style).items():
        folder.write(name, figure)
    text = [cells(row) for row in rows]
    reporter.grid(headers(config), text, caption(config, correlations(config, metrics)))
    reporter.say(f"written to {folder.path}")
    return Alignments(folder.path, config, rows, comparisons, metrics)


def _lines(
    config: AlignConfig,
    keys: Key[Array, " seeds"],
    parts: Setup,
    measures: Measurements,
    rule: str,
    label: str,
    state: State,
) -> Iterator[tuple[State, dict[str, Any]]]:
    """Train under one rule from `state` on, and measure; yields at each checkpoint."""
    settings, swept = config.settings, label != rule
    for state, record in iterate(
        state,
        keys,
        loss=parts.loss,
        data=parts.data,
        evaluate=parts.evaluate,
        optimizer=parts.optimizer,
        rule=build_rule(rule, cell_types(settings), mu=settings.mu),
        iterations=settings.iterations,
        eval_every=settings.eval_every,
        label=label,
    ):
        last, began = record.iteration == settings.iterations, time.perf_counter()
        line = {
            "rule": label,
            "iteration": record.iteration,
            "loss": record.loss.tolist(),
            "accuracy": record.accuracy.tolist(),
        }
        if not swept or last:
            line |= measures.network(state.model, keys)
        if not swept and (last or record.iteration == 0):
            line |= measures.profile(state.model, keys)
        if not swept and config.limit:
            found = limits(config)(state.model, keys)
            line["limit"] = dict(zip(limit_names(config), found))
        measuring = (time.perf_counter() - began) / settings.eval_every
        # Of training and measuring: what the time that is left is reckoned from.
        seconds = None if math.isnan(record.seconds) else record.seconds + measuring
        yield state, line | {SECONDS: seconds}
