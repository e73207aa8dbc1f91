"""What credit can reach in a cell's methods, read off their traced pullbacks."""

import functools
import re
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from .._arguments import is_traced
from .._precision import start_of
from .._static import content, FrozenArray
from .._tree import inexact, is_shape
from ._base import AbstractCell
from ._dataflow import ENTRIES, EXAMPLES, FIXED, Flow, flow


METHODS = ("drive", "integrate", "message", "emit")
# of a cell that is not made of those
STEPS = ("step", "emit")


class ClosesOver(Exception):
    """The cell closes over a traced value, which `scan` refuses: there is nothing to find out."""


class Skeleton(NamedTuple):
    """A cell without the values of its parameters: a key to look up what is known of it."""

    structure: Hashable
    leaves: tuple

    @property
    def arrays(self) -> list[jax.ShapeDtypeStruct]:
        """Those arrays that are not known."""
        return [leaf for leaf in self.leaves if is_shape(leaf)]

    @property
    def fields(self) -> list[str]:
        """The cell's field that each of them is in."""
        tree = jax.tree.unflatten(self.structure, self.leaves)
        paths, _ = jax.tree_util.tree_flatten_with_path(tree)
        return [path[0].name for path, leaf in paths if is_shape(leaf)]

    def cell(self, arrays: Iterable[Any]) -> Any:
        """The cell, with these in the place of the unknown ones."""
        rest = iter(arrays)

        def one(leaf):
            return next(rest) if is_shape(leaf) else content(leaf)

        return jax.tree.unflatten(self.structure, map(one, self.leaves))


def skeleton(cell: AbstractCell) -> Skeleton:
    """Of a cell whose integers count by their values where they are known: they may be indices."""

    def one(leaf):
        if not eqx.is_array(leaf):
            return leaf
        index = jnp.issubdtype(leaf.dtype, jnp.integer) and not is_traced(leaf)
        return FrozenArray(leaf) if index else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    leaves, structure = jax.tree.flatten(cell)
    return Skeleton(structure, tuple(map(one, leaves)))


class At(NamedTuple):
    """What the methods are called with."""

    state: PyTree
    message: PyTree
    x: PyTree
    drive: PyTree


class Reach(NamedTuple):
    """Where credit goes, by structure.

    `parameters`: for each method, the fields that get a derivative from it. `values`: those
    whose values it reads. `passing`: for each float variable of the state, whether it
    remembers nothing, as neither the state nor a parameter moves it. `linear`: whether `drive` is
    linear in the message, with the same matrix at all steps. `apart`: how far units and examples
    are seen to stay apart in each method, as in `Flow`. `by_unit`: the methods that return one
    number a unit, where they return anything.
    """

    parameters: dict[str, frozenset[str]]
    values: dict[str, frozenset[str]]
    passing: tuple[bool, ...]
    linear: bool
    apart: dict[str, int]
    by_unit: frozenset[str]


@functools.lru_cache(maxsize=256)
def shapes(bones: Skeleton, features: int | None = None) -> At:
    """Shapes and dtypes of one example; `features`: of the inputs, for a cell without drives."""

    def run(arrays):
        cell = bones.cell(arrays)
        state = start_of(cell)
        floats = jax.tree.leaves(inexact((state, cell)))
        dtype = floats[0].dtype if floats else jnp.result_type(float)
        if features is not None:
            return At(state, None, jnp.zeros(features, dtype), None)
        x, message = jnp.zeros(cell.in_size, dtype), cell.message(state)
        return At(state, message, x, cell.drive(message, x))

    return jax.eval_shape(run, bones.arrays)


@functools.lru_cache(maxsize=256)
def reach(bones: Skeleton) -> Reach:
    """Of all methods, each at arguments of its own."""
    found = {method: pulled(bones, method) for method in METHODS}
    step, sent = pulled(bones, "alone"), _labels(found["drive"].at.message)
    moved = _labels((step.arrays, step.at.state))

    def credited(by_array):
        pairs = zip(bones.fields, by_array, strict=True)
        return frozenset(field for field, back in pairs if back and "@credit" in back.labels)

    return Reach(
        {method: credited(one.arrays) for method, one in found.items()},
        {method: _labels(one.out) for method, one in found.items()},
        tuple(f"@credit:{i}" not in moved for i in range(len(step.out))),
        linear=not {"@message", "@x"} & sent,
        apart={method: one.apart for method, one in found.items()},
        by_unit=frozenset(method for method, one in found.items() if one.by_unit),
    )


@functools.lru_cache(maxsize=256)
def by_mask(bones: Skeleton) -> list[str]:
    """Methods other than the drive that are others in the cell whose mask has been applied."""

    def program(bones, method):
        traced = jax.make_jaxpr(lambda arrays, at: call(bones.cell(arrays), method, at))
        closed = traced(bones.arrays, shapes(bones))
        consts = [np.asarray(const).tolist() for const in closed.consts]
        return re.sub("0x[0-9a-f]+", "", str(closed.jaxpr)), consts

    def differs(method):
        if reach(bones).values[method] & {"connectivity", "weight_rec", "weight_hh"}:
            return True
        try:
            return program(bones, method) != program(applied, method)
        except ValueError:
            return True

    cell = bones.cell(bones.arrays)
    applied = skeleton(eqx.filter_eval_shape(lambda cell: cell.effective(), cell))
    same = applied.structure == bones.structure
    return [] if same else list(filter(differs, METHODS[1:]))


