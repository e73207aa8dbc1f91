from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import wide, widened
from .._static import FrozenArray
from .._synapses._masked import existing
from .._tree import each, with_fields
from ._base import AbstractCell, batch_axes, BatchShape, Final
from ._constants import as_mask, connectivity
from ._init import balancing, scaled_normal
from ._relax import accelerated, relax, Relaxed, solved
from ._settle import equilibrium_with_credit, Found


class Equilibrium(NamedTuple):
    """State of an `EquilibriumCell`.

    `rates`: of all n units. `converged`: whether every equilibrium since `init`, or since the last
    `done`, was reached, and `sweeps`: how many it took in all, both an example.
    """

    rates: Float[Array, "*batch n"]
    converged: Bool[Array, "*batch"]
    sweeps: Int[Array, "*batch"]

    def after(self, found: Relaxed) -> "Equilibrium":
        """The state after one more relaxation."""
        converged = self.converged & found.converged
        return Equilibrium(found.value, converged, self.sweeps + found.sweeps)


class EquilibriumCell(AbstractCell):
    r"""A network that relaxes to an equilibrium at every step, with its input units clamped.

    \[ r = M \sigma(W r + b) + (1 - M)\, x, \qquad r \leftarrow r + \alpha (r' - r) \]

    with r the rates of all n units, M = 0 for input units and 1 for all others, \(r'\) the right
    side, and \(\alpha\) = `damping`. Layered or recurrent by `mask` (`layered` makes one); synapses
    onto clamped units have no effect. It starts from the rates before (a warm start, which takes no
    credit), so a step is a function of its input wherever there is one equilibrium. Inputs
    (T, *batch, k), k input units in the order of their index; the emission is all n rates; state:
    `Equilibrium`.

    `BPTT` is implicit differentiation, exact, as is JAX's own derivative of `step` in reverse mode
    (second derivatives too). With e the loss's credit on the rates,

    \[ a = (1 - W^T \mathrm{diag}(M\sigma'))^{-1} e, \qquad
       \nabla_W = (a \odot M\sigma') \otimes r, \qquad \nabla_x = (1 - M)\, a \]

    `EICredit` lets credit relax instead, and `EqProp` has the network settle again under a nudge.

    An equilibrium that was not reached, in `max_steps` sweeps or for a NaN, is reported:
    `state.converged` is False, its gradient is NaN (`value_and_grad(..., check=True)` raises;
    `optax.apply_if_finite` skips the update), and with `check` its emission raises, also where
    nothing is derived. "Settled" bounds what one more sweep changes; the equilibrium is up to
    ρ / (1 - ρ) times that away.

    Cost: O(n²) a sweep and example. About log(tolerance)/log ρ sweeps, with ρ the spectral radius
    of \( \mathrm{diag}(M\sigma') W \), which has to be below 1 without damping; layered, as many
    as there are layers, inputs included, and one more. `BPTT` solves an n × n system a step and
    example, O(n³), on CPUs one after the other. Memory: the equilibrium alone, however many sweeps.

    Source: the firing dynamics of Fan & Mysore 2024 (arXiv 2405.14139).
    """

    papers: ClassVar[tuple[str, ...]] = ("fan2024balance",)
    _final: ClassVar[Final] = Final(
        (
            "in_size",
            "hidden_size",
            "step",
            "step_with",
            "emit",
            "drive",
            "slope",
            "currents",
            "relax",
            "sweep",
            "clamped_part",
            "effective",
            "check_input",
        ),
        "For other dynamics write a FunctionCell.",
    )

    weight: Float[Array, "n n"]
    bias: Float[Array, " n"] | None
    connectivity: FrozenArray | Bool[Array, "n n"] | None
    inputs: FrozenArray
    outputs: FrozenArray
    signs: tuple[int, ...] | None = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    damping: float | None = eqx.field(static=True)
    solver: eqx.Module | None = eqx.field(static=True)
    check: bool = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        *,
        inputs: Numbers,
        outputs: Numbers,
        activation: Callable,
        mask: Numbers | None = None,
        signs: Numbers | None = None,
        use_bias: bool = True,
        gain: float = 0.7,
        rtol: float = 1e-6,
        atol: float = 1e-6,
        max_steps: int = 1000,
        damping: float | None = None,
        solver: eqx.Module | None = None,
        check: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        r"""**Arguments:**

        - `size`: n units, inputs and outputs among them.
        - `inputs`, `outputs`: boolean (n,): the units that are clamped to the input; and those
            that `EICredit(output="clamp")` clamps the credit of.
        - `activation`: elementwise σ.
        - `mask`: boolean (n, n) connectivity [post, pre], a constant and no leaf (unless it is
            traced); all synapses if None.
        - `signs`: ±1 for each presynaptic unit (Dale's law at the start; `optim.dale` keeps it).
            Use an activation that is not negative.
        - `use_bias`: add a bias, initially zero.
        - `gain`: g, the size of the first weights: about their spectral radius, if recurrent.
        - `rtol`, `atol`: settled when a sweep moves no rate r by more than atol + rtol·\|r\|. Where
            that is finer than rounding, 0 for example, rounding is what counts.
        - `max_steps`: sweeps at most.
        - `damping`: share α of each sweep that is taken, in (0, 1]; None: all of it.
        - `solver`: in place of sweeps, a fixed-point or root finder of optimistix such as
            `optimistix.Newton(rtol, atol)`; it counts as many steps, and what it finds has to meet
            `rtol` and `atol` all the same.
        - `check`: raise at run time when rates are emitted that have not settled.
        - `dtype`: of the parameters; the JAX default if None.
        - `key`: for the weights. A unit's incoming weights are N(0, g² / their number); with
            `signs` half-normal, its inhibition scaled to balance its excitation where it has both,
            and all to the norm g.
        """
        size = arguments.size("size", size)
        self.inputs = FrozenArray(_units("inputs", inputs, size))
        self.outputs = FrozenArray(_units("outputs", outputs, size))
        if (self.inputs.numpy() & self.outputs.numpy()).any():
            raise ValueError(
                "A unit can't be both clamped input and output, but inputs and outputs share "
                f"{(self.inputs.numpy() & self.outputs.numpy()).sum()} units."
            )
        options = as_relaxation(rtol, atol, max_steps, damping)
        self.rtol, self.atol, self.max_steps, self.damping = options
        words = "a fixed-point or root finder of optimistix, or None"
        arguments.instance("solver", solver, eqx.Module | None, words)
        if solver is not None and damping is not None:
            raise ValueError(
                f"damping={damping} is for plain sweeps, but solver={type(solver).__name__} came "
                "too: pass one of them."
            )
        self.connectivity = connectivity(mask, size)
        self.signs = None if signs is None else arguments.signs("signs", signs, size)
        self.activation = arguments.elementwise("activation", activation, size)
        self.solver = solver
        self.check = arguments.boolean("check", check)
        use_bias = arguments.boolean("use_bias", use_bias)
        gain = arguments.number("gain", gain)
        dtype, key = arguments.dtype("dtype", dtype), arguments.key("key", key)
        allowed = ~self.inputs.numpy()[:, None] & np.ones((size, size), bool)
        exists = self.mask
        allowed = allowed if exists is None else allowed & exists
        self.weight = gain * _initial(key, allowed, self.signs, dtype)
        self.bias = jnp.zeros(size, self.weight.dtype) if use_bias else None

    @classmethod
    def layered(
        cls, sizes: Sequence[int], *, recurrent: bool = False, **options: Any
    ) -> "EquilibriumCell":
        """A cell whose units are layers, one after the other: inputs first, outputs last.

        **Arguments:** `sizes`: units of each layer, at least two. `recurrent`: all synapses among
        units that are not inputs; else from each layer to the next alone. `options`: further
        arguments of the cell, `signs` of all units among them.
        """
        words = "sizes holds the units of the input layer, of those between and of the output"
        arguments.entries(sizes, 2, f"{words} layer, at least two numbers")
        sizes = [arguments.size("an entry of sizes", entry) for entry in sizes]
        layer = np.repeat(np.arange(len(sizes)), sizes)
        mask = layer[:, None] == layer[None, :] + 1
        if arguments.boolean("recurrent", recurrent):
            mask |= (layer[:, None] > 0) & (layer[None, :] > 0)
        ends = {"inputs": layer == 0, "outputs": layer == layer[-1]}
        return cls(len(layer), mask=mask, **ends, **options)

    @property
    def mask(self) -> Bool[np.ndarray, "n n"] | Bool[Array, "... n n"] | None:
        """Which synapses exist [post, pre], as given; None: all."""
        return as_mask(self.connectivity)

    @property
    def in_size(self) -> int:
        """Number of input units, k."""
        return int(self.inputs.numpy().sum())

    @property
    def hidden_size(self) -> int:
        """Number of all units, n."""
        return self.weight.shape[-1]

    def init(self, batch_shape: BatchShape = ()) -> Equilibrium:
        """Zero rates; nothing has failed, nothing was done."""
        batch_shape = batch_axes(batch_shape)
        rates = jnp.zeros((*batch_shape, self.hidden_size), wide(self.weight.dtype))
        return Equilibrium(rates, jnp.ones(batch_shape, bool), jnp.zeros(batch_shape, jnp.int32))

    def step(self, state: Equilibrium, x: Float[Array, "*batch k"]) -> Equilibrium:
        """Relax to the equilibrium of an input; its derivative is implicit differentiation."""
        return self.step_with(state, x, _implicit)

    def step_with(
        self,
        state: Equilibrium,
        x: Float[Array, "*batch k"],
        find: Callable[[Any, Array, Array], Found],
    ) -> Equilibrium:
        """`step`, whose derivative is the credit that `find(cell, rates, direct)` finds."""
        # a fixed point of matmuls with narrow operands could be out of the tolerance's reach
        return equilibrium_with_credit(widened(self.effective()), widened(state), widened(x), find)

    def emit(self, state: Equilibrium) -> Float[Array, "*batch n"]:
        """The rates of all units; with `check`, an error where they have not settled."""
        if not self.check:
            return state.rates
        return eqx.error_if(
            state.rates,
            ~state.converged,
            f"An equilibrium was not reached in {self.max_steps} sweeps: pass damping=0.5 or less, "
            "a solver, more max_steps or weaker weights.",
        )

    def drive(self, rates: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """Net input `W r + b`."""
        cell = widened(self.effective())
        drive = rates @ cell.weight.T
        return drive if cell.bias is None else drive + jnp.broadcast_to(cell.bias, drive.shape)

    def slope(self, drive: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """`M σ'`."""
        _, pull = jax.vjp(self.activation, drive)
        (slope,) = pull(jnp.ones_like(drive))
        return jnp.where(np.broadcast_to(self.inputs.numpy(), slope.shape), 0, slope)

    def currents(
        self, state: Equilibrium
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
        """Excitatory and inhibitory currents onto each unit, both ≥ 0 where rates are; without b.

        `s_E - s_I + b` is the net input.
        """
        weight = widened(self.effective().weight)
        return (state.rates @ jnp.maximum(weight, 0).T, state.rates @ jnp.maximum(-weight, 0).T)

    def relax(
        self,
        start: Float[Array, "*batch n"],
        x: Float[Array, "*batch k"],
        push: Float[Array, "*batch n"] | None = None,
    ) -> Relaxed:
        """The equilibrium of each example, from these rates; `push`: added to the net input."""
        cell = self.effective()
        options = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps}
        # an example that was lost starts anew
        start = jnp.where(jnp.isfinite(start), start, 0)
        if self.solver is None:
            return relax(cell.sweep(x, push), start, damping=self.damping, **options)

        def one(start, x, push):
            return accelerated(self.solver, cell.sweep(x, push), start, **options)

        return each(one, start.ndim - 1)(start, x, push)

    def sweep(
        self, x: Float[Array, "*batch k"], push: Float[Array, "*batch n"] | None = None
    ) -> Callable[[Array], Array]:
        """`r -> M σ(W r + b + push) + (1 - M) x`."""
        inputs = self.inputs.numpy()
        # a last feature for the units that have none
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)])
        held = padded[..., np.where(inputs, np.cumsum(inputs) - 1, self.in_size)]
        clamped = np.broadcast_to(inputs, held.shape)

        def swept(rates):
            drive = self.drive(rates)
            drive = drive if push is None else drive + push
            return jnp.where(clamped, held, self.activation(drive))

        return swept

    def clamped_part(self, units: Float[Array, "*batch n"]) -> Float[Array, "*batch k"]:
        """Of values of all units, those of the input units."""
        return units[..., np.flatnonzero(self.inputs.numpy())]

    def effective(self) -> "EquilibriumCell":
        """The same cell with masked weights and no mask."""
        weight = existing(self.weight, self.connectivity)
        return with_fields(self, weight=weight, connectivity=None)

    def check_input(self, features: int) -> None:
        """Raise a ValueError unless there is one feature an input unit."""
        if features != self.in_size:
            raise ValueError(
                f"xs has {features} features, but this EquilibriumCell has {self.in_size} input "
                "units: xs is (T, *batch, inputs.sum())."
            )


