"""What to vary in `credit_limit`, checked."""

from typing import Any

from .. import _arguments as arguments


def counts_of(given: Any, start: int, n: int) -> tuple[int, ...]:
    """Numbers of types; None: `start`, twice and four times that, n at most."""
    if given is None:
        return tuple(sorted({min(start * times, n) for times in (1, 2, 4)}))
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"counts must be numbers of types, such as [2, 8], but is {given!r}.")
    found = tuple(arguments.size("counts", count) for count in given)
    if min(found) < start or max(found) > n or len(set(found)) < len(found):
        raise ValueError(
            f"counts must be different numbers of types from the {start} given to the {n} neurons, "
            f"but are {list(found)}."
        )
    return tuple(sorted(found))


def gates_of(given: Any) -> tuple[bool, ...]:
    """One gate or both, as a tuple."""
    each = given if isinstance(given, list | tuple) else (given,)
    found = tuple(arguments.boolean("gated", gate) for gate in each)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"gated must be False, True or both, but is {arguments.shown(given)}.")
    return found


def memory_of(given: Any, most: int) -> tuple[int, ...]:
    """Numbers of exponentials; None: all up to `most`."""
    if given is None:
        return tuple(range(1, most + 1))
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(
            f"memory must be numbers of exponentials, such as [1, 3], but is {given!r}."
        )
    found = tuple(sorted(arguments.size("memory", count) for count in given))
    if found[-1] > most or len(set(found)) < len(found):
        raise ValueError(
            f"memory must be different numbers of exponentials, at most the {most} rates, but is "
            f"{list(found)}."
        )
    return found
