"""What a run of `align` is: the training that `compare` knows, and what to measure on its way."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ...tasks import Preset
from .. import _schema as schema
from .._cells import CELLS
from .._config import Config
from .._names import known
from .._network import cell_types
from .._rules import rule_alone


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
            "eval_every": math.ceil(run.settings.schedule.iterations / (checkpoints - 1))
        }
        if optimizer == "sgd":
            changes["decay"] = 1.0  # a constant rate, so that its bound is one line
            if overrides.get("learning_rate") is None:
                changes["learning_rate"] = SGD_FACTOR * run.settings.optimizer.learning_rate
        run = dataclasses.replace(run, settings=run.settings.replace(**changes))
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
        if self.run.settings.schedule.segment is not None:
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
        network, counts = self.run.settings.network, self.limit
        cell = network.cell
        if CELLS[cell].synapses != "neurons":
            raise ValueError(
                f"limit is of filters between neurons, but cell {cell!r} has none: leave it out."
            )
        least, most = max(cell_types(network)) + 1, network.hidden_size
        if min(counts) < least or max(counts) > most or len(set(counts)) < len(counts):
            raise ValueError(
                f"limit must be different numbers of cell types, from the {least} of the network "
                f"to its {most} neurons, but is {list(counts)}."
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "AlignConfig":
        """From `config.json`; a ValueError that names the field for what is none."""
        made = cls(*parts_of(cls, data))
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


def parts_of(cls: type, data: dict[str, Any]) -> list[Any]:
    """Of what `config.json` has, the fields in order."""
    given = dict(data)
    options = given.pop("align", None)
    run = Config.from_dict(given).checked()
    if not isinstance(options, dict):
        raise ValueError(f"align must be an object, but is {options!r}")
    schema.check(cls, {"run": run.to_dict(), **options})
    fields = dataclasses.fields(cls)[1:]
    return [run, *(options.get(field.name, field.default) for field in fields)]


def sweep_labels(rule: str, factor: float) -> tuple[str, str]:
    """Names of a comparison's two runs: the rule's, and BPTT's at the matched rate."""
    return f"{rule} x{factor:g}", f"bptt for {rule} x{factor:g}"
