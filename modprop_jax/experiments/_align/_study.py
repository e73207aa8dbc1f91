"""Follow alignment, curvature and generalisation along training, rule by rule."""

import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Array, Key
from rich.console import Console

from ..._figures import check_style, Style
from .._config import Config
from .._network import cell_types
from .._progress import Reporter
from .._rules import build_rule
from .._runs import Run
from .._setup import seed_keys, Setup
from .._storage import RunFolder
from .._study import AbstractStudy, begun, conduct, Metrics, reopened, Report
from .._summary import SECONDS
from .._train import iterate, State
from ._config import AlignConfig, sweep_labels
from ._limit import limit_names, limits
from ._measure import Measurements, measurements
from ._plots import figures
from ._setup import align_setup, at_rate
from ._summary import (
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
    study = Align(config)
    return conduct(study, begun(study, out), Console(quiet=quiet), style)


def resume_align(
    folder: str | os.PathLike, *, quiet: bool = False, style: Style = None
) -> Alignments:
    """Continue an interrupted `align` from its folder, as `resume` does a `compare`."""
    check_style(style)
    run = RunFolder(Path(folder))
    return conduct(reopen_align(run), run, Console(quiet=quiet), style)


def reopen_align(folder: RunFolder) -> AbstractStudy[Alignments]:
    """What a folder's run is, if it can go on here."""
    return reopened(folder, Align.kind, lambda data: Align(AlignConfig.from_dict(data).checked()))


@dataclasses.dataclass(frozen=True)
class Align(AbstractStudy[Alignments]):
    """A run for each rule, measured on its way; and those of the sweep."""

    config: AlignConfig
    kind: ClassVar[str] = "align"
    command: ClassVar[str] = "align"

    @property
    def run(self) -> Config:
        return self.config.run

    def options(self) -> dict[str, Any]:
        return {"align": self.config.options()}

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all runs."""
        swept = [label for each in self.config.swept for label in sweep_labels(*each)]
        return (*self.run.rules, *swept)

    def reporter(self, console: Console) -> Reporter:
        return Reporter(dataclasses.replace(self.run, rules=self.labels), console)

    def fresh(self) -> Mapping[str, State]:
        weight_keys, _ = seed_keys(self.run)
        return dict.fromkeys(self.labels, align_setup(self.config).start(weight_keys))

    def runs(
        self, fresh: Mapping[str, State], metrics: Metrics, say: Callable[[str], None]
    ) -> Iterator[Run]:
        config, (_, keys) = self.config, seed_keys(self.run)
        measure = align_setup(config), measurements(config)
        lines = functools.partial(_lines, config, keys, *measure)
        for rule in config.run.rules:
            yield Run(rule, fresh[rule], functools.partial(lines, rule, rule))
        for rule, factor in config.swept:
            own, exact = sweep_labels(rule, factor)
            rate = factor * config.settings.optimizer.learning_rate
            matched = matched_rate(metrics, rule, rate)
            yield Run(own, at_rate(fresh[own], rate), functools.partial(lines, rule, own))
            if matched is None:
                say(f"{rule}: no positive ρ was measured, so BPTT has no matched rate")
            else:
                start = at_rate(fresh[exact], matched)
                yield Run(exact, start, functools.partial(lines, "bptt", exact))

    def report(
        self, folder: RunFolder, metrics: Metrics, diverged: dict[str, str], style: Style
    ) -> Report[Alignments]:
        config = self.config
        rows = summarise(config, metrics, diverged)
        comparisons = sweep_rows(config, metrics, diverged)
        correlation = correlations(config, metrics)
        found = {
            "caption": caption(config),
            "rows": [dataclasses.asdict(row) for row in rows],
            "correlation": correlation,
            "sweep": [dataclasses.asdict(row) for row in comparisons],
            "measured": config.measured,
            "metrics": metrics,
        }
        files: dict[str, str | bytes] = {
            "align.json": json.dumps(found, indent=1) + "\n",
            "table.md": markdown(config, rows, comparisons, metrics),
            **figures(config, metrics, style),
        }

        def show(reporter: Reporter) -> None:
            text = [cells(row) for row in rows]
            reporter.grid(headers(config), text, caption(config, correlation))

        return Report(Alignments(folder.path, config, rows, comparisons, metrics), files, show)


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
    settings, schedule = config.settings, config.settings.schedule
    swept = label != rule
    for state, record in iterate(
        state,
        keys,
        loss=parts.loss,
        data=parts.data,
        evaluate=parts.evaluate,
        optimizer=parts.optimizer,
        rule=build_rule(rule, cell_types(settings.network), mu=settings.mu),
        iterations=schedule.iterations,
        eval_every=schedule.eval_every,
        label=label,
    ):
        last, began = record.iteration == schedule.iterations, time.perf_counter()
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
        measuring = (time.perf_counter() - began) / schedule.eval_every
        # Of training and measuring: what the time that is left is reckoned from.
        seconds = None if math.isnan(record.seconds) else record.seconds + measuring
        yield state, line | {SECONDS: seconds}
