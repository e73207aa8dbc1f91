"""What a run is: task, rules, seeds and settings, checked and kept as plain data."""

import dataclasses
import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._rule import AbstractRule
from ..tasks import Preset, Task, TASKS
from ._cells import CELLS, with_cell
from ._names import each_name, known
from ._network import build_network, build_optimizer, cell_types
from ._rules import build_rule, network_of, rule_alone, rule_entry, segment_of, settings_of


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

    @classmethod
    def make(
        cls,
        task: str,
        preset: str,
        rules: Sequence[str] | None,
        seeds: int | None,
        **overrides: Any,
    ) -> "Config":
        """A checked configuration; overrides that are None keep the preset's value.

        `rules`, `seeds`: None for those that are compared by default.
        """
        entry = TASKS[known("task", task, TASKS)]
        settings = entry.presets[known("preset", preset, entry.presets)]
        given = {name: value for name, value in overrides.items() if value is not None}
        for name in given:
            known("setting", name, [field.name for field in dataclasses.fields(Preset)])
        settings = with_cell(settings, given.pop("cell", settings.cell))
        n = given.get("hidden_size", settings.hidden_size)
        if settings.excitatory is not None and "excitatory" not in given:
            # A resized layer keeps its share of excitatory neurons.
            given["excitatory"] = round(settings.excitatory * n / settings.hidden_size)
        settings = dataclasses.replace(settings, **given)
        if rules is None:
            offline, online = CELLS[settings.cell].rules
            rules = settings.rules or (offline if settings.segment is None else online)
        rules, seeds = each_name(rules), settings.seeds if seeds is None else seeds
        _check(settings, rules, seeds)
        created = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        config = cls(task, preset, rules, seeds, settings, environment(), created)
        _check_rules(config)
        return config

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Config":
        data = data | {
            "rules": tuple(data["rules"]),
            "settings": Preset(**data["settings"]),
        }
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def for_rule(self, label: str) -> "Config":
        """With what a rule changes of the settings."""
        settings = dataclasses.replace(self.settings, **settings_of(label))
        return dataclasses.replace(self, settings=settings)

    def rule(self, label: str) -> AbstractRule:
        """The rule of this name, for these settings."""
        settings = self.settings
        defaults = {"mu": settings.mu, "labels": self.entry.out_size}
        return build_rule(rule_alone(label), cell_types(settings), **defaults)

    @property
    def entry(self) -> Task:
        return TASKS[known("task", self.task, TASKS)]


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


def _check(settings: Preset, rules: Sequence[str], seeds: int) -> None:
    counts = {
        "seeds": seeds,
        "iterations": settings.iterations,
        "eval_every": settings.eval_every,
        "batch": settings.batch,
        "hidden_size": settings.hidden_size,
        "learning_rate": settings.learning_rate,
        "segment": 1 if settings.segment is None else settings.segment,
    }
    for name, value in counts.items():
        if not value > 0:
            raise ValueError(f"{name} must be greater than 0, but got {value}.")
    if not rules:
        raise ValueError("no rules given: name at least one, such as --rules bptt.")
    twice = [rule for rule in rules if rules.count(rule) > 1]
    if twice:
        raise ValueError(f"rule {twice[0]!r} is given twice.")


def _check_rules(config: Config) -> None:
    """A ValueError unless the network can be built and every rule serves its cell."""
    task, settings = config.entry, config.settings
    built = {label: config.rule(label) for label in config.rules}
    trained: dict[str, list[str]] = {}
    for label in config.rules:
        trained.setdefault(repr(settings_of(label)), []).append(label)

    def outline(key):
        for labels in trained.values():
            own = config.for_rule(labels[0]).settings
            network = build_network(task, own, key)
            for label in labels:
                built[label].check(network_of(label, network, key).rnn.cell)

    for label in config.rules:
        own = config.for_rule(label).settings
        _check(own, config.rules, config.seeds)
        build_optimizer(own)
    jax.eval_shape(outline, jax.random.key(0))
    if settings.segment is None:
        _check_batches(config)
    else:
        _check_stream(config, settings.segment)


def _check_batches(config: Config) -> None:
    for label in config.rules:
        online = rule_entry(label).online
        if online or segment_of(label, 0):
            why = "learns" if online else "has a segment"
            streams = [name for name, task in TASKS.items() if task.stream]
            raise ValueError(
                f"rule {label!r} {why} on a stream only: give segment=1 (--segment 1), an "
                "optimizer step after each time step, with a task that has no end: "
                f"{', '.join(streams)}."
            )


def _check_stream(config: Config, segment: int) -> None:
    settings, task = config.settings, config.entry
    if not task.stream or settings.readout_steps or settings.rate_cost:
        raise ValueError(
            f"segment={segment} learns from an endless stream, but task {config.task!r} has trials "
            "that end, or a loss that does not read every step: leave segment at None, or take "
            f"one of {', '.join(name for name, each in TASKS.items() if each.stream)}."
        )
    block = settings.eval_every * segment
    for label in config.rules:
        own = segment_of(label, segment)
        total = settings.iterations * segment
        if own % segment or block % own or total % own:
            raise ValueError(
                f"rule {label!r} steps every {own} time steps, which must be a multiple of segment="
                f"{segment} and divide the {block} steps between evaluations and the {total} of "
                "the stream: change eval_every or iterations."
            )
