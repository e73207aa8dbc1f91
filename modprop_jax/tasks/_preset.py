"""What is tried on a task: a network, data, a schedule, an optimizer, an objective.

Plain numbers and strings only, so that a run's `config.json` can hold all of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .. import _arguments as arguments
from .._readout import Feedback


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The network of a preset, and how its weights start."""

    hidden_size: int
    cell: str = "leaky"
    """A name of `modprop_jax.experiments.CELLS`."""
    cell_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further keyword arguments of the cell, such as `{"tau": 100.0}`."""
    readout_tau: float | None = None
    """The readout sees the emission through a leak exp(−1 / `readout_tau`), in steps; None: plain.
    """
    scale_readout: bool = False
    """The leaky readout takes in 1 − leak of the emission; else all of it."""
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


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a network learns, from how much at a time, and when it is evaluated."""

    iterations: int
    """Optimizer steps."""
    batch: int = 32
    eval_every: int = 20
    segment: int | None = None
    """Online learning: `batch` endless streams, an optimizer step (an iteration) after each segment
    of so many time steps. None: each iteration has a batch of sequences of its own."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What becomes of a gradient.

    The learning rate at iteration `i` is `learning_rate * decay ** (i // decay_every)`.
    """

    learning_rate: float
    optimizer: Literal["adam", "sgd"] = "adam"
    decay: float = 1.0
    decay_every: int = 1
    clip: float | None = None
    """A gradient whose norm, over all parameters, is more than this is scaled down to it; None: as
    it is. The term of `l2` comes after."""
    shrink: float = 0.0
    """Dale's law: magnitudes also shrink by this times the learning rate in every step ..."""
    connectivity: float = 0.0
    """... and synapses at zero are revived until this share is not; see `optim.rewire`."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is learnt: the task's loss + `l2` · ½ Σ‖W‖² over the input, recurrent and readout
    weights; and when it counts as learnt."""

    readout_steps: int | None = None
    """The loss reads so many steps at the end; None: what the task says."""
    l2: float = 0.0
    rate_cost: float = 0.0
    """Spiking cells: the objective also has this times ½ Σ_j (rate_j − `rate_target`)², with each
    neuron's mean rate over steps and trials; it is no part of the loss that is reported."""
    rate_target: float = 0.01
    """In spikes a step."""
    criterion: float = 0.95
    """Learnt means: accuracy at least this ..."""
    patience: int = 5
    """... at this many evaluations in a row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """One experiment on a task, in parts; and what it compares unless it is told.

    A setting is a field of a part, or one of the others here. No two have the same name, so that
    `compare(..., batch=8)` and `--batch 8` say which is meant.
    """

    network: Architecture
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the task's generators, such as `{"delay": 700}`."""
    schedule: Schedule
    optimizer: Optimizer
    objective: Objective = Objective()
    mu: float | Literal["auto"] = 0.25
    """ModProp's stand-in for the activation's derivative; "auto" measures it."""
    rules: Sequence[str] | None = None
    """Compared by default; None: those of the cell."""
    seeds: int = 5
    """Networks a rule, by default."""

    def __post_init__(self):
        for name, kind in _PARTS.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ValueError(
                    f"{name} of a Preset must be a modprop_jax.tasks.{kind.__name__}, but is "
                    f"{arguments.shown(value)}."
                )

    def flat(self) -> dict[str, Any]:
        """All settings by name, in whichever part they are."""
        return {name: getattr(_within(self, part), name) for name, (part, _) in FIELDS.items()}

    def replace(self, **settings: Any) -> "Preset":
        """With some settings changed, by name, in whichever part they are.

        A part as a whole: `dataclasses.replace(preset, objective=Objective())`.

        **Raises:** `ValueError` for a name that is none.
        """
        changed: dict[str | None, dict[str, Any]] = {}
        for name, value in settings.items():
            part, _ = FIELDS[arguments.choice("setting", name, tuple(FIELDS))]
            changed.setdefault(part, {})[name] = value
        own = changed.pop(None, {})
        for part, each in changed.items():
            own[str(part)] = dataclasses.replace(_within(self, part), **each)
        return dataclasses.replace(self, **own)


def defaults(*names: str) -> dict[str, Any]:
    """What these settings are where a preset does not say."""
    found = {}
    for name in names:
        _, field = FIELDS[name]
        made = field.default_factory
        found[name] = field.default if made is dataclasses.MISSING else made()
    return found


def _within(preset: Preset, part: str | None) -> Any:
    return preset if part is None else getattr(preset, part)


_PARTS: dict[str, Any] = {
    field.name: field.type
    for field in dataclasses.fields(Preset)
    if dataclasses.is_dataclass(field.type)
}
FIELDS: dict[str, tuple[str | None, Any]] = {
    field.name: (part, field)
    for part, cls in [*_PARTS.items(), (None, Preset)]
    for field in dataclasses.fields(cls)
    if part is not None or field.name not in _PARTS
}
"""Each setting's part (None: the preset itself) and field, by name."""
