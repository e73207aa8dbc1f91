"""An influence kept as one product: tangents of the state times a factor over parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from ..._cell._base import batch_shape
from ..._credit import Credit, Point
from ..._flags import erase_trace, select_trace
from ..._inputs import features, Inputs
from ..._program._base import AbstractProgram
from ..._start import start_learns
from ..._trace._influence import AbstractInfluence, Influence
from ..._tree import each, inexact


# of key data in traces, whatever kind of key `init` was given
KEYS = "threefry2x32"


class Estimate(NamedTuple):
    """What the trace holds of the state's influence, leaves (probes, *batch, ...).

    `tangent`: the factor over the state (UORO's A, the others' B), leaves (*columns, *variable).
    `factor`: the factor over parameters. `key`: key data of the next draws. `step`: steps so far.
    """

    tangent: PyTree
    factor: PyTree
    key: Array
    step: Array


class Tangent(NamedTuple):
    """Tangents of one example's state and, for a `Filtered` cell, of its memory, else `()`."""

    state: PyTree
    memory: PyTree = ()


class Linearised(NamedTuple):
    """One step of one example, as a linear map."""

    on: AbstractProgram
    before: PyTree
    inputs: Array | Inputs
    after: PyTree

    @property
    def x(self) -> Array:
        """The input, without what is added to the drive."""
        return features(self.inputs)

    @property
    def cell(self) -> Any:
        """The dynamics."""
        return self.on.cell

    def push(self, tangent: Tangent) -> Tangent:
        """`J tangent`; the memory leaks, and takes up what is emitted."""

        def step(before):
            return self.cell.step(before, self.inputs)

        state = pushforward(step, self.before, tangent.state)
        return Tangent(state, self.filtered(state, None, tangent.memory))

    def fresh(self, state: PyTree, emitted: Array | None = None) -> Tangent:
        """A tangent that begins with this step, in the state and in the emission alone."""
        return Tangent(state, self.filtered(state, emitted, None))

    def filtered(self, state: PyTree, emitted: Array | None, memory: PyTree) -> PyTree:
        """The memory's tangent, with what comes of the state and of the emission alone."""
        emission = self.on.emission
        if not emission.remembers:
            return ()
        z = pushforward(self.cell.emit, self.after, state)
        z = z if emitted is None else z + emitted
        return emission.filter(emission.silent(z) if memory is None else memory, z)


