"""What a bench says while it works: live on a terminal, plain lines elsewhere."""

import datetime
import statistics
import time
from collections.abc import Sequence
from typing import Any

from rich import progress
from rich.console import Console


class Progress:
    """Programs done and to do, the last one's result and the time left; a context."""

    def __init__(self, console: Console, total: int, before: Sequence[dict[str, Any]]):
        self._console, self._total = console, total
        self._before, self._new, self._began = len(before), 0, time.monotonic()
        self._live = None
        if console.is_terminal:
            self._live = progress.Progress(
                progress.BarColumn(bar_width=24),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.description}"),
                console=console,
            )
            self._task = self._live.add_task("compiling", total=total, completed=self._before)
        if before:
            self._say(f"{len(before)} of {total} measured before, going on")

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def record(self, row: dict[str, Any]) -> None:
        """One more program."""
        self._new += 1
        count = self._before + self._new
        seconds = (time.monotonic() - self._began) / self._new * (self._total - count)
        left = datetime.timedelta(seconds=round(seconds))
        name = f"{row['network']} n={row['n']} T={row['T']} {row['program']}, {row['mode']}"
        text = f"{name}: {_result(row)}  time left {left}"
        if self._live is not None:
            self._live.update(self._task, completed=count, description=text)
        else:
            self._say(f"{count}/{self._total}  {text}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _result(row: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"– {row['skipped']}"
    return f"{statistics.median(row['ratios']):.2f} of plain, {row['milliseconds']:.1f} ms"
