"""What a run says while it works: live on a terminal, plain lines elsewhere."""

import datetime
import statistics
import time
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ._config import Config
from ._seed_tables import pair_cells, pair_headers, verdict
from ._statistics import Pair
from ._summary import caption, cells, headers, lost_seeds, Row, SECONDS


_PAIRS = 15
"""So many that a screen holds them."""


class Reporter:
    """Rule, iteration, loss, accuracy and time left; a context around the work."""

    def __init__(
        self,
        config: Config,
        console: Console,
        *,
        line: Callable[[dict[str, Any], float], str] | None = None,
    ):
        """`line(metrics, seconds)`: what to say of a line of other metrics, in place of bars."""
        self._config, self._console, self._line = config, console, line
        self._seconds: list[float] = []
        self._began, self._at, self._training = 0.0, 0, 0.0
        self._spoke = 0.0
        self._bars: dict[str, TaskID] = {}
        self._live = None
        if console.is_terminal and line is None:
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
        self._began, self._at, self._training = time.monotonic(), iteration, 0.0
        total = self._config.settings.schedule.iterations
        if self._line is not None:
            self.say(f"{rule}: compiling, then steps from {iteration} on")
        elif self._live is not None:
            status = "compiling" if iteration < total else "done before"
            self._bars[rule] = self._live.add_task(
                rule, total=total, completed=iteration, status=status
            )
        elif iteration < total:
            origin = f" from iteration {iteration}" if iteration else ""
            self.say(f"{rule}: compiling, then {total} iterations{origin}")

    def record(self, line: dict[str, Any]) -> None:
        """One line of metrics."""
        rule, iteration = line["rule"], line["iteration"]
        if line[SECONDS] is not None:
            self._seconds.append(line[SECONDS])
            self._training += line[SECONDS] * (iteration - self._at)
        self._at = iteration
        for why in line.get("stopped", {}).values():
            self.say(f"stopped: {why}")
        if self._line is not None:
            self.say(self._line(line, statistics.median(self._seconds)))
            return
        loss, accuracy = map(statistics.fmean, (line["loss"], line["accuracy"]))
        left = self._time_left(rule, iteration)
        status = f"loss {loss:.3f}  {self._config.entry.score} {accuracy:.3f}{left}"
        if self._live is not None:
            self._live.update(self._bars[rule], completed=iteration, status=status)
            return
        # Ten lines a rule, or one in ten seconds where the work is slow.
        schedule = self._config.settings.schedule
        total, before = schedule.iterations, iteration - schedule.eval_every
        tenth = iteration * 10 // total != before * 10 // total
        if tenth or iteration == total or time.monotonic() - self._spoke > 10:
            self._spoke = time.monotonic()
            self.say(f"{rule}  {iteration}/{total}  {status}")

    def table(self, rows: list[Row]) -> None:
        config = self._config
        lines = [cells(row, config.seeds) for row in rows]
        self.grid(headers(config), lines, caption(config))
        for text in lost_seeds(config, rows):
            self.say(text)

    def differences(self, pairs: list[Pair], diverged: dict[str, str]) -> None:
        """The table of differences, and what it says; of many pairs the first."""
        text = verdict(self._config, pairs, diverged)
        if not pairs:
            return self.say(text) if text else None
        if len(pairs) > _PAIRS:
            text += f" The first {_PAIRS} of {len(pairs)} pairs; all of them are in table.md."
        lines = [pair_cells(pair) for pair in pairs[:_PAIRS]]
        self.grid(pair_headers(self._config), lines, text)

    def grid(self, titles: list[str], lines: list[list[str]], text: str) -> None:
        """A table of text with a caption; the first column is the rule."""
        if not self._console.is_terminal:
            self._console.width = max(self._console.width, 110)  # rich assumes 80
        table = Table(
            caption=text,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            # So that four default rules fit into 80 columns.
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for index, title in enumerate(titles):
            table.add_column(title, justify="right" if index else "left")
        for line in lines:
            table.add_row(*line)
        self._console.print(table)

    def _time_left(self, rule: str, iteration: int) -> str:
        """Of the whole run; rules still to come are taken to be as fast as this one, and to take
        as long as it did beside its iterations: compilation, evaluation, files."""
        if not self._seconds:
            return ""
        rules, total = self._config.rules, self._config.settings.schedule.iterations
        to_come = len(rules) - 1 - rules.index(rule)
        iterations = total - iteration + to_come * total
        beside = max(time.monotonic() - self._began - self._training, 0)
        seconds = statistics.median(self._seconds) * iterations + to_come * beside
        return f"  time left {datetime.timedelta(seconds=round(seconds))}"
