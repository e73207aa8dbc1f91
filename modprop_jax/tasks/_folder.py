"""Sequences in files: one folder, one kind of file."""

import csv
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import _arguments as arguments


class _File(NamedTuple):
    """What one file has."""

    path: Path
    inputs: list[np.ndarray]
    """(T, features) of each sequence."""
    targets: list[np.ndarray]


def read_folder(
    folder: Path, targets: Any, groups: Any
) -> tuple[list[np.ndarray], list[np.ndarray], None, Any]:
    """Inputs, targets and groups of all sequences; `lengths` are those of the arrays."""
    if not folder.is_dir():
        raise ValueError(f"inputs names no folder: {folder}.")
    seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
    paths = sorted(path for path in seen if path.suffix in (".npz", ".csv"))
    kinds = {path.suffix for path in paths}
    if len(kinds) != 1:
        raise ValueError(
            f"inputs: {folder} must have .npz or .csv files, one kind of them, but has "
            f"{'both' if kinds else 'none'}."
        )
    if kinds == {".csv"}:
        columns = _columns(targets)
        files = [_read_csv(path, columns) for path in paths]
    elif targets is not None and not isinstance(targets, str):
        raise ValueError(
            "targets names the array of .npz files that has them, by default 'targets', but is "
            f"{arguments.shown(targets)}."
        )
    else:
        files = [_read_npz(path, targets or "targets") for path in paths]
    first = files[0]
    for file in files:
        if file.inputs[0].shape[1] != first.inputs[0].shape[1]:
            raise ValueError(
                f"inputs: {first.path} has {first.inputs[0].shape[1]} features, but {file.path} "
                f"has {file.inputs[0].shape[1]}."
            )
    kinds = {each.dtype.kind in "iub" for file in files for each in file.targets}
    every = [each if len(kinds) == 1 else each.astype(float) for f in files for each in f.targets]
    return [each for f in files for each in f.inputs], every, None, _groups(files, groups)


def _groups(files: Sequence[_File], groups: Any) -> Any:
    """Of each sequence: as given, by the file's path, or the file."""
    if groups is not None and not callable(groups):
        return groups
    of_file: Callable[[Path], Any] = groups if callable(groups) else str
    return [str(of_file(file.path)) for file in files for _ in file.inputs]


def _columns(targets: Any) -> list[str]:
    columns = [targets] if isinstance(targets, str) else targets
    words = isinstance(columns, list | tuple) and all(isinstance(each, str) for each in columns)
    if not words or not columns or len({*columns}) < len(columns):
        raise ValueError(
            "targets must name the columns of .csv files that are to be learnt, but is "
            f"{arguments.shown(targets)}."
        )
    return list(columns)


def _read_csv(path: Path, targets: list[str]) -> _File:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    if len(lines) < 2:
        raise ValueError(f"inputs: {path} must have a line of names and lines of numbers.")
    names = [name.strip() for name in lines[0]]
    for name in targets:
        if names.count(name) != 1:
            raise ValueError(
                f"targets: {path} has {names.count(name)} columns {name!r}; its columns: "
                f"{', '.join(names)}."
            )
    ours = [names.index(name) for name in targets]
    others = [index for index in range(len(names)) if index not in ours]
    if not others:
        raise ValueError(f"inputs: {path} has no column beside {', '.join(targets)}.")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(names):
            raise ValueError(
                f"inputs: {path}, row {number}, has {len(line)} columns, where {len(names)} have "
                "names."
            )
    try:
        table = np.array([[float(cell) for cell in line] for line in lines[1:]])
    except ValueError as error:
        raise ValueError(f"inputs: {path} holds what is no number: {error}.") from error
    found = table[:, ours]
    if len(ours) == 1 and all(line[ours[0]].strip().lstrip("+-").isdecimal() for line in lines[1:]):
        found = found[:, 0].astype(np.int64)
    return _File(path, [table[:, others]], [found])


def _read_npz(path: Path, targets: str) -> _File:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"inputs: {path} can't be read as arrays: {error}.") from error
    for name in ("inputs", targets):
        if name not in arrays:
            raise ValueError(
                f"{'inputs' if name == 'inputs' else 'targets'}: {path} has no array {name!r}; it "
                f"has {', '.join(arrays) or 'none'}."
            )
    xs, ys = arrays["inputs"], arrays[targets]
    if xs.ndim == 2:
        xs, ys = xs[None], ys[None]
    if xs.ndim != 3 or not xs.size or not ys.ndim or len(ys) != len(xs):
        raise ValueError(
            f"inputs: {path} must have inputs (T, features) or (N, T, features), and targets of "
            f"each sequence, but they have the shapes {arrays['inputs'].shape} and "
            f"{arrays[targets].shape}."
        )
    lengths = np.broadcast_to(np.asarray(arrays.get("lengths", xs.shape[1])), (len(xs),))
    if lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > xs.shape[1]:
        raise ValueError(
            f"lengths: those of {path} must be integers from 1 to {xs.shape[1]}, one for each of "
            f"its {len(xs)} sequences."
        )
    # those of each step are cut with them
    every = ys.ndim == (2 if ys.dtype.kind in "iub" else 3) and ys.shape[1] == xs.shape[1]
    return _File(
        path,
        [x[:length] for x, length in zip(xs, lengths)],
        [y[:length] if every else y for y, length in zip(ys, lengths)],
    )
