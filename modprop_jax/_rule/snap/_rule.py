from typing import ClassVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ... import _arguments as arguments
from ..._cell import AbstractCell, NeuronCell, SeparableCell
from ..._cell._base import as_cell, dynamics, of_package
from ..._cell._claims import apart
from ..._cell._gated import GatedCell
from ..._precision import start_of, widened
from ..._program._base import AbstractProgram
from ..._static import FrozenArray
from ..._trace import PerUnit
from ..._tree import inexact
from .._card import Card, Named
from .._influence import AbstractInfluenceRule
from .._transport import transported
from ._compressed import Compressed, FromStart
from ._jacobian import coupling
from ._own import OwnUnit
from ._pattern import Pattern, pattern_of
from ._structure import within_units


class SnAp(AbstractInfluenceRule):
    r"""SnAp-n: real-time recurrent learning where credit reaches within n steps, and 0 elsewhere.

    \[ M_t = P_n \odot (J_t M_{t-1} + F_t), \qquad \nabla_\theta = \sum_t c_t M_t \]

    with \(J_t = \partial s_t/\partial s_{t-1}\), \(F_t = \partial s_t/\partial\theta\) at a fixed
    state, and \(c_t\) the direct credit on the state. The pattern \(P_n\) keeps the pair of a unit
    and a parameter if the parameter acts on the unit in one step (\(n = 1\)), or on another that is
    up to n - 1 connections away. Inside the pattern J keeps all its entries. A unit is what has one
    position in a `SeparableCell`, or in any state whose variables have one shape; else each entry
    of the state is a unit.

    Any cell is served: what depends on what is read off its step, for any values of weights and
    states. A weight that happens to be 0 is a connection; a missing one is where a `mask` (or a
    constant in the step) makes it so. For an unmasked recurrence SnAp(2) is already RTRL.

    Exact: everything within a unit, the emission, and for n above the network's diameter all
    (= RTRL). Approximate: paths to units that are farther away. A bare initial state gets credit by
    the same pattern; inputs get that of their own step. Memory O(kP) an example for P parameters,
    each of which keeps k state variables; time O(k²P) a step, offline as in streaming. SnAp(1) of
    neuron, gated and linear cells, where each parameter acts on one unit, has a reverse form: time
    and traces of e-prop. Locality: n - 1 connections. Needs the extra `snap` (asdex), but for
    SnAp(1) on a neuron cell of this package with plain matrices.

    Source: Menick, Elsen, Evci, Osindero, Simonyan & Graves, ICLR 2021 (arXiv 2006.07232).
    """

    card: ClassVar[Card] = Card(
        facing="past",
        structure="M_sij for the r neurons s up to q - 1 connections from i, of SnAp(q); else 0",
        bias="biased",
        when="exact for a q above the network's diameter; r = 1 for SnAp(1)",
        memory="r*n*(n+m+1)",
        time="r**2*n*(n+m+1)",
        synapse="how its weight moves the r neurons",
        source="Menick et al. 2021",
        called="SnAp-1, SnAp-n, sparse n-step approximation",
        credit="to units up to n - 1 connections away, for SnAp(n)",
        use="online credit for gates or a step function, above all where connections are sparse",
        papers=("menick2021snap",),
        place=70,
        names=(
            Named(
                "snap1",
                "SnAp-1: credit stays in the unit, with its connection to itself; extra snap",
                build=lambda rule, types: rule(1),
                place=90,
            ),
        ),
    )

    n: int = eqx.field(static=True)
    connectivity: tuple[FrozenArray, ...] | None
    inputs: int | None = eqx.field(static=True)

    def __init__(self, n: int, *, like: AbstractCell | None = None, inputs: int | None = None):
        """**Arguments:**

        - `n`: steps of credit, 1 or more.
        - `like`: a cell of which all arrays that do not train are kept as constants: needed under
            `jit` for a cell that has any. A mask is none of them, unless it was traced when the
            cell was made.
        - `inputs`: number of input features; needed to stream a `FunctionCell`.
        """
        self.n = arguments.size("n", n)
        self.inputs = None if inputs is None else arguments.size("inputs", inputs)
        self.connectivity = None
        if like is not None:
            arrays = _constants(dynamics(as_cell("like", like)))
            if arguments.is_traced(arrays):
                raise ValueError(
                    "SnAp(n, like=cell) keeps the cell's mask as a constant, but it is traced: "
                    "make the rule outside of the transformed function."
                )
            self.connectivity = tuple(map(FrozenArray, arrays))

    def check(self, cell: AbstractCell) -> None:
        """Needs arrays that do not train to be known."""
        self._known(dynamics(cell))

    def prepare(self, cell: AbstractCell) -> PyTree:
        """How units act on each other's drives, where this is the same at all steps."""
        return coupling(widened(cell))

    def on(
        self, cell: AbstractCell, in_size: int | None = None, *, streams: bool = True
    ) -> AbstractProgram:
        """The influence; for n = 1 its reverse form where there is one, which is the same, and
        faster."""
        if self.n == 1 and self._stays(cell):
            return transported(OwnUnit(), self, cell, streams=streams)
        return AbstractInfluenceRule.on(self, cell, in_size, streams=streams)

    def _stays(self, cell: AbstractCell) -> bool:
        """Whether each parameter acts on one unit."""
        inner, emission = cell.parts()
        if not isinstance(inner, SeparableCell):
            return False
        says = isinstance(inner, NeuronCell | GatedCell) or inner.message(start_of(inner)) is None
        filtered = emission.remembers
        mixes = filtered and inner.emission_parameters
        if not says or mixes or not apart(inner, "integrate", "message", *["emit"] * filtered):
            return False
        if not isinstance(inner, NeuronCell) and not PerUnit.serves(inner, filtered=filtered):
            return False
        return _is_plain(inner) or within_units(self._known(inner), inner.in_size)

    def influence(self, cell: AbstractCell, in_size: int | None) -> Compressed:
        """The kept pairs."""
        return Compressed(self._pattern(cell, in_size, filtered=cell.parts()[1].remembers))

    def from_start(self, cell: AbstractCell, in_size: int | None) -> FromStart:
        """The kept pairs of a state variable and one of the initial state."""
        return FromStart(self._pattern(cell, in_size, start=True))

    def _pattern(self, cell: AbstractCell, in_size: int | None, **options: bool) -> Pattern:
        inner, in_size = dynamics(cell), self.inputs if in_size is None else in_size
        if in_size is None:
            raise ValueError(
                f"SnAp makes a carry for a {type(inner).__name__} only if it knows the number of "
                f"input features: pass SnAp({self.n}, inputs=m)."
            )
        return pattern_of(self._known(inner), in_size, self.n, **options)

    def _known(self, cell: AbstractCell) -> AbstractCell:
        """The cell with concrete arrays wherever it has no parameters."""
        cell = widened(cell)
        own = _constants(cell)
        if self.connectivity is None:
            if arguments.is_traced(own):
                raise ValueError(
                    f"SnAp({self.n}) needs to know the mask of this {type(cell).__name__}, but it "
                    "is traced: make the cell with a constant mask, the same for all members of an "
                    f"ensemble, or pass SnAp({self.n}, like=cell), which keeps it as a constant."
                )
            return cell
        known = [frozen.numpy() for frozen in self.connectivity]
        if [a.shape for a in own] != [a.shape for a in known] or not all(
            arguments.is_traced(a) or np.array_equal(a, b) for a, b in zip(own, known)
        ):
            raise ValueError(
                f"SnAp({self.n}, like=cell) was made for another mask than that of this "
                f"{type(cell).__name__}: make a new one with like= this cell."
            )
        return _with_constants(cell, known)


def _is_plain(cell: SeparableCell) -> bool:
    """Whether it is a neuron cell of the package with arrays for weights and one constant a neuron,
    of which each parameter acts on its neuron: what detection would find, without its library."""
    if not isinstance(cell, NeuronCell) or not of_package(type(cell)):
        return False
    weights = cell.weight_rec, cell.weight_in
    own = jax.tree.leaves(inexact(cell.split()[0]))
    matrices = all(eqx.is_array(weight) and weight.ndim == 2 for weight in weights)
    return matrices and all(leaf.shape == (cell.hidden_size,) for leaf in own)


def _is_constant(leaf: object) -> bool:
    return eqx.is_array(leaf) and not eqx.is_inexact_array(leaf)


def _constants(cell: AbstractCell) -> list:
    return jax.tree.leaves(eqx.filter(cell, _is_constant))


def _with_constants(cell: AbstractCell, values: list) -> AbstractCell:
    constants, rest = eqx.partition(cell, _is_constant)
    structure = jax.tree.structure(constants)
    return eqx.combine(jax.tree.unflatten(structure, values), rest)
