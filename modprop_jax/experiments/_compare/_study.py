"""Train the same networks on the same data under several credit rules."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ... import _arguments as arguments
from ..._figures import check_style, Style
from ..._rule import AbstractRule
from ...tasks import Task
from .. import _own as own
from .._config import Config
from .._files import FolderFault
from .._names import known
from .._own_network import under
from .._processes import whole
from .._progress import Reporter
from .._recurrent import recurrent_radius
from .._rules import network_of, segment_of
from .._runs import check_precision, OnRecord, Run
from .._setup import seed_keys, setup
from .._statistics import Pair
from .._storage import RunFolder
from .._stream import iterate_stream, stream_state, Streaming
from .._study import AbstractStudy, begun, conduct, Metrics, Report
from .._summary import counted, differences, markdown, Row, SECONDS, summarise
from .._train import cosines, initial_state, iterate, Record, State
from .._tuning import Tuned, Tuning
from ._plots import learning_curves
from ._tune import as_json, chosen, read_choice, report


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Results of `compare`: a table row for each rule, and all metrics."""

    folder: Path
    config: Config
    rows: list[Row]
    metrics: list[dict[str, Any]]
    pairs: list[Pair]
    """Differences in score between rules, seed by seed, and which of them are supported."""


def compare(
    task: str | Task | Callable[..., Any],
    rules: Sequence[str] | None = None,
    *,
    network: str | Callable[..., Any] | None = None,
    seeds: int | None = None,
    preset: str = "small",
    out: str | os.PathLike | None = None,
    quiet: bool = False,
    style: Style = None,
    first_seed: int = 0,
    learning_rates: str | Sequence[float] | None = None,
    tune: Tuned | None = None,
    tune_seeds: int | None = None,
    on_record: OnRecord | None = None,
    **settings: Any,
) -> Comparison:
    """Train a task's network under each rule, from the same weights on the same data.

    Presets with a `segment` learn online, from endless streams: an optimizer step after each
    segment, loss and score those of the outputs while learning.

    **Arguments:**

    - `task`, `preset`: names, as `modprop-jax list` shows them. Or a task of your own: a `Task`; a
        function `(key, batch) -> (xs, ys)`, with xs (T, batch, m), and ys (batch,) or (T, batch)
        of integers, classes, or (batch, k) or (T, batch, k) of numbers, to be met in the mean
        square, or a pair of these and of weights (batch,) or (T, batch), 0 for what is not
        counted (a stream is a function `(key, batch, steps=...)` that has `stream = True`, whose
        steps all count); or the name of either, `"FILE.py:NAME"` or `"MODULE:NAME"`.
    - `network`: your own: `(in_size, out_size, *, key) -> model`, an equinox module with `RNN`
        layers, or its name. It may take `hidden_size` too. `model(xs)`, or `model(xs, key=key)`
        with a key of its own for each iteration, returns the outputs of every step or those that
        the task reads, or a pair of these and of a scalar, whose gradient is added. On streams
        `model.init(batch_shape, *, key=None)` gives the carry of every layer, and
        `model.online(xs, carry, *, context=None)` the one to go on from and the outputs. Each
        layer's cell types are its `signs`, or its two halves.
    - `rules`: names of rules or methods, or one name, with options as in `"modprop:mu=0.5"`; by
        default `DEFAULT_RULES`, on streams `ONLINE_RULES`, or those that the preset names or that
        serve the cell (`CELLS[cell].rules`). On streams, `"bptt:segment=10"` has an optimizer step
        every 10 time steps.
    - `seeds`: networks per rule, each with its own weights and data; by default 5, or what the
        preset says.
    - `out`: folder for the results; by default a new one under `runs/`.
    - `quiet`: print nothing.
    - `style`: of figures: a file of matplotlib's settings, or the name of one of its styles.
    - `first_seed`: the first of the seeds.
    - `learning_rates`: tune first: train every rule at each of these, on `tune_seeds` networks (3)
        of other seeds and, where data are limited, on a part of the training data, judged by
        another part; then compare the rules, each at the rate with the least final loss. Numbers,
        or `"1e-4..1e-2"` for five rates evenly spaced by their logarithms (`"1e-4..1e-2/9"`: nine).
    - `tune`: options of a rule that are tuned too, in all combinations with the rates: names as in
        `rules` with several values, `"modprop:mu=0.1,0.25,auto"` (or `"kernl:alpha=0.01..1"`), a
        sequence of such, or `{"modprop": {"mu": [0.1, 0.25, "auto"]}}`; `learning_rate` and `l2`
        too. It is for all rules of that name which say nothing of the option themselves. Where
        `learning_rates` is a range, rules with fewer combinations get more points of it, so that
        all have as many trials (up to rounding); else `tuning.md` says that they had not.
    - `on_record`: a function that gets each record, a dict as it stands in `metrics.jsonl` (rule,
        iteration, loss and accuracy by seed, ...), once it is on disk; those of tuning have
        `"tuning": True` beside. What it raises ends the run, which `resume` then continues: each
        record reaches it once. `tensorboard(folder)` is one.
    - `settings`: what to replace in the preset, by name, such as `iterations=200`: fields of
        `modprop_jax.tasks.Preset` and of its parts.

    **Returns:** a `Comparison`. A seed that meets NaN or infinity, or whose rule becomes unstable,
    stops there, alone, and counts from then on as untrained; its row's `stopped` says where and
    why. On streams all seeds of the rule stop with it, as they do where none is left: then
    `diverged` says so.

    **Raises:** `ValueError` for an unknown name or an impossible setting.
    """
    config = Config.make(
        task,
        preset,
        rules,
        seeds,
        network,
        first_seed=first_seed,
        learning_rates=learning_rates,
        tune=tune,
        tune_seeds=tune_seeds,
        **settings,
    )
    check_style(style)
    _check_on_record(on_record)
    study = Compare(config)
    return conduct(study, begun(study, out), Console(quiet=quiet), style, on_record)


