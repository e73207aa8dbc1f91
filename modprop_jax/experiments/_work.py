from collections.abc import Callable
from typing import NamedTuple


class Work(NamedTuple):
    """What a command has found to do: `run` does it and returns the exit code.

    `again`: the command that continues it, if it is interrupted; None: nothing does.
    """

    run: Callable[[], int]
    again: str | None = None
