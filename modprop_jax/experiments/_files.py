"""Files of a folder that may come from anybody: nothing outside is written, nothing hangs."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._processes import leads, said_by_first


class FolderFault(ValueError):
    """A folder that a run can't go on from: which file, what is wrong, and the way out."""


class Files:
    """Read and written by the first of several processes, which tells the others.

    A link is never followed, nor a hard link written through: whole files are replaced by new ones.
    What is no file (a folder, a pipe, a device) is neither.
    """

    def __init__(self, path: Path):
        self.path = path

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

    def read(self, name: str) -> bytes | None:
        """A file's content, None if there is no such file."""
        content = None
        if leads():
            path = self.at(name)
            try:
                with open(path, "rb", opener=_careful) as file:
                    _check_file(path, file)
                    content = file.read()
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
        temporary = target.with_name(f".{target.name}.tmp")
        with _writing(target):
            # what a kill has left, or somebody has put there: its content may have another name
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:
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

    def append(self, name: str, text: str) -> None:
        """Add to the end of a file that `write` has made."""
        if not leads():
            return
        path = self.at(name)
        with _writing(path), open(path, "ab", opener=_careful) as file:
            _check_file(path, file)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def folder(self, name: str) -> Path:
        """A folder, made where there is none, for what names and writes files of its own."""
        path = self.at(name)
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While it is written: a second process that comes is told so."""
        if not leads():
            yield
            return
        path = self.at(".lock")
        with contextlib.ExitStack() as stack:
            with _writing(path):
                # its content is nobody's, but it may be another file's too: nothing is cut off
                file = stack.enter_context(open(path, "ab", opener=_careful))
            _check_file(path, file)
            self._lock(file)
            yield

    def _lock(self, file: Any) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderFault(
                f"another process is at work in {self.path}: wait for it, or stop it."
            ) from error


def _careful(path: str, flags: int) -> int:
    """Opens neither what a link leads to, nor waits for the other end of a pipe."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags, 0o666)


def _check_file(path: Path, file: Any) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise FolderFault(f"{path} can't be read: it is no file. Delete it.")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderFault(
            f"{path} can't be written ({error.strerror}): nothing else is lost, so put that right "
            "(its place, its rights, room on the disk), and continue the run with --resume."
        ) from error
