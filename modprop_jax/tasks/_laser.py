"""The intensity of a chaotic laser, the next value of it."""

import functools
import os

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from ._mimic import squared_error_of_a_step
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._sources import as_path, source_of
from ._streams import check_stream, no_tuning, stream_of
from ._task import Task


def laser(
    key: PRNGKeyArray,
    batch: int = 1,
    *,
    steps: int | None = None,
    horizon: int = 1,
    lags: int = 1,
    fit: int = 1000,
    path: str | os.PathLike | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch lags"], Float[Array, "T batch 1"]]:
    """The Santa Fe laser: 10,093 readings of a chaotic NH3 laser's intensity, 0 to 255.

    Inputs are the last `lags` readings, the target the one `horizon` readings later. Readings are
    normalised by the first `fit`, so nothing of the future is in them; the competition's training
    part is the first 1,000.

    The data are none of this package's: no licence of theirs is known. They are in the package
    `reservoirpy` (the extra `data`), which is not imported.

    **Arguments:**

    - `key`: not used: a recording is what it is. Seeds differ by their weights.
    - `batch`: the same stream so many times.
    - `steps`: T; by default all, 10,094 − `lags` − `horizon`.
    - `horizon`, `lags`, `fit`: see `recorded`.
    - `path`: santafe_laser.npy or .npz, or its folder; by default MODPROP_JAX_DATA of the
        environment, then the package.
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` (steps, batch, lags) and `ys` (steps, batch, 1).

    **Raises:** `ValueError` if the data are not there, or for too many steps.

    Source: Hübner, Abraham & Weiss, Physical Review A 40 (1989); series A of the Santa Fe
    competition, Weigend & Gershenfeld (1993).
    """
    check_stream(key, batch, steps=steps)
    arguments.sizes(horizon=horizon, lags=lags, fit=fit)
    dtype, path = arguments.dtype("dtype", dtype), as_path(path)
    values = _readings(str(_found(path)))
    options = {"fit": fit, "horizon": horizon, "lags": lags, "dtype": dtype}
    return stream_of(values, batch, steps, **options)


def _found(path: str | os.PathLike | None) -> os.PathLike:
    return source_of(
        "The laser's series",
        ["santafe_laser.npy", "santafe_laser.npz"],
        path,
        packages={"reservoirpy": ["santafe_laser.npy"]},
        otherwise='is in the package reservoirpy: pip install -e ".[data]"',
    )


@functools.cache
def _readings(path: str) -> np.ndarray:
    found = np.load(path, allow_pickle=False)
    values = found if isinstance(found, np.ndarray) else found["intensity"]
    return np.asarray(values, np.float64).ravel()


LASER = Task(
    name="laser",
    description="A chaotic laser's intensity: the next reading, learnt in one pass.",
    licence="no licence known; read from the package reservoirpy",
    out_size=1,
    batch=laser,
    evaluation=laser,
    validation=(no_tuning, no_tuning),
    loss=squared_error_of_a_step,
    readout="every",
    stream=True,
    score="R²",
    presets={
        "small": Preset(
            network=Architecture(hidden_size=64, cell="rate", cell_options={"alpha": 1.0}),
            schedule=Schedule(iterations=10_000, batch=1, eval_every=500, segment=1),
            optimizer=Optimizer(learning_rate=1e-3),
            objective=Objective(criterion=0.9),
        )
    },
)
