"""What an experiment needs to know about a task, and the losses tasks share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _arguments as arguments
from ._preset import Preset


@dataclasses.dataclass(frozen=True)
class Task:
    """A task as the experiments see it; add yours to `modprop_jax.tasks.TASKS`.

    - `batch(key, size, **options) -> (xs, ys)`: a training batch, xs `(T, size,
      features)`.
    - `evaluation(key, **options) -> (xs, ys)`: held-out or fresh data to evaluate on.
    - `loss(outputs, ys) -> (loss, accuracy)`: both scalars. A task that has no accuracy
      returns a score in its place, one that grows with success and is 1 at best (such as R²).
    - `readout`: whether `outputs` holds the `"last"` step only, `(size, out_size)`, or
      `"every"` step, `(T, size, out_size)`; a preset with `readout_steps` asks for the last k
      steps, `(k, size, out_size)`.
    - `score`: what tables and figures call the second output of `loss`.
    - `floors`: losses that mark something, by name: lines in figures.
    - `validation`: of tasks whose data are limited: `batch` and `evaluation` of the training data
      alone, parted anew, for choices (such as a learning rate) that what is reported must not see.
      None: other keys draw other data.
    - `digest`: of the data that it has with it: a run is not resumed with other ones.
    - `licence`: of recorded data, and where they are read from; None: data are drawn.
    - `stream`: whether it has no trials and so can be learnt online, from one endless stream
      (`Schedule.segment`): `batch` takes `steps`, every step is read, and the loss is a mean over
      steps.
    """

    name: str
    description: str
    out_size: int
    batch: Callable[..., tuple[Array, Array]]
    evaluation: Callable[..., tuple[Array, Array]]
    loss: Callable[[Array, Any], tuple[Array, Array]]
    readout: Literal["last", "every"]
    presets: Mapping[str, Preset]
    score: str = "accuracy"
    floors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stream: bool = False
    licence: str | None = None
    validation: tuple[Callable[..., Any], Callable[..., Any]] | None = None
    digest: str | None = None

    def of_tuning(self) -> "Task":
        """The task as tuning sees it."""
        if self.validation is None:
            return self
        batch, evaluation = self.validation
        return dataclasses.replace(self, batch=batch, evaluation=evaluation)

    def in_size(self, preset: Preset) -> int:
        """Number of input features under the preset's data options."""
        xs, _ = jax.eval_shape(lambda key: self.batch(key, 1, **preset.data), jax.random.key(0))
        return xs.shape[-1]

    def check(self) -> None:
        """Raise a ValueError where generators, readout and loss do not fit together, by shapes."""
        for name, preset in self.presets.items():
            fault = self._fault(preset)
            if fault is not None:
                raise ValueError(f"Task {self.name}, preset {name}: {fault}.")

    def _fault(self, preset: Preset) -> str | None:
        def draw(generator: Callable, *size: int) -> tuple[Any, Any]:
            return jax.eval_shape(
                lambda key: generator(key, *size, **preset.data), jax.random.key(0)
            )

        (xs, ys), (held_out, _) = draw(self.batch, 2), draw(self.evaluation)
        if xs.ndim != 3 or xs.shape[1] != 2:
            return f"batch(key, 2) has xs of shape {xs.shape}, where (T, 2, features) is due"
        if held_out.ndim != 3 or held_out.shape[-1] != xs.shape[-1]:
            return f"evaluation has xs of shape {held_out.shape}, but batch of {xs.shape}"
        steps = preset.objective.readout_steps or xs.shape[0]
        last = self.readout == "last" and preset.objective.readout_steps is None
        shape = (2, self.out_size) if last else (steps, 2, self.out_size)
        found = jax.eval_shape(self.loss, jax.ShapeDtypeStruct(shape, xs.dtype), ys)
        if [leaf.shape for leaf in jax.tree.leaves(found)] != [(), ()]:
            return f"loss returned {found}, where two scalars are due: (loss, {self.score})"
        return None


def cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Softmax cross-entropy, in nats, and accuracy: both means over all of `*batch`."""
    logits = arguments.floats("logits", logits)
    arguments.as_labels("labels", labels, logits.shape[:-1])
    log_p = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_p, labels[..., None], axis=-1)
    correct = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
    return -jnp.mean(picked), jnp.mean(correct, dtype=logits.dtype)


def squared_error(
    outputs: Float[Array, "T batch out"], ys: Float[Array, "T batch out"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """½ Σ (y − y*)² over steps and outputs, a mean over the batch; and R².

    R² = 1 − Σ (y − y*)² / Σ (y* − ȳ*)², both over all entries, with the mean ȳ* of each output
    over steps and batch: 1 is perfect, and the best constant has 0. Where y* is constant, R² is 0.
    """
    outputs, ys = arguments.floats("outputs", outputs), arguments.floats("ys", ys)
    if ys.shape != outputs.shape or ys.ndim != 3:
        raise ValueError(
            f"ys must have the shape (T, batch, out) of outputs, but they have {ys.shape} and "
            f"{outputs.shape}."
        )
    errors = jnp.sum((outputs - ys) ** 2)
    spread = jnp.var(ys, axis=(0, 1)).sum() * (ys.shape[0] * ys.shape[1])
    moves = spread > 0
    score = jnp.where(moves, 1 - errors / jnp.where(moves, spread, 1), 0)
    return 0.5 * errors / ys.shape[1], score
