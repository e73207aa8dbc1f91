"""What a cell of one's own says about itself, verified once for each structure."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from ._base import AbstractCell, defined_in, of_package
from ._computing import computing
from ._function import FunctionCell
from ._reach import (
    by_mask,
    ClosesOver,
    floating,
    METHODS,
    Reach,
    reach,
    shapes,
    Skeleton,
    skeleton,
    STEPS,
)
from ._separable import SeparableCell
from ._trial import crossing, leaky, meeting, shared


_FUNCTION = "or write the cell as a FunctionCell (BPTT, RTRL, SnAp)."


def check_claims(cell: AbstractCell) -> None:
    """A ValueError unless each method reads only what it may, and treats each example alone."""
    if not isinstance(cell, SeparableCell):
        return
    found = _reach(cell)
    if found is not None:
        for method in METHODS:
            _check_reads(cell, method, found)
    _check_examples(cell, _strange(cell))


def check_examples(cell: AbstractCell, features: int) -> None:
    """A ValueError unless a cell without drives treats each example alone."""
    own = tuple(m for m in STEPS if not of_package(defined_in(type(cell), m)))
    if not isinstance(cell, SeparableCell):
        _check_examples(cell, STEPS if isinstance(cell, FunctionCell) else own, features)


def check_apart(who: str, cell: SeparableCell, *methods: str) -> None:
    """A ValueError if units meet in one of the methods."""
    for method in _meeting(cell, methods):
        raise ValueError(
            f"{who} needs units that meet in the drive alone, but {type(cell).__name__}.{method} "
            "mixes them, or does not return one number a unit: make it elementwise, or use BPTT "
            "or RTRL."
        )


def apart(cell: SeparableCell, *methods: str) -> bool:
    """Whether units meet in none of the methods."""
    return not _meeting(cell, methods)


def check_leaky(who: str, cell: AbstractCell) -> None:
    """A ValueError unless `integrate` is what a uniform leak says it is."""
    if not of_package(defined_in(type(cell), "integrate")) and not leaky(_bones(cell)):
        raise ValueError(
            f"{type(cell).__name__}.uniform_leak is True, by which {who} keeps presynaptic activity"
            " in place of the membrane's past, but integrate does not make it leak * membrane + "
            "gain * drive, with a scalar leak and gain: leave uniform_leak at False."
        )


def linear_drive(cell: SeparableCell) -> bool:
    """Whether `drive` is linear in the message, with the same matrix at all steps."""
    found = _reach(cell)
    return found is None or found.linear


def check_neurons(who: str, cell: SeparableCell) -> None:
    """A ValueError unless every float variable of the state is one number a neuron."""
    if of_package(type(cell)):
        return
    n = cell.hidden_size
    for leaf in jax.tree.leaves(shapes(_bones(cell)).state):
        if floating(leaf) and leaf.shape != (n,):
            raise ValueError(
                f"{who} needs state variables of shape (*batch, n), n={n}, but "
                f"{type(cell).__name__} has one of shape (*batch, "
                f"{', '.join(map(str, leaf.shape))}): give each an array of its own, or use BPTT "
                "or RTRL."
            )


def check_own(who: str, cell: SeparableCell, *, emits: bool) -> None:
    """A ValueError if a neuron's own parameters act on other neurons; `emits`: or emissions."""
    own, _ = cell.split()
    names = [path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(own)]  # pyright: ignore
    for name in _shared(cell, names, emits=emits, copies=True):
        raise ValueError(
            f"{who} keeps the past of a neuron's own parameters with the neuron, but entries of "
            f"{type(cell).__name__}.{name} act on other neurons too: use RTRL, or learn offline."
        )


