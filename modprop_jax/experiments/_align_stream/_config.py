"""What a run of `align_stream` is: the rules, and the one that trains the network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ...tasks import Preset, TASKS
from .._align._config import parts_of
from .._cells import CELLS
from .._config import Config
from .._methods import Method
from .._names import each_name, known
from .._rules import entry_of, rule_alone, segment_of


# Parts of a stream, each with its means and its checkpoint. The first sixth is left out of tables.
BLOCKS = 24


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
        cell = overrides.get("cell") or _preset(task, preset).network.cell
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
            entry = entry_of(rule)
            # how error comes back can be the preset's; an optimizer of its own can't be shared
            apart = isinstance(entry, Method) or set(entry.settings) - {"feedback"}
            if apart or rule_alone(rule) != rule:
                raise ValueError(
                    f"rule {rule!r} trains a network of its own, but here all rules share one: "
                    "leave it out."
                )
        steps = [run.settings.schedule.segment, *(segment_of(rule, 1) for rule in run.rules)]
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
        return cls(*parts_of(cls, data))

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


def learns_online(task: str, preset: str) -> bool:
    """Whether a task's preset learns from a stream."""
    return _preset(task, preset).schedule.segment is not None


def stream_rules(cell: str) -> tuple[str, ...]:
    """By default on streams, where all rules share a network: those with a gradient of it."""
    online = CELLS[known("cell", cell, CELLS)].rules[1]
    return tuple(rule for rule in online if rule != "readout_only")


def _preset(task: str, name: str) -> Preset:
    presets = TASKS[known("task", task, TASKS)].presets
    return presets[known("preset", name, presets)]
