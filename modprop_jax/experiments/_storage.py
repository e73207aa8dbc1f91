"""A run's folder, written so that a run killed at any moment can go on, and read with suspicion."""

import contextlib
import datetime
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._config import Config
from ._processes import leads, said_by_first, whole
from ._train import State


FORMAT = 2
"""Of folders; what another version wrote is not read."""


class FolderFault(ValueError):
    """A folder that a run can't go on from: which file, what is wrong, and the way out."""


class RunFolder:
    """The files of one run: configuration, metrics, checkpoints, table and curves.

    Whole files are replaced atomically. `metrics.jsonl` grows by a line per evaluation,
    on disk before the checkpoint of the same iteration is; `load_metrics` cuts what a
    kill left beyond it. Of several processes the first one reads and writes, and tells the
    others.

    What was changed in between is found: `config.json` carries a checksum of itself, a checkpoint
    one of its arrays and one of its rule's lines in `metrics.jsonl`. Nothing here is unpickled, and
    nothing is read or written through a link.
    """

    def __init__(self, path: Path):
        self.path = path
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
        if said_by_first(b"" if (path / "config.json").exists() else None) is not None:
            raise ValueError(
                f"{path} holds a run already: continue it with --resume {path}, or "
                "name another folder with --out."
            )
        folder = cls(path)
        if leads():
            try:
                folder.at("checkpoints").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"{path} can't be made a run's folder ({error.strerror}): name another with "
                    "--out."
                ) from error
        folder.write("config.json", signed(config.to_dict() | more, kind))
        return folder

    def at(self, name: str) -> Path:
        """Where a file lies."""
        path = self.path
        for part in Path(name).parts:
            path = path / part
            if path.is_symlink():
                raise FolderFault(
                    f"{path} is a link, but a run stays in its own folder: put what it leads to in "
                    "its place."
                )
        return path

    def read_config(self, *kinds: str) -> tuple[str, dict[str, Any]]:
        """Of which of these kinds the run is, and what `create` wrote."""
        content = self.read("config.json")
        file = self.path / "config.json"
        if content is None:
            raise FolderFault(f"{self.path} holds no run: there is no config.json in it.")
        try:
            data = json.loads(content)
        except ValueError as error:
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
        if data.pop("sha256", None) != _digest(data):
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
        except (ValueError, TypeError, KeyError) as error:
            raise FolderFault(f"{self.path / 'config.json'}: {error}") from error

    def read(self, name: str) -> bytes | None:
        """A file's content, None if there is no such file."""
        content = None
        if leads():
            path = self.at(name)
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                pass
            except OSError as error:
                raise FolderFault(f"{path} can't be read: {error.strerror}.") from error
        return said_by_first(content)

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file as a whole: a kill leaves the old one or the new one."""
        if not leads():
            return
        target = self.at(name)
        temporary = self.at(str(Path(name).with_name(f".{target.name}.tmp")))
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise FolderFault(
                f"{target} can't be written ({error.strerror}): is {self.path} a run's folder, "
                "with a folder checkpoints in it?"
            ) from error
        with contextlib.suppress(OSError):  # not every platform opens directories
            directory = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While it is written: a second process that comes is told so."""
        if not leads():
            yield
            return
        with open(self.at(".lock"), "w") as file:
            try:
                import fcntl
            except ImportError:  # not on Windows
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FolderFault(
                    f"another process is at work in {self.path}: wait for it, or stop it."
                ) from error
            yield

    def append_metrics(self, line: dict[str, Any]) -> None:
        text = json.dumps(line)
        self._hashed(line["rule"]).update(text.encode())
        if not leads():
            return
        with open(self.at("metrics.jsonl"), "a") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

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
                beyond = iteration > reached.get(rule, (-1, ""))[0]
            except (ValueError, TypeError, KeyError) as error:
                if number >= len(lines):  # nothing, or cut short by a kill
                    continue
                raise FolderFault(f"{file}, line {number}, is no record: {ANEW}") from error
            if not beyond:
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
        buffer = io.BytesIO()
        eqx.tree_serialise_leaves(buffer, whole(state))
        about = {
            "format": FORMAT,
            "rule": rule,
            "iteration": int(state.iteration),
            "metrics": self._hashed(rule).hexdigest(),
            "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        }
        self.write(_checkpoint(rule), json.dumps(about).encode() + b"\n" + buffer.getvalue())

    def load_state(self, rule: str, like: State, iterations: int) -> tuple[State, str] | None:
        """The rule's last checkpoint, of at most so many iterations, and the digest of its lines in
        `metrics.jsonl`; None if it has none yet."""
        content = self.read(_checkpoint(rule))
        if content is None:
            return None
        file = self.path / _checkpoint(rule)
        way_out = f"delete it to train {rule} from the start."
        try:
            head, _, arrays = content.partition(b"\n")
            about = json.loads(head)
            found, came, at = about["format"], about["rule"], about["iteration"]
            intact = about["sha256"] == hashlib.sha256(arrays).hexdigest()
            lines = about["metrics"]
        except (ValueError, TypeError, KeyError) as error:
            raise FolderFault(f"{file} is no checkpoint: {way_out}") from error
        if found != FORMAT:
            raise FolderFault(f"{file} is of another version of modprop_jax: {way_out}")
        if not intact:
            raise FolderFault(f"{file} is damaged, its checksum is another: {way_out}")
        if came != rule:
            raise FolderFault(f"{file} is a checkpoint of {came}, not of {rule}: {way_out}")
        try:
            state = eqx.tree_deserialise_leaves(io.BytesIO(arrays), like)
        except Exception as error:  # whatever equinox and NumPy say of arrays that are others
            raise FolderFault(f"{file} holds other networks than this run's: {way_out}") from error
        if state.iteration != at or not 0 <= at <= iterations:
            raise FolderFault(
                f"{file} is of iteration {int(state.iteration)}, where {at} of {iterations} is "
                f"written: {way_out}"
            )
        arrays = jax.tree.leaves(eqx.filter(state.model, eqx.is_inexact_array))
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in arrays):
            raise FolderFault(f"{file} holds NaN or infinity in a parameter: {way_out}")
        return state, lines

    def _hashed(self, rule: str) -> Any:
        """Of the rule's lines so far."""
        return self._lines.setdefault(rule, hashlib.sha256())


ANEW = "begin the run anew in another folder."


def signed(data: dict[str, Any], kind: str = "compare") -> str:
    """`config.json`, with the checksum of what it says."""
    data = json.loads(json.dumps(data)) | {"kind": kind}
    return json.dumps(data | {"format": FORMAT, "sha256": _digest(data)}, indent=2) + "\n"


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _version(data: dict[str, Any]) -> str:
    """Of the package that began a run, as it says."""
    try:
        return f"modprop_jax {data['environment']['versions']['modprop_jax']}"
    except (KeyError, TypeError):
        return "unknown"


def _checkpoint(rule: str) -> str:
    return f"checkpoints/{re.sub('[^A-Za-z0-9_.=-]', '-', rule)}.eqx"
