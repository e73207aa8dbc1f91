"""Presets in parts: a name says one setting, wherever it is."""

import dataclasses
import json
from typing import Any

import pytest

from modprop_jax.experiments import _schema as schema, METHODS, RULES
from modprop_jax.experiments._config import _COUNTS, _OF_THE_PACKAGES, Config
from modprop_jax.experiments._rules import SETTINGS
from modprop_jax.tasks import Architecture, Objective, Optimizer, Preset, Schedule, TASKS
from modprop_jax.tasks._preset import defaults, FIELDS


PARTS = {
    "network": Architecture,
    "schedule": Schedule,
    "optimizer": Optimizer,
    "objective": Objective,
}
PRESET = Preset(
    network=Architecture(hidden_size=4),
    data={"delay": 3},
    schedule=Schedule(iterations=5),
    optimizer=Optimizer(learning_rate=0.1),
)


def names_in(cls):
    return [field.name for field in dataclasses.fields(cls)]


def test_no_two_parts_share_a_name():
    """So that a setting's name says which is meant."""
    inside = [name for cls in PARTS.values() for name in names_in(cls)]
    beside = [name for name in names_in(Preset) if name not in PARTS]
    assert sorted(FIELDS) == sorted([*inside, *beside])
    assert len(set(inside + beside)) == len(inside + beside)
    for name, (part, field) in FIELDS.items():
        assert field.name == name and name in names_in(Preset if part is None else PARTS[part])


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_is_changed_where_it_is(name):
    part, changed = FIELDS[name][0], PRESET.replace(**{name: "another"})
    assert changed.flat() == PRESET.flat() | {name: "another"}
    before, after = dataclasses.asdict(PRESET), dataclasses.asdict(changed)
    (after if part is None else after[part]).pop(name)
    (before if part is None else before[part]).pop(name)
    assert before == after


def test_settings_of_several_parts_at_once():
    changed = PRESET.replace(batch=2, optimizer="sgd", mu=0.5, criterion=1.0)
    assert changed.schedule == Schedule(iterations=5, batch=2)
    assert changed.optimizer == Optimizer(learning_rate=0.1, optimizer="sgd")
    assert changed.objective == Objective(criterion=1.0) and changed.network == PRESET.network
    assert (changed.mu, changed.data) == (0.5, {"delay": 3})
    assert PRESET.replace() == PRESET
    with pytest.raises(ValueError, match='setting must be .*"hidden_size".* but is .colour.'):
        PRESET.replace(colour="red")


@pytest.mark.usefixtures("without_type_checks")
def test_parts_and_nothing_else():
    names = "network", "schedule", "optimizer"
    parts: dict[str, Any] = {name: getattr(PRESET, name) for name in names}
    for name, kind in PARTS.items():
        with pytest.raises(ValueError, match=f"{name} .* a modprop_jax.tasks.{kind.__name__}, but"):
            Preset(**(parts | {name: {"hidden_size": 4}}))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="hidden_size"):
        Preset(hidden_size=4, iterations=5, learning_rate=0.1)  # pyright: ignore[reportCallIssue]


def test_what_names_settings_names_those_that_are():
    """What rows of a comparison replace, what may be typed with one, what is checked."""
    own = {"rules", "seeds"}  # arguments of their own everywhere
    assert {*_COUNTS, *_OF_THE_PACKAGES} <= {*FIELDS}
    for row in (*RULES.values(), *METHODS.values()):
        assert {*row.settings} <= {*FIELDS} - own
    assert {*SETTINGS} <= {*FIELDS} - own


def test_defaults_are_those_of_the_parts():
    assert defaults("cell_options", "density", "criterion") == {
        "cell_options": {},
        "density": 1.0,
        "criterion": 0.95,
    }
    assert defaults("cell_options")["cell_options"] is not defaults("cell_options")["cell_options"]


def test_a_run_is_read_back_as_it_was_written():
    options = {"learning_rates": [0.01, 0.1], "tune_seeds": 1, "first_seed": 3, "hidden_size": 8}
    made = Config.make("delayed_xor", "small", ["eprop", "bptt"], 2, **options)
    kept = json.loads(json.dumps(made.to_dict()))
    assert kept["settings"]["network"]["hidden_size"] == 8
    again = Config.from_dict(kept)
    assert again == made and again.tune == made.tune and again.rules == ("eprop", "bptt")
    assert isinstance(again.settings.network, Architecture) and again.trains_as(made)
    signs = TASKS["digits"].presets["small"]
    assert schema.from_text(Preset, schema.as_text(signs)) == signs
