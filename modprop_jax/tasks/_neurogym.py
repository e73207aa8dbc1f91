"""Tasks of NeuroGym, as data."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _arguments as arguments
from ._generator import from_global_seed
from ._pool import task_of
from ._preset import Preset
from ._sequences import sequences
from ._split import Split
from ._task import Task
from ._weighted import approximated, classified


def from_neurogym(
    env: Any,
    trials: int = 1024,
    *,
    fixation: int | None = 0,
    test: float = 0.2,
    validation: float = 0.2,
    seed: int = 0,
    normalise: bool = False,
    name: str = "neurogym",
    preset: Preset | None = None,
    **options: Any,
) -> Task:
    """A task of NeuroGym as a task here: what `compare(task=...)` takes.

    Its trials are drawn once, when this is called, with no agent in them: what it observes are
    inputs (T, features), and its ground truth, the action that is due at each step, is what is to
    be learnt. From there on as `from_generator`: a pool in memory, parted into what is learnt and
    what is tested, trials of different length padded and masked.

    **Arguments:**

    - `env`: a name, such as `"PerceptualDecisionMaking-v0"`, of the package `neurogym`; or an
        environment of it, or anything with its interface: `new_trial()`, and then `ob` (T,
        features) and `gt` (T,) or (T, k), `action_space` and `seed(seed)`.
    - `trials`, `seed`, `test`, `validation`, `normalise`, `name`, `preset`: as in `from_generator`.
    - `fixation`: the action that is no answer. The loss is of all steps; accuracy is of those where
        another action is due, as fixating is due at most steps. None: of all, for tasks in which 0
        is an answer (such as go/no-go).
    - `options`: of `neurogym.make`, such as `dt=20`; with a name alone.

    **Returns:** a `Task` whose ys are (T, batch) of classes, or (T, batch, k) of numbers (mean
    square, R²), each with a mask.

    **Cost:** that of drawing `trials` trials, in Python.

    **Departs from NeuroGym:** its `Dataset` puts trials end to end in sequences of one length; here
    each sequence is one trial. Rewards, and what an agent's actions change, do not enter.

    **Raises:** `ImportError` for a name without the package (extra `neurogym`; its version 2.3
    takes NumPy back to 2.2, and imports PyTorch, which it does not ask for); `ValueError` for an
    environment that has no trials or no ground truth, and as `from_generator`.
    """
    arguments.size("trials", trials)
    split = Split(test, validation, seed).checked()
    if fixation is not None:
        arguments.count("fixation", fixation)
    if not isinstance(env, str) and options:
        raise ValueError(
            f"options {', '.join(options)} are of neurogym.make: give a name as env, or make the "
            "environment with them."
        )
    made = _made(env, options) if isinstance(env, str) else env
    core = getattr(made, "unwrapped", made)
    # a wrapper of gymnasium has it by way of its class alone, or warns
    outer = made if hasattr(type(made), "new_trial") else core
    for needed in ("new_trial", "action_space", "seed"):
        if not hasattr(outer if needed == "new_trial" else core, needed):
            raise ValueError(
                f"env must have the interface of a neurogym.TrialEnv, but {arguments.shown(env)} "
                f"has no {needed}."
            )
    actions = getattr(core.action_space, "n", None)
    classes = None if actions is None else int(actions)
    with from_global_seed(seed):
        core.seed(seed)
        drawn = [_trial(outer, core, classes is not None) for _ in range(trials)]
    inputs, targets = zip(*drawn)
    data = sequences(inputs, targets, None, None, classes)
    if classes is not None and fixation is not None and (data.targets == fixation).all():
        raise ValueError(f"fixation={fixation} is due at every step of env: no answer ever is.")
    return task_of(
        data,
        split,
        name=name,
        description=f"{trials} trials of {type(core).__name__} of NeuroGym.",
        normalise=normalise,
        preset=preset,
        loss=approximated if classes is None else _answers(fixation),
        masked=True,
    )


def _made(name: str, options: dict[str, Any]) -> Any:
    try:
        import neurogym  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"env={name!r} needs the package neurogym, and its version 2.3 PyTorch too ({error}). "
            'In a clone of the repository: pip install -e ".[neurogym]" torch'
        ) from error
    try:
        return neurogym.make(name, **options)
    except Exception as error:  # gymnasium's, of which there are many
        raise ValueError(f"env={name!r}: neurogym.make says {error}") from error


def _trial(outer: Any, core: Any, discrete: bool) -> tuple[np.ndarray, np.ndarray]:
    """What is observed, and what is due: integers (T,), or numbers (T, k)."""
    outer.new_trial()
    try:
        inputs, truth = np.array(core.ob), np.array(core.gt)
    except AttributeError as error:
        raise ValueError(f"env has no observations or no ground truth: {error}") from error
    if not inputs.ndim or not truth.ndim or len(truth) != len(inputs):
        raise ValueError(
            "env must have a ground truth gt for each step of ob, but they have the shapes "
            f"{truth.shape} and {inputs.shape}."
        )
    inputs, truth = inputs.reshape(len(inputs), -1), truth.reshape(len(truth), -1)
    if discrete:
        return inputs, truth[:, 0].astype(np.int64)
    return inputs, truth.astype(float)


def _answers(fixation: int | None) -> Callable[[Array, PyTree], tuple[Array, Array]]:
    """Cross-entropy of all steps, accuracy of those where something else is due."""

    def loss(outputs: Array, ys: PyTree) -> tuple[Array, Array]:
        labels, there = ys
        value, score = classified(outputs, ys)
        if fixation is not None:
            _, score = classified(outputs, (labels, jnp.logical_and(there, labels != fixation)))
        return value, score

    return loss
