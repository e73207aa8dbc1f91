"""What a run folder is of: a study, of which `compare`, `align` and `align_stream` are kinds."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import Console

from .._figures import Style
from ._config import Config
from ._progress import Reporter
from ._runs import advising, check_precision, drive, introduce, OnRecord, Run, saved
from ._storage import RunFolder
from ._train import State


R = TypeVar("R")
Metrics = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Report(Generic[R]):
    """What is made of a study's metrics."""

    result: R
    files: Mapping[str, str | bytes]
    """By name; none of them is read again."""
    show: Callable[[Reporter], None]
    """Puts the tables on the screen."""


class AbstractStudy(abc.ABC, Generic[R]):
    """Networks to train, one run after the other, and what is made of their metrics.

    Everything that its results depend on is plain data, in `config.json`. A new kind of study says
    these; `conduct` does the rest: progress, checkpoints, and going on after a kill.
    """

    kind: ClassVar[str]
    """In `config.json`."""
    command: ClassVar[str]
    """Of `modprop-jax`, which continues it."""

    @property
    @abc.abstractmethod
    def run(self) -> Config:
        """Of the training, which every kind has."""

    def options(self) -> dict[str, Any]:
        """What `config.json` has beside `run`."""
        return {}

    def reporter(self, console: Console) -> Reporter:
        """What says how far it is."""
        return Reporter(self.run, console)

    def ready(
        self, folder: RunFolder, console: Console, on_record: OnRecord | None
    ) -> "AbstractStudy[R]":
        """Itself, after what has to be done before the first run."""
        del folder, console, on_record
        return self

    @abc.abstractmethod
    def fresh(self) -> Mapping[str, State]:
        """By label, what each run's checkpoint is shaped as."""

    @abc.abstractmethod
    def runs(
        self, fresh: Mapping[str, State], metrics: Metrics, say: Callable[[str], None]
    ) -> Iterator[Run]:
        """In order; one may begin by the `metrics` of those before it."""

    @abc.abstractmethod
    def report(
        self, folder: RunFolder, metrics: Metrics, diverged: dict[str, str], style: Style
    ) -> Report[R]:
        """Results, tables and figures; `diverged`: why which run stopped early."""


def conduct(
    study: AbstractStudy[R],
    folder: RunFolder,
    console: Console,
    style: Style = None,
    on_record: OnRecord | None = None,
) -> R:
    """Do what is left to do of a study; all of it, if the folder is new."""
    with folder.locked():
        study = study.ready(folder, console, on_record)
        reporter = study.reporter(console)
        with reporter, advising(study.command, folder, reporter):
            introduce(study.run, folder, reporter)
            fresh = study.fresh()
            states, metrics = saved(folder, fresh, study.run.settings.schedule.iterations)
            runs = study.runs(fresh, metrics, reporter.say)
            diverged = drive(runs, folder, states, metrics, reporter, on_record)
        report = study.report(folder, metrics, diverged, style)
        for name, content in report.files.items():
            folder.write(name, content)
    report.show(reporter)
    reporter.say(f"written to {folder.path}")
    return report.result


def begun(study: AbstractStudy[Any], out: Any) -> RunFolder:
    """A folder for a new run of the study."""
    return RunFolder.create(study.run, out, kind=study.kind, **study.options())


def reopened(
    folder: RunFolder, kind: str, study: Callable[[dict[str, Any]], AbstractStudy[R]]
) -> AbstractStudy[R]:
    """The study of this kind that a folder is of, if it can go on here: made from its data."""
    _, data = folder.read_config(kind)
    with folder.reading_config():
        found = study(data)
    check_precision(found.run, folder)
    return found
