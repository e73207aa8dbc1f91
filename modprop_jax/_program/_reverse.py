"""The reverse of a segment: credit transported back, parameters charged chunk by chunk."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from .._cell import AbstractCell, NeuronCell, SeparableCell
from .._credit import Back, Credit, Flags, Point, Record
from .._flags import back_to_steps, entering, erase, select, where_valid
from .._inputs import drive_of, features
from .._precision import widened
from .._sharding import batch_groups, over_steps
from .._tree import (
    accumulate,
    accumulator,
    add,
    as_dtypes,
    inexact,
    materialise,
    pullback,
    shifted,
    slice_time,
    total,
    zeros_of,
)
from ._base import AbstractProgram
from ._side_by_side import side_by_side


def transport(
    on: AbstractProgram, points: Point, direct: PyTree, credit: Credit
) -> tuple[Credit, PyTree, PyTree]:
    """`rule.back` over consecutive steps, last one first.

    Returns the credit before the first step and, for each step, the total credit on the state
    and the credit on the message.
    """
    decay = None if points.flags is not None else on.rule.decay(on)
    if decay is None:
        return step_by_step(on, points, direct, credit)
    # on CPU, steps in cache are as fast as any other order; elsewhere each is a kernel launch
    return lax.platform_dependent(
        direct,
        credit,
        cpu=lambda direct, credit: step_by_step(on, points, direct, credit),
        default=lambda direct, credit: side_by_side(decay, direct, credit),
    )


def step_by_step(
    on: AbstractProgram, points: Point, direct: PyTree, credit: Credit
) -> tuple[Credit, PyTree, PyTree]:
    """`transport` as a scan."""

    def body(credit, at):
        point, direct = at
        start, credit = credit.start, credit._replace(start=())
        back = on.rule.back(on, point, credit, direct)
        if point.flags is not None:
            back = _flagged(back, credit, point.flags, start)
        return back.credit, (back.total, back.message)

    credit, (total, message) = over_steps(body, credit, (points, direct), reverse=True)
    return credit, total, message


def points_of(cell: AbstractCell, record: Record) -> Point:
    """Where all steps of a segment are linearised."""
    before = shifted(record.before, record.states)
    before = entering(cell, record.flags, before, record.start)
    return Point(before, record.inputs, record.drives, record.observed, record.flags)


def charge_neurons(
    own: PyTree,
    rest: PyTree,
    points: Point,
    states: PyTree,
    total: PyTree,
    message: PyTree,
    ct_z: Array | None,
) -> tuple[PyTree, PyTree]:
    """Charge a separable cell's elementwise parameters; return their gradient and the drive's.

    The message is held fixed in the drive: what a parameter does through a neuron's own sent
    activity is transport, charged with the credit on the message where the rule has one.
    """

    def run(own, drive):
        cell = eqx.combine(own, rest)
        after = cell.integrate(points.before, drive)
        sent = None if message is None else cell.message(points.before)
        return after, None if ct_z is None else cell.emit(states), sent

    if not jax.tree.leaves(own):
        (drive,) = pullback(lambda d: rest.integrate(points.before, d), points.drive)(total)
        return own, drive
    return pullback(run, own, points.drive)((total, ct_z, message))


def charge(
    cell: AbstractCell,
    points: Point,
    states: PyTree,
    total: PyTree,
    message: PyTree,
    ct_z: Array | None,
) -> tuple[PyTree, PyTree]:
    """Gradient of all of the cell's parameters, summed over all leading axes, and of the inputs."""
    if total is None:  # of a rule without credit, only what the emission reads learns
        (gradient,) = pullback(lambda c: emitted(c, states), cell)(ct_z)
        return gradient, jax.tree.map(jnp.zeros_like, points.inputs)
    if not isinstance(cell, SeparableCell):

        def run(cell, x):
            after = stepped(cell, points.before, x)
            return after, None if ct_z is None else emitted(cell, states)

        return pullback(run, cell, points.inputs)((total, ct_z))
    own, rest = cell.split()
    own, drive = charge_neurons(own, rest, points, states, total, message, ct_z)
    sent = cell.message(points.before)
    if not isinstance(cell, NeuronCell):
        weights, inputs = pullback(lambda c, x: drive_of(c, sent, x), rest, points.inputs)(drive)
        return eqx.combine(own, weights), inputs
    # a map knows better than JAX how to contract: of a gather, JAX makes a scatter
    activity = cell.presynaptic(sent, features(points.inputs))
    each = {name: s.gradient(drive, activity[name]) for name, s in cell.afferents.items()}
    (inputs,) = pullback(lambda x: drive_of(cell, sent, x), points.inputs)(drive)
    return eqx.combine(own, cell.with_afferents(each)), inputs


