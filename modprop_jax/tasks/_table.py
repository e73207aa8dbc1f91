"""Tables of numbers from files: named columns, read only where they are asked for."""

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


# a column, read when it is called
Columns = dict[str, Callable[[], np.ndarray]]


def columns_of(path: Path) -> Columns:
    """The columns of a .npy, .npz or text file by name; those without one are "0", "1", ...

    **Errors:** ValueError for a file that is not there, or is no table.
    """
    if not path.is_file():
        raise ValueError(f"values names the file {os.fspath(path)!r}, which is not there.")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            return {name: _held(array) for name, array in dict(found).items()}
    if path.suffix == ".npy":
        return columns_of_array(np.load(path, allow_pickle=False))
    return _of_text(path)


def columns_of_array(values: Any) -> Columns:
    """Those of an array (T,) or (T, m)."""
    array = np.asarray(values)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.dtype.kind not in "iufb":
        raise ValueError(
            f"values must be numbers (T,) or (T, features), but is {array.dtype} of shape "
            f"{np.shape(values)}."
        )
    return {str(i): _held(column) for i, column in enumerate(array.T)}


def _held(array: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: array


def _of_text(path: Path) -> Columns:
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        between = next((mark for mark in "\t;," if mark in first), None)
        rows = (line.split() for line in file) if between is None else csv.reader(file, delimiter=between)
        lines = [(number, row) for number, row in enumerate(rows, 1) if any(map(str.strip, row))]
    if not lines:
        raise ValueError(f"values names the file {os.fspath(path)!r}, which is empty.")
    _, head = lines[0]
    named = not all(map(_is_number, head))
    names = [name.strip() for name in head] if named else list(map(str, range(len(head))))
    if len(set(names)) < len(names):
        raise ValueError(f"Columns of {path.name} must have names of their own, but are {names}.")
    body = lines[1:] if named else lines
    for number, row in body:
        if len(row) != len(names):
            raise ValueError(
                f"Line {number} of {path.name} has {len(row)} entries, but there are {len(names)} "
                "columns."
            )

    def reader(place, name):
        return lambda: _numbers(path, name, [(number, row[place]) for number, row in body])

    return {name: reader(place, name) for place, name in enumerate(names)}


_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?"}


def _is_number(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return entry.strip().lower() in _MISSING - {"-", ""}
    return True


def _numbers(path: Path, name: str, entries: Sequence[tuple[int, str]]) -> np.ndarray:
    """Numbers, NaN where one is missing; dates as seconds."""
    found = []
    for number, entry in entries:
        entry = entry.strip()
        try:
            found.append(np.nan if entry.lower() in _MISSING else float(entry))
        except ValueError:
            found.append(_date(path, name, number, entry))
    return np.array(found)


def _date(path: Path, name: str, number: int, entry: str) -> float:
    try:
        return np.datetime64(entry, "us").astype(float) / 1e6
    except ValueError:
        raise ValueError(
            f"Line {number} of {path.name} has {entry!r} in column {name!r}, which is neither a "
            "number nor a date: leave the column out by columns=[...]."
        ) from None
