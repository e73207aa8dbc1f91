"""How much memory a run takes, by the C library's account: one measure for all packages."""

import ctypes
import gc
import threading
import time
from collections.abc import Callable
from typing import TypeVar


_Result = TypeVar("_Result")
# Seconds from look to look, how many there are at least, and the seconds that runs go on for them.
_EACH, _LOOKS, _LIMIT = 2e-4, 50, 1.0
# Seconds in which XLA frees what a run held, after its results are there.
_PAUSE = 5e-3
_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Info(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


def growth(run: Callable[[], _Result]) -> tuple[_Result, float | None]:
    """What a run returns, and by how many megabytes what the process has allocated grows in it.

    The most that was seen: another thread looks every 0.2 ms, over several runs if they are short.
    (Resident memory would not tell: what earlier runs have freed stays with the process, and is
    taken again.) None without glibc.
    """
    info = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if info is None:
        return run(), None
    info.restype = _Info

    def held() -> int:
        now = info()
        return now.uordblks + now.hblkhd

    gc.collect()
    before, seen, over = held(), [], threading.Event()

    def look():
        while not over.wait(_EACH):
            seen.append(held())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        began = time.perf_counter()
        result = run()
        while len(seen) < _LOOKS and time.perf_counter() - began < _LIMIT:
            time.sleep(_PAUSE)
            run()
    finally:
        over.set()
        watcher.join()
    return result, max([0, *(size - before for size in seen)]) / 1e6