class Direct(NamedTuple):
    """The loss's credit on a segment: on its emissions, on all its states, and on the last one;
    None for the states where there is none."""

    zs: Array
    states: PyTree | None
    last: PyTree | None


def direct_credit(cell: AbstractCell, record: Record, cotangents: tuple) -> Direct:
    """Of the cotangents of (last state, emissions, all states), None for what is zero."""
    last, zs, states = cotangents
    if zs is None:
        like = jax.eval_shape(lambda: emitted(cell, record.states))
        zs = jnp.zeros(like.shape, like.dtype)

    def written(cotangent, like):
        return materialise(cotangent, like) if jax.tree.leaves(cotangent) else None

    return Direct(zs, written(states, record.states), written(last, record.before))


def by_steps(cell: AbstractCell, record: Record, direct: Direct) -> tuple[PyTree, PyTree]:
    """The gradient of what the emission reads, and direct credit on the state after each step."""
    gradient, each = pullback(emitted, cell, record.states)(direct.zs)
    if direct.last is not None:
        each = jax.tree.map(lambda d, last: d.at[-1].add(last), each, direct.last)
    return gradient, add(each, direct.states)


def reverse(
    on: AbstractProgram, record: Record, direct: Direct, credit: Credit, chunk: int
) -> tuple[PyTree, Credit, PyTree]:
    """Gradient of a whole segment: `(cell, credit before the first step, xs)`.

    Chunks of time run in a reverse scan; within a chunk the recurrence of credit is a scan and
    the weight gradient is one matmul over (chunk x batch), which keeps its operands in cache.
    """
    cell = on.cell
    steps, batch = record.xs.shape[0], record.xs.shape[1:-1]
    loops = math.ceil(steps / chunk) - 1
    first = steps - loops * chunk
    groups = batch_groups(batch)
    at_steps = record.inputs, record.drives, record.observed, record.flags

    def piece(credit, pending, points, states, ct_z, ct_state):
        before = entering(cell, points.flags, points.before, record.start)
        points = points._replace(before=before)
        (direct,) = pullback(cell.emit, states)(ct_z)
        direct = add(direct, ct_state)
        if pending is not None:
            direct, credit, pending = _with_pending(points.flags, direct, credit, pending)
        credit, total, message = transport(on, points, direct, credit)
        gradient, xs = by_group(points, states, total, message, ct_z)
        return credit, pending, gradient, xs

    def by_group(*terms):
        if groups == 1:
            return charge(cell, *terms)
        each = jax.vmap(lambda *t: charge(cell, *t), in_axes=1, out_axes=(0, 1))
        gradient, inputs = each(*jax.tree.map(lambda a: _split(a, groups), terms))
        return gradient, jax.tree.map(_merge, inputs)

    def body(carry, index):
        credit, pending, sums = carry
        start = first + index * chunk
        both = slice_time(record.states, start - 1, chunk + 1)
        seen, *came = slice_time((at_steps, direct.zs, direct.states), start, chunk)
        points = Point(jax.tree.map(lambda s: s[:-1], both), *seen)
        states = jax.tree.map(lambda s: s[1:], both)
        credit, pending, gradient, ct_xs = piece(credit, pending, points, states, *came)
        return (credit, pending, accumulate(sums, gradient)), ct_xs

    def start(leaf, before):
        return jnp.concatenate([before[None], leaf[: first - 1]])

    lead = () if groups == 1 else (groups,)
    last = direct.last
    sums, ct_xs = accumulator(zeros_of(cell, lead)), None
    if loops:
        carry = (credit, last, sums)
        carry, ct_xs = over_steps(body, carry, jnp.arange(loops), reverse=True)
        credit, last, sums = carry
        ct_xs = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), ct_xs)
    before = jax.tree.map(start, record.states, record.before)
    at_first = at_steps, record.states, direct.zs, direct.states
    seen, states, *came = jax.tree.map(lambda a: a[:first], at_first)
    points = Point(before, *seen)
    credit, last, gradient, head = piece(credit, last, points, states, *came)
    if last is not None:
        credit = credit._replace(state=add(credit.state, last))
    if ct_xs is not None:
        head = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, ct_xs)
    gradient = total(accumulate(sums, gradient)) if loops else widened(gradient)
    if groups > 1:
        gradient = jax.tree.map(lambda g: g.sum(0), gradient)
    return as_dtypes(gradient, cell), credit, head


