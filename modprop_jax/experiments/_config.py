"""What a run is: task, rules, seeds and settings, checked and kept as plain data."""

import dataclasses
import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..tasks import Preset, Task, TASKS
from ._catalogue import build_rule, known, with_cell
from ._network import build_network, cell_types


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
        cls, task: str, preset: str, rules: Sequence[str], seeds: int, **overrides: Any
    ) -> "Config":
        """A checked configuration; overrides that are None keep the preset's value."""
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
        _check(settings, rules, seeds)
        _check_rules(entry, settings, rules)
        created = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(task, preset, tuple(rules), seeds, settings, environment(), created)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Config":
        data = data | {
            "rules": tuple(data["rules"]),
            "settings": Preset(**data["settings"]),
        }
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

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
    }
    for name, value in counts.items():
        if not value > 0:
            raise ValueError(f"{name} must be greater than 0, but got {value}.")
    if not rules:
        raise ValueError("no rules given: name at least one, such as --rules bptt.")
    twice = [rule for rule in rules if rules.count(rule) > 1]
    if twice:
        raise ValueError(f"rule {twice[0]!r} is given twice.")


def _check_rules(task: Task, settings: Preset, rules: Sequence[str]) -> None:
    """A ValueError unless the network can be built and every rule serves its cell."""
    built = [build_rule(rule, cell_types(settings), mu=settings.mu) for rule in rules]

    def outline(key):
        cell = build_network(task, settings, key).rnn.cell
        for rule in built:
            rule.check(cell)

    jax.eval_shape(outline, jax.random.key(0))
