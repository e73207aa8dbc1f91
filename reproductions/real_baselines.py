"""Baselines on real sequences: a laser, sunspots, the motion of patients, speakers and movements.

python reproductions/real_baselines.py DATA > docs/results/real-sequences-baselines.md

DATA is a folder with santafe_laser.npz, sunspots_silso_v2.txt, markers_10hz.npz,
japanese_vowels.npz and basic_motions.npz; the page says what these are.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np

from modprop_jax import baselines


Pair = tuple[np.ndarray, np.ndarray]
SEEDS = 5
# of echo state networks, chosen on steps before those that are scored
NETWORKS = {"leak": [0.3, 1.0], "input_scale": [0.3, 1.0], "ridge": [1e-4, 1e-2, 1.0]}


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the five files")
    data = parser.parse_args().data
    print(INTRODUCTION)
    for section in (laser, sunspots, respiration, sets):
        print(*section(data), sep="\n", flush=True)
    print(READING, end="")


def row(*entries: Any) -> str:
    """Of a table."""
    shown = [e if isinstance(e, str) else f"{e:.4f}".replace("0.", ".", 1) for e in entries]
    return "| " + " | ".join(shown) + " |"


def settings_of(grid: dict[str, list]) -> list[dict[str, Any]]:
    """Every combination."""
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def over_seeds(score: Callable[[Any], float], seeds: int = SEEDS) -> str:
    """Mean ± sd of networks."""
    found = [score(jr.key(seed)) for seed in range(seeds)]
    text = f"{np.mean(found):.4f} ± {np.std(found):.4f}"
    return text.replace("0.", ".")


# --- one series, one step ahead ---


def next_values(series: np.ndarray) -> Pair:
    """Each value, normalised by the first 1,000, and the one after it."""
    x = (series - series[:1000].mean()) / series[:1000].std()
    return x[:-1, None].astype(np.float32), x[1:, None].astype(np.float32)


def nmse(found: Any, ys: np.ndarray, first: int, last: int | None = None) -> float:
    """Squared error over that of the mean, of some steps."""
    found, ys = np.asarray(found, float)[first:last], ys[first:last].astype(float)
    return float(((found - ys) ** 2).sum() / ((ys - ys.mean(0)) ** 2).sum())


def one_step(
    series: np.ndarray, first: int, orders: list[int], known: dict[str, str]
) -> Iterator[str]:
    """Rows of the table of one series; `known`: an independent program's figures."""
    xs, ys = next_values(series)

    def network(key: Any, size: int = 64, **options: Any) -> Any:
        return baselines.echo_state(xs, ys, size=size, key=key, **options)

    def before(setting: dict[str, Any]) -> float:
        """The score on steps before those that count."""
        found = nmse(network(jr.key(100), **setting), ys, 1000, first)
        return found if np.isfinite(found) else np.inf

    setting = min(settings_of(NETWORKS), key=before)
    yield f"Chosen for the networks: {', '.join(f'{k} {v:g}' for k, v in setting.items())}.\n"
    yield "| forecast | independent | here |\n|---|---|---|"

    def line(name: str, found: str | float) -> str:
        return row(name, known.get(name, "–"), found)

    yield line("persistence", nmse(baselines.persistence(xs, ys), ys, first))
    for order in orders:
        found = baselines.recursive_least_squares(xs, ys, order=order)
        yield line(f"AR({order}), recursive least squares", nmse(found, ys, first))
    for size in (64, 200):
        yield line(
            f"echo state network, n = {size}, ridge",
            over_seeds(lambda key: nmse(network(key, size, fit=first, **setting), ys, first)),
        )
    yield line(
        "echo state network, n = 64, recursive least squares",
        over_seeds(lambda key: nmse(network(key, **setting), ys, first)),
    )