def bring_back(
    on: AbstractProgram, record: Record, credit: Credit
) -> tuple[Credit, Point, PyTree, PyTree, Array | None]:
    """Credit at the end of a segment, brought to its start without any loss inside.

    Returns the credit at the start, the points of the segment and, for each step, the total
    credit on the state, the credit on the message, and that on the emission (None: it has none).
    """
    points = points_of(on.cell, record)
    memory, ct_z = on.emission.run_back(credit.memory, record.flags, len(record.xs))
    if ct_z is None:
        direct = jax.tree.map(jnp.zeros_like, inexact(record.states))
    else:
        (direct,) = pullback(lambda s: emitted(on.cell, s), record.states)(ct_z)
    credit, total, message = transport(on, points, direct, credit._replace(memory=()))
    return credit._replace(memory=memory), points, total, message, ct_z


def instantaneous(cell: AbstractCell, record: Record, direct: Direct) -> PyTree:
    """Credit on the inputs from the emission and the state of their own step alone."""
    points = points_of(cell, record)

    def run(xs):
        after = where_valid(record.flags, jax.vmap(cell.step)(points.before, xs), points.before)
        last = None if direct.last is None else jax.tree.map(lambda a: a[-1], after)
        return emitted(cell, after), None if direct.states is None else after, last

    return pullback(run, record.inputs)(tuple(direct))[0]


def stepped(cell: AbstractCell, before: PyTree, inputs: PyTree) -> PyTree:
    """The states after steps."""
    return _over_time(cell, cell.step)(before, inputs)


def emitted(cell: AbstractCell, states: PyTree) -> Array:
    """The emissions of steps."""
    return _over_time(cell, cell.emit)(states)


def _over_time(cell: AbstractCell, method: Callable) -> Callable:
    """Of a cell that is not made of units, step by step, as it ran: what it makes of a leading axis
    of time is not known."""
    return method if isinstance(cell, SeparableCell) else jax.vmap(method)


def _flagged(back: Back, credit: Credit, flags: Flags, start: PyTree) -> Back:
    """A step that does not take place passes credit as it came; nothing passes a beginning, but
    what comes to its state counts, with `start`, where that is asked for.
    """
    passed = select(flags.keep, back.credit, credit)
    if jax.tree.leaves(start):
        start = add(start, erase(~flags.fresh, passed.state))
    passed = erase(flags.fresh, passed)._replace(start=start)
    total, message = erase(~flags.keep, (back.total, back.message))
    return Back(total, passed, message)


def _with_pending(
    flags: Flags | None, direct: PyTree, credit: Credit, pending: PyTree
) -> tuple[PyTree, Credit, PyTree]:
    """Direct credit of steps and on the state after them, credit with what of that came to the
    start of a sequence without a step, and what is left for earlier steps.
    """
    if flags is None:
        direct = jax.tree.map(lambda d, p: d.at[-1].add(p), direct, pending)
        return direct, credit, jax.tree.map(jnp.zeros_like, pending)
    each, left, begun = back_to_steps(flags, pending)
    if jax.tree.leaves(credit.start):
        credit = credit._replace(start=add(credit.start, begun))
    return add(direct, each), credit, left


def _split(a: Array, groups: int) -> Array:
    return a.reshape(a.shape[0], groups, a.shape[1] // groups, *a.shape[2:])


def _merge(a: Array) -> Array:
    return a.reshape(a.shape[0], a.shape[1] * a.shape[2], *a.shape[3:])
