"""Configurations of run folders, changed as no user would."""

import json
from pathlib import Path
from typing import Any

from modprop_jax.experiments._storage import RunFolder, signed
from modprop_jax.experiments._train import State
from modprop_jax.tasks._preset import FIELDS


def unsigned(path: Path) -> dict[str, Any]:
    """What a `config.json` says, without what it says of itself."""
    data = json.loads(path.read_text())
    return {name: value for name, value in data.items() if name not in ("format", "sha256", "kind")}


def altered(path: Path, **settings: Any) -> dict[str, Any]:
    """The settings of a `config.json`, in their parts, with some changed by name."""
    found = unsigned(path)["settings"]
    for name, value in settings.items():
        part, _ = FIELDS.get(name, (None, None))
        (found if part is None else found[part])[name] = value
    return found


def resigned(path: Path, kind: str = "compare", **changes: Any) -> str:
    """The same with some fields changed, as if the run had been begun so."""
    return signed(unsigned(path) | changes, kind)


def cut_back(path: Path, rule: str, state: State) -> None:
    """A finished run's folder, as a kill after the evaluation of this state would have left it."""
    folder = RunFolder(path)
    for text in (path / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["rule"] == rule and line["iteration"] <= int(state.iteration):
            folder._hashed(rule).update(text.encode())
    folder.save_state(rule, state)
