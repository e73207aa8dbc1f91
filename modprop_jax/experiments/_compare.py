"""Train the same networks on the same data under several credit rules."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
from rich.console import Console

from .. import _arguments as arguments
from .._figures import check_style, Style
from .._rule import AbstractRule
from ..tasks import Task
from . import _own as own
from ._config import Config
from ._files import FolderFault
from ._names import known
from ._plots import learning_curves
from ._progress import Reporter
from ._rates import Tuning
from ._rules import network_of, rule_entry, segment_of
from ._runs import advising, check_precision, drive, introduce, Run, saved
from ._setup import seed_keys, setup
from ._statistics import Pair
from ._storage import RunFolder
from ._stream import iterate_stream, stream_state, Streaming
from ._summary import differences, markdown, Row, SECONDS, summarise
from ._train import cosines, initial_state, iterate, Record, State
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
    tune_seeds: int | None = None,
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
        counted; or the name of either, `"FILE.py:NAME"` or `"MODULE:NAME"`.
    - `network`: your own: `(in_size, out_size, *, key) -> model`, an equinox module with `RNN`
        layers, or its name. It may take `hidden_size` too. `model(xs)`, or `model(xs, key=key)`
        with a key of its own for each iteration, returns the outputs of every step or those that
        the task reads, or a pair of these and of a scalar, whose gradient is added. Each layer's
        cell types are its `signs`, or its two halves.
    - `rules`: names of rules, or one name, with options as in `"modprop:mu=0.5"`; by default
        `DEFAULT_RULES`, on streams `ONLINE_RULES`, or those that the preset names or that serve
        the cell (`CELLS[cell].rules`). On streams, `"bptt:segment=10"` has an optimizer step every
        10 time steps.
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
    - `settings`: fields of `modprop_jax.tasks.Preset` to replace, such as
      `iterations=200`.

    **Returns:** a `Comparison`. A rule whose run met NaN or infinity, or whose transport became
    unstable, stops there, and its row's `diverged` says where.

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
        tune_seeds=tune_seeds,
        **settings,
    )
    check_style(style)
    return execute(config, RunFolder.create(config, out), Console(quiet=quiet), style=style)


def resume(
    folder: str | os.PathLike,
    *,
    task: Task | Callable[..., Any] | None = None,
    network: Callable[..., Any] | None = None,
    quiet: bool = False,
    style: Style = None,
) -> Comparison:
    """Continue an interrupted `compare` from its folder; draw the figures of one that is done.

    `task`, `network`: those of your own that it began with, if they have no file from which they
    could be imported again.

    On the same device and versions the metrics, times aside, are those of a run that
    was never interrupted.

    **Raises:** `ValueError` if the folder holds no run, or one of another precision.
    """
    run = RunFolder(Path(folder))
    check_style(style)
    return execute(reopen(run, task, network), run, Console(quiet=quiet), style=style)


def trained(folder: str | os.PathLike, rule: str, *, at: Literal["end", "start"] = "end") -> Any:
    """The networks of a run's last checkpoint of one rule, seeds on a leading axis.

    `Network`s, but under "force" what that rule makes of them; or a network of one's own. `at`:
    "start" for those before the first iteration.
    """
    at = arguments.choice("at", at, ("end", "start"))
    run = RunFolder(Path(folder))
    config = reopen(run)
    known("rule", rule, config.rules)
    if at == "start":
        return _start(config, rule).model
    like = eqx.filter_eval_shape(lambda: _start(config, rule))
    state = run.load_state(rule, like, config.settings.iterations)
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
    with folder.reading_config():
        config.checked()
    found = folder.read("tuning.json")
    if config.tune is not None and found is not None:
        config = config.tuned(read_choice(found, config.tune, config.rules, folder.path))
    check_precision(config, folder)
    return config


def execute(
    config: Config,
    folder: RunFolder,
    console: Console,
    *,
    tuning: bool = False,
    style: Style = None,
) -> Comparison:
    """Do what is left to do of a run; all of it, if the folder is new. Trials of a `tuning` are
    there to choose from, and no differences between them are tested."""
    with folder.locked():
        if config.tune is not None and folder.read("tuning.json") is None:
            config = _tune(config, config.tune, folder, console)
        return _execute(config, folder, Reporter(config, console), tuning, style)


def _execute(
    config: Config, folder: RunFolder, reporter: Reporter, tuning: bool, style: Style
) -> Comparison:
    with reporter, advising("compare", folder, reporter):
        introduce(config, folder, reporter)
        fresh = {rule: _start(config, rule) for rule in config.rules}
        states, metrics = saved(folder, fresh, config.settings.iterations)
        runs = [Run(rule, fresh[rule], functools.partial(_lines, config, rule)) for rule in fresh]
        diverged = drive(runs, folder, states, metrics, reporter)
    rows = summarise(config, metrics, diverged)
    pairs, by_loss = (
        [] if tuning else differences(config, metrics, diverged, quantity)
        for quantity in ("accuracy", "loss")
    )
    found = {
        "score": config.entry.score,
        "rows": [dataclasses.asdict(row) for row in rows],
        "pairs": [dataclasses.asdict(pair) for pair in pairs],
        "pairs_by_loss": [dataclasses.asdict(pair) for pair in by_loss],
    }
    folder.write("summary.json", json.dumps(found, indent=1) + "\n")
    folder.write("table.md", markdown(config, rows, pairs))
    for name, content in learning_curves(config, metrics, style).items():
        folder.write(name, content)
    reporter.table(rows)
    if not tuning:
        reporter.differences(pairs, diverged)
    reporter.say(f"written to {folder.path}")
    return Comparison(folder.path, config, rows, metrics, pairs)


def _tune(config: Config, tune: Tuning, folder: RunFolder, console: Console) -> Config:
    """The configuration with a learning rate for each rule; in a run folder of its own, inside."""
    inside, trials = folder.within("tuning"), config.of_tuning(tune)
    if inside.read("config.json") is None:
        inside = RunFolder.create(trials, inside.path)
    elif not inside.load_config().trains_as(trials):
        raise FolderFault(
            f"{inside.path} is the tuning of another run: delete it, and {folder.path} is tuned "
            "anew."
        )
    console.print(f"tuning: {len(trials.rules)} trials of {tune.seeds} seeds", highlight=False)
    rows = execute(trials, inside, console, tuning=True).rows
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
    if config.network is not None:
        of_types = functools.partial(config.rule_of_types, label)
        model = eqx.filter_vmap(lambda each: own.under(each, of_types))(fresh.model)
        return initial_state(model, parts.optimizer)
    if config.settings.segment is None:
        return fresh
    model = fresh.model
    if rule_entry(label).network is not None:
        made_for_rule = eqx.filter_jit(eqx.filter_vmap(functools.partial(network_of, label)))
        model = made_for_rule(model, weight_keys)
    batch, optimizer = config.settings.batch, parts.optimizer
    return stream_state(model, keys, rule=config.rule(label), batch=batch, optimizer=optimizer)


def _rule_of(config: Config, label: str) -> AbstractRule | None:
    """Of all layers; None where each has its own."""
    return config.rule(label) if config.network is None else None


def _records(config: Config, label: str, state: State) -> Iterator[tuple[State, Record]]:
    """Train under one rule from `state` on."""
    settings, (_, keys) = config.settings, seed_keys(config)
    parts, rule = setup(config.for_rule(label)), _rule_of(config, label)
    if settings.segment is None:
        return iterate(
            state,
            keys,
            loss=parts.loss,
            data=parts.data,
            evaluate=parts.evaluate,
            optimizer=parts.optimizer,
            rule=rule,
            iterations=settings.iterations,
            eval_every=settings.eval_every,
            label=label,
        )
    return iterate_stream(
        state,
        keys,
        loss=config.entry.loss,
        data=parts.data,
        optimizer=parts.optimizer,
        rule=config.rule(label),
        streaming=Streaming(
            settings.segment,
            segment_of(label, settings.segment),
            settings.eval_every * settings.segment,
            settings.iterations * settings.segment,
        ),
        label=label,
    )


def _lines(config: Config, label: str, state: State) -> Iterator[tuple[State, dict[str, Any]]]:
    """Train under one rule from `state` on; yields at each evaluation."""
    settings, (_, keys) = config.settings, seed_keys(config)
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
        if settings.segment is None and record.iteration in (0, settings.iterations):
            parts, rule = setup(config.for_rule(label)), _rule_of(config, label)
            angle = cosines(
                state.model, keys, record.iteration, loss=parts.loss, data=parts.data, rule=rule
            )
            line["cosine"] = angle.tolist()
        yield state, line
