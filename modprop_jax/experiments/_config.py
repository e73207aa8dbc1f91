"""What a run is: task, rules, seeds and settings, checked and kept as plain data."""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._rule import AbstractRule
from ..tasks import Architecture, Preset, Task, TASKS
from ..tasks._preset import defaults, FIELDS
from . import _own as own, _schema as schema
from ._cells import CELLS, with_cell
from ._methods import Method
from ._names import each_name, known
from ._network import build_network, build_optimizer, cell_types
from ._own_network import check_network
from ._rules import entry_of, layer_rule, network_of, rule_alone, segment_of, settings_of
from ._tuning import Tuned, Tuning


@dataclasses.dataclass(frozen=True)
class Config:
    """All that a run's results depend on; `settings`: the preset with overrides."""

    task: str
    preset: str
    rules: tuple[str, ...]
    seeds: int
    settings: Preset
    environment: dict[str, Any]
    created: str
    network: str | None = None
    """Somebody's own, by name; None: the preset's."""
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Digests of the files and data that names of one's own are of, as they were when it began."""
    first_seed: int = 0
    tune: Tuning | None = None
    """How each rule gets its learning rate and options; None: from the settings and its name."""
    tuning: bool = False
    """Whether this is the tuning of another run: judged on data which that does not report."""

    @classmethod
    def make(
        cls,
        task: Any,
        preset: str,
        rules: Sequence[str] | None,
        seeds: int | None,
        network: Any = None,
        *,
        first_seed: int = 0,
        learning_rates: str | Sequence[float] | None = None,
        tune: Tuned | None = None,
        tune_seeds: int | None = None,
        **overrides: Any,
    ) -> "Config":
        """A checked configuration; overrides that are None keep the preset's value.

        `rules`, `seeds`: None for those that are compared by default. `task`, `network`: names, or
        what they are names of.
        """
        task = own.name_of(task)
        network = None if network is None else own.name_of(network)
        entry = own.find_task(task)
        settings = entry.presets[known("preset", preset, entry.presets)]
        given = {name: value for name, value in overrides.items() if value is not None}
        for name in given:
            known("setting", name, FIELDS)
        if network is not None:
            settings = _of_training(settings, given, network)
        settings = with_cell(settings, given.pop("cell", settings.network.cell))
        before = settings.network
        n = given.get("hidden_size", before.hidden_size)
        if before.excitatory is not None and "excitatory" not in given:
            # A resized layer keeps its share of excitatory neurons.
            given["excitatory"] = round(before.excitatory * n / before.hidden_size)
        settings = settings.replace(**given)
        if rules is None:
            offline, online = CELLS[settings.network.cell].rules
            rules = settings.rules or (offline if settings.schedule.segment is None else online)
        rules, seeds = each_name(rules), settings.seeds if seeds is None else seeds
        _check(settings, rules, seeds)
        _check_seeds(first_seed, seeds)
        reported = range(first_seed, first_seed + seeds)
        tuning = _tuning(rules, reported, learning_rates, tune, tune_seeds)
        created = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        sources = own.sources(task, network)
        config = cls(
            *(task, preset, rules, seeds, settings, environment(), created, network, sources),
            *(first_seed, tuning),
        )
        _check_rules(config)
        return config

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Config":
        """From `config.json`; a ValueError that names the field for what is none."""
        return schema.read(cls, data)

    def checked(self) -> "Config":
        """Itself; a ValueError where it is one that `make` would not have made."""
        known("preset", self.preset, self.entry.presets)
        known("cell", self.settings.network.cell, CELLS)
        known("precision", self.environment.get("precision", ""), ("float32", "float64"))
        _check(self.settings, self.rules, self.seeds)
        _check_seeds(self.first_seed, self.seeds)
        _check_rules(self)
        return self

    def trains_as(self, other: "Config") -> bool:
        """Whether both say the same, apart from where and when."""
        mine, its = (json.loads(json.dumps(each.to_dict())) for each in (self, other))
        apart = ("environment", "created", "sources")
        return all(mine[name] == its[name] for name in mine if name not in apart)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def for_rule(self, label: str) -> "Config":
        """With what a rule changes of the settings."""
        return dataclasses.replace(self, settings=self.settings.replace(**settings_of(label)))

    def rule(self, label: str) -> AbstractRule:
        """The rule of a row's layers, for these settings."""
        return self.rule_of_types(label, cell_types(self.settings.network))

    def rule_of_types(self, label: str, types: tuple[int, ...]) -> AbstractRule:
        """The rule of a row's layers, for neurons of these cell types."""
        given = {"mu": self.settings.mu, "labels": self.entry.out_size}
        return layer_rule(rule_alone(label), types, **given)

    def of_tuning(self, tune: Tuning) -> "Config":
        """The run that tunes this one: every rule at every rate."""
        labels = tuple(label for rule in self.rules for label in tune.labels(rule))
        return dataclasses.replace(
            self,
            rules=labels,
            seeds=tune.seeds,
            first_seed=tune.first_seed,
            tune=None,
            tuning=True,
        )

    def tuned(self, labels: Mapping[str, str]) -> "Config":
        """With the rules as tuning has chosen them."""
        return dataclasses.replace(self, rules=tuple(labels[rule] for rule in self.rules))

    @property
    def entry(self) -> Task:
        task = own.find_task(self.task)
        return task.of_tuning() if self.tuning else task


