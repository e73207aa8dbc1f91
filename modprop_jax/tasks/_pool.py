"""A task of sequences that are all there is: parted once, and drawn from."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from ._preset import Architecture, Optimizer, Preset, Schedule
from ._sequences import Sequences
from ._split import PARTS, Split
from ._task import Task
from ._weighted import approximated, classified


PRESET = Preset(
    network=Architecture(hidden_size=64),
    schedule=Schedule(iterations=1000, eval_every=50),
    optimizer=Optimizer(learning_rate=0.01),
)
"""Of a task of one's own, where nothing else is said."""


def task_of(
    data: Sequences,
    split: Split,
    *,
    name: str,
    description: str,
    normalise: bool,
    preset: Preset | None,
    loss: Callable[..., Any] | None = None,
    masked: bool = False,
) -> Task:
    """Learns from the parts fit and validation, and is judged by test; tuning: by validation.

    `masked`: answers have weights in any case, not only where lengths differ.
    """
    arguments.instance("preset", preset, Preset | None, "a modprop_jax.tasks.Preset, or None")
    arguments.boolean("normalise", normalise)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name must be a word such as my_data, but is {arguments.shown(name)}.")
    parts = split.parts(len(data.inputs))
    if data.classes:
        _check_met(data, parts)
    if normalise:
        data = _normalised(data, parts == "fit")
    masked = masked or data.ragged
    draw = functools.partial(_drawn, data=data, masked=masked)
    index = {part: np.flatnonzero(parts == part) for part in PARTS}
    index["train"] = np.flatnonzero(parts != "test")

    def batch_of(part: str) -> Callable[..., tuple[Array, PyTree]]:
        def batch(
            key: PRNGKeyArray, batch: int = 32, *, dtype: DTypeLike | None = None
        ) -> tuple[Array, PyTree]:
            key, size = arguments.key("key", key), arguments.size("batch", batch)
            chosen = jnp.asarray(index[part])
            return draw(chosen[jr.randint(key, (size,), 0, len(chosen))], dtype=dtype)

        return batch

    def whole(part: str) -> Callable[..., tuple[Array, PyTree]]:
        def evaluation(
            key: PRNGKeyArray | None = None, *, dtype: DTypeLike | None = None
        ) -> tuple[Array, PyTree]:
            del key  # it is what it is
            return draw(jnp.asarray(index[part]), dtype=dtype)

        return evaluation

    task = Task(
        name=name,
        description=description,
        out_size=data.classes or data.targets.shape[-1],
        batch=batch_of("train"),
        evaluation=whole("test"),
        validation=(batch_of("fit"), whole("validation")),
        loss=loss or (classified if data.classes else approximated),
        readout="every" if masked or data.every else "last",
        presets={"small": PRESET if preset is None else preset},
        score="accuracy" if data.classes else "R²",
        digest=_digest(data, parts),
    )
    task.check()
    return task


def _drawn(
    picks: Array, *, data: Sequences, masked: bool, dtype: DTypeLike | None
) -> tuple[Array, PyTree]:
    """These sequences, time first; answers with weights where lengths differ."""
    dtype = arguments.dtype("dtype", dtype)
    if not arguments.is_traced(picks):  # outside of a program these alone go to the device
        at = np.asarray(picks)
        arrays = {name: getattr(data, name)[at] for name in ("inputs", "targets", "lengths")}
        data, picks = data._replace(**arrays), jnp.arange(len(at))
    # in their dtype before the program has them, which else would convert all of them
    inputs = jnp.asarray(data.inputs.astype(dtype))
    targets = jnp.asarray(data.targets.astype(np.int32 if data.classes else dtype))
    xs, ys = jnp.moveaxis(inputs[picks], 0, 1), targets[picks]
    if data.every:
        ys = jnp.moveaxis(ys, 0, 1)
    if not masked:
        return xs, ys
    time, lengths = jnp.arange(len(xs))[:, None], jnp.asarray(data.lengths)[picks][None]
    if data.every:
        return xs, (ys, time < lengths)
    return xs, (jnp.broadcast_to(ys, (len(xs), *ys.shape)), time == lengths - 1)


def _normalised(data: Sequences, fit: np.ndarray) -> Sequences:
    """Each feature has mean 0 and standard deviation 1 over the steps of the part fit."""
    seen = data.inputs[fit][data.there[fit]].astype(np.float64)
    mean, sd = seen.mean(0), seen.std(0)
    # what never moves has a deviation of rounding alone
    moved = (data.inputs - mean) / np.where(sd > 1e-9 * np.abs(seen).max(0), sd, 1)
    inputs = np.where(data.there[..., None], moved, 0).astype(data.inputs.dtype)
    return data._replace(inputs=inputs)


def _check_met(data: Sequences, parts: np.ndarray) -> None:
    """A ValueError for a class that is judged and never learnt."""

    def labels(part: str) -> np.ndarray:
        mine = parts == part
        return data.targets[mine][data.there[mine]] if data.every else data.targets[mine]

    seen = set(np.unique(labels("fit")).tolist())
    for part in ("validation", "test"):
        unseen = set(np.unique(labels(part)).tolist()) - seen
        if unseen:
            raise ValueError(
                f"targets of class {min(unseen)} are in the part {part!r}, but not in what is "
                "fitted: give more sequences of it, other groups, or another seed."
            )


def _digest(data: Sequences, parts: np.ndarray) -> str:
    found = hashlib.sha256(",".join(parts.tolist()).encode())
    for array in (data.inputs, data.targets, data.lengths, np.asarray(data.classes)):
        found.update(f"{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