def check_units(who: str, cell: SeparableCell, *, emits: bool) -> None:
    """A ValueError unless the state (`emits`: and the emission) depends only on parameters that
    belong to their units, and what of it is no unit's remembers nothing."""
    found, n = _reach(cell), cell.hidden_size
    if found is None:
        return
    name, ways = type(cell).__name__, "use RTRL, or learn offline (from a bare state)."
    read = [found.parameters[m] for m in ("drive", "integrate", *["emit"] * emits)]
    for field in sorted(frozenset().union(*read) - set(cell.unit_parameters)):
        raise ValueError(
            f"{who} keeps the past of parameters that act on their own unit alone, and "
            f"{name}.unit_parameters does not name {field}. If its first axis is (gates x units), "
            f"and each entry moves the state of its own unit alone, name it there; else {ways}"
        )
    for field in _shared(cell, cell.unit_parameters, emits=emits, copies=False):
        raise ValueError(
            f"{name}.unit_parameters names {field}, whose entries act on other units than their "
            f"own (the first axis has to be gates x units, n={n}): do not name it, and {ways}"
        )
    state = shapes(_bones(cell)).state
    floats = [s for s in jax.tree.leaves(state) if floating(s)]
    for leaf, passing in zip(floats, found.passing, strict=True):
        if leaf.shape != (n,) and not passing:
            raise ValueError(
                f"{who} keeps the past of variables of shape (*batch, n), n={n}, but {name} also "
                f"remembers in one of shape (*batch, {', '.join(map(str, leaf.shape))}): {ways}"
            )


def _check_examples(
    cell: AbstractCell, methods: tuple[str, ...], features: int | None = None
) -> None:
    for method in _or_none(crossing, _bones(cell), methods, features) or () if methods else ():
        raise ValueError(
            f"{type(cell).__name__}.{method} mixes the examples of a batch, or the steps of a "
            "segment: what it makes of one depends on the others, or on its place. It must treat "
            "each on its own, with any leading axes, also none: reduce over the last axis alone "
            "(axis=-1), if over any."
        )


def _check_reads(cell: SeparableCell, method: str, found: Reach) -> None:
    name, reads = f"{type(cell).__name__}.{method}", found.parameters[method]
    driving, emitting = set(cell.drive_parameters), set(cell.emission_parameters)
    for field in sorted(reads & driving) if method != "drive" else ():
        raise ValueError(
            f"{name} reads {field}, which is one of the drive_parameters: only drive may read "
            f"these. Give what {method} reads a field of its own, {_FUNCTION}"
        )
    for field in sorted(reads - driving) if method == "drive" else ():
        raise ValueError(
            f"{name} reads {field}, which drive_parameters does not name: name it, {_FUNCTION}"
        )
    for field in sorted(reads & emitting) if method != "emit" else ():
        raise ValueError(
            f"{name} reads {field}, which is one of the emission_parameters: only emit may read "
            f"these. Do not name it, {_FUNCTION}"
        )
    if method in by_mask(_bones(cell)):
        raise ValueError(
            f"{name} reads what connects the units (mask, autapses, or weights where they are "
            "masked), but scan applies that to the weights and takes it away. Keep what "
            f"{method} reads in a field of its own, {_FUNCTION}"
        )


def _bones(cell: AbstractCell) -> Skeleton:
    return skeleton(computing(cell))


def _reach(cell: SeparableCell) -> Reach | None:
    """None for the package's own cells, and for those that close over a traced value."""
    return None if of_package(type(cell)) else _or_none(reach, _bones(cell))


def _meeting(cell: SeparableCell, methods: tuple[str, ...]) -> list[str]:
    strange = tuple(m for m in _strange(cell) if m in methods)
    return (_or_none(meeting, _bones(cell), strange) or []) if strange else []


def _shared(cell: SeparableCell, names: Iterable[str], *, emits: bool, copies: bool) -> tuple:
    if not _strange(cell):
        return ()
    return _or_none(shared, _bones(cell), frozenset(names), emits, copies) or ()


def _strange(cell: SeparableCell) -> tuple[str, ...]:
    """The methods that are a user's own."""
    return tuple(m for m in METHODS if not of_package(defined_in(type(cell), m)))


def _or_none(find: Callable, *key: object) -> Any:
    try:
        return find(*key)
    except ClosesOver:
        return None
