"""Configurations of run folders, changed as no user would."""

import json
from pathlib import Path
from typing import Any

from modprop_jax.experiments._storage import signed


def unsigned(path: Path) -> dict[str, Any]:
    """What a `config.json` says, without what it says of itself."""
    data = json.loads(path.read_text())
    return {name: value for name, value in data.items() if name not in ("format", "sha256", "kind")}


def resigned(path: Path, kind: str = "compare", **changes: Any) -> str:
    """The same with some fields changed, as if the run had been begun so."""
    return signed(unsigned(path) | changes, kind)
