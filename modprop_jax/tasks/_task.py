"""What an experiment needs to know about a task, and the losses tasks share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _arguments as arguments
from .._readout import Feedback


@dataclasses.dataclass(frozen=True)
class Preset:
    """The network, optimizer and schedule of one experiment on a task.

    Plain numbers and strings only, so that a run's `config.json` can hold all of it.
    The learning rate at iteration `i` is `learning_rate * decay ** (i // decay_every)`,
    the objective is the task's loss + `l2` · ½ Σ‖W‖² over the input, recurrent and
    readout weights.
    """

    hidden_size: int
    iterations: int
    learning_rate: float
    cell: str = "leaky"
    """A name of `modprop_jax.experiments.CELLS`."""
    cell_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further keyword arguments of the cell, such as `{"tau": 100.0}`."""
    readout_tau: float | None = None
    """The readout sees the emission through a leak exp(−1 / `readout_tau`), in steps; None: plain.
    """
    scale_readout: bool = False
    """The leaky readout takes in 1 − leak of the emission; else all of it."""
    readout_steps: int | None = None
    """The loss reads so many steps at the end; None: what the task says."""
    readout_bias: bool = True
    """Whether outputs have a bias."""
    feedback: Feedback = "symmetric"
    """How the readout sends error back; see `modprop_jax.Readout`."""
    feedback_scale: float = 1.0
    """Multiplies random and adaptive feedback weights, which start as N(0, 1/n)."""
    dale_readout: bool = True
    """Dale's law, where there is one, binds the readout too."""
    orthogonal: bool = False
    """Recurrent weights start as a random orthogonal matrix; else N(0, 1/n)."""
    input_scale: float = 1.0
    """Multiplies the initial input weights ..."""
    recurrent_scale: float = 1.0
    """... and these the recurrent ones."""
    excitatory: int | None = None
    """Dale's law: the first `excitatory` neurons are +, all others −; None: no law."""
    input_signs: Sequence[int] | None = None
    """Dale's law of the inputs: +1 or −1 for each; None: no law."""
    density: float = 1.0
    """Share of the synapses under Dale's law that exist at the start. Below 1, a synapse that is at
    zero does not learn: only `connectivity` brings it back."""
    wiring: Mapping[str, Any] | None = None
    """Lists of synapses (`modprop_jax.Sparse`) in place of matrices, for networks too large for
    these: `{"fan_in": 20.0}` and more, the fields of `Wiring` in `experiments/_wiring.py`: how many
    synapses neurons have, which of them hear inputs, and which the readout sees. None: matrices."""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the task's generators, such as `{"delay": 700}`."""
    batch: int = 32
    eval_every: int = 20
    segment: int | None = None
    """Online learning: `batch` endless streams, an optimizer step (an iteration) after each segment
    of so many time steps. None: each iteration has a batch of sequences of its own."""
    optimizer: Literal["adam", "sgd"] = "adam"
    decay: float = 1.0
    decay_every: int = 1
    l2: float = 0.0
    rate_cost: float = 0.0
    """Spiking cells: the objective also has this times ½ Σ_j (rate_j − `rate_target`)², with each
    neuron's mean rate over steps and trials; it is no part of the loss that is reported."""
    rate_target: float = 0.01
    """In spikes a step."""
    shrink: float = 0.0
    """Dale's law: magnitudes also shrink by this times the learning rate in every step ..."""
    connectivity: float = 0.0
    """... and synapses at zero are revived until this share is not; see `optim.rewire`."""
    mu: float | Literal["auto"] = 0.25
    """ModProp's stand-in for the activation's derivative; "auto" measures it."""
    criterion: float = 0.95
    """Learnt means: accuracy at least this ..."""
    patience: int = 5
    """... at this many evaluations in a row."""
    rules: Sequence[str] | None = None
    """Compared by default; None: those of the cell."""
    seeds: int = 5
    """Networks a rule, by default."""


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
    - `stream`: whether it has no trials and so can be learnt online, from one endless stream
      (`Preset.segment`): `batch` takes `steps`, every step is read, and the loss is a mean over
      steps.
    """

    name: str
    description: str
    out_size: int
    batch: Callable[..., tuple[Array, Array]]
    evaluation: Callable[..., tuple[Array, Array]]
    loss: Callable[[Array, Array], tuple[Array, Array]]
    readout: Literal["last", "every"]
    presets: Mapping[str, Preset]
    score: str = "accuracy"
    floors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stream: bool = False
    validation: tuple[Callable[..., Any], Callable[..., Any]] | None = None

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
        steps = preset.readout_steps or xs.shape[0]
        last = self.readout == "last" and preset.readout_steps is None
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