def laser(data: Path) -> Iterator[str]:
    """10,093 readings, one pass."""
    yield LASER
    series = np.load(data / "santafe_laser.npz")["intensity"].astype(float)
    known = {
        "persistence": ".927",
        "AR(5), recursive least squares": ".257",
        "AR(12), recursive least squares": ".201",
        "AR(50), recursive least squares": ".180",
        "echo state network, n = 64, ridge": ".027 ± .007",
        "echo state network, n = 200, ridge": ".0079",
        "echo state network, n = 64, recursive least squares": ".027 ± .006",
    }
    yield from one_step(series, 5000, [5, 12, 50], known)


def sunspots(data: Path) -> Iterator[str]:
    """3,329 months, one pass."""
    yield SUNSPOTS
    series = np.loadtxt(data / "sunspots_silso_v2.txt")
    known = {
        "persistence": ".139",
        "AR(3), recursive least squares": ".121",
        "AR(5), recursive least squares": ".120",
        "AR(12), recursive least squares": ".119",
        "AR(50), recursive least squares": ".114",
        "echo state network, n = 64, ridge": ".124",
        "echo state network, n = 200, ridge": ".123",
    }
    yield from one_step(series, 2000, [3, 5, 12, 50], known)


# --- the motion of patients ---

HORIZONS = range(1, 8)
TRAINING, TEST = 100, 200


class Recording:
    """One of nine: signals (T, 9) at 3.33 Hz, mm, with zeros behind the end up to `steps`."""

    def __init__(self, signals: np.ndarray, steps: int):
        self.length = len(signals)
        self.mean, self.sd = signals[:TRAINING].mean(0), signals[:TRAINING].std(0)
        self.steps = steps
        self.signals = signals
        self.inputs = self._padded((signals - self.mean) / self.sd)

    def _padded(self, values: np.ndarray) -> np.ndarray:
        # every forecast is causal: what stands behind the end changes nothing, and one program
        # serves all recordings
        out = np.zeros((self.steps, values.shape[1]), np.float32)
        out[: len(values)] = values
        return out

    def targets(self, horizon: int) -> np.ndarray:
        """All signals, so many steps later."""
        return self._padded(self.inputs[: self.length][horizon:])

    def scores(self, found: Any, horizon: int) -> tuple[float, float]:
        """nRMSE of the validation and the test part, by the step that is predicted."""
        found = np.asarray(found, float)[: self.length - horizon] * self.sd + self.mean
        error, ys = found - self.signals[horizon:], self.signals

        def of(first: int, last: int) -> float:
            part, here = ys[first:last], error[first - horizon : last - horizon]
            return float(np.linalg.norm(here) / np.linalg.norm(part - part.mean(0)))

        return of(TRAINING, TEST), of(TEST, self.length)


