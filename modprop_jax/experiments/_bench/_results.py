"""Results on disk, and the rows of a table from them."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from .._files import Files
from ._measure import Settings


class Results:
    """The rows of OUT.json, written whole after each one; `rows` grows as a bench goes on."""

    def __init__(self, out: Path | None, settings: Settings):
        """Go on from OUT.json where there is one, or begin.

        **Raises:** `ValueError` if it holds results of other settings or of another machine.
        """
        self.about = _about(settings)
        self.rows: list[dict[str, Any]] = []
        self._out = out
        path = out and out.with_name(f"{out.name}.json")
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            rows, about = found["rows"], found["about"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of this bench: name another --out.") from error
        for key, value in self.about.items():
            if about.get(key) != value:
                raise ValueError(
                    f"{path} holds results with {key} = {about.get(key)!r}, but now it is "
                    f"{value!r}: name another --out, or remove the file to begin again."
                )
        self.rows = rows

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.write("json", json.dumps({"about": self.about, "rows": self.rows}, indent=1) + "\n")

    def of_process(self, process: int) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["process"] == process]

    def write(self, suffix: str, content: str | bytes) -> None:
        """OUT.suffix, if there is an OUT."""
        if self._out is not None:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            Files(self._out.parent).write(f"{self._out.name}.{suffix}", content)


@dataclasses.dataclass(frozen=True)
class Line:
    """A program at one size: medians over processes; None: not measured, and `skipped` says why.

    `low`, `high`: the lowest and highest ratio over processes, or the quartiles over runs if there
    is only one process.
    """

    program: str
    mode: str
    n: int
    steps: int
    network: str = "leaky"
    skipped: str | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    milliseconds: float | None = None
    trial: float | None = None
    over_floor: float | None = None
    megabytes: float | None = None
    peak: float | None = None
    compile_seconds: float | None = None
    cosine: float | None = None
    difference: float | None = None
    loss_difference: float | None = None
    gigaflops: float | None = None


def key_of(row: dict[str, Any]) -> tuple:
    """What was measured, whatever the process."""
    return row["program"], row["mode"], row["n"], row["T"], row["network"]


def summarise(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """One line a program and size, in the order in which they were first measured."""
    grouped: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(key_of(row), []).append(row)
    return [_line(key, group) for key, group in grouped.items()]


def _line(key: tuple, rows: Sequence[dict[str, Any]]) -> Line:
    measured = [row for row in rows if "ratios" in row]
    if not measured:
        return Line(*key, skipped=rows[0]["skipped"])

    def median(name: str) -> float | None:
        values = [row[name] for row in measured if row.get(name) is not None]
        return statistics.median(values) if values else None

    ratios = [statistics.median(row["ratios"]) for row in measured]
    low, high = min(ratios), max(ratios)
    if len(measured) == 1 and len(measured[0]["ratios"]) > 1:
        low, _, high = statistics.quantiles(measured[0]["ratios"], method="inclusive")
    return Line(
        *key,
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        milliseconds=median("milliseconds"),
        trial=median("trial_microseconds"),
        over_floor=median("over_floor"),
        megabytes=median("temporary_megabytes"),
        peak=median("peak_megabytes"),
        compile_seconds=median("compile_seconds"),
        cosine=median("cosine"),
        difference=median("difference"),
        loss_difference=median("loss_difference"),
        gigaflops=median("gigaflops"),
    )


def _about(settings: Settings) -> dict[str, Any]:
    device = jax.devices()[0]
    kind = device.device_kind
    if device.platform == "cpu":
        kind = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    packages = ["modprop_jax", "jax", "jaxlib"]
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"device": kind, "precision": "float32", "versions": versions} | dataclasses.asdict(
        settings
    )
