"""What a run of `align` is: the training that `compare` knows, and what to measure on its way.

`AlignConfig` is of networks that train in batches, `StreamAlignConfig` of those that learn online.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ..tasks import Preset, TASKS
from . import _schema as schema
from ._cells import CELLS
from ._config import Config
from ._names import each_name, known
from ._network import cell_types
from ._rules import rule_alone, rule_entry, segment_of


# Parts of a stream, each with its means and its checkpoint. The first sixth is left out of tables.
BLOCKS = 24
# The presets' learning rates are Adam's; those of plain SGD are so many times larger.
SGD_FACTOR = 20
# The sweep trains at these multiples of the learning rate.
FACTORS = (0.5, 1.0, 2.0)
OPTIMIZERS = ("sgd", "adam")


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """All that the results depend on; `run` is what `compare` would keep."""

    run: Config
    optimizer: str
    checkpoints: int
    measure: int
    noise: float
    sweep: bool
    limit: tuple[int, ...] = ()

    @classmethod
    def make(
        cls,
        task: str,
        preset: str,
        rules: Sequence[str] | None,
        seeds: int,
        *,
        optimizer: str = "sgd",
        checkpoints: int = 6,
        measure: int = 256,
        noise: float = 0.2,
        sweep: bool = False,
        limit: Sequence[int] = (),
        **overrides: Any,
    ) -> "AlignConfig":
        """A checked configuration; overrides that are None keep the preset's value."""
        run = Config.make(task, preset, rules, seeds, **overrides)
        made = cls(run, optimizer, checkpoints, measure, noise, sweep, tuple(limit)).checked()
        changes: dict[str, Any] = {
            "eval_every": math.ceil(run.settings.iterations / (checkpoints - 1))
        }
        if optimizer == "sgd":
            changes["decay"] = 1.0  # a constant rate, so that its bound is one line
            if overrides.get("learning_rate") is None:
                changes["learning_rate"] = SGD_FACTOR * run.settings.learning_rate
        run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, **changes))
        return dataclasses.replace(made, run=run)

    def checked(self) -> "AlignConfig":
        """Itself; a ValueError for what can't be measured."""
        known("optimizer", self.optimizer, OPTIMIZERS)
        if self.checkpoints < 2:
            raise ValueError(
                f"checkpoints must be at least 2 (start, end), but got {self.checkpoints}."
            )
        if self.measure < 1 or not self.noise > 0:
            raise ValueError(
                "measure and noise must be greater than 0, but got "
                f"measure={self.measure}, noise={self.noise}."
            )
        if self.sweep and self.optimizer != "sgd":
            raise ValueError(
                "--sweep matches learning rates by ρη, which is about plain SGD: use it with "
                "--optimizer sgd."
            )
        if self.limit:
            self._check_limit()
        if self.run.settings.segment is not None:
            raise ValueError(
                f"preset {self.run.preset!r} of {self.run.task!r} learns online: follow it with "
                "align_stream, or take a preset without a segment."
            )
        for label in self.run.rules:
            if rule_alone(label) != label:
                raise ValueError(
                    f"rule {label!r} trains in a way of its own, but align trains all rules alike: "
                    f"say {rule_alone(label)!r}, and settings that are for all of them."
                )
        return self

    def _check_limit(self) -> None:
        cell, counts = self.run.settings.cell, self.limit
        if CELLS[cell].synapses != "neurons":
            raise ValueError(
                f"limit is of filters between neurons, but cell {cell!r} has none: leave it out."
            )
        least, most = max(cell_types(self.run.settings)) + 1, self.run.settings.hidden_size
        if min(counts) < least or max(counts) > most or len(set(counts)) < len(counts):
            raise ValueError(
                f"limit must be different numbers of cell types, from the {least} of the network "
                f"to its {most} neurons, but is {list(counts)}."
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "AlignConfig":
        """From `config.json`; a ValueError that names the field for what is none."""
        made = cls(*_parts(cls, data))
        return dataclasses.replace(made, limit=tuple(made.limit))

    def options(self) -> dict[str, Any]:
        """Everything but `run`."""
        fields = [field.name for field in dataclasses.fields(self) if field.name != "run"]
        return {name: getattr(self, name) for name in fields}

    @property
    def settings(self) -> Preset:
        """Sizes and schedule, with overrides."""
        return self.run.settings

    @property
    def measured(self) -> tuple[str, ...]:
        """The rules whose gradients are compared on every network: the run's, and BPTT."""
        rules = self.run.rules
        return rules if "bptt" in rules else (*rules, "bptt")

    @property
    def swept(self) -> tuple[tuple[str, float], ...]:
        """Rule and multiple of the learning rate of each comparison of the sweep."""
        rules = [rule for rule in self.run.rules if rule != "bptt"]
        return tuple((rule, f) for rule in rules for f in FACTORS) if self.sweep else ()


@dataclasses.dataclass(frozen=True)
class StreamAlignConfig:
    """All that the results on a stream depend on; the learner is among the rules of `run`."""

    run: Config
    learner: str
    blocks: int

    @classmethod
    def make(
        cls,
        task: str,
        preset: str,
        rules: Sequence[str] | None,
        seeds: int,
        *,
        learner: str | None = None,
        **overrides: Any,
    ) -> "StreamAlignConfig":
        """A checked configuration; overrides that are None keep the preset's value.

        `rules`: None for those of the cell. `learner`: None for rtrl where it is among the rules,
        else the first of them.
        """
        cell = overrides.get("cell") or _preset(task, preset).cell
        chosen = stream_rules(cell) if rules is None else each_name(rules)
        if learner is None:
            learner = "rtrl" if "rtrl" in chosen else next(iter(chosen), "")
        elif learner not in chosen:
            chosen = (learner, *chosen)
        run = Config.make(task, preset, chosen, seeds, **overrides)
        return cls(run, learner, BLOCKS).checked()

    def checked(self) -> "StreamAlignConfig":
        """Itself; a ValueError where rules can't be followed on one network."""
        run = self.run
        known("learner", self.learner, run.rules)
        for rule in run.rules:
            # how error comes back can be the preset's; an optimizer of its own can't be shared
            if set(rule_entry(rule).settings) - {"feedback"} or rule_alone(rule) != rule:
                raise ValueError(
                    f"rule {rule!r} trains a network of its own, but here all rules share one: "
                    "leave it out."
                )
        steps = [run.settings.segment, *(segment_of(rule, 1) for rule in run.rules)]
        if steps[0] is None:
            raise ValueError(
                f"preset {run.preset!r} of {run.task!r} trains in batches: follow it with align, "
                "or take a preset with segment=1."
            )
        if set(steps) != {1}:
            raise ValueError(
                "align compares the gradients of single steps of a stream, so every segment must "
                f"be 1, but got {steps[0]}, and {steps[1:]} of the rules."
            )
        if self.blocks != BLOCKS:
            raise ValueError(f"a stream has {BLOCKS} blocks, but got {self.blocks}.")
        return self

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "StreamAlignConfig":
        """From `config.json`; a ValueError that names the field for what is none."""
        return cls(*_parts(cls, data))

    def options(self) -> dict[str, Any]:
        """Everything but `run`."""
        return {"learner": self.learner, "blocks": self.blocks}

    @property
    def settings(self) -> Preset:
        """Sizes and schedule, with overrides."""
        return self.run.settings

    @property
    def left_out(self) -> int:
        """Blocks at the start that tables leave out."""
        return self.blocks // 6


def _parts(cls: type, data: dict[str, Any]) -> list[Any]:
    """Of what `config.json` has, the fields in order."""
    given = dict(data)
    options = given.pop("align", None)
    run = Config.from_dict(given)
    if not isinstance(options, dict):
        raise ValueError(f"align must be an object, but is {options!r}")
    schema.check(cls, {"run": run.to_dict(), **options})
    fields = dataclasses.fields(cls)[1:]
    return [run, *(options.get(field.name, field.default) for field in fields)]


def learns_online(task: str, preset: str) -> bool:
    """Whether a task's preset learns from a stream."""
    return _preset(task, preset).segment is not None


def stream_rules(cell: str) -> tuple[str, ...]:
    """By default on streams, where all rules share a network: those with a gradient of it."""
    online = CELLS[known("cell", cell, CELLS)].rules[1]
    return tuple(rule for rule in online if rule not in ("readout_only", "force"))


def sweep_labels(rule: str, factor: float) -> tuple[str, str]:
    """Names of a comparison's two runs: the rule's, and BPTT's at the matched rate."""
    return f"{rule} x{factor:g}", f"bptt for {rule} x{factor:g}"


def _preset(task: str, name: str) -> Preset:
    presets = TASKS[known("task", task, TASKS)].presets
    return presets[known("preset", name, presets)]
