"""How much memory a run takes, by the system's account: one measure for all packages."""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar


_Result = TypeVar("_Result")
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def growth(run: Callable[[], _Result]) -> tuple[_Result, float | None]:
    """What a run returns, and by how many megabytes the process's resident memory grew at most.

    None where the system does not say (it is Linux's). What was freed before, by compilation say,
    is given back first; else a run would find it there.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # of glibc
    try:
        _FORGET.write_text("5")  # the peak so far
        before = _kilobytes("VmRSS")
    except (OSError, ValueError):
        return run(), None
    return run(), (_kilobytes("VmHWM") - before) / 1e3


def _kilobytes(name: str) -> float:
    rows = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return float(rows[name].split()[0]) * 1.024
