"""Japanese vowels and basic motions: two sets of the UEA archive, as checks."""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from ._digits import part_of, SPLITS
from ._labelled import all_of, checked, drawn, from_end, Labelled, moments
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._sources import as_path, source_of
from ._task import cross_entropy, Task
from ._time_series import read_ts


def japanese_vowels(
    key: PRNGKeyArray,
    batch: int = 32,
    *,
    split: str = "train",
    path: str | os.PathLike | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "29 batch 12"], Int[Array, " batch"]]:
    """Two vowels of one of nine speakers: 12 cepstral coefficients, 7 to 29 frames.

    A check of the tool, and no measure of credit: a linear classifier of three frames has .989.
    Series are drawn with replacement, normalised by the training frames, and end together, with
    zeros before the shorter ones.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of series.
    - `split`: "train" (270 series) or "test" (370). For choices, "validation" is a fifth of the
        training series, and "fit" the others.
    - `path`: a folder with JapaneseVowels_TRAIN.ts and _TEST.ts, or japanese_vowels.npz; by default
        MODPROP_JAX_DATA of the environment, then the packages aeon and sktime, neither imported
        (`pip install --no-deps aeon` is enough).
    - `dtype`: of `xs`; by default JAX's default float.

    **Returns:** `xs` (29, batch, 12) and the speakers 0 ... 8 (batch,).

    **Raises:** `ValueError` for an unknown `split`, or if the data are not there.

    Source: Kudo, Toyama & Shimbo, Pattern Recognition Letters 20 (1999).
    """
    key, batch, dtype = checked(key, batch, dtype)
    return drawn(_part("JapaneseVowels", split, path), key, batch, dtype)


def japanese_vowels_split(
    split: str = "test",
    *,
    path: str | os.PathLike | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "29 series 12"], Int[Array, " series"]]:
    """All series of one split, in a fixed order; see `japanese_vowels`."""
    dtype = arguments.dtype("dtype", dtype)
    return all_of(_part("JapaneseVowels", split, path), dtype)


def basic_motions(
    key: PRNGKeyArray,
    batch: int = 32,
    *,
    split: str = "train",
    path: str | os.PathLike | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "100 batch 6"], Int[Array, " batch"]]:
    """Badminton, running, standing or walking: six axes of a watch, 100 steps at 10 Hz.

    A check of the tool, and no measure of credit: 40 series to learn, 40 to test, and several
    methods have all of them. Arguments as those of `japanese_vowels`; the files are
    BasicMotions_TRAIN.ts and _TEST.ts, or basic_motions.npz.

    **Returns:** `xs` (100, batch, 6) and the classes 0 ... 3 (batch,).

    **Raises:** `ValueError` for an unknown `split`, or if the data are not there.

    Source: Bagnall et al., the UEA multivariate time series archive (arXiv 1811.00075).
    """
    key, batch, dtype = checked(key, batch, dtype)
    return drawn(_part("BasicMotions", split, path), key, batch, dtype)


def basic_motions_split(
    split: str = "test",
    *,
    path: str | os.PathLike | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "100 series 6"], Int[Array, " series"]]:
    """All series of one split, in a fixed order; see `basic_motions`."""
    dtype = arguments.dtype("dtype", dtype)
    return all_of(_part("BasicMotions", split, path), dtype)


_STEPS = {"JapaneseVowels": 29, "BasicMotions": 100}
_ARCHIVES = {"JapaneseVowels": "japanese_vowels.npz", "BasicMotions": "basic_motions.npz"}


def _part(name: str, split: object, path: str | os.PathLike | None) -> Labelled:
    arguments.choice("split", split, SPLITS)
    found = source_of(
        f"The set {name}",
        [f"{name}_TRAIN.ts", _ARCHIVES[name]],
        as_path(path),
        packages=dict.fromkeys(("aeon", "sktime"), [f"{name}_TRAIN.ts"]),
        otherwise="is in the packages aeon and sktime: pip install --no-deps aeon",
    )
    return _read(name, os.fspath(found), str(split))


@functools.cache
def _read(name: str, path: str, split: str) -> Labelled:
    sets = {part: _series(Path(path), part) for part in ("TRAIN", "TEST")}
    names = sorted(set(sets["TRAIN"][1]))
    mean, sd = moments(sets["TRAIN"][0])
    series, labels = sets["TEST" if split == "test" else "TRAIN"]
    normal = [(one - mean) / sd for one in series]
    found = Labelled(
        from_end(normal, _STEPS[name]), np.array([names.index(label) for label in labels], np.int32)
    )
    return found.part(part_of(len(labels), split))


def _series(path: Path, part: str) -> tuple[list[np.ndarray], list[Any]]:
    if path.suffix != ".npz":
        other = path.with_name(path.name.replace("_TRAIN", f"_{part}"))
        if not other.is_file():
            raise ValueError(f"path has {path.name}, but {other.name} is not beside it.")
        return read_ts(other)
    with np.load(path, allow_pickle=False) as found:
        steps, lengths = found[f"{part.lower()}_steps"], found[f"{part.lower()}_lengths"]
        labels = found[f"{part.lower()}_labels"].tolist()
    return np.split(steps.astype(np.float64), np.cumsum(lengths)[:-1]), labels


def _preset(alpha: float, iterations: int) -> Preset:
    return Preset(
        network=Architecture(hidden_size=64, cell="rate", cell_options={"alpha": alpha}),
        schedule=Schedule(iterations=iterations, eval_every=100),
        optimizer=Optimizer(learning_rate=2e-3),
        objective=Objective(criterion=0.95),
        mu="auto",
    )


JAPANESE_VOWELS = Task(
    name="japanese_vowels",
    description="Two vowels: name the speaker, of nine. A check: a linear classifier has .989.",
    licence="UCI's (DOI 10.24432/C5NS47); read from the packages aeon or sktime",
    out_size=9,
    batch=japanese_vowels,
    # the test set is what it is
    evaluation=lambda key, **options: japanese_vowels_split("test", **options),
    validation=(
        functools.partial(japanese_vowels, split="fit"),
        lambda key, **options: japanese_vowels_split("validation", **options),
    ),
    loss=cross_entropy,
    readout="last",
    presets={
        "small": _preset(0.3, 1500),
    },
)

BASIC_MOTIONS = Task(
    name="basic_motions",
    description="A watch: name the motion, of four. A check: several methods have all 40.",
    licence="none stated (UEA archive); read from the packages aeon or sktime",
    out_size=4,
    batch=basic_motions,
    evaluation=lambda key, **options: basic_motions_split("test", **options),
    validation=(
        functools.partial(basic_motions, split="fit"),
        lambda key, **options: basic_motions_split("validation", **options),
    ),
    loss=cross_entropy,
    readout="last",
    presets={
        "small": _preset(0.1, 1000),
    },
)
