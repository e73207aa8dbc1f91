"""Agents that learn at every step of a life in which they have to remember.

python reproductions/closed_loop.py run --minutes 60 --out results/closed-loop
python reproductions/closed_loop.py report --runs results/closed-loop > docs/results/closed-loop.md

`run` goes on where it was left: a row that is in rows.jsonl is not run again.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np
import tyro
from closed_loop_agents import CORES, life
from closed_loop_report import page
from closed_loop_worlds import MemoryChain, TMaze


SEEDS, RECORDS = 5, 50
# of the seeds that choose a rate, none is reported
FIRST_TUNING_SEED = 1000
RATES = 3e-4, 1e-3, 3e-3


class Setting(NamedTuple):
    """A world, steps of a life in it, its lengths, and those by which rates are chosen."""

    world: type
    steps: int
    lengths: tuple[int, ...]
    tuned_at: tuple[int, ...]


SETTINGS = {
    "chain": Setting(MemoryChain, 200_000, (2, 4, 8, 16, 32, 64, 128), (8, 32)),
    "maze": Setting(TMaze, 200_000, (10, 20, 40), (10, 20)),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """Rows that are not there yet."""

    out: pathlib.Path
    """Folder of `rows.jsonl`."""
    minutes: float = 60.0
    """No row starts after so many."""
    worlds: tuple[str, ...] = tuple(SETTINGS)
    agents: tuple[str, ...] = tuple(CORES)


@dataclasses.dataclass(frozen=True)
class Report:
    """The page, and the figure beside it."""

    runs: pathlib.Path
    """Folder of `rows.jsonl`; the figure's PDF and data are left there too."""
    out: pathlib.Path = pathlib.Path("docs/results/closed-loop")
    """Folder of the figure."""


@functools.cache
def lives(world: str, agent: str) -> Any:
    """(length, rate, seeds) -> episodes, and successes, (seeds, RECORDS): one program for all."""
    setting = SETTINGS[world]
    every = setting.steps // RECORDS

    def one(length, rate, seed):
        return life(agent, setting.world(length), rate, jr.key(seed), RECORDS, every)

    return jax.jit(jax.vmap(one, in_axes=(None, None, 0)))


def measured(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what came out: episodes and successes of each seed, by record."""
    first = FIRST_TUNING_SEED if row["tuning"] else 0
    run = lives(row["world"], row["agent"])
    given = row["length"], row["rate"], np.arange(first, first + SEEDS)
    begun = time.perf_counter()
    episodes, successes = jax.block_until_ready(run(*given))
    seconds = time.perf_counter() - begun
    found = {"episodes": np.asarray(episodes), "successes": np.asarray(successes)}
    return row | {name: array.tolist() for name, array in found.items()} | {"seconds": seconds}


def success(row: dict[str, Any], share: float = 0.2) -> np.ndarray:
    """Of each seed: the share of episodes that ended well, of those of the last part of its life.

    Where none ended it is 0.
    """
    late = slice(RECORDS - round(share * RECORDS), None)
    ended, well = (np.array(row[name])[:, late].sum(1) for name in ("episodes", "successes"))
    return well / np.maximum(ended, 1)


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row was to be."""
    return tuple(row[name] for name in ("world", "agent", "length", "rate", "steps", "tuning"))


def chosen(rows: list[dict[str, Any]], world: str, agent: str) -> float:
    """The rate of the most success over the whole of a life, among the tuning rows."""
    tried = {rate: 0.0 for rate in RATES}
    for row in rows:
        same = row["world"], row["agent"], row["steps"]
        if row["tuning"] and same == (world, agent, SETTINGS[world].steps):
            tried[row["rate"]] += success(row, share=1.0).mean()
    return max(tried, key=lambda rate: tried[rate])


def plan(rows: list[dict[str, Any]], options: Run) -> Iterator[dict[str, Any]]:
    """What is to be run, in order: rates first; `rows` grows meanwhile."""
    for world in options.worlds:
        setting = SETTINGS[world]
        same = {"world": world, "steps": setting.steps}
        for agent in options.agents:
            for length, rate in itertools.product(setting.tuned_at, RATES):
                yield same | dict(agent=agent, length=length, rate=rate, tuning=True)
        for length in setting.lengths:
            for agent in options.agents:
                rate = chosen(rows, world, agent)
                yield same | dict(agent=agent, length=length, rate=rate, tuning=False)


def run(options: Run) -> None:
    """Row after row."""
    options.out.mkdir(parents=True, exist_ok=True)
    path, start = options.out / "rows.jsonl", time.monotonic()
    rows = read(path)
    with path.open("a") as file:
        for row in plan(rows, options):
            if identity(row) in map(identity, rows):
                continue
            if time.monotonic() - start > 60 * options.minutes:
                print("time is over: run it again to go on")
                break
            rows.append(measured(row))
            print(json.dumps(rows[-1]), file=file, flush=True)
            shown = " ".join(f"{value:.2f}" for value in success(rows[-1]))
            print(*identity(row), f"success {shown}   {rows[-1]['seconds']:.0f} s", flush=True)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows as they were written; none if there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(options: Report) -> None:
    """Print the page, and leave its figure."""
    rows = [
        r for r in read(options.runs / "rows.jsonl") if r["steps"] == SETTINGS[r["world"]].steps
    ]
    text, files = page([r | {"success": success(r)} for r in rows], list(CORES), SETTINGS)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if name.endswith((".png", ".pdf", ".csv")):
            folder = options.out if name.endswith(".png") else options.runs
            (folder / name).write_bytes(data)
    print(text, end="")


if __name__ == "__main__":
    given = tyro.cli(Run | Report)
    run(given) if isinstance(given, Run) else report(given)
