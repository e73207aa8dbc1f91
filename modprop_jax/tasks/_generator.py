"""Trials of a generator as a task: drawn once, to a pool."""

import contextlib
import inspect
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .. import _arguments as arguments
from ._pool import task_of
from ._preset import Preset
from ._sequences import sequences
from ._split import Split
from ._task import Task


Trial = tuple[Any, Any]


def from_generator(
    generator: Iterable[Trial] | Callable[..., Trial],
    trials: int = 1024,
    *,
    test: float = 0.2,
    validation: float = 0.2,
    seed: int = 0,
    normalise: bool = False,
    readout: str | None = None,
    classes: int | None = None,
    name: str = "generated",
    preset: Preset | None = None,
) -> Task:
    """Trials of NumPy code as a task: what `compare(task=...)` takes.

    The trials are drawn once, when this is called, and held in memory. The networks of all seeds
    and rules learn from this pool, in batches that are drawn from it with replacement, and are
    tested on trials of it that they never learn from. So they may learn trials by heart: take many.
    A task that can be written as a function of a key (`compare` takes such a function) has new
    trials in every batch.

    **Arguments:**

    - `generator`: a function that returns a trial, `(inputs, targets)`: called with a
        `numpy.random.Generator` if it takes an argument, else without; or an iterable of trials.
        Inputs (T, features), also of different length; targets as in `from_recordings`, of one
        trial: a class, an integer, or (k,) numbers, at its end; or (T,) integers or (T, k) numbers
        of each step.
    - `trials`: size of the pool.
    - `seed`: of the generator that a function gets, of NumPy's and Python's global ones while it
        is drawn from (they are put back), and of the split. An iterable is taken as it comes, so
        that nothing but itself decides on its trials.
    - `test`, `validation`, `normalise`, `readout`, `classes`, `name`, `preset`: as in
        `from_recordings`.

    **Returns:** a `Task`. A run is resumed with the same trials alone: those of a function are
    drawn again from `seed`.

    **Cost:** that of `trials` trials, each time when it is called; memory as `from_recordings`.

    **Raises:** `ValueError` for a trial that is none, an iterable with fewer, and as
    `from_recordings`.

    **Example:**

    >>> from modprop_jax.tasks import from_generator
    >>> def interval(rng):
    ...     steps = rng.integers(8, 12)
    ...     xs = rng.normal(size=(steps, 1))
    ...     return xs, int(xs[-1, 0] > xs[0, 0])
    >>> task = from_generator(interval, trials=100)
    >>> task.readout, task.out_size
    ('every', 2)
    """
    arguments.size("trials", trials)
    split = Split(test, validation, seed).checked()
    with from_global_seed(seed):
        drawn = list(itertools.islice(_trials(generator, seed), trials))
    if len(drawn) < trials:
        raise ValueError(f"trials={trials} are due, but generator gave {len(drawn)}.")
    for index, trial in enumerate(drawn):
        if not isinstance(trial, tuple | list) or len(trial) != 2:
            raise ValueError(
                "generator must give pairs, inputs (T, features) and targets, but trial "
                f"{index} is {arguments.shown(trial)}."
            )
    inputs, targets = zip(*drawn)
    data = sequences(inputs, targets, None, readout, classes)
    return task_of(
        data,
        split,
        name=name,
        description=f"{trials} trials of {getattr(generator, '__name__', 'a generator')}.",
        normalise=normalise,
        preset=preset,
    )


def _trials(generator: Any, seed: int) -> Iterator[Any]:
    if isinstance(generator, Iterable):
        return iter(generator)
    if not arguments.is_function(generator):
        raise ValueError(
            "generator must be an iterable of trials or a function that returns one, but is "
            f"{arguments.shown(generator)}."
        )
    rng = np.random.default_rng(seed)
    given = (rng,) if _takes_one(generator) else ()
    return (generator(*given) for _ in itertools.count())


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether it has an argument that must be given."""
    return any(
        each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in inspect.signature(function).parameters.values()
    )


@contextlib.contextmanager
def from_global_seed(seed: int) -> Iterator[None]:
    """The global generators of Python and NumPy from this seed, and as they were after."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
