"""Records of a run as event files of TensorBoard."""

import os
import re
import secrets
import statistics
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ._files import Files
from ._runs import OnRecord


def tensorboard(folder: str | os.PathLike) -> OnRecord:
    r"""`on_record` of `compare` and `resume` that writes event files of TensorBoard.

    `tensorboard --logdir FOLDER` shows the rules side by side while they are trained: each is a
    run of its own, a folder in `folder`, those of tuning in `tuning`. Scalars at an iteration are,
    of each quantity that a record has by seed, such as `loss`, `loss/mean` and, of several seeds,
    `loss/0`, `loss/1`, ... in the order of the seeds; others have their own name.

    **Arguments:** `folder`: made where there is none. A resumed run adds a file, in the same place.

    **Cost:** each record is on disk when the run goes on, about 40 bytes a scalar.

    **Raises:** `ImportError` without the package `tensorboardX` (extra `tensorboard`), and, when it
    is called, `ValueError` where a folder in `folder` is a link or can't be written.

    **Example:**

    ```python
    compare("delayed_xor", out="runs/xor", on_record=tensorboard("runs/xor/tensorboard"))
    ```
    """
    return TensorBoard(Files(Path(folder)))


class TensorBoard:
    """The same, in a folder inside of one whose links are not followed."""

    def __init__(self, files: Files, under: str = "."):
        self._files, self._under = files, under
        self._package, self._writers = package(), {}
        weakref.finalize(self, _close, self._writers)

    def __call__(self, record: dict[str, Any]) -> None:
        event, writer = self._package.Event(), self._writer(record)
        event.wall_time, event.step = time.time(), record["iteration"]
        for tag, value in _scalars(record):
            event.summary.value.add(tag=tag, simple_value=value)
        writer.write_event(event)
        writer.flush()

    def _writer(self, record: dict[str, Any]) -> Any:
        rule = re.sub("[^A-Za-z0-9_.=-]", "-", record["rule"])
        name = f"{self._under}/tuning/{rule}" if record.get("tuning") else f"{self._under}/{rule}"
        if name not in self._writers:
            # a name that nobody could have put a link at
            new = f".{secrets.token_hex(8)}"
            place = self._files.folder(name) / "events"
            self._writers[name] = self._package.EventsWriter(str(place), new)
        return self._writers[name]


class _Package(NamedTuple):
    Event: Any
    EventsWriter: Any


def package() -> _Package:
    """What makes event files; imported when it is needed.

    Not its `SummaryWriter`, whose `flush` does not wait for the thread that writes: a kill would
    lose records that the run has gone on from.
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise ImportError(
            "event files of TensorBoard need the package tensorboardX. In a clone of the "
            'repository: pip install -e ".[tensorboard]"'
        ) from error
    return _Package(Event, EventsWriter)


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, list) and value and all(map(_is_number, value)):
            yield f"{name}/mean", statistics.fmean(value)
            if len(value) > 1:
                yield from ((f"{name}/{seed}", each) for seed, each in enumerate(value))
        elif _is_number(value) and name != "iteration":
            yield name, value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _close(writers: dict[str, Any]) -> None:
    for writer in writers.values():
        writer.close()
