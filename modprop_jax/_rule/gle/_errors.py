"""The errors of a `GLECell`: a low-pass of each neuron's, that looks ahead."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from ..._cell._gle import GLEState
from ..._cell._prospective_layer import entries, slope
from ..._credit import Point
from ..._flags import erase, select
from ..._program._base import AbstractProgram
from ..._static import Constant
from ..._trace._by_error import AbstractCreditTrace
from ..._tree import pullback


class Prospective(NamedTuple):
    """The value of a `ProspectiveErrors` trace, its tuples by layer.

    `v`: each neuron's error, low-pass filtered (*batch, N_l). `message` ("sync"): what layers 2 to
    L sent down at the last step, for the layer below (*batch, N_{l-1}). `nudge` (γ > 0): what the
    last step's error has added to the membranes (*batch, N_l).
    """

    v: tuple[Array, ...]
    message: tuple[Array, ...]
    nudge: tuple[Array, ...]


class ProspectiveErrors(AbstractCreditTrace):
    """Each neuron's local error, low-pass filtered by τ_r, looks ahead by τ_m.

    Memory: one float a neuron and example ("sweep"), or two, and one more with nudging.
    """

    def init(self, on: AbstractProgram, state: GLEState, key: PRNGKeyArray | None) -> Prospective:
        """No error."""
        cell = on.cell

        # arrays of their own: buffers of a carry may be donated
        def zeros(layers):
            return tuple(map(jnp.zeros_like, layers))

        lower = state.u[:-1] if cell.order == "sync" else ()
        return Prospective(zeros(state.u), zeros(lower), zeros(state.u) if cell.gamma else ())

    def advance(
        self,
        on: AbstractProgram,
        point: Point,
        after: GLEState,
        direct: GLEState,
        context: Array,
        trace: Prospective,
    ) -> tuple[tuple[Array, ...], Prospective]:
        """Each layer's errors, from the top down."""
        cell = on.cell
        received = cell.received(point.before, after, point.x)
        slopes = cell.slopes(point.before, after)
        arriving = -direct.out
        sync = cell.order == "sync"
        v, errors, messages, dt = [], [], [], float(cell.dt)
        for index, layer in reversed(list(enumerate(cell.layers))):
            low_pass = error = arriving * slopes[index]
            if on.rule.prospective_errors:
                before = trace.v[index]
                change = (error - before) / layer.rate_constant(before)
                low_pass = before + dt * change
                error = before + layer.membrane_constant(before) * change
            v.insert(0, low_pass)
            errors.insert(0, error)
            if index:
                (message,) = pullback(layer.drive, received[index])(error)
                messages.insert(0, message)
                arriving = trace.message[index - 1] if sync else message
        further = Prospective(tuple(v), tuple(messages) if sync else (), ())
        if cell.gamma:
            rows = zip(cell.layers, errors)
            nudge = (dt * cell.gamma * e / layer.membrane_constant(e) for layer, e in rows)
            further = further._replace(nudge=tuple(nudge))
        return tuple(errors), further

    def charge(
        self, on: AbstractProgram, points: Point, states: GLEState, credit: tuple[Array, ...]
    ) -> tuple[PyTree, Array]:
        """By the energy ½ Σ |u + τ_m u' - W r - b|² at fixed activity, whose slope is the error."""
        cell, before = on.cell, points.before
        received = cell.received(before, states, points.x)
        changes = []
        for layer, u, ub, error in zip(cell.layers, before.u, states.ub, credit):
            change = (ub - u) / layer.rate_constant(u)
            if cell.gamma:
                change = change + cell.gamma * error / layer.membrane_constant(u)
            changes.append(change)

        def mismatch(cell, x):
            rows = zip(cell.layers, before.u, changes, (x, *received[1:]))
            return tuple(
                u + layer.membrane_constant(u) * change - layer.drive(rates)
                for layer, u, change, rates in rows
            )

        return pullback(mismatch, cell, points.x)(credit)

    def check_states(self, on: AbstractProgram, credit: GLEState) -> None:
        """Errors come from the emission."""
        if jax.tree.leaves(credit._replace(out=None)):
            raise ValueError(
                "The errors of GLE begin at the emission, but the loss reads other variables of "
                "the states of a GLECell: use BPTT, or stop_gradient(states)."
            )

    def forget(self, flag: Bool[Array, "*batch"], trace: Prospective) -> Prospective:
        """No error."""
        return erase(flag, trace)

    def hold(
        self, keep: Bool[Array, "*batch"], further: Prospective, trace: Prospective
    ) -> Prospective:
        """The errors as they were, and no nudge."""
        return select(keep, further, trace._replace(nudge=erase(~keep, trace.nudge)))

    def nudge(self, on: AbstractProgram) -> Callable[[GLEState, Prospective], GLEState] | None:
        """Nudging, with γ > 0."""
        cell = on.cell
        if not cell.gamma:
            return None
        constants = tuple(layer.tau_r for layer in cell.layers)
        return Nudging(constants, tuple(layer.activation for layer in cell.layers), float(cell.dt))


class Nudging(eqx.Module):
    """The state after a step, whose errors the membranes see: u and ŭ are affine in them.

    It has no array leaves: it goes along with a carry.
    """

    tau_r: tuple[Constant, ...]
    activations: tuple[Callable, ...] = eqx.field(static=True)
    dt: float = eqx.field(static=True)

    def __call__(self, state: GLEState, value: Prospective) -> GLEState:
        """`value`: the trace after the step."""
        u = jax.tree.map(jnp.add, state.u, value.nudge)
        ub, r, rp = [], [], []
        rows = zip(self.tau_r, self.activations, value.nudge, *state[1:4])
        for tau_r, activation, nudge, look, rate, steep in rows:
            look = look + entries(tau_r, nudge) / self.dt * nudge
            # what no error reaches stays as it is: the first rates are not those of φ
            moved = nudge != 0
            ub.append(look)
            r.append(jnp.where(moved, activation(look), rate))
            rp.append(jnp.where(moved, slope(activation, look), steep))
        return GLEState(u, tuple(ub), tuple(r), tuple(rp), state.out)
