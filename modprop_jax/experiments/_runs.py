"""Training runs of one folder, one after the other, so that a kill loses nothing."""

import contextlib
import copy
import gc
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from . import _own as own
from ._config import Config, environment
from ._processes import leads
from ._progress import Reporter
from ._soundness import RuleUnstable, TrainingDiverged
from ._storage import RunFolder
from ._train import State


OnRecord = Callable[[dict[str, Any]], object]
"""Gets each record, a line of `metrics.jsonl`, once it is on disk."""


class Run(NamedTuple):
    """One network (several seeds) to train: `lines` goes on from a state, `start` is the first."""

    label: str
    start: State
    lines: Callable[[State], Iterator[tuple[State, dict[str, Any]]]]


def saved(
    folder: RunFolder, like: Mapping[str, State], iterations: int
) -> tuple[dict[str, State], list[dict[str, Any]]]:
    """The states and metrics that the folder holds of these runs, shaped as `like`, of at most so
    many iterations."""
    found = {label: folder.load_state(label, state, iterations) for label, state in like.items()}
    # A checkpoint of iteration 0 saves nothing: that run starts over.
    kept = {label: each for label, each in found.items() if each and each[0].iteration > 0}
    reached = {label: (int(state.iteration), lines) for label, (state, lines) in kept.items()}
    metrics = folder.load_metrics(reached)
    return {label: state for label, (state, _) in kept.items()}, metrics


def drive(
    runs: Iterable[Run],
    folder: RunFolder,
    states: Mapping[str, State],
    metrics: list[dict[str, Any]],
    reporter: Reporter,
    on_record: OnRecord | None = None,
) -> dict[str, str]:
    """Do what is left of each run, adding to `metrics`; returns why which of them diverged.

    `on_record` is called in the first of several processes.
    """
    diverged: dict[str, str] = {}
    for run in runs:
        state = states.get(run.label, run.start)
        reporter.start(run.label, int(state.iteration))
        for line in _kept(run, state, folder, diverged):
            metrics.append(line)
            reporter.record(line)
            if on_record is not None and leads():
                on_record(copy.deepcopy(line))  # what it does with it changes no table
        if run.label in diverged:
            reporter.say(f"stopped: {diverged[run.label]}")
        forget_programs()
    return diverged


def forget_programs(most: int = 30_000) -> None:
    """Drop what JAX has compiled, if this process is about to have no room for more of it.

    On Linux a process has 65,530 mappings of memory, and each program for the CPU takes some: with
    a hundred runs XLA ended with "Cannot allocate memory". What the caller has compiled goes too,
    and is compiled again where it is used.
    """
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > most:
        jax.clear_caches()
        gc.collect()


_MAPS = Path("/proc/self/maps")


def _kept(
    run: Run, state: State, folder: RunFolder, diverged: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Each line that is left of a run, once it and its checkpoint are on disk.

    What is raised where the lines are used, by `on_record` too, does not pass through here: an
    error of somebody else's is not taken for a rule that diverged.
    """
    try:
        for state, line in run.lines(state):
            folder.append_metrics(line)
            folder.save_state(run.label, state)
            yield line
    except (TrainingDiverged, RuleUnstable) as error:
        diverged[run.label] = str(error)


def check_precision(config: Config, folder: RunFolder) -> None:
    """Raise a ValueError if a run began in another precision than JAX is set to."""
    was, now = config.environment["precision"], environment()["precision"]
    if was != now:
        raise ValueError(
            f"{folder.path} was computed in {was}, but JAX is set to {now}: "
            f"set JAX_ENABLE_X64={int(was == 'float64')}."
        )


def continued(command: str, folder: RunFolder) -> str:
    """The command that goes on with a run."""
    return f"modprop-jax {command} --resume {shlex.quote(str(folder.path))}"


@contextlib.contextmanager
def advising(command: str, folder: RunFolder, reporter: Reporter) -> Iterator[None]:
    """Say how to go on, if what is done here is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        reporter.say(f"interrupted; continue with: {continued(command, folder)}")
        raise


def introduce(config: Config, folder: RunFolder, reporter: Reporter) -> None:
    """Say where a run is kept and computes, what has changed since it began, and that it starts."""
    reporter.say(f"run folder: {folder.path}")
    was, now = config.environment, environment()
    reporter.say(f"device: {now['devices']} x {now['device']} ({now['backend']})")
    reporter.say(f"precision: {now['precision']}")
    changed = [name for name in was if was[name] != now.get(name)]
    if changed:
        reporter.say(
            f"note: {', '.join(changed)} changed since this run began; results may "
            "differ in the last digits from an uninterrupted run."
        )
    for name in own.changed(config.sources):
        reporter.say(f"note: the file of {name} changed since this run began.")
    reporter.say("starting: making the networks, then a compilation for each rule")
