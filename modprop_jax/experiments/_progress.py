"""What a run says while it works: a live display on a terminal, plain lines elsewhere."""

import datetime
import statistics
import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ._config import Config
from ._summary import caption, cells, headers, Row
from ._train import Record


class Reporter:
    """Rule, iteration, loss, accuracy and time left, as a context manager around the work."""

    def __init__(self, config: Config, console: Console):
        self._config, self._console = config, console
        self._seconds: list[float] = []
        self._spoke = 0.0
        self._bars: dict[str, TaskID] = {}
        self._live = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                console=console,
            )

    def __enter__(self) -> "Reporter":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, rule: str, iteration: int) -> None:
        """A rule begins, or goes on from `iteration`."""
        self._seconds = []
        total = self._config.settings.iterations
        if self._live is not None:
            self._bars[rule] = self._live.add_task(
                rule, total=total, completed=iteration, status="compiling"
            )
        elif iteration < total:
            origin = f" from iteration {iteration}" if iteration else ""
            self.say(f"{rule}: compiling, then {total} iterations{origin}")

    def record(self, rule: str, record: Record) -> None:
        total = self._config.settings.iterations
        if record.iteration:
            self._seconds.append(record.seconds)
        loss, accuracy = np.mean(record.loss), np.mean(record.accuracy)
        status = f"loss {loss:.3f}  accuracy {accuracy:.3f}{self._time_left(rule, record)}"
        if self._live is not None:
            self._live.update(
                self._bars[rule], completed=record.iteration, status=status
            )
            return
        # Ten lines a rule, or one in ten seconds where the work is slow.
        step = self._config.settings.eval_every
        tenth = record.iteration * 10 // total != (record.iteration - step) * 10 // total
        if tenth or record.iteration == total or time.monotonic() - self._spoke > 10:
            self._spoke = time.monotonic()
            self.say(f"{rule}  {record.iteration}/{total}  {status}")

    def table(self, rows: list[Row]) -> None:
        config = self._config
        # Wide enough for its columns also where the output is a file or a pipe.
        table = Table(caption=caption(config), caption_justify="left")
        for index, header in enumerate(headers(config)):
            table.add_column(
                header, justify="right" if index else "left", no_wrap=index == 0
            )
        for row in rows:
            table.add_row(*cells(row, config.seeds))
        self._console.print(table, width=None if self._live else 110)

    def _time_left(self, rule: str, record: Record) -> str:
        """Of the whole run; rules still to come are taken to be as fast as this one."""
        if not self._seconds:
            return ""
        rules, total = self._config.rules, self._config.settings.iterations
        to_come = len(rules) - 1 - rules.index(rule)
        iterations = total - record.iteration + to_come * total
        seconds = round(statistics.median(self._seconds) * iterations)
        return f"  left {datetime.timedelta(seconds=seconds)}"
