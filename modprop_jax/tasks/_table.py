"""Tables of numbers, arrays or files: named columns, each read only where it is asked for."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .._arguments import is_traced


# a column, read when it is called; of time, dates become seconds
Columns = dict[str, Callable[[bool], np.ndarray]]

_MISSING = {"", "na", "n/a", "nan", "nat", "null", "none", "-", "?"}


def columns_of(values: Any) -> Columns:
    """The columns of numbers (T,) or (T, m), or of a .npy, .npz or text file, by name.

    Those without one are "0", "1", ...

    **Errors:** ValueError for what is no table, or a file that is not there.
    """
    if not isinstance(values, str | os.PathLike):
        return _of_array(values)
    path = Path(values)
    if not path.is_file():
        raise ValueError(f"values names the file {os.fspath(path)!r}, which is not there.")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            return {name: _held(array) for name, array in dict(found).items()}
    if path.suffix == ".npy":
        return _of_array(np.load(path, allow_pickle=False))
    return _of_text(path)


def _of_array(values: Any) -> Columns:
    try:
        array = np.zeros((), object) if is_traced(values) else np.asarray(values)
    except ValueError:  # ragged lists
        array = np.zeros((), object)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.dtype.kind not in "iufb":
        raise ValueError(
            "values must be numbers (T,) or (T, features), or name a file, but is "
            f"{array.dtype} of shape {array.shape}."
        )
    return {str(i): _held(column) for i, column in enumerate(array.T)}


def _held(array: np.ndarray) -> Callable[[bool], np.ndarray]:
    return lambda dates: array


def _of_text(path: Path) -> Columns:
    with open(path, newline="", encoding="utf-8-sig") as file:
        between = next((mark for mark in "\t;," if mark in file.readline()), None)
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = map(str.split, file) if between is None else csv.reader(file, delimiter=between)
        lines = [(number, row) for number, row in enumerate(rows, 1) if any(map(str.strip, row))]
    if not lines:
        raise ValueError(f"values names the file {os.fspath(path)!r}, which is empty.")
    head = [entry.strip() for entry in lines[0][1]]
    named = not all(map(_is_number, head))
    names = head if named else list(map(str, range(len(head))))
    if len(set(names)) < len(names):
        raise ValueError(f"Columns of {path.name} must have names of their own, but are {names}.")
    body = lines[1:] if named else lines
    for number, row in body:
        if len(row) != len(names):
            raise ValueError(
                f"Line {number} of {path.name} has {len(row)} entries, but there are {len(names)} "
                "columns."
            )

    def reader(name: str, place: int) -> Callable[[bool], np.ndarray]:
        def read(dates):
            return np.array([_entry(path, name, number, row[place], dates) for number, row in body])

        return read

    return {name: reader(name, place) for place, name in enumerate(names)}


def _is_number(entry: str) -> bool:
    """Whether it is one in a file without names; a gap in the first line is written as NaN."""
    try:
        float(entry)
    except ValueError:
        return False
    return True


def _entry(path: Path, name: str, number: int, entry: str, dates: bool) -> float:
    """A number, NaN where it is missing; of time, a date as seconds."""
    entry = entry.strip()
    if entry.lower() in _MISSING:
        return float("nan")
    try:
        return float(entry)
    except ValueError:
        pass
    try:
        date = np.datetime64(entry, "us").astype(float) / 1e6
    except ValueError:
        date = None
    if dates and date is not None:
        return float(date)
    what = "no number" if date is None else "a date: name the column as time="
    raise ValueError(
        f"Line {number} of {path.name} has {entry!r} in column {name!r}, which is {what}, or leave "
        "the column out by columns=[...]."
    )
