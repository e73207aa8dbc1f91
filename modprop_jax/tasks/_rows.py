"""What a recording is made of, checked: rows, labels, times, and what normalises them."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from .. import _arguments as arguments
from ._table import Columns


def chosen(what: str, given: Sequence[str] | None, there: list[str]) -> list[str]:
    """Names that are there; all if none is given."""
    if given is None:
        return there
    found = list(given) if isinstance(given, list | tuple) else []
    words = all(isinstance(name, str) for name in found)
    if not found or not words or not set(found) <= set(there) or len(set(found)) < len(found):
        raise ValueError(
            f"{what} must name columns, each once, of {', '.join(there)}, but is "
            f"{arguments.shown(given)}."
        )
    return found


def as_rows(table: Columns, names: list[str]) -> np.ndarray:
    """(T, features) as float64."""
    found = [np.asarray(table[name](False)) for name in names]
    shapes = {a.shape for a in found}
    if not found:
        raise ValueError("values must have a column of numbers beside time and labels.")
    if len(shapes) != 1 or len(found[0].shape) != 1 or found[0].dtype.kind not in "iufb":
        raise ValueError(
            "values must have columns of numbers (T,) of one length, but have shapes "
            f"{', '.join(map(str, sorted(shapes)))}: choose some by columns=[...]."
        )
    return np.stack(found, axis=1).astype(np.float64)


def as_labels(labels: Any, table: Columns, count: int, dtype: DTypeLike) -> Array:
    """Labels, one a row, an array or a column."""
    found = labels
    if isinstance(labels, str):
        (name,) = chosen("labels", [labels], list(table))
        found = table[name](False)
        if np.all(np.asarray(found) == np.round(found)):  # classes, which a text has as numbers
            found = np.asarray(found).astype(np.int32)
    known = arguments.is_real(found) and not arguments.is_traced(found)
    array = np.asarray(found) if known else np.zeros(())
    if array.ndim not in (1, 2) or len(array) != count:
        came = f"are of shape {array.shape}" if known else f"are {arguments.shown(labels)}"
        raise ValueError(f"labels must be numbers, one for each of the {count} rows, but {came}.")
    if not np.isfinite(array).all():
        at = int(np.argmax(~np.isfinite(array).reshape(count, -1).all(1)))
        raise ValueError(
            f"labels have a gap (NaN or infinity) in row {at}: cut the recording there."
        )
    return jnp.asarray(array, jnp.int32 if array.dtype.kind in "iu" else dtype)


def check_time(time: Any, table: Columns, count: int) -> None:
    """A ValueError unless time increases, by about the same from row to row."""
    if time is None:
        return
    if isinstance(time, str):
        (name,) = chosen("time", [time], list(table))
        time = table[name](True)
    known = arguments.is_real(time) and not arguments.is_traced(time)
    found = np.asarray(time, np.float64) if known else np.zeros(())
    if found.shape != (count,):
        came = f"is of shape {found.shape}" if known else f"is {arguments.shown(time)}"
        raise ValueError(f"time must have a number for each of the {count} rows, but {came}.")
    passed = np.diff(found)
    if not np.all(passed > 0):
        at = int(np.argmax(~(passed > 0)))
        raise ValueError(
            f"time must increase from row to row, but goes from {found[at]:.10g} to "
            f"{found[at + 1]:.10g} after row {at}: sort the rows, and leave out what comes twice."
        )
    usual = np.median(passed) if count > 1 else 0
    if np.any(passed > 1.5 * usual):
        at = int(np.argmax(passed > 1.5 * usual))
        raise ValueError(
            f"time has a gap after row {at}: {passed[at]:.6g}, where {usual:.6g} is usual: fill it "
            "(numpy.interp), or cut the recording there."
        )


def check_gaps(rows: np.ndarray, names: list[str]) -> None:
    """A ValueError if an entry is not finite."""
    gaps = ~np.isfinite(rows)
    if gaps.any():
        at, column = np.argwhere(gaps)[0]
        raise ValueError(
            f"values have {gaps.sum()} gaps (NaN, infinity or missing), the first in row {at} of "
            f"column {names[column]}: fill them (numpy.interp), or cut the recording there."
        )


def moments(
    rows: np.ndarray, names: list[str], fit: int | None, ddof: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the first rows; 0 and 1 without a number of them."""
    if fit is None:
        return np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    if arguments.size("fit", fit) > len(rows) or fit <= ddof:
        raise ValueError(
            f"fit must be a number of the first rows, more than ddof={ddof} and at most "
            f"{len(rows)}, but is {fit}."
        )
    mean, sd = rows[:fit].mean(0), rows[:fit].std(0, ddof=ddof)
    # the deviation of a constant is rounding
    moves = sd > 1e-12 * np.abs(mean)
    still = [name for name, one in zip(names, moves, strict=True) if not one]
    if still:
        raise ValueError(
            f"fit={fit} rows do not move in column {still[0]}, so that nothing can be normalised "
            "by them: take more rows, or leave the column out by columns=[...]."
        )
    return mean, sd