def resume(
    folder: str | os.PathLike,
    *,
    task: Task | Callable[..., Any] | None = None,
    network: Callable[..., Any] | None = None,
    quiet: bool = False,
    style: Style = None,
    on_record: OnRecord | None = None,
) -> Comparison:
    """Continue an interrupted `compare` from its folder; draw the figures of one that is done.

    `task`, `network`: those of your own that it began with, if they have no file from which they
    could be imported again. `on_record`: as in `compare`; it gets what is new.

    On the same device and versions the metrics, times aside, are those of a run that
    was never interrupted.

    **Raises:** `ValueError` if the folder holds no run, or one of another precision.
    """
    run = RunFolder(Path(folder))
    check_style(style)
    _check_on_record(on_record)
    study = Compare(reopen(run, task, network))
    return conduct(study, run, Console(quiet=quiet), style, on_record)


def _check_on_record(on_record: object) -> None:
    if on_record is not None and not callable(on_record):
        raise ValueError(
            "on_record must be a function of one record, or None, but is "
            f"{arguments.shown(on_record)}."
        )


def trained(folder: str | os.PathLike, rule: str, *, at: Literal["end", "start"] = "end") -> Any:
    """The networks of a run's last checkpoint of one rule, seeds on a leading axis.

    `Network`s, what a method such as "force" makes of them, or networks of one's own. `at`: "start"
    for those before the first iteration.
    """
    at = arguments.choice("at", at, ("end", "start"))
    run = RunFolder(Path(folder))
    config = reopen(run)
    known("rule", rule, config.rules)
    if at == "start":
        return _start(config, rule).model
    like = eqx.filter_eval_shape(lambda: _start(config, rule))
    state = run.load_state(rule, like, config.settings.schedule.iterations)
    if state is None:
        raise ValueError(
            f"{folder} has no checkpoint of rule {rule!r}; its rules: {', '.join(config.rules)}."
        )
    return state[0].model


