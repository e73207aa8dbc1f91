"""A run's folder, written so that a run killed at any moment can go on, and read with suspicion."""

import contextlib
import datetime
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._checkpoint import packed, unpacked
from ._config import Config
from ._files import Files, FolderFault
from ._processes import leads, said_by_first, whole
from ._train import State


FORMAT = 4
"""Of folders; what another version wrote is not read."""


class RunFolder(Files):
    """The files of one run: configuration, metrics, checkpoints, table and curves.

    Whole files are replaced atomically. `metrics.jsonl` grows by a line per evaluation,
    on disk before the checkpoint of the same iteration is; `load_metrics` cuts what a
    kill left beyond it. Of several processes the first one reads and writes, and tells the
    others.

    What was changed in between is found: `config.json` carries a checksum of itself, a checkpoint
    one of its arrays and one of its rule's lines in `metrics.jsonl`. Nothing here is unpickled, and
    nothing is read or written through a link (`Files`).
    """

    def __init__(self, path: Path):
        Files.__init__(self, path)
        self._lines: dict[str, Any] = {}

    @classmethod
    def create(
        cls, config: Config, out: str | os.PathLike | None, *, kind: str = "compare", **more: Any
    ) -> "RunFolder":
        """A new folder: `out`, or one under `runs/` named after task and time.

        `kind`: what its run is of. `more` goes into `config.json` too.
        """
        if out is None:
            now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            path = base = Path("runs", f"{config.entry.name}-{config.preset}-{now}")
            again = 2
            while path.exists():
                path, again = base.with_name(f"{base.name}-{again}"), again + 1
        else:
            path = Path(out)
        folder, taken = cls(path), (path / "config.json").exists
        occupied = (
            f"{path} holds a run already: continue it with --resume {path}, or name another folder "
            "with --out."
        )
        if said_by_first(b"" if taken() else None) is not None:
            raise ValueError(occupied)
        if leads():
            try:
                folder.at("checkpoints").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"{path} can't be made a run's folder ({error.strerror}): name another with "
                    "--out."
                ) from error
        with folder.locked():
            if leads() and taken():  # by another process, since
                raise ValueError(occupied)
            folder.write("config.json", signed(config.to_dict() | more, kind))
        return folder

    def within(self, name: str) -> "RunFolder":
        """A run's folder inside of this one."""
        return RunFolder(self.at(name))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While it is written: a second process that comes is told so."""
        if leads() and not self.at("checkpoints").is_dir():
            raise FolderFault(
                f"{self.path} lacks the folder checkpoints, without which all would begin anew: "
                f"put it back, or {ANEW}"
            )
        with Files.locked(self):
            yield

    def read_config(self, *kinds: str) -> tuple[str, dict[str, Any]]:
        """Of which of these kinds the run is, and what `create` wrote."""
        content = self.read("config.json")
        file = self.path / "config.json"
        if content is None:
            raise FolderFault(f"{self.path} holds no run: there is no config.json in it.")
        try:
            data = json.loads(content)
            digest = digest_of(data)
        except (ValueError, RecursionError) as error:
            raise FolderFault(f"{file} is no JSON: {ANEW}") from error
        if not isinstance(data, dict):
            raise FolderFault(f"{file} is no object: {ANEW}")
        found = data.pop("format", None)
        if found != FORMAT:
            raise FolderFault(
                f"{file} is of format {found if isinstance(found, int) else 1}, and this version "
                f"of modprop_jax reads {FORMAT}: continue it with the version that began it "
                f"({_version(data)}), or {ANEW}"
            )
        if data.pop("sha256", None) != digest:
            raise FolderFault(f"{file} was changed after the run began: put it back, or {ANEW}")
        kind = data.pop("kind", None)
        if kind not in kinds:
            command = "compare" if kind == "compare" else "align"
            raise FolderFault(
                f"{self.path} holds a run of {kind}: continue it with "
                f"`modprop-jax {command} --resume {self.path}`."
            )
        return kind, data

    def load_config(self, kind: str = "compare") -> Config:
        """The configuration of a run of this kind, checked."""
        _, data = self.read_config(kind)
        with self.reading_config():
            return Config.from_dict(data).checked()

    @contextlib.contextmanager
    def reading_config(self) -> Iterator[None]:
        """What is wrong in here is wrong in `config.json`."""
        try:
            yield
        except FolderFault:
            raise
        except (ValueError, TypeError, KeyError, ArithmeticError) as error:
            raise FolderFault(f"{self.path / 'config.json'}: {error}") from error

    def append_metrics(self, line: dict[str, Any]) -> None:
        text = json.dumps(line)
        self._hashed(line["rule"]).update(text.encode())
        self.append("metrics.jsonl", text + "\n")

    def load_metrics(self, reached: dict[str, tuple[int, str]]) -> list[dict[str, Any]]:
        """The lines up to where each rule's checkpoint `reached`, if they have the digest that it
        has of them; drops the others."""
        self._lines = {}
        file, kept, texts = self.path / "metrics.jsonl", [], []
        lines = (self.read("metrics.jsonl") or b"").split(b"\n")
        for number, text in enumerate(lines, start=1):
            try:
                line = json.loads(text)
                rule, iteration = line["rule"], line["iteration"]
                counts = rule in reached and iteration <= reached[rule][0]
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if number >= len(lines):  # nothing, or cut short by a kill
                    continue
                raise FolderFault(f"{file}, line {number}, is no record: {ANEW}") from error
            if counts:
                kept.append(line)
                texts.append(text)
                self._hashed(rule).update(text)
        for rule, (_, digest) in reached.items():
            if self._hashed(rule).hexdigest() != digest:
                raise FolderFault(
                    f"{file}: the lines of {rule} are not those that were written: put the file "
                    f"back, or {ANEW}"
                )
        self.write("metrics.jsonl", b"".join(text + b"\n" for text in texts))
        return kept

    def save_state(self, rule: str, state: State) -> None:
        lines = self._hashed(rule).hexdigest()
        self.write(_checkpoint(rule), packed(rule, whole(state), lines, FORMAT))

    def load_state(self, rule: str, like: State, iterations: int) -> tuple[State, str] | None:
        """The rule's last checkpoint, of at most so many iterations, and the digest of its lines in
        `metrics.jsonl`; None if it has none yet."""
        content = self.read(_checkpoint(rule))
        if content is None:
            return None
        file = self.path / _checkpoint(rule)
        return unpacked(content, rule, like, iterations, FORMAT, file)

    def _hashed(self, rule: str) -> Any:
        """Of the rule's lines so far."""
        return self._lines.setdefault(rule, hashlib.sha256())


ANEW = "begin the run anew in another folder."


def signed(data: dict[str, Any], kind: str = "compare") -> str:
    """`config.json`, with the checksum of what it says."""
    data = json.loads(json.dumps(data)) | {"kind": kind}
    return json.dumps(data | {"format": FORMAT, "sha256": digest_of(data)}, indent=2) + "\n"


def digest_of(data: Any) -> str:
    """Of what a JSON object says, without what it says of itself."""
    if isinstance(data, dict):
        data = {name: value for name, value in data.items() if name not in ("format", "sha256")}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _version(data: dict[str, Any]) -> str:
    """Of the package that began a run, as it says."""
    try:
        return f"modprop_jax {data['environment']['versions']['modprop_jax']}"
    except (KeyError, TypeError):
        return "unknown"


def _checkpoint(rule: str) -> str:
    return f"checkpoints/{re.sub('[^A-Za-z0-9_.=-]', '-', rule)}.eqx"