def recordings(data: Path) -> list[Recording]:
    """Every third sample."""
    with np.load(data / "markers_10hz.npz") as file:
        signals = [file[f"sequence_{i}"][:, ::3].T.astype(float) for i in range(1, 10)]
        lengths = [file[f"sequence_{i}"].shape[1] // 3 for i in range(1, 10)]
    return [Recording(s[:n], max(lengths)) for s, n in zip(signals, lengths)]


def chosen(
    data: list[Recording], forecast: Callable[..., Any], grid: dict[str, list], at_once: bool
) -> np.ndarray:
    """Test scores (horizons, recordings), the setting chosen for each by its validation score."""
    best = np.zeros((len(HORIZONS), len(data)))
    for (i, horizon), (j, record) in itertools.product(enumerate(HORIZONS), enumerate(data)):
        inputs, targets = record.inputs, record.targets(horizon)
        delay = 0 if at_once else horizon - 1
        scores = [
            record.scores(forecast(inputs, targets, delay=delay, **setting), horizon)
            for setting in settings_of(grid)
        ]
        best[i, j] = min((s for s in scores if np.isfinite(s).all()), default=(0, np.nan))[1]
    return best


def respiration(data: Path) -> Iterator[str]:
    """Nine recordings at 3.33 Hz, seven horizons."""
    yield RESPIRATION
    records = recordings(data)
    lms: dict[str, list] = {"order": [4, 8, 12, 16, 20], "rate": [2e-4, 5e-4, 1e-3]}
    clipped = functools.partial(baselines.lms, clip=100.0)
    recursive = functools.partial(baselines.recursive_least_squares, ridge=1.0)
    least = {"order": [4, 8, 12, 16], "forgetting": [0.995, 1.0]}
    once = functools.partial(baselines.ar_least_squares, fit=TEST - max(HORIZONS))
    network: Any = functools.partial(baselines.echo_state, size=90, **OF_RESPIRATION)
    rows = [
        ("LMS, at once", ".48934 (published .48956)", clipped, lms, True),
        ("LMS, in real time", ".720", clipped, lms, False),
        ("recursive least squares", ".595", recursive, least, False),
        ("ridge AR, fitted once", ".863", once, {"order": [4, 8, 12, 16], "ridge": RIDGES}, False),
        ("persistence", "1.029", baselines.persistence, {}, False),
    ]
    yield "| forecast | independent | here | h = 1 | h = 4 | h = 7 |\n|---|---|---|---|---|---|"
    for name, known, forecast, grid, at_once in rows:
        by_horizon = chosen(records, forecast, grid, at_once).mean(1)
        yield row(name, known, by_horizon.mean(), *by_horizon[[0, 3, 6]])
    seeds = [
        chosen(records, functools.partial(network, key=jr.key(seed)), {"leak": [0.3, 1.0]}, False)
        for seed in range(3)
    ]
    by_horizon = np.mean(seeds, axis=0).mean(1)
    name = "echo state network, n = 90, recursive least squares, 3 seeds"
    yield row(name, ".578", by_horizon.mean(), *by_horizon[[0, 3, 6]])


# --- sequences with a label each ---


def sequences(file: Any, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T, examples, features), labels and lengths, of steps one after another."""
    steps, lengths = file[f"{part}_steps"], file[f"{part}_lengths"].astype(int)
    out = np.zeros((lengths.max(), len(lengths), steps.shape[1]), np.float32)
    for i, own in enumerate(np.split(steps, np.cumsum(lengths)[:-1])):
        out[: len(own), i] = own
    return out, file[f"{part}_labels"].astype(int), lengths


def sets(data: Path) -> Iterator[str]:
    """Two sets of sequences."""
    yield SETS
    frames = functools.partial(
        baselines.logistic_regression, statistics=("first", "middle", "last")
    )
    moments = baselines.logistic_regression
    warping, random = baselines.nearest_neighbour_dtw, baselines.random_convolutions
    rows = [
        ("JapaneseVowels", "japanese_vowels", "1-NN DTW, raw", ".949", warping),
        (
            "JapaneseVowels",
            "japanese_vowels",
            "logistic regression on three frames",
            ".989",
            frames,
        ),
        ("JapaneseVowels", "japanese_vowels", "random convolutions", ".983", random),
        ("BasicMotions", "basic_motions", "1-NN DTW, raw", ".975", warping),
        ("BasicMotions", "basic_motions", "logistic regression on means and sds", ".975", moments),
        ("BasicMotions", "basic_motions", "random convolutions", "1.000", random),
    ]
    yield "| set | classifier | independent | accuracy here |\n|---|---|---|---|"
    for name, stem, what, known, classify in rows:
        with np.load(data / f"{stem}.npz") as file:
            train, labels, train_lengths = sequences(file, "train")
            test, truth, test_lengths = sequences(file, "test")
        found = classify(
            train, labels, test, train_lengths=train_lengths, test_lengths=test_lengths
        )
        yield row(name, what, known, float(np.mean(np.asarray(found) == truth)))


OF_RESPIRATION = dict(input_scale=0.1, ridge=1e-2)
RIDGES = [1.0, 10.0, 100.0]

INTRODUCTION = """# Real sequences: baselines

Output of `python reproductions/real_baselines.py DATA > docs/results/real-sequences-baselines.md`
(CPU). Work in progress.
"""
LASER = """
## Laser
"""
SUNSPOTS = """
## Sunspots
"""
RESPIRATION = """
## Respiration
"""
SETS = """
## Sequences with a label
"""
READING = ""


if __name__ == "__main__":
    main()
