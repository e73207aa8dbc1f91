"""The rows of `filter_learning`: what has been run, scores, and the rate to judge by."""

import json
import pathlib
from typing import Any

import numpy as np
from filter_learning_parts import LEARNING_RATES, METHODS


# seeds of rates, and of what is reported
TUNING, TEST = (1000, 1001, 1002, 1003), tuple(range(12))
# and of a second test, of what the first has suggested
CONFIRM = tuple(range(100, 124))
# a loss that counts for one that is larger, or not a number; chance is 0.69
WORST = 1.0


class Rows:
    """What has been run, a line of JSON each: (method, seed, rate)."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def read(self) -> list[dict[str, Any]]:
        """All of them, also those of other processes."""
        found = []
        for path in sorted(self.folder.glob("rows*.jsonl")):
            found += map(json.loads, path.read_text("utf-8").splitlines())
        return found

    def add(self, row: dict[str, Any], method: str) -> None:
        """To the file of this method."""
        with (self.folder / f"rows-{METHODS.index(method):02d}.jsonl").open(
            "a", encoding="utf-8"
        ) as f:
            f.write(json.dumps(row) + "\n")


def score(row: dict[str, Any]) -> float:
    """The held-out loss, mean over learning."""
    return float(np.mean(losses(row)))


def losses(row: dict[str, Any]) -> np.ndarray:
    """At most `WORST`."""
    found = np.array([np.nan if x is None else x for x in row["loss"]], float)
    return np.where(np.isfinite(found), np.minimum(found, WORST), WORST)


def best_rate(rows: list[dict[str, Any]], method: str) -> float:
    """Of the tuning seeds."""

    def mean(rate):
        mine = [r for r in rows if r["method"] == method and r["rate"] == rate]
        return np.mean([score(r) for r in mine if r["seed"] in TUNING])

    return min(LEARNING_RATES, key=mean)


def tested(
    rows: list[dict[str, Any]], method: str, seeds: tuple[int, ...] = TEST
) -> list[dict[str, Any]]:
    """The test seeds at the best rate, in order."""
    done = {(r["seed"], r["rate"]) for r in rows if r["method"] == method}
    if not {(seed, rate) for seed in TUNING for rate in LEARNING_RATES} <= done:
        return []
    rate = best_rate(rows, method)
    mine = {r["seed"]: r for r in rows if r["method"] == method and r["rate"] == rate}
    return [mine[seed] for seed in seeds if seed in mine]