def environment() -> dict[str, Any]:
    """Versions, device and precision."""
    packages = ("modprop_jax", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in packages},
        "platform": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "precision": jnp.result_type(float).name,
        "matmul_precision": getattr(jax.config, "jax_default_matmul_precision"),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


_COUNTS = (
    *("seeds", "iterations", "eval_every", "batch", "hidden_size", "learning_rate"),
    *("decay_every", "patience", "segment", "readout_steps", "readout_tau", "clip"),
)


def _check(settings: Preset, rules: Sequence[str], seeds: int) -> None:
    given = settings.flat() | {"seeds": seeds}
    for name in _COUNTS:
        value = given[name]
        if value is None:  # an option that is not taken
            continue
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be greater than 0, but got {value}.")
        if name not in ("learning_rate", "readout_tau", "clip") and value >= 2**31:
            raise ValueError(f"{name} must be less than 2³¹, but got {value}.")
    density, schedule = settings.network.density, settings.schedule
    if not 0 < density <= 1:
        raise ValueError(f"density is a share, above 0 up to 1, but got {density}.")
    if schedule.iterations * (schedule.segment or 1) >= 2**31:
        raise ValueError(
            f"a stream has less than 2³¹ steps, but got iterations={schedule.iterations} of "
            f"{schedule.segment}."
        )
    if not rules:
        raise ValueError("no rules given: name at least one, such as --rules bptt.")
    twice = [rule for rule in rules if rules.count(rule) > 1]
    if twice:
        raise ValueError(f"rule {twice[0]!r} is given twice.")


def _check_seeds(first: int, seeds: int) -> None:
    if not 0 <= first < first + seeds <= 2**31 - 1:
        raise ValueError(f"seeds are numbers from 0 to 2³¹ − 2, but got {seeds} from {first} on.")


def _tuning(
    rules: Sequence[str],
    reported: range,
    rates: str | Sequence[float] | None,
    options: Tuned | None,
    seeds: int | None,
) -> Tuning | None:
    if rates is None and not options:
        if seeds is not None:
            raise ValueError(f"tune_seeds={seeds} is for tuning: give learning_rates or tune too.")
        return None
    # far from those that anybody reports
    first = 1_000_000
    return Tuning.make(rules, rates, options, 3 if seeds is None else seeds, first, reported)