def reopen(folder: RunFolder, task: Any = None, network: Any = None) -> Config:
    """A run's configuration, if it can go on here; with what was given as objects."""
    _, data = folder.read_config("compare")
    with folder.reading_config():
        config = Config.from_dict(data)
    for name, thing in ((config.task, task), (config.network, network)):
        if name is not None and own.is_own(name):
            own.again(name, thing, folder.path)
    own.changed(config.sources)
    with folder.reading_config():
        config.checked()
    found = folder.read("tuning.json")
    if config.tune is not None and found is not None:
        config = config.tuned(read_choice(found, config.tune, config.rules, folder.path))
    check_precision(config, folder)
    return config


@dataclasses.dataclass(frozen=True)
class Compare(AbstractStudy[Comparison]):
    """A run for each rule, from the same weights on the same data."""

    config: Config
    kind: ClassVar[str] = "compare"
    command: ClassVar[str] = "compare"

    @property
    def run(self) -> Config:
        return self.config

    def ready(self, folder: RunFolder, console: Console, on_record: OnRecord | None) -> "Compare":
        """With each rule at the learning rate that tuning chose; now, if it has not yet."""
        tune = self.config.tune
        if tune is None or folder.read("tuning.json") is not None:
            return self
        return Compare(_tuned(self.config, tune, folder, console, on_record))

    def fresh(self) -> Mapping[str, State]:
        return {rule: _start(self.config, rule) for rule in self.config.rules}

    def runs(
        self, fresh: Mapping[str, State], metrics: Metrics, say: Callable[[str], None]
    ) -> Iterator[Run]:
        del metrics, say
        for rule, state in fresh.items():
            yield Run(rule, state, functools.partial(_lines, self.config, rule))

    def report(
        self, folder: RunFolder, metrics: Metrics, diverged: dict[str, str], style: Style
    ) -> Report[Comparison]:
        config, metrics = self.config, counted(metrics)
        rows = summarise(config, metrics, diverged)
        # trials of a tuning are there to choose from
        pairs, by_loss = (
            [] if config.tuning else differences(config, metrics, diverged, quantity)
            for quantity in ("accuracy", "loss")
        )
        found = {
            "score": config.entry.score,
            "rows": [dataclasses.asdict(row) for row in rows],
            "pairs": [dataclasses.asdict(pair) for pair in pairs],
            "pairs_by_loss": [dataclasses.asdict(pair) for pair in by_loss],
        }
        files: dict[str, str | bytes] = {
            "summary.json": json.dumps(found, indent=1) + "\n",
            "table.md": markdown(config, rows, pairs),
            **learning_curves(config, metrics, style),
        }

        def show(reporter: Reporter) -> None:
            reporter.table(rows)
            if not config.tuning:
                reporter.differences(pairs, diverged)

        return Report(Comparison(folder.path, config, rows, metrics, pairs), files, show)


def _tuned(
    config: Config,
    tune: Tuning,
    folder: RunFolder,
    console: Console,
    on_record: OnRecord | None,
) -> Config:
    """The configuration with a learning rate for each rule; in a run folder of its own, inside."""
    inside, trials = folder.within("tuning"), Compare(config.of_tuning(tune))
    if inside.read("config.json") is None:
        inside = begun(trials, inside.path)
    elif not inside.load_config().trains_as(trials.config):
        raise FolderFault(
            f"{inside.path} is the tuning of another run: delete it, and {folder.path} is tuned "
            "anew."
        )
    many = len(trials.config.rules)
    console.print(f"tuning: {many} trials of {tune.seeds} seeds", highlight=False)
    of_trial = None if on_record is None else lambda line: on_record(line | {"tuning": True})
    rows = conduct(trials, inside, console, on_record=of_trial).rows
    text = report(tune, config.rules, rows)
    console.print(text, markup=False, highlight=False)
    folder.write("tuning.md", text)
    folder.write("tuning.json", as_json(tune, config.rules, rows))
    return config.tuned(chosen(tune, config.rules, rows))


