"""A run's folder, written so that a run killed at any moment can go on."""

import contextlib
import datetime
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import equinox as eqx

from ._config import Config
from ._processes import leads, said_by_first, whole
from ._train import State


class RunFolder:
    """The files of one run: configuration, metrics, checkpoints, table and curves.

    Whole files are replaced atomically. `metrics.jsonl` grows by a line per evaluation,
    on disk before the checkpoint of the same iteration is; `load_metrics` cuts what a
    kill left beyond it. Of several processes the first one reads and writes, and tells the
    others.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(
        cls, config: Config, out: str | os.PathLike | None, **more: dict[str, Any]
    ) -> "RunFolder":
        """A new folder: `out`, or one under `runs/` named after task and time.

        `more` goes into `config.json` too, under the name of the command that it belongs to.
        """
        if out is None:
            now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            path = base = Path("runs", f"{config.entry.name}-{config.preset}-{now}")
            again = 2
            while path.exists():
                path, again = base.with_name(f"{base.name}-{again}"), again + 1
        else:
            path = Path(out)
        if said_by_first(b"" if (path / "config.json").exists() else None) is not None:
            raise ValueError(
                f"{path} holds a run already: continue it with --resume {path}, or "
                "name another folder with --out."
            )
        folder = cls(path)
        if leads():
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        folder.write("config.json", json.dumps(config.to_dict() | more, indent=2) + "\n")
        return folder

    def load_config(self) -> Config:
        data = self.read_config()
        if "align" in data:
            raise ValueError(
                f"{self.path} holds a run of align: continue it with "
                f"`modprop-jax align --resume {self.path}`."
            )
        return Config.from_dict(data)

    def read_config(self) -> dict[str, Any]:
        """What `create` wrote."""
        content = self.read("config.json")
        if content is None:
            raise ValueError(f"{self.path} holds no run: there is no config.json in it.")
        return json.loads(content)

    def read(self, name: str) -> bytes | None:
        """A file's content, None if there is no such file."""
        path = self.path / name
        return said_by_first(path.read_bytes() if leads() and path.exists() else None)

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file as a whole: a kill leaves the old one or the new one."""
        if not leads():
            return
        target = self.path / name
        temporary = target.with_name(f".{target.name}.tmp")
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        with contextlib.suppress(OSError):  # not every platform opens directories
            directory = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def append_metrics(self, line: dict[str, Any]) -> None:
        if not leads():
            return
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def load_metrics(self, reached: dict[str, int]) -> list[dict[str, Any]]:
        """The lines up to where each rule's checkpoint `reached`; drops the others."""
        kept = []
        for text in (self.read("metrics.jsonl") or b"").decode().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # cut short by a kill
                continue
            if line["iteration"] <= reached.get(line["rule"], -1):
                kept.append(line)
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        return kept

    def save_state(self, rule: str, state: State) -> None:
        buffer = io.BytesIO()
        eqx.tree_serialise_leaves(buffer, whole(state))
        self.write(_checkpoint(rule), buffer.getvalue())

    def load_state(self, rule: str, like: State) -> State | None:
        """The rule's last checkpoint, or None if it has none yet."""
        content = self.read(_checkpoint(rule))
        return None if content is None else eqx.tree_deserialise_leaves(io.BytesIO(content), like)


def _checkpoint(rule: str) -> str:
    return f"checkpoints/{re.sub('[^A-Za-z0-9_.=-]', '-', rule)}.eqx"