# what a network of one's own has in its own way, or not at all
_OF_THE_PACKAGES = (
    *(field.name for field in dataclasses.fields(Architecture) if field.name != "hidden_size"),
    *("shrink", "connectivity", "rate_cost", "rate_target"),
)


def _of_training(settings: Preset, given: Mapping[str, Any], network: str) -> Preset:
    """What of a preset is left where the network is somebody's own."""
    for name in given:
        if name in _OF_THE_PACKAGES:
            raise ValueError(
                f"{name}={given[name]} is of the package's networks, but this one is {network}: "
                "say it there."
            )
    return settings.replace(**defaults(*_OF_THE_PACKAGES))


def _check_rules(config: Config) -> None:
    """A ValueError unless the network can be built and every rule serves its cell, in every trial
    of a tuning too."""
    _check_each(config)
    if config.tune is not None:
        if not all(map(config.tune.trials, config.rules)):
            raise ValueError("tune has an option without values.")
        trials = config.of_tuning(config.tune)
        for label in trials.rules:
            _check(trials.for_rule(label).settings, trials.rules, trials.seeds)
        # rates and the like are numbers, which have been looked at
        alone = tuple(dict.fromkeys(map(rule_alone, trials.rules)))
        if not {*alone} <= {*map(rule_alone, config.rules)}:
            _check_each(dataclasses.replace(trials, rules=alone))


def _check_each(config: Config) -> None:
    task, settings, segment = config.entry, config.settings, config.settings.schedule.segment
    for label in config.rules:
        mine = config.for_rule(label).settings
        _check(mine, config.rules, config.seeds)
        build_optimizer(mine)
    if config.network is not None:
        for label in config.rules:
            if isinstance(entry_of(label), Method):
                raise ValueError(
                    f"{label!r} makes a network of its own out of the package's, so that it can't "
                    f"train {config.network}: leave one of the two out."
                )
        if segment is None:
            _check_batches(config)
        else:
            _check_stream(config, segment)
        rules = [functools.partial(config.rule_of_types, label) for label in config.rules]
        check_network(config.network, task, settings, rules)
        return
    built = {label: config.rule(label) for label in config.rules}
    trained: dict[str, list[str]] = {}
    for label in config.rules:
        trained.setdefault(repr(settings_of(label)), []).append(label)

    def outline(key):
        for labels in trained.values():
            network = build_network(task, config.for_rule(labels[0]).settings, key)
            for label in labels:
                built[label].check(network_of(label, network, key).rnn.cell)

    jax.eval_shape(outline, jax.random.key(0))
    if segment is None:
        _check_batches(config)
    else:
        _check_stream(config, segment)


def _check_batches(config: Config) -> None:
    for label in config.rules:
        online = entry_of(label).online
        if online or segment_of(label, 0):
            why = "learns" if online else "has a segment"
            streams = [name for name, task in TASKS.items() if task.stream]
            raise ValueError(
                f"rule {label!r} {why} on a stream only: give segment=1 (--segment 1), an "
                "optimizer step after each time step, with a task that has no end: "
                f"{', '.join(streams)}."
            )


def _check_stream(config: Config, segment: int) -> None:
    task, schedule = config.entry, config.settings.schedule
    objective = config.settings.objective
    if not task.stream or objective.readout_steps or objective.rate_cost:
        raise ValueError(
            f"segment={segment} learns from an endless stream, but task {config.task!r} has trials "
            "that end, or a loss that does not read every step: leave segment at None, or take "
            f"one of {', '.join(name for name, each in TASKS.items() if each.stream)}, or a "
            "function (key, batch, steps) of your own with stream = True."
        )
    block = schedule.eval_every * segment
    for label in config.rules:
        own = segment_of(label, segment)
        total = schedule.iterations * segment
        if own % segment or block % own or total % own:
            raise ValueError(
                f"rule {label!r} steps every {own} time steps, which must be a multiple of segment="
                f"{segment} and divide the {block} steps between evaluations and the {total} of "
                "the stream: change eval_every or iterations."
            )
