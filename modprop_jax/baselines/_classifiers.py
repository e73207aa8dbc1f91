"""Classifiers of sequences by libraries: NumPy, outside of `jit`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .. import _arguments as arguments
from ._sequences import problem, Sequences


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "first": lambda x: x[0],
    "middle": lambda x: x[len(x) // 2],
    "last": lambda x: x[-1],
    "mean": lambda x: x.mean(0),
    "sd": lambda x: x.std(0),
    "least": lambda x: x.min(0),
    "most": lambda x: x.max(0),
}


def logistic_regression(
    train: Float[ArrayLike, "T train features"],
    labels: Int[ArrayLike, " train"],
    test: Float[ArrayLike, "S test features"],
    *,
    statistics: Sequence[str] = ("mean", "sd"),
    train_lengths: Int[ArrayLike, " train"] | None = None,
    test_lengths: Int[ArrayLike, " test"] | None = None,
) -> Int[np.ndarray, " test"]:
    r"""Labels by logistic regression on summary statistics, which know nothing of order.

    \[ p(label \mid x) = \mathrm{softmax}(W s(x) + b), \qquad
       \min_{W, b}\; - \sum \log p(label \mid x) + \tfrac12 |W|^2 \]

    with s the chosen statistics of each feature, scaled to mean 0 and sd 1 over the training
    sequences. A network that is no better has not used the order of steps; of statistics "first",
    "middle" and "last", not more than three of them.

    **Arguments:** `statistics`: of "first", "middle", "last", "mean", "sd", "least" and "most".
    The others: as of `nearest_neighbour_dtw`.

    **Returns:** labels (examples of `test`,), a NumPy array. By scikit-learn, outside of `jit`.

    **Errors:** ValueError for other shapes, NaN, one label alone, or an unknown statistic.
    """
    if not isinstance(statistics, list | tuple) or not statistics:
        raise ValueError(
            f"statistics must be a list of names, but is {arguments.shown(statistics)}."
        )
    for name in statistics:
        arguments.choice("an entry of statistics", name, list(STATISTICS))
    known, names, new = _concrete(train, labels, test, train_lengths, test_lengths)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    classifier.fit(_summaries(known, statistics), names)
    return classifier.predict(_summaries(new, statistics))


def random_convolutions(
    train: Float[ArrayLike, "T train features"],
    labels: Int[ArrayLike, " train"],
    test: Float[ArrayLike, "S test features"],
    *,
    kernels: int = 10_000,
    seed: int = 0,
    train_lengths: Int[ArrayLike, " train"] | None = None,
    test_lengths: Int[ArrayLike, " test"] | None = None,
) -> Int[np.ndarray, " test"]:
    """Labels by ridge regression on random convolutions of the sequences (MiniRocket).

    What share of a convolution is above a threshold, of many kernels, dilations and thresholds:
    hardly any method that learns is better on short sequences. Needs the extra `baselines` (aeon).

    **Arguments:** `kernels`: at least 84, rounded down to a multiple of it. `seed`: which features
    and thresholds are drawn. The others: as of `nearest_neighbour_dtw`; kernels want 9 steps or
    more, and sequences of one length: the last value of a shorter one is held.

    **Returns:** labels (examples of `test`,), a NumPy array. By aeon, outside of `jit`, in float32.

    **Errors:** ValueError for other shapes, NaN or one label alone, ImportError without aeon.

    Source: Dempster, Schmidt & Webb, KDD 2021 (arXiv 2012.08791).
    """
    kernels, seed = arguments.whole("kernels", kernels, 84), arguments.count("seed", seed)
    known, names, new = _concrete(train, labels, test, train_lengths, test_lengths)
    steps = max(len(known.steps), len(new.steps))
    if steps < 9:
        raise ValueError(f"train must have 9 steps or more, as kernels have, but has {steps}.")
    classifier = _minirocket()(n_kernels=kernels, random_state=seed)
    classifier.fit(_held(known, steps), names)
    return classifier.predict(_held(new, steps))


def _minirocket() -> Any:
    try:
        from aeon.classification.convolution_based import (  # pyright: ignore[reportMissingImports]
            MiniRocketClassifier,
        )
    except ImportError as error:
        raise ImportError(
            "random_convolutions needs the package aeon. In a clone of the repository: "
            'pip install -e ".[baselines]"'
        ) from error
    return MiniRocketClassifier


def _concrete(train, labels, test, train_lengths, test_lengths):
    """As NumPy arrays, of two labels or more."""
    given = {
        "train": train,
        "labels": labels,
        "test": test,
        "train_lengths": train_lengths,
        "test_lengths": test_lengths,
    }
    for name, value in given.items():
        if arguments.is_traced(value):
            raise ValueError(
                f"{name} is traced, but this classifier runs in NumPy: call it outside of jit."
            )
    with jax.ensure_compile_time_eval():  # what is known stays so where something else is traced
        known, names, new = problem(**given)
    names = np.asarray(names)
    if len(np.unique(names)) < 2:
        raise ValueError(f"labels must name two classes or more, but are all {names[0]}.")
    return _plain(known), names, _plain(new)


def _plain(group: Sequences) -> Any:
    arrays: Any = map(np.asarray, group)
    return Sequences(*arrays)


def _summaries(group: Sequences, statistics: Sequence[str]) -> np.ndarray:
    """(examples, statistics · features)."""
    examples = np.moveaxis(np.asarray(group.steps), 1, 0)
    each = (x[:n] for x, n in zip(examples, np.asarray(group.lengths)))
    return np.stack([np.concatenate([STATISTICS[name](x) for name in statistics]) for x in each])


def _held(group: Sequences, steps: int) -> np.ndarray:
    """(examples, features, steps), the last value of each example held to the end."""
    index = np.minimum(np.arange(steps)[:, None], np.asarray(group.lengths)[None] - 1)
    held = np.take_along_axis(np.asarray(group.steps), index[..., None], axis=0)
    return np.moveaxis(held.astype(np.float32), 0, -1)
