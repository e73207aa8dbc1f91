"""What a credit rule is, and the carry that it makes."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeGuard, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, computing, NeuronCell, SeparableCell
from .._cell._base import as_cell, dynamics
from .._cell._claims import check_apart, check_neurons
from .._precision import widened
from .._program._base import AbstractProgram
from .._synapses import is_single
from .._tree import distinct, inexact
from ._card import Card


Units = TypeVar("Units", bound=SeparableCell)


class Carry(eqx.Module):
    """What a rule carries from segment to segment: the state, and the trace of the past.

    Made by `rule.init` (or `RNN.init`), returned by `scan`. It takes no cotangent on entry: the
    past is the trace's alone, so credit is never counted twice. `observed` is what the rule has
    measured of the run so far, where it measures anything. `rule` is the one that made it.

    The axes of the batch are at different places in its leaves, and what a rule learns has none. So
    a `where` or an index leaf by leaf mixes up traces, silently where sizes happen to agree: use
    `reset` for examples that begin anew, and `take_examples` to select, repeat or shuffle them.
    """

    state: PyTree
    trace: PyTree
    observed: PyTree
    rule: "AbstractRule"

    @property
    def made_by(self) -> str:
        """The name of the rule."""
        return type(self.rule).__name__

    @property
    def types(self) -> tuple[int, ...] | None:
        """The rule's cell types, on which the meaning of a trace depends."""
        return self.rule.cell_types


def is_carry(node: object) -> TypeGuard[Carry]:
    """Whether it is a carry: else it is a bare state, or another node of a tree."""
    return isinstance(node, Carry)


class AbstractRule(eqx.Module):
    """A credit rule: hyper-parameters only, none of them trainable, and pure methods.

    It says what it is on a cell: `on` binds the two. There are three families, by where credit
    goes: `AbstractTransportRule` (back in time), `AbstractInfluenceRule` (forward, as the influence
    of parameters) and `AbstractEstimatingRule` (nowhere: it is estimated on the spot). `card` is a
    rule's entry in the taxonomy, which those of this package have.
    """

    card: ClassVar[Card]

    @abc.abstractmethod
    def on(
        self, cell: AbstractCell, in_size: int | None = None, *, streams: bool = True
    ) -> AbstractProgram:
        """The rule on this cell, which it can serve (`check`).

        **Arguments:** `in_size`: features of the inputs; None: as the cell says. `streams`: whether
        a `Carry` brings the past.
        """

    def init(self, cell: AbstractCell, state: PyTree, *, key: PRNGKeyArray | None = None) -> Carry:
        """The carry of no past: this state, and an empty trace.

        Examples whose state is the cell's own start, `cell.init`, up to rounding, count as begun
        from it: where it depends on parameters, these get the credit that comes to it. Any other
        state is a constant. Each array has a buffer of its own, so a carry may be donated.

        **Arguments:** `key`: for rules that draw noise or initial values, which need one.
        """
        require_real(self, as_cell("cell", cell), state)
        self.check(cell)
        if key is not None:
            arguments.key("key", key)
        if self.needs_key and key is None:
            raise ValueError(
                f"{type(self).__name__} draws random numbers: make its carry with a key, "
                "rule.init(cell, state, key=key) or rnn.init(batch_shape, key=key)."
            )
        program = self.on(computing(cell))
        if program.trace is not None and jax.tree.leaves(inexact(self)):
            raise ValueError(
                f"{type(self).__name__} streams with constant hyper-parameters, but holds a "
                "jax.Array: its derivative would be cut at every segment. Pass a float or a NumPy "
                "array, or differentiate by it offline (from a bare state)."
            )
        # a user's init may return one array twice, or a parameter
        return distinct(Carry(*program.init(widened(state), key), self), cell)

    def check(self, cell: AbstractCell) -> None:
        """Raise a ValueError if the rule can't serve this cell."""

    def in_range(self) -> dict[str, Any]:
        """Conditions on hyper-parameters that are arrays, in words, and whether they hold: what
        `value_and_grad(..., check=True)` raises by, where no ValueError can tell."""
        return {}

    @property
    def complex_credit(self) -> bool:
        """Whether it serves complex numbers, on which credit is linear over the reals alone."""
        return False

    @property
    def needs_key(self) -> bool:
        """Whether `init` needs a key, and `scan` the carry that it makes."""
        return False

    @property
    def by_place(self) -> bool:
        """Whether it holds something for each place in the batch."""
        return False

    @property
    def cell_types(self) -> tuple[int, ...] | None:
        """The cell types, of a rule that has any."""
        return None


