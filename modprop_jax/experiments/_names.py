"""Names that a user gives, and what a name stands for."""

import difflib
import inspect
from collections.abc import Iterable, Sequence


def known(kind: str, name: str, choices: Iterable[str]) -> str:
    """`name` if it is one of `choices`; else a ValueError that lists them."""
    choices = tuple(choices)
    if name in choices:
        return name
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {kind} {name!r}; possible: {', '.join(choices) or 'none'}.{hint}")


def each_name(names: Sequence[str]) -> tuple[str, ...]:
    """The names; a string, which is a sequence too, is one of them."""
    return (names,) if isinstance(names, str) else tuple(names)


def summary(cls: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]
