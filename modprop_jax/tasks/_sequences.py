"""Sequences of somebody's own, as arrays of one shape: read with suspicion."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _arguments as arguments


class Sequences(NamedTuple):
    """N sequences in arrays of T steps: `lengths` says how many of them are no padding."""

    inputs: np.ndarray
    """(N, T, m), 0 where there is padding."""
    targets: np.ndarray
    """Classes, integers (N,) or (N, T), or values (N, k) or (N, T, k); 0 where there is padding."""
    lengths: np.ndarray
    """(N,)"""
    classes: int
    """How many there are; 0 for values."""

    @property
    def every(self) -> bool:
        """Whether each step has a target; else each sequence has one."""
        return self.targets.ndim == (2 if self.classes else 3)

    @property
    def there(self) -> np.ndarray:
        """(N, T): which steps are no padding."""
        return np.arange(self.inputs.shape[1]) < self.lengths[:, None]

    @property
    def ragged(self) -> bool:
        return bool((self.lengths < self.inputs.shape[1]).any())


def sequences(
    inputs: Any, targets: Any, lengths: Any, readout: str | None, classes: int | None
) -> Sequences:
    """Checked, and of one dtype each.

    `inputs`, `targets`: arrays, or a list with an array for each sequence. `readout`: "last" keeps
    of the targets of each step those of the last. `classes`: how many; None: those that are met.
    """
    if readout is not None:
        arguments.choice("readout", readout, ("last", "every"))
    if isinstance(inputs, list | tuple):
        if lengths is not None:
            raise ValueError("lengths are those of the arrays where inputs is a list of them.")
        inputs, lengths = _stacked("inputs", inputs)
    xs = _floats("inputs", inputs)
    if xs.ndim != 3 or not xs.size:
        raise ValueError(
            f"inputs must have the shape (sequences, T, features), or be a list with (T, features) "
            f"for each sequence, but have {xs.shape}."
        )
    count, steps, _ = xs.shape
    sizes = _lengths(lengths, count, steps)
    ys = _targets(targets, count, steps, sizes, readout)
    whole = ys.dtype.kind == "i"
    every = ys.ndim == (2 if whole else 3)
    there = np.arange(steps) < sizes[:, None]
    _check_finite("inputs", xs, there)
    if whole:
        classes = _classes(ys[there] if every else ys, classes)
    elif classes is not None:
        raise ValueError(
            f"classes={classes} is of targets that are integers, but they are {ys.dtype}: "
            "targets.astype(int)."
        )
    else:
        _check_finite("targets", ys if every else ys[:, None], there if every else there[:, :1])
    if every:
        ys = np.where(there if whole else there[..., None], ys, 0)
    return Sequences(np.where(there[..., None], xs, 0), ys, sizes, classes or 0)


def _stacked(name: str, arrays: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Padded at the end to the longest; and the lengths."""
    parts = [_numbers(f"{name}[{i}]", each) for i, each in enumerate(arrays)]
    if not parts:
        raise ValueError(f"{name} must hold a sequence at least, but is empty.")
    for i, part in enumerate(parts):
        if part.ndim != parts[0].ndim or not part.ndim or part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"{name} must have the same features in each sequence, but {name}[0] has the shape "
                f"{parts[0].shape}, (T, features), and {name}[{i}] has {part.shape}."
            )
    lengths = np.array([len(part) for part in parts])
    dtype = np.result_type(*{part.dtype for part in parts})
    stacked = np.zeros((len(parts), lengths.max(), *parts[0].shape[1:]), dtype)
    for row, part in zip(stacked, parts):
        row[: len(part)] = part
    return stacked, lengths


