"""The monthly number of sunspots, the next one."""

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
from ._table import columns_of
from ._task import Task


def sunspots(
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
    """The monthly mean total number of sunspots since January 1749: nearly linear, and noisy.

    A check of the tool, and no measure of credit: least squares on three months beats every rule.
    Arguments and results are those of `laser`.

    The data are "Source: WDC-SILSO, Royal Observatory of Belgium, Brussels", for use that is not
    commercial (CC BY-NC 4.0), so they are in no package: `path` names the file `SN_m_tot_V2.0.csv`
    or `.txt` as SILSO gives it, or numbers alone, one a line (sunspots_silso_v2.txt).

    **Raises:** `ValueError` if the data are not there, or for too many steps.

    Source: Clette, Svalgaard, Vaquero & Cliver, Space Science Reviews 186 (2014).
    """
    check_stream(key, batch, steps=steps)
    arguments.sizes(horizon=horizon, lags=lags, fit=fit)
    dtype, path = arguments.dtype("dtype", dtype), as_path(path)
    values = _numbers(str(_found(path)))
    options = {"fit": fit, "horizon": horizon, "lags": lags, "dtype": dtype}
    return stream_of(values, batch, steps, **options)


def _found(path: str | os.PathLike | None) -> os.PathLike:
    return source_of(
        "The sunspot numbers",
        ["SN_m_tot_V2.0.csv", "SN_m_tot_V2.0.txt", "sunspots_silso_v2.txt"],
        path,
        otherwise="are in no package, as their licence is non-commercial: pass path=, a file from "
        "www.sidc.be/SILSO",
    )


@functools.cache
def _numbers(path: str) -> np.ndarray:
    table = columns_of(path)
    # SILSO has year, month, date, number, and more
    return table["3" if len(table) > 3 else next(iter(table))](False)


SUNSPOTS = Task(
    name="sunspots",
    description="Sunspots of a month: the next month's. A check: least squares beats every rule.",
    licence="CC BY-NC 4.0 (WDC-SILSO, Royal Observatory of Belgium, Brussels); from a path",
    out_size=1,
    batch=sunspots,
    evaluation=sunspots,
    validation=(no_tuning, no_tuning),
    loss=squared_error_of_a_step,
    readout="every",
    stream=True,
    score="R²",
    presets={
        "small": Preset(
            network=Architecture(hidden_size=64, cell="rate", cell_options={"alpha": 1.0}),
            schedule=Schedule(iterations=3200, batch=1, eval_every=200, segment=1),
            optimizer=Optimizer(learning_rate=1e-3),
            objective=Objective(criterion=0.8),
        )
    },
)