def as_relaxation(
    rtol: float | int, atol: float | int, max_steps: int, damping: float | int | None
) -> tuple[float, float, int, float | None]:
    """The options of a relaxation, or a ValueError."""
    within = arguments.NOT_NEGATIVE
    if damping is not None:
        damping = arguments.number("damping", damping, arguments.POSITIVE_FRACTION)
    return (
        arguments.number("rtol", rtol, within),
        arguments.number("atol", atol, within),
        arguments.size("max_steps", max_steps),
        damping,
    )


def _implicit(cell: EquilibriumCell, rates: Array, direct: Array) -> Found:
    """Exact credit: `(1 - W^T diag(M σ')) a = e`."""
    slope = cell.slope(cell.drive(rates))

    def one(slope, direct):
        matrix = jnp.eye(len(slope), dtype=slope.dtype) - cell.weight.T * slope[None, :]
        return solved(matrix, direct)

    credit, batch = each(one, slope.ndim - 1)(slope, direct), slope.shape[:-1]
    return Found(credit, slope, jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool))


def _units(name: str, flags: Numbers, n: int) -> np.ndarray:
    if arguments.is_traced(flags):
        raise ValueError(f"{name} is part of a cell's structure, but is {arguments.shown(flags)}.")
    flags = np.asarray(flags)
    if flags.shape != (n,) or flags.dtype != np.bool_:
        raise ValueError(
            f"{name} must be boolean of shape {(n,)}, one flag a unit, but is {flags.dtype} of "
            f"shape {flags.shape}."
        )
    return flags


def _initial(
    key: PRNGKeyArray,
    allowed: Bool[np.ndarray | Array, "n n"],
    signs: tuple[int, ...] | None,
    dtype: DTypeLike,
) -> Float[Array, "n n"]:
    if signs is None:
        return scaled_normal(key, (len(allowed), len(allowed)), dtype, allowed)
    draw = jr.normal(key, allowed.shape, dtype or jnp.result_type(float))
    magnitude, excitatory = jnp.abs(jnp.where(allowed, draw, 0)), np.asarray(signs) > 0
    excitation = jnp.sum(magnitude, 1, where=excitatory[None])
    inhibition = jnp.sum(magnitude, 1, where=~excitatory[None])
    ratio = balancing(excitation, inhibition)
    weight = jnp.where(excitatory[None], magnitude, -ratio[:, None] * magnitude)
    norm = jnp.linalg.norm(weight, axis=1, keepdims=True)
    return weight / jnp.where(norm > 0, norm, 1)
