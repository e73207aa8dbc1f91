"""Recorded sequences as a task: arrays, or a folder of files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _arguments as arguments
from ._folder import read_folder
from ._pool import task_of
from ._preset import Preset
from ._sequences import sequences
from ._split import Split
from ._task import Task


def from_recordings(
    inputs: Any,
    targets: Any = None,
    lengths: Any = None,
    groups: Sequence[Any] | np.ndarray | Callable[[Path], Any] | None = None,
    *,
    test: float = 0.2,
    validation: float = 0.2,
    seed: int = 0,
    normalise: bool = True,
    readout: str | None = None,
    classes: int | None = None,
    name: str = "recordings",
    preset: Preset | None = None,
) -> Task:
    r"""Recorded sequences as a task: what `compare(task=...)` takes.

    They are parted once into three: `test`, which is what is reported; `validation`, by which
    tuning chooses; and the rest, which is fitted. Networks learn from the last two, in tuning from
    the last alone. Each input becomes \( (x - m) / s \), with mean m and standard deviation s of it
    over the steps of the rest. A batch is drawn with replacement.

    **Arguments:**

    - `inputs`: (N, T, features), sequences first; or a list with an array (T, features) for each
        sequence, of different length; or a folder of .npz or of .csv files (see below).
    - `targets`: what is to be learnt: classes, integers (N,) of each sequence, to be said at its
        last step, or (N, T) of each step; or numbers, (N, k) or (N, T, k), to be met in the mean
        square. With a list of inputs, a list of those of each step.
    - `lengths`: (N,), how many steps of each sequence are no padding; what comes after is not read,
        and no loss is. None: all.
    - `groups`: (N,), of which animal, session or subject each sequence is: a group is never in two
        parts. None: each sequence is one, in a folder each file.
    - `test`, `validation`: shares of all sequences; whole groups, until they are reached.
    - `seed`: of the split, which is the same for all networks.
    - `normalise`: False leaves inputs as they are. Targets are left so in any case.
    - `readout`: `"last"`: of targets of each step, those of the last one are to be learnt.
    - `classes`: how many there are, if not all are in the data.
    - `name`, `preset`: of the task; by default 64 leaky neurons, 1000 iterations at a rate of 0.01.

    A folder has one sequence in each file, by the order of their names. An .npz file has arrays
    `inputs`, `targets` and perhaps `lengths`, as above, of one sequence, (T, features), or of many,
    (N, T, features); nothing in it is unpickled. A .csv file has a line of names, and a line of
    numbers for each step; `targets` then names its columns, one or several, and the others are
    inputs. One column of whole numbers has classes. `groups` may be a function of a file's path.

    **Returns:** a `Task`. Its `batch(key, size)` has xs (T, size, features), and ys as `targets`;
    where lengths differ a pair, targets of each step and which of them count.

    **Cost:** all of it is held in memory, and in each compiled program: some hundred megabytes at
    most.

    **What figures say:** intervals are over networks, which all have one split: they say nothing
    of other animals or sessions. For that, take several seeds of the split.

    **Raises:** `ValueError` for what is no number (NaN, infinity), shapes that don't fit, classes
    with gaps, a class that is in no sequence to learn from, too few groups, or a folder without
    files, or with files that differ in their features.

    **Example:**

    >>> import numpy as np
    >>> from modprop_jax.tasks import from_recordings
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> spikes = rng.poisson(1.0 + labels[:, None, None], (40, 25, 6))
    >>> task = from_recordings(spikes, labels, groups=np.arange(40) // 4)
    >>> task.out_size, task.score
    (2, 'accuracy')
    """
    if isinstance(inputs, str | os.PathLike):
        if lengths is not None:
            raise ValueError("lengths are in the files of a folder, or those of its sequences.")
        inputs, targets, lengths, groups = read_folder(Path(inputs), targets, groups)
    elif callable(groups):
        raise ValueError(
            "groups may be a function of a file's path where inputs is a folder alone."
        )
    data = sequences(inputs, targets, lengths, readout, classes)
    split = Split(test, validation, seed, None if groups is None else _groups(groups))
    return task_of(
        data,
        split,
        name=name,
        description=f"{len(data.inputs)} recorded sequences.",
        normalise=normalise,
        preset=preset,
    )


def _groups(groups: Any) -> np.ndarray:
    found = np.asarray(groups) if isinstance(groups, list | tuple | np.ndarray) else None
    if found is None or found.dtype.kind not in "iuUSb":
        raise ValueError(
            "groups must be integers or words, one for each sequence, but are "
            f"{arguments.shown(groups)}."
        )
    return found