class RankOne(AbstractInfluence):
    r"""\( M_t \approx \) mean over probes of tangent ⊗ factor, advanced by the rule's `move`.

    Each example and each probe draws from a key of its own, which goes on at every step. A
    sequence that ends forgets the estimate, and neither key nor count.
    """

    def init(
        self, on: AbstractProgram, state: PyTree, key: PRNGKeyArray | None = None
    ) -> Influence:
        """Zeros, and a key for each probe of each example (without one, zeros)."""
        rule, cell = on.rule, on.cell
        batch = batch_shape(cell, state)
        rule.check_noise(cell, on.emission, batch)
        lead = rule.probes, *batch

        def zeros(a, columns=(), skip=0):
            return jnp.zeros((*lead, *columns, *a.shape[skip:]), a.dtype)

        def tangents(tree):
            return jax.tree.map(lambda a: zeros(a, rule.columns(cell), len(batch)), inexact(tree))

        factor = jax.tree.map(zeros, rule.factor(cell))
        data, step = jnp.zeros((*lead, 2), jnp.uint32), jnp.zeros(lead, jnp.int32)
        if key is not None:
            data = jr.bits(key, data.shape, data.dtype)
        estimate = Estimate(tangents(state), factor, data, step)
        if key is not None and rule.draws_once:
            estimate = estimate._replace(factor=_first(on, estimate)[1])
        return Influence(estimate, tangents(on.emission.silent(cell.emit(state))))

    def renews(self, on: AbstractProgram) -> bool:
        """Where the rule draws a factor for each sequence."""
        return on.rule.draws_once

    def advance(
        self, on: AbstractProgram, point: Point, after: PyTree, trace: Influence
    ) -> Influence:
        """One more step's noise, and `rule.move`."""
        rule = on.rule
        held, axes = trace.state, trace.state.step.ndim
        keys = each(jr.split, axes)(jr.wrap_key_data(held.key, impl=KEYS))
        count = 0 if rule.draws_once else rule.draws(on.cell, on.emission)
        drawn = rule.noise.draw(keys[..., 1], held.step, count, point.x.dtype)

        def one(before, inputs, after, tangent, factor, drawn):
            return rule.move(Linearised(on, before, inputs, after), tangent, factor, drawn)

        move = jax.vmap(each(one, axes - 1), in_axes=(None, None, None, 0, 0, 0))
        tangent = Tangent(held.tangent, trace.memory)
        tangent, factor = move(point.before, point.inputs, after, tangent, held.factor, drawn)
        estimate = Estimate(tangent.state, factor, jr.key_data(keys[..., 0]), held.step + 1)
        return Influence(estimate, tangent.memory)

    def contract(self, on: AbstractProgram, trace: Influence, credit: Credit) -> PyTree:
        """`Σ_batch (credit · tangent) ⊗ factor`, averaged over probes."""
        rule = on.rule
        axes = trace.state.step.ndim

        def reached(credit, tangent):
            pairs = zip(jax.tree.leaves(credit), jax.tree.leaves(tangent), strict=True)
            return sum(jnp.tensordot(t, c, c.ndim) for c, t in pairs)

        received = jax.vmap(each(reached, axes - 1), in_axes=(None, 0))
        columns = received((credit.state, credit.memory), (trace.state.tangent, trace.memory))
        columns, factor = jax.tree.map(
            lambda a: a.reshape(-1, *a.shape[axes:]), (columns / rule.probes, trace.state.factor)
        )
        return rule.gradient(on.cell, columns, factor)

    def begin(
        self, on: AbstractProgram, flag: Bool[Array, "*batch"], trace: Influence
    ) -> Influence:
        """An estimate of what init does to the first state; of noise that no step draws."""
        trace = self.forget(flag, trace)
        if not (start_learns(on.cell) or self.renews(on)):
            return trace
        held = trace.state
        tangent, factor = select_trace(flag, _first(on, held), (held.tangent, held.factor))
        return trace._replace(state=held._replace(tangent=tangent, factor=factor))

    def forget(self, flag: Bool[Array, "*batch"], trace: Influence) -> Influence:
        """No estimate where the flag of an example holds; its draws go on."""
        held = trace.state
        tangent, factor = erase_trace(flag, (held.tangent, held.factor))
        estimate = held._replace(tangent=tangent, factor=factor)
        return Influence(estimate, erase_trace(flag, trace.memory))


def _first(on: AbstractProgram, held: Estimate) -> tuple[PyTree, PyTree]:
    """Both factors of each example and probe, in the cell's start."""
    axes, dtype = held.step.ndim, jax.tree.leaves(held.tangent)[0].dtype
    # a step takes the first two of two
    keys = each(lambda key: jr.split(key, 3)[2], axes)(jr.wrap_key_data(held.key, impl=KEYS))
    drawn = on.rule.noise.draw(keys, held.step, on.rule.start_draws(on), dtype)
    return each(lambda noise: on.rule.of_start(on, noise), axes)(drawn)


def pushforward(function: Callable[..., PyTree], primal: PyTree, tangent: PyTree) -> PyTree:
    """`jax.jvp` by the inexact leaves; integers (refractory counters) have no tangents."""
    moving, rest = eqx.partition(primal, eqx.is_inexact_array)

    def differentiable(moving):
        return inexact(function(eqx.combine(moving, rest)))

    return jax.jvp(differentiable, (moving,), (tangent,))[1]