def _start(config: Config, label: str) -> State:
    """The networks before the first iteration under a rule."""
    weight_keys, keys = seed_keys(config)
    parts = setup(config.for_rule(label))
    fresh = parts.start(weight_keys)
    schedule = config.settings.schedule
    model, optimizer, batch = fresh.model, parts.optimizer, schedule.batch
    online = schedule.segment is not None
    # offline a seed may stop alone
    running = jnp.full(config.seeds, -1, jnp.int32)
    if config.network is not None:
        of_types = functools.partial(config.rule_of_types, label)
        model = eqx.filter_vmap(lambda each: under(each, of_types))(model)
        if not online:
            return dataclasses.replace(initial_state(model, optimizer), stopped=running)
    elif not online:
        return dataclasses.replace(fresh, stopped=running)
    else:
        model = eqx.filter_vmap(functools.partial(network_of, label))(model, weight_keys)
    rule = _rule_of(config, label)
    return stream_state(model, keys, rule=rule, batch=batch, optimizer=optimizer)


def _rule_of(config: Config, label: str) -> AbstractRule | None:
    """Of all layers; None where each has its own."""
    return config.rule(label) if config.network is None else None


def _records(config: Config, label: str, state: State) -> Iterator[tuple[State, Record]]:
    """Train under one rule from `state` on."""
    schedule, (_, keys) = config.settings.schedule, seed_keys(config)
    parts, rule = setup(config.for_rule(label)), _rule_of(config, label)
    if schedule.segment is None:
        return iterate(
            state,
            keys,
            loss=parts.loss,
            data=parts.data,
            evaluate=parts.evaluate,
            optimizer=parts.optimizer,
            rule=rule,
            iterations=schedule.iterations,
            eval_every=schedule.eval_every,
            label=label,
        )
    return iterate_stream(
        state,
        keys,
        loss=config.entry.loss,
        data=parts.data,
        optimizer=parts.optimizer,
        rule=rule,
        streaming=Streaming(
            schedule.segment,
            segment_of(label, schedule.segment),
            schedule.eval_every * schedule.segment,
            schedule.iterations * schedule.segment,
        ),
        label=label,
    )


def _lines(config: Config, label: str, state: State) -> Iterator[tuple[State, dict[str, Any]]]:
    """Train under one rule from `state` on; yields at each evaluation."""
    schedule, (_, keys) = config.settings.schedule, seed_keys(config)
    for state, record in _records(config, label, state):
        line = {
            "rule": label,
            "iteration": record.iteration,
            "loss": record.loss.tolist(),
            "accuracy": record.accuracy.tolist(),
            # JSON has no NaN
            SECONDS: None if math.isnan(record.seconds) else record.seconds,
        }
        if record.radius is not None:
            line["radius"] = record.radius.tolist()
        # trials of a tuning are judged by their loss
        weights = None if config.tuning else recurrent_radius(state.model)
        if weights is not None:
            line["recurrent_radius"] = weights.tolist()
        if record.stopped:
            line["stopped"] = {str(seed): why for seed, why in record.stopped.items()}
        ends = record.iteration in (0, schedule.iterations)
        # a compilation less for each trial of a tuning
        if schedule.segment is None and ends and not config.tuning:
            parts, rule = setup(config.for_rule(label)), _rule_of(config, label)
            angle = cosines(
                state.model, keys, record.iteration, loss=parts.loss, data=parts.data, rule=rule
            )
            stopped = np.full(config.seeds, -1) if state.stopped is None else whole(state.stopped)
            line["cosine"] = [a if at < 0 else None for a, at in zip(angle.tolist(), stopped)]
        yield state, line
