"""Recordings as streams: what comes in, what is to be said, and when that is known."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from .. import _arguments as arguments
from ._rows import as_labels, as_rows, check_gaps, check_time, chosen, moments
from ._table import columns_of


class Recording(eqx.Module):
    """A recorded stream, as `recorded` makes it.

    Of T steps: `xs` (T, m·lags) what comes in, `ys` (T, k), or labels (T,), what is to be said.
    `delay` is for `learn_stream`: further steps until a target is known. Step t stands at row
    `first` + t of what was recorded. `mean` and `sd` (k,) are those that targets were normalised
    by, 0 and 1 where they were not.
    """

    xs: Float[Array, "T features"]
    ys: Shaped[Array, "T ..."]
    mean: Float[Array, " k"]
    sd: Float[Array, " k"]
    delay: int = eqx.field(static=True)
    first: int = eqx.field(static=True)

    def units(self, outputs: Float[Array, "*axes k"]) -> Float[Array, "*axes k"]:
        """Outputs, or targets, in the units of the recording."""
        shape = jnp.shape(outputs)
        mean, sd = (jnp.broadcast_to(a.astype(outputs.dtype), shape) for a in (self.mean, self.sd))
        return mean + sd * outputs


def recorded(
    values: Any,
    *,
    fit: int | None,
    horizon: int | None = None,
    labels: Any = None,
    lags: int = 1,
    columns: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    time: Any = None,
    delay: int | None = None,
    ddof: int = 0,
    dtype: DTypeLike | None = None,
) -> Recording:
    r"""A recording as a stream that is learnt prequentially: next values, or given labels.

    Of rows \(v_0, v_1, \dots\), normalised by mean and standard deviation of the first `fit` rows
    alone, with L = `lags` and h = `horizon`,

    \[ x_t = (v_s, v_{s-1}, \dots, v_{s-L+1}), \qquad y_t = v_{s+h} \ \text{or}\ label_s, \qquad
       s = t + L - 1 . \]

    **Arguments:**

    - `values`: numbers (T,) or (T, features), or the name of a file: `.npy`, `.npz`, or text with a
        column a feature, separated by commas, semicolons, tabs or blanks; names in the first line
        are optional.
    - `fit`: rows from which mean and standard deviation come: the past, at the start of what is
        reported. None: values stay as they are.
    - `horizon`: h, 1 or more, by default 1; targets are the values h rows later.
    - `labels`: in place of that, one a row, (T,) integers or floats, or (T, k) floats, or the name
        of a column. They stay as they are.
    - `lags`: L, how many of the last rows are the input of a step, newest first.
    - `columns`: names of the features; all columns by default. Those of an array, or of a file
        without names, are "0", "1", ...
    - `targets`: names of the features that are predicted; all by default.
    - `time`: when rows were taken, (T,) numbers, or the name of a column, also of dates. It is no
        feature: it has to increase, without a gap.
    - `delay`: steps until a label is known, 0 by default. A target has `horizon` − 1.
    - `ddof`: of the standard deviation; 1 divides by `fit` − 1.
    - `dtype`: of the floats; by default JAX's default float.

    **Returns:** a `Recording`, without batch axes, of T − L + 1 − h steps (T − L + 1 with labels).

    **Errors:** ValueError for gaps (NaN, infinity, missing entries, a jump in time), time that does
    not increase, a horizon longer than the data, labels of another length, a feature that does not
    move in the first `fit` rows, and for a file that is no table or not there.
    """
    lags, ddof = arguments.size("lags", lags), arguments.count("ddof", ddof)
    if horizon is not None and labels is not None:
        raise ValueError("horizon makes targets of values, but labels came too: leave one out.")
    ahead = arguments.size("horizon", 1 if horizon is None else horizon) if labels is None else 0
    if delay is not None and labels is None:
        raise ValueError(
            f"delay is for labels: a target {ahead} rows later is known {ahead - 1} steps late."
        )
    late = max(ahead - 1, 0) if delay is None else arguments.count("delay", delay)
    dtype = arguments.dtype("dtype", dtype)
    table = columns_of(values)
    kept = [name for name in (labels, time) if isinstance(name, str)]
    names = chosen("columns", columns, [name for name in table if name not in kept])
    rows = as_rows(table, names)
    check_time(time, table, len(rows))
    given = None if labels is None else as_labels(labels, table, len(rows), dtype)
    check_gaps(rows, names)
    steps = len(rows) - lags + 1 - ahead
    if steps < 1:
        raise ValueError(
            f"horizon={ahead} and lags={lags} are longer than the data, which have {len(rows)} "
            f"rows: at least {lags + ahead} are needed."
        )
    mean, sd = moments(rows, names, fit, ddof)
    rows = (rows - mean) / sd
    seen = [rows[lags - 1 - lag :][:steps] for lag in range(lags)]
    xs = jnp.asarray(np.concatenate(seen, axis=1), dtype)
    if given is not None:
        none = jnp.zeros(given.shape[1:], dtype), jnp.ones(given.shape[1:], dtype)
        return Recording(xs, given[lags - 1 :], *none, late, lags - 1)
    places = [names.index(name) for name in chosen("targets", targets, names)]
    mean, sd = (jnp.asarray(a[places], dtype) for a in (mean, sd))
    ys = jnp.asarray(rows[lags - 1 + ahead :, places], dtype)
    return Recording(xs, ys, mean, sd, late, lags - 1)
