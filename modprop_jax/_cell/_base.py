"""What a cell is."""

import abc
import operator
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, SupportsIndex, TypeGuard

import equinox as eqx
import jax
from jaxtyping import Array, Bool, PyTree

from .._arguments import is_function, shown
from ._emission import AbstractEmission, Plain


# the shape of the batch axes; a number is one axis
BatchShape = SupportsIndex | Sequence[SupportsIndex]


def batch_axes(batch_shape: BatchShape) -> tuple[int, ...]:
    """The shape as a tuple; ValueError if it is none."""
    axes = batch_shape if isinstance(batch_shape, Sequence) else (batch_shape,)
    try:
        sizes = tuple(map(operator.index, axes))
    except TypeError:
        sizes = (-1,)
    if any(size < 0 for size in sizes):
        raise ValueError(
            f"batch_shape must be a number of examples or a tuple of sizes, but is {batch_shape!r}."
        )
    return sizes


class Final(NamedTuple):
    """What a class outside of this package must not redefine, as rules and traces go by it; and
    what to do `instead`."""

    names: tuple[str, ...]
    instead: str


class AbstractCell(eqx.Module):
    """The dynamics of one recurrent layer: `s_t = step(s_{t-1}, x_t)`, `z_t = emit(s_t)`.

    All methods take arrays with any number of leading batch axes, also none, and treat each
    example on its own. Only inexact `jax.Array` leaves are parameters.

    `papers` are those that it comes from, for `cite`: keys of the package's entries, or BibTeX
    entries.

    Errors: a ValueError for a class that redefines what it inherits and is final.
    """

    papers: ClassVar[tuple[str, ...]] = ()
    _final: ClassVar[Final] = Final((), "")

    def __init_subclass__(cls) -> None:
        for base in cls.__mro__:
            final = vars(base).get("_final", AbstractCell._final)
            for name in final.names:
                found = defined_in(cls, name)
                if not of_package(found):
                    raise ValueError(
                        f"{found.__name__} defines {name}, which is final in {base.__name__}: "
                        f"credit rules go by it as it is. {final.instead}"
                    )

    @abc.abstractmethod
    def init(self, batch_shape: tuple[int, ...] = ()) -> PyTree:
        """The state before the first step.

        Usually zeros. It may read parameters: a learnt start. These then get the credit of every
        sequence that begins from it, after `done` too. To stream, local rules need a start that is
        made neuron by neuron, from parameters of its own (one value for all, or one a neuron).
        """

    @abc.abstractmethod
    def step(self, state: PyTree, x: Array) -> PyTree:
        """One time step."""

    @abc.abstractmethod
    def emit(self, state: PyTree) -> Array:
        """What the loss and the next layer see."""

    @property
    def matmul_parameters(self) -> tuple[str, ...]:
        """Names of the fields that only enter matmuls, and may stay as narrow as they are there.

        All other parameters of a narrow float compute in float32, as states do. By default all do,
        which is right for any cell.
        """
        return ()

    def effective(self) -> "AbstractCell":
        """The same cell with its constraints (masks) already applied to its weights."""
        return self

    def parts(self) -> tuple["AbstractCell", AbstractEmission]:
        """The dynamics, and what is made of their emission: a cell itself, and nothing."""
        return self, Plain()

    def check_input(self, features: int) -> None:
        """Raise a ValueError if inputs of this many features do not fit."""
        del features

    def in_range(self) -> dict[str, Bool[Array, ""]]:
        """Conditions on what trains, in words, and whether they hold: `{"tau must be ...": ...}`.

        `value_and_grad(..., check=True)` and the experiments raise where one does not.
        """
        return {}


def dynamics(cell: AbstractCell) -> AbstractCell:
    """The cell without what is made of its emission."""
    return cell.parts()[0]


def batch_shape(cell: AbstractCell, state: PyTree) -> tuple[int, ...]:
    """The leading axes of a cell's state."""
    example = jax.tree.leaves(jax.eval_shape(lambda: cell.init(())))[0]
    leaf = jax.tree.leaves(state)[0]
    return leaf.shape[: leaf.ndim - example.ndim]


def of_package(defined: object) -> bool:
    """Whether a class or function is one of this package's own."""
    return str(getattr(defined, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def defined_in(cls: type, name: str) -> type:
    """The class that a method or field comes from."""
    return next(
        c for c in cls.__mro__ if name in vars(c) or name in vars(c).get("__annotations__", {})
    )


def is_cell(node: object) -> TypeGuard[AbstractCell]:
    """Whether it is a cell: where only a part of a model came, something may stand for one."""
    return isinstance(node, AbstractCell)


def as_cell(name: str, value: object) -> AbstractCell:
    """The value, if it is a cell; else a ValueError."""
    if is_cell(value):
        return value
    if isinstance(value, eqx.nn.GRUCell | eqx.nn.LSTMCell):
        kind = type(value).__name__
        hint = f": equinox's has no initial state, take its arrays with {kind}.from_equinox(cell)"
    elif is_function(value):
        hint = "; wrap a plain step function as FunctionCell(step, params, state)"
    else:
        hint = ""
    raise ValueError(f"{name} must be a cell such as LeakyCell(...), but is {shown(value)}{hint}.")
