"""Markers on a chest: where they will be."""

import functools
import os
from pathlib import Path

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from ._mimic import squared_error_of_a_step
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._sources import as_path
from ._streams import check_stream, no_tuning, stream_of
from ._task import Task


MARKERS = Path(__file__).parent / "data" / "markers_10hz.npz"


def respiration(
    key: PRNGKeyArray,
    batch: int = 1,
    *,
    sequence: int = 1,
    steps: int | None = None,
    horizon: int = 1,
    lags: int = 12,
    every: int = 3,
    fit: int | None = None,
    path: str | os.PathLike | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch features"], Float[Array, "T batch 9"]]:
    """Three markers on the chest of a patient in radiotherapy: x, y, z of each, some steps ahead.

    Nine recordings of 73 to 320 s at 10 Hz. Inputs are the last `lags` samples of all nine signals,
    targets all nine `horizon` samples later. Signals are normalised by the first 30 s.

    Published figures for horizons above 1 update the weights with a target that lies ahead. So does
    `compare`, which knows no delay. `learn_stream(delay=horizon - 1)` learns when the target is
    known.

    **Arguments:**

    - `key`: not used: a recording is what it is. Seeds differ by their weights.
    - `batch`: the same stream so many times.
    - `sequence`: 1 to 9.
    - `steps`: T; by default all that there are.
    - `horizon`, `lags`: see `recorded`.
    - `every`: every third sample by default, 3.33 Hz as published.
    - `fit`: samples that normalise; by default 30 s, 300 / `every`.
    - `path`: another markers_10hz.npz; by default the package's.
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` (steps, batch, 9 `lags`) and `ys` (steps, batch, 9).

    **Raises:** `ValueError` for another sequence, too many steps, and if the licence of the data is
    not beside them.

    The data are shipped under CC BY 4.0. Cite Krilavicius, Zliobaite, Simonavicius & Jarusevicius
    (arXiv 1508.00749); Krilavicius et al., Baltic Institute of Advanced Technologies (2013).

    Source of the task: Pohl et al., Computer Methods and Programs in Biomedicine (2022), 106908;
    arXiv 2403.01607.
    """
    check_stream(key, batch, steps=steps, fit=fit)
    arguments.sizes(horizon=horizon, lags=lags)
    dtype = arguments.dtype("dtype", dtype)
    values = respiration_signals(sequence, every=every, path=path)
    fit = max(300 // every, 2) if fit is None else fit
    options = {"fit": fit, "horizon": horizon, "lags": lags, "dtype": dtype}
    return stream_of(values, batch, steps, **options)


def respiration_signals(
    sequence: int = 1, *, every: int = 3, path: str | os.PathLike | None = None
) -> Float[np.ndarray, "T 9"]:
    """One of the recordings of `respiration` as it is, for `recorded`: mm from the first sample.

    **Arguments:** those of `respiration`. Columns: x of three markers, then y, then z.
    """
    if arguments.size("sequence", sequence) > 9:
        raise ValueError(f"sequence must be a number from 1 to 9, but is {sequence}.")
    every, path = arguments.size("every", every), as_path(path)
    values = _signals(os.fspath(MARKERS if path is None else path), sequence)
    return values[::every][: len(values) // every]


@functools.cache
def _signals(path: str, sequence: int) -> np.ndarray:
    """(T, 9), in mm."""
    if not Path(path).is_file():
        raise ValueError(f"path of the markers is {path!r}, which is no file.")
    licence = Path(path).with_suffix(".LICENSE.md")
    if path == os.fspath(MARKERS) and not licence.is_file():
        raise ValueError(
            f"The markers may be used under CC BY 4.0 with their licence beside them, but "
            f"{licence.name} is missing in {licence.parent}: install the package anew."
        )
    with np.load(path, allow_pickle=False) as found:
        return found[f"sequence_{sequence}"].T.astype(np.float64)


_preset = functools.partial(
    Preset,
    network=Architecture(
        hidden_size=90, cell="rate", cell_options={"alpha": 1.0}, readout_bias=False
    ),
    schedule=Schedule(iterations=1050, batch=1, eval_every=50, segment=1),
    optimizer=Optimizer(learning_rate=0.01, optimizer="sgd"),
    objective=Objective(criterion=0.8),
)

RESPIRATION = Task(
    name="respiration",
    description="Markers on a chest that breathes: where they will be.",
    licence="CC BY 4.0 (Krilavicius et al. 2013), shipped",
    out_size=9,
    batch=respiration,
    evaluation=respiration,
    validation=(no_tuning, no_tuning),
    loss=squared_error_of_a_step,
    readout="every",
    stream=True,
    score="R²",
    presets={
        "small": _preset(data={"sequence": 8}),
        # 1.2 s ahead, with weights that know targets of the future: as published.
        "published": _preset(data={"sequence": 8, "horizon": 4}),
    },
)