class Pulled(NamedTuple):
    """The flow of a method and of its pullback: to what comes out, and to what comes back to the
    arrays and to the arguments (None: has no derivative); how far all of it stays apart; and
    whether one number a unit comes out."""

    out: list[Flow]
    arrays: list[Flow | None]
    at: At
    apart: int
    by_unit: bool


def pulled(
    bones: Skeleton, method: str, own: tuple[int, ...] = (), features: int | None = None
) -> Pulled:
    """Of a method, or of a step "alone" in which no message is heard, on two examples.

    `own`: arrays of which each unit and example has a copy.
    """
    n, single = units(bones, features), shapes(bones, features)
    at = jax.tree.map(lambda s: jax.ShapeDtypeStruct((2, *s.shape), s.dtype), single)
    arrays = list(bones.arrays)
    for i in own:
        arrays[i] = jax.ShapeDtypeStruct((2, n), arrays[i].dtype)

    def run(arrays, at):
        cell = bones.cell(arrays)
        if method != "alone":
            return call(cell, method, at)
        drive = cell.drive(lax.stop_gradient(at.message), at.x)
        return call(cell, "integrate", at._replace(drive=drive))

    def back(arrays, at, credit):
        moving, rest = eqx.partition((arrays, at), eqx.is_inexact_array)
        value, pull = jax.vjp(lambda moving: run(*eqx.combine(moving, rest)), moving)
        return value, *pull(credit)[0]

    def unit(struct):
        return struct.shape == (2, n)

    credit = jax.eval_shape(run, arrays, at)
    if not own:
        one = jax.eval_shape(run, arrays, single)
        if any(a.shape != (2, *b.shape) for a, b in zip(*map(jax.tree.leaves, (credit, one)))):
            raise ValueError(
                f"{_name(bones, method)} must take arrays with any number of leading axes, also "
                f"none, but returns {_sizes(one)} for one example, and for two {_sizes(credit)}."
            )
    traced, shaped = jax.make_jaxpr(back, return_shape=True)(arrays, at, credit)
    if is_traced(traced.consts):
        raise ClosesOver
    given = [
        Flow(frozenset([field]), ENTRIES if i in own else FIXED)
        for i, field in enumerate(bones.fields)
    ]
    for name, part in (*zip(At._fields, at), ("credit", credit)):
        for i, struct in enumerate(jax.tree.leaves(part)):
            apart = ENTRIES if unit(struct) else EXAMPLES
            given.append(Flow(frozenset([f"@{name}", f"@{name}:{i}"]), apart))
    found = iter(flow(traced.jaxpr, given))
    out, by_array, by_at = jax.tree.map(lambda _: next(found), shaped)

    # of what has no units, examples are all that can stay apart
    copies = [by_array[i] for i in own], [shaped[1][i] for i in own]
    pairs = zip(*map(jax.tree.leaves, ((out, by_at, copies[0]), (*shaped[::2], copies[1]))))
    apart = min((f.apart if unit(s) else f.apart and ENTRIES for f, s in pairs), default=ENTRIES)
    by_unit = all(map(unit, jax.tree.leaves(credit)))
    return Pulled(jax.tree.leaves(out), by_array, by_at, apart, by_unit)


def call(cell: AbstractCell, method: str, at: At) -> PyTree:
    """What a method makes of its arguments, its floats."""
    try:
        return inexact(getattr(cell, method)(*(getattr(at, name) for name in reads(method))))
    except Exception as error:
        raise ValueError(
            f"{type(cell).__name__}.{method} must take arrays with any number of leading axes, "
            f"also none, but raised {type(error).__name__}: {error}"
        ) from error


def reads(method: str) -> tuple[str, ...]:
    """What a method is called with."""
    args = {"drive": ("message", "x"), "integrate": ("state", "drive"), "step": ("state", "x")}
    return args.get(method, ("state",))


def units(bones: Skeleton, features: int | None = None) -> int:
    """How many units there are; none that are known in a cell without drives."""
    return bones.cell(bones.arrays).hidden_size if features is None else 0


def floating(struct: jax.ShapeDtypeStruct | Array) -> bool:
    """Whether an array of this dtype has a derivative."""
    return jnp.issubdtype(struct.dtype, jnp.inexact)


def _name(bones: Skeleton, method: str) -> str:
    cell = bones.cell(bones.arrays)
    return f"{type(cell).__name__}.{'integrate' if method == 'alone' else method}"


def _sizes(tree: PyTree) -> str:
    return ", ".join(str(struct.shape) for struct in jax.tree.leaves(tree))


def _labels(tree: PyTree) -> frozenset[str]:
    return frozenset().union(*(part.labels for part in jax.tree.leaves(tree)))
