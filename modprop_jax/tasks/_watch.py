"""Exercises of the shoulder by a watch on the wrist, of people that were not seen before."""

import functools
import os

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._digits import SPLITS
from ._labelled import all_of, checked, drawn, Labelled, moments
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._sources import as_path, source_of
from ._task import cross_entropy, Task


FOLDS = 5


def watch(
    key: PRNGKeyArray,
    batch: int = 64,
    *,
    split: str = "train",
    fold: int = 0,
    window: int = 200,
    every: int = 2,
    path: str | os.PathLike | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch 6"], Int[Array, " batch"]]:
    """Which of seven exercises of the shoulder? By six axes of a watch at 50 Hz, windows of 4 s.

    Ten people, both arms, each exercise once: 140 recordings, cut into windows that overlap by half
    and normalised by the people who are learnt from. Of the recorded sets of this package it is the
    one that tells rules apart. People differ by more than rules do, so compare fold by fold.

    The data are shipped in the package `seglearn` (the extra `data`), which is not imported.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of windows, drawn with replacement.
    - `split`: "train" or "test", of people 2 `fold` + 1 and 2 `fold` + 2. For choices,
        "validation" is the next two people, and "fit" the six others that are not tested.
    - `fold`: 0 to 4.
    - `window`: samples of a window at 50 Hz.
    - `every`: of these every so-manieth is a step: T = ⌈`window` / `every`⌉.
    - `path`: watch.npz, or its folder; by default MODPROP_JAX_DATA of the environment, then the
        package. (The package's own file is a pickle, which is read from nowhere else.)
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** `xs` (T, batch, 6), acceleration and rotation, and the exercises 0 ... 6 (batch,).

    **Raises:** `ValueError` for an unknown `split` or `fold`, if the data are not there, or for a
    window that is longer than the recordings.

    Source: Burns, Leung, Hardisty, Whyne, Henry & McLachlin, Physiological Measurement 39 (2018)
    (arXiv 1802.01489).
    """
    key, batch, dtype = checked(key, batch, dtype)
    return drawn(_part(split, fold, window, every, path), key, batch, dtype)


def watch_split(
    split: str = "test",
    *,
    fold: int = 0,
    window: int = 200,
    every: int = 2,
    path: str | os.PathLike | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T windows 6"], Int[Array, " windows"]]:
    """All windows of one split, in a fixed order; see `watch`."""
    dtype = arguments.dtype("dtype", dtype)
    return all_of(_part(split, fold, window, every, path), dtype)


def _part(
    split: object, fold: int, window: int, every: int, path: str | os.PathLike | None
) -> Labelled:
    arguments.choice("split", split, SPLITS)
    arguments.sizes(window=window, every=every)
    if arguments.count("fold", fold) >= FOLDS:
        raise ValueError(f"fold must be a number from 0 to {FOLDS - 1}, but is {fold}.")
    found = source_of(
        "The watch data",
        ["watch.npz"],
        as_path(path),
        packages={"seglearn": ["watch_dataset.npy"]},
        otherwise='are in the package seglearn: pip install -e ".[data]"',
    )
    if path is not None and found.suffix != ".npz":
        raise ValueError(f"path of the watch data must be an .npz file, but is {os.fspath(found)}.")
    return _windows(os.fspath(found), str(split), fold, window, every)


def subjects_of(split: str, fold: int) -> list[int]:
    """The people 1 ... 10 of a split."""
    tested, chosen = ([2 * f + 1, 2 * f + 2] for f in (fold, (fold + 1) % FOLDS))
    if split in ("test", "validation"):
        return tested if split == "test" else chosen
    left_out = tested if split == "train" else tested + chosen
    return [subject for subject in range(1, 2 * FOLDS + 1) if subject not in left_out]


@functools.cache
def _windows(path: str, split: str, fold: int, window: int, every: int) -> Labelled:
    series, exercise, subject = _recordings(path)
    learnt = "fit" if split in ("fit", "validation") else "train"
    mean, sd = moments([one for one, s in zip(series, subject) if s in subjects_of(learnt, fold)])
    cut, labels = [], []
    for one, label, who in zip(series, exercise, subject):
        if who not in subjects_of(split, fold):
            continue
        for first in range(0, len(one) - window + 1, max(window // 2, 1)):
            cut.append(((one[first : first + window : every] - mean) / sd).astype(np.float32))
            labels.append(label)
    if not cut:
        raise ValueError(f"window must be shorter than the recordings, but is {window} samples.")
    return Labelled(np.stack(cut), np.array(labels, np.int32))


@functools.cache
def _recordings(path: str) -> tuple[list[np.ndarray], list[int], list[int]]:
    """140 recordings (T, 6), their exercises and people."""
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as found:
            cuts = np.cumsum(found["lengths"])[:-1]
            series = np.split(found["milli"].astype(np.float64) / 1000, cuts)
            return series, found["exercise"].tolist(), found["subject"].tolist()
    # a pickle, of a package that runs code of its own anyway
    table = np.load(path, allow_pickle=True).item()
    series = [np.asarray(one, np.float64) for one in table["X"]]
    return series, np.asarray(table["y"]).tolist(), np.asarray(table["subject"]).tolist()


WATCH = Task(
    name="watch",
    description="A watch, on people not seen before: name the exercise of the shoulder, of seven.",
    licence="BSD-3 with the package seglearn, from which it is read",
    out_size=7,
    batch=watch,
    # the people of a fold are who they are
    evaluation=lambda key, **options: watch_split("test", **options),
    validation=(
        functools.partial(watch, split="fit"),
        lambda key, **options: watch_split("validation", **options),
    ),
    loss=cross_entropy,
    readout="last",
    presets={
        f"fold{fold}" if fold else "small": Preset(
            network=Architecture(hidden_size=64, cell="rate", cell_options={"alpha": 0.1}),
            data={"fold": fold},
            schedule=Schedule(iterations=1000, batch=64, eval_every=50),
            optimizer=Optimizer(learning_rate=3e-3),
            objective=Objective(criterion=0.8),
            mu="auto",
        )
        for fold in range(FOLDS)
    },
)