def as_rule(name: str, value: object) -> AbstractRule:
    """The value, if it is a credit rule; else a ValueError."""
    if isinstance(value, AbstractRule):
        return value
    hint = ", which is a word: pass an object" if isinstance(value, str) else ""
    if isinstance(value, type) and issubclass(value, AbstractRule):
        hint = f": make one with {value.__name__}(...)"
    raise ValueError(
        f"{name} must be a credit rule such as EProp(), but is {arguments.shown(value)}{hint}."
    )


def over_members(function: Callable[[Any], Any], cell: NeuronCell) -> Any:
    """`function(cell)`; of an ensemble, whose arrays have leading axes, one for each member."""
    if is_single(cell.weight_rec):
        return function(cell)
    members = jax.tree.leaves(inexact(cell.weight_rec))[0].shape[:1]

    def axis(leaf):
        return 0 if eqx.is_array(leaf) and leaf.shape[:1] == members else None

    each = eqx.filter_vmap(
        lambda cell: over_members(function, cell), in_axes=(jax.tree.map(axis, cell),)
    )
    return each(cell)


def require_neurons(rule: AbstractRule, cell: AbstractCell) -> NeuronCell:
    """The neuron cell that a local rule needs, or a ValueError."""
    inner = dynamics(cell)
    neurons = arguments.require(
        inner,
        NeuronCell,
        f"{type(rule).__name__} needs a NeuronCell, whose neurons are coupled only through "
        f"a linear drive, but the cell is a {type(inner).__name__}. Use BPTT or RTRL, or "
        "write the dynamics as a NeuronCell (init, integrate, emit).",
    )
    return _apart(rule, neurons)


def require_separable(rule: AbstractRule, cell: AbstractCell) -> SeparableCell:
    """The separable cell that a local rule needs, or a ValueError."""
    inner = dynamics(cell)
    return arguments.require(
        inner,
        SeparableCell,
        f"{type(rule).__name__} needs a cell whose units are coupled only through drives (a "
        f"NeuronCell, or a SeparableCell such as GRUCell), but the cell is a "
        f"{type(inner).__name__}. Use BPTT or RTRL, or write the dynamics as one (init, "
        "integrate, emit).",
    )


def require_units(rule: AbstractRule, cell: AbstractCell) -> SeparableCell:
    """A separable cell whose units meet in the drive alone, or a ValueError."""
    return _apart(rule, require_separable(rule, cell))


def _apart(rule: AbstractRule, inner: Units) -> Units:
    name = type(rule).__name__
    if isinstance(inner, NeuronCell):
        check_neurons(name, inner)
    check_apart(name, inner, "integrate")
    return inner


def require_real(rule: AbstractRule, cell: AbstractCell, *seen: PyTree) -> None:
    """Raise a ValueError if the cell, or what it sees, is complex, and the rule does not serve it.

    A step need not be holomorphic: traces would have to keep two numbers for one.
    """
    found = {
        leaf.dtype for leaf in jax.tree.leaves(inexact((cell, seen))) if jnp.iscomplexobj(leaf)
    }
    if found and not rule.complex_credit:
        raise ValueError(
            f"{type(rule).__name__} keeps credit in real numbers, but {found.pop()} is among the "
            f"parameters, the state or the inputs of this {type(cell).__name__}: use BPTT from a "
            "bare state, or keep real and imaginary parts as arrays of their own, as LRUCell does."
        )


def require_types(rule: AbstractRule, types: tuple[int, ...] | None, n: int) -> None:
    """Raise a ValueError unless there is one cell type a neuron."""
    if types is not None and len(types) != n:
        raise ValueError(
            f"{type(rule).__name__} has types for {len(types)} neurons, but the cell has {n}: "
            "types holds one cell type a neuron."
        )
