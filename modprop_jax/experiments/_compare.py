"""Train the same networks on the same data under several credit rules."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from rich.console import Console

from ._catalogue import build_rule, DEFAULT_RULES
from ._config import Config, environment
from ._network import build_network, build_optimizer, cell_types, loss_of, Network
from ._plots import learning_curves
from ._progress import Reporter
from ._storage import RunFolder
from ._summary import markdown, Row, summarise
from ._train import cosines, initial_state, iterate, TrainingDiverged


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Results of `compare`: a row of the table a rule, and every evaluation's metrics."""

    folder: Path
    config: Config
    rows: list[Row]
    metrics: list[dict[str, Any]]


def compare(
    task: str,
    rules: Sequence[str] = DEFAULT_RULES,
    *,
    seeds: int = 3,
    preset: str = "small",
    out: str | os.PathLike | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Comparison:
    """Train a task's network under each rule; same initial weights and same data for all.

    **Arguments:**

    - `task`, `preset`: names, as `modprop-jax list` shows them.
    - `rules`: names of rules, with options as in `"modprop:mu=0.5"`.
    - `seeds`: networks per rule, trained side by side.
    - `out`: folder for the results; by default a new one under `runs/`.
    - `quiet`: print nothing.
    - `settings`: fields of `modprop_jax.tasks.Preset` to replace, such as `iterations=200`.

    **Returns:** a `Comparison`. A rule whose run met NaN or infinity stops there, and its row's
    `diverged` says where.

    **Raises:** `ValueError` for an unknown name or an impossible setting.
    """
    config = Config.make(task, preset, rules, seeds, **settings)
    return execute(config, RunFolder.create(config, out), Console(quiet=quiet))


def resume(folder: str | os.PathLike, *, quiet: bool = False) -> Comparison:
    """Continue an interrupted `compare` from its folder.

    On the same device and versions the metrics, times aside, are those of a run that was never
    interrupted.

    **Raises:** `ValueError` if the folder holds no run, or one of another precision.
    """
    run = RunFolder(Path(folder))
    return execute(reopen(run), run, Console(quiet=quiet))


def trained(folder: str | os.PathLike, rule: str) -> Network:
    """The networks of a run's last checkpoint of one rule, seeds on a leading axis."""
    run = RunFolder(Path(folder))
    config = reopen(run)
    models, _ = networks(config)
    state = run.load_state(
        rule, initial_state(models, build_optimizer(config.settings))
    )
    if state is None:
        raise ValueError(
            f"{folder} has no checkpoint of rule {rule!r}; its rules: {', '.join(config.rules)}."
        )
    return state.model


def reopen(folder: RunFolder) -> Config:
    """A run's configuration, if it can go on here."""
    config = folder.load_config()
    was, now = config.environment["precision"], environment()["precision"]
    if was != now:
        raise ValueError(
            f"{folder.path} was computed in {was}, but JAX is set to {now}: "
            f"set JAX_ENABLE_X64={int(was == 'float64')}."
        )
    return config


def networks(config: Config) -> tuple[Network, jax.Array]:
    """Initial networks and training keys, one of each per seed; seed s is the same in any run."""
    seed_keys = jax.vmap(jr.key)(jnp.arange(config.seeds))
    pairs = jax.vmap(jr.split)(seed_keys)
    build = functools.partial(build_network, config.entry, config.settings)
    return eqx.filter_jit(eqx.filter_vmap(build))(pairs[:, 0]), pairs[:, 1]


def execute(config: Config, folder: RunFolder, console: Console) -> Comparison:
    """Do what is left to do of a run; all of it, if the folder is new."""
    task, settings = config.entry, config.settings
    models, keys = networks(config)
    optimizer = build_optimizer(settings)
    common = {
        "loss": loss_of(task),
        "data": functools.partial(task.batch, batch=settings.batch, **settings.data),
    }
    fresh = initial_state(models, optimizer)
    saved = {rule: folder.load_state(rule, fresh) for rule in config.rules}
    # A checkpoint of iteration 0 saves nothing: that rule starts over.
    states = {rule: s for rule, s in saved.items() if s is not None and s.iteration > 0}
    metrics = folder.load_metrics({r: int(s.iteration) for r, s in states.items()})
    diverged = {}

    def finish() -> list[Row]:
        rows = summarise(config, metrics, diverged)
        folder.write("table.md", markdown(config, rows))
        folder.write("curves.png", learning_curves(config, metrics))
        return rows

    with Reporter(config, console) as reporter:
        _introduce(config, folder, reporter)
        try:
            for label in config.rules:
                rule = build_rule(label, cell_types(settings), mu=settings.mu)
                state = states.get(label, fresh)
                reporter.start(label, int(state.iteration))
                run = iterate(
                    state,
                    keys,
                    **common,
                    evaluate=functools.partial(task.evaluation, **settings.data),
                    optimizer=optimizer,
                    rule=rule,
                    iterations=settings.iterations,
                    eval_every=settings.eval_every,
                    label=label,
                )
                try:
                    for state, record in run:
                        line = {
                            "rule": label,
                            "iteration": record.iteration,
                            "loss": record.loss.tolist(),
                            "accuracy": record.accuracy.tolist(),
                            "seconds_per_iteration": _or_none(record.seconds),
                        }
                        if record.iteration in (0, settings.iterations):
                            line["cosine"] = cosines(
                                state.model, keys, record.iteration, rule=rule, **common
                            ).tolist()
                        folder.append_metrics(line)
                        folder.save_state(label, state)
                        metrics.append(line)
                        reporter.record(label, record)
                except TrainingDiverged as error:
                    diverged[label] = str(error)
                    reporter.say(f"stopped: {error}")
        except KeyboardInterrupt:
            reporter.say(
                f"interrupted; continue with: modprop-jax compare --resume {folder.path}"
            )
            raise
    rows = finish()
    reporter.table(rows)
    reporter.say(f"written to {folder.path}")
    return Comparison(folder.path, config, rows, metrics)


def _introduce(config: Config, folder: RunFolder, reporter: Reporter) -> None:
    was, now = config.environment, environment()
    reporter.say(f"device: {now['devices']} x {now['device']} ({now['backend']})")
    reporter.say(f"precision: {now['precision']}")
    reporter.say(f"run folder: {folder.path}")
    changed = [name for name in was if was[name] != now.get(name)]
    if changed:
        reporter.say(
            f"note: {', '.join(changed)} changed since this run began; results may differ in "
            "the last digits from an uninterrupted run."
        )


def _or_none(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds  # JSON has no NaN