def _targets(
    targets: Any, count: int, steps: int, lengths: np.ndarray, readout: str | None
) -> np.ndarray:
    ys = targets
    # a list of arrays has those of each step; a list of numbers is an array
    if isinstance(ys, list | tuple) and any(np.ndim(each) for each in ys):
        ys = _target_list(ys, lengths)
    ys = _numbers("targets", ys)
    if ys.dtype.kind in "bu":
        ys = ys.astype(np.int64)
    if len(ys) != count if ys.ndim else True:
        raise ValueError(
            f"targets must have one entry for each of the {count} sequences of inputs, but have "
            f"the shape {ys.shape}."
        )
    whole = ys.dtype.kind == "i"
    if not whole and ys.shape == (count, steps) and readout != "last":
        raise ValueError(
            f"targets of shape {ys.shape} are numbers for each step, or {steps} numbers for each "
            "sequence: give targets[..., None], (sequences, T, 1), for the one, and "
            'readout="last" for the other.'
        )
    every = ys.shape[1:2] == (steps,) and ys.ndim == (2 if whole else 3)
    once = ys.ndim == (1 if whole else 2)
    if not (every or once) or not ys.size:
        raise ValueError(
            "targets must be classes, integers (sequences,) or (sequences, T), or values "
            f"(sequences, k) or (sequences, T, k), with T = {steps}, but have {ys.dtype} of shape "
            f"{ys.shape}."
        )
    if readout == "every" and not every:
        raise ValueError(
            f'readout="every" needs targets of every step, but they have the shape {ys.shape}.'
        )
    if readout == "last" and every:
        ys = ys[np.arange(count), lengths - 1]
    return ys


def _target_list(targets: Sequence[Any], lengths: np.ndarray) -> np.ndarray:
    """Those of each sequence, which are of each step if there is one for each."""
    parts = [_numbers(f"targets[{i}]", each) for i, each in enumerate(targets)]
    if len(parts) != len(lengths):
        raise ValueError(
            f"targets must have one entry for each of the {len(lengths)} sequences of inputs, but "
            f"there are {len(parts)}."
        )
    whole = parts[0].dtype.kind in "iub"
    if parts[0].ndim == (1 if whole else 2):
        for i, (part, length) in enumerate(zip(parts, lengths)):
            if not part.ndim or len(part) != length:
                raise ValueError(
                    f"targets[{i}] must have an entry for each of the {length} steps of "
                    f"inputs[{i}], but has the shape {part.shape}."
                )
        return _stacked("targets", parts)[0]
    if len({part.shape for part in parts}) > 1:
        raise ValueError(
            "targets must have the same shape for each sequence, or be (T, k) for its steps, but "
            f"have {sorted({part.shape for part in parts})}."
        )
    return np.stack(parts)


def _lengths(lengths: Any, count: int, steps: int) -> np.ndarray:
    if lengths is None:
        return np.full(count, steps)
    found = _numbers("lengths", lengths)
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise ValueError(
            f"lengths must be {count} integers, one for each sequence of inputs, but are "
            f"{found.dtype} of shape {found.shape}."
        )
    if found.min() < 1 or found.max() > steps:
        raise ValueError(
            f"lengths must be between 1 and the {steps} steps of inputs, but hold "
            f"{found[(found < 1) | (found > steps)][0]}."
        )
    return found.astype(np.int64)


def _numbers(name: str, value: Any) -> np.ndarray:
    """An array of numbers, or of truth values."""
    try:
        found = np.asarray(value)
    except ValueError:  # ragged
        found = np.zeros(0, object)
    if found.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be an array of numbers, but is {arguments.shown(value)}.")
    return found


def _floats(name: str, value: Any) -> np.ndarray:
    found = _numbers(name, value)
    return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)


def _check_finite(name: str, values: np.ndarray, there: np.ndarray) -> None:
    """Of what is no padding; values (N, T, ...), there (N, T)."""
    bad = there & ~np.isfinite(values).all(-1)
    if bad.any():
        sequence, step = np.argwhere(bad)[0]
        raise ValueError(
            f"{name} of sequence {sequence} hold NaN or infinity at step {step} (both from 0): "
            "leave it out or fill it in; where it is padding, give lengths."
        )


def _classes(labels: np.ndarray, classes: int | None) -> int:
    """How many there are."""
    numbers = np.unique(labels)
    if classes is not None and arguments.size("classes", classes) <= numbers[-1]:
        raise ValueError(
            f"classes={classes} are 0 to {classes - 1}, but targets hold {numbers[-1]}."
        )
    count = len(numbers) if classes is None else classes
    if numbers[0] < 0 or numbers[-1] >= count:
        raise ValueError(
            "targets must number the classes 0, 1, ... without gaps, but hold "
            f"{arguments.shown(numbers.tolist())}: numpy.unique(targets, return_inverse=True)[1] "
            "numbers them, or give classes, how many there are."
        )
    if len(numbers) < 2:
        raise ValueError("targets hold one class alone, so that there is nothing to learn.")
    return count
