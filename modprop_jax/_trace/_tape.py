from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree

from .._cell._base import batch_shape
from .._credit import Credit, Flags, Point, Record
from .._flags import erase, select
from .._inputs import drive_of, features, Inputs, is_none, pushed
from .._precision import start_of
from .._program._base import AbstractProgram
from .._program._reverse import charge, points_of, transport
from .._start import start_learns
from .._tree import add, inexact, pullback
from ._base import AbstractTrace


class Steps(NamedTuple):
    """Steps as they were, oldest first: leaves (steps, *batch, ...).

    `before`: the state that a step started from; `inputs`: its input, and what was added to its
    drive; `keep`: whether there is a step. Where the cell's start learns, `begins`: whether the
    state before a step is that start, and `fresh` (1, *batch): whether the present one is.
    """

    before: PyTree
    inputs: Array | Inputs
    keep: Bool[Array, "steps *batch"]
    begins: Bool[Array, "steps *batch"] | None = None
    fresh: Bool[Array, "1 *batch"] | None = None


class Tape(AbstractTrace):
    r"""The last `steps` steps themselves, for rules whose credit does not reach further.

    Credit that enters the past goes back through them as in a segment, linearised at the weights of
    the moment. Memory O(steps · (n + m)) an example. What is before the first step, or before the
    sequence's beginning, is no step: zeros, which credit passes without effect. Steps that padding
    takes the place of are not on the tape. With `driven` it holds what is added to drives too.
    """

    steps: int = eqx.field(static=True)
    driven: bool = eqx.field(static=True, default=False)

    def init(self, on: AbstractProgram, state: PyTree) -> Steps:
        """No step."""
        if on.emission.remembers:
            raise ValueError(
                f"{on.name} streams with the last {self.steps} steps, but the memory "
                "of a Filtered emission brings credit to all steps before: learn offline (from a "
                "bare state), or stream with RTRL."
            )
        inner = on.cell
        batch = batch_shape(inner, state)
        dtype = jax.tree.leaves(inexact(state))[0].dtype
        xs = jnp.zeros((self.steps, *batch, inner.in_size), dtype)
        steps = Steps(
            jax.tree.map(lambda s: jnp.zeros((self.steps, *s.shape), s.dtype), state),
            self._kept(on, xs),
            jnp.zeros((self.steps, *batch), bool),
        )
        if not start_learns(inner):
            return steps
        fresh = jnp.zeros((1, *batch), bool)
        return steps._replace(begins=jnp.zeros_like(steps.keep), fresh=fresh)

    def begin(self, on: AbstractProgram, flag: Bool[Array, "*batch"], trace: Steps) -> Steps:
        """No step, where the flag of an example holds, but the cell's own start."""
        trace = self.forget(flag, trace)
        return trace if trace.fresh is None else trace._replace(fresh=trace.fresh | flag[None])

    def contract(self, on: AbstractProgram, trace: Steps, credit: Credit) -> PyTree:
        """Credit goes back through the tape, and charges the parameters at each step."""
        cell = on.cell
        # no step, but from a state that the cell can be in: what it would send from zeros may be
        # infinite, and a credit of 0 does not erase that
        before = select(trace.keep, trace.before, start_of(cell, trace.keep.shape))
        drive = drive_of(cell, cell.message(before), trace.inputs)
        fresh = jnp.zeros_like(trace.keep)
        if trace.fresh is not None and trace.begins is not None:
            # the state before the oldest step is out of reach
            fresh = trace.begins.at[0].set(False)
            credit = credit._replace(start=erase(~trace.fresh[0], credit.state))
        points = Point(before, trace.inputs, drive, flags=Flags(fresh, trace.keep))
        silent = jax.tree.map(jnp.zeros_like, inexact(before))
        credit, total, message = transport(on, points, silent, credit)
        # what the oldest step received was sent one step earlier, out of reach
        message = jax.tree.map(lambda m: m.at[0].set(0), message)
        gradient, _ = charge(cell, points, before, total, message, None)
        if trace.fresh is None:
            return gradient
        batch = trace.fresh.shape[1:]
        start = pullback(lambda cell: start_of(cell, batch), cell)(credit.start)
        return add(gradient, *start)

    def extend(self, on: AbstractProgram, record: Record, trace: Steps) -> Steps:
        """The newest steps stay."""
        flags, points = record.flags, points_of(on.cell, record)
        keep = jnp.ones(record.xs.shape[:-1], bool) if flags is None else flags.keep
        fresh = Steps(points.before, self._kept(on, record.inputs), keep)
        after = None
        if trace.fresh is not None:
            begins, after = _beginnings(trace.fresh[0], keep, flags)
            fresh, trace = fresh._replace(begins=begins), trace._replace(fresh=None)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), trace, fresh)
        if flags is None:
            return jax.tree.map(lambda a: a[-self.steps :], both)._replace(fresh=after)
        keep = both.keep & ~_followed(flags.fresh, len(both.keep))
        # stable: what is no step goes to the front, and the order of steps stays
        newest = jnp.argsort(keep, axis=0, stable=True)[-self.steps :]

        def take(a):
            index = newest.reshape(*newest.shape, *(1,) * (a.ndim - newest.ndim))
            return jnp.take_along_axis(a, index, axis=0)

        kept = jax.tree.map(take, both._replace(keep=keep))
        return erase(~kept.keep, kept)._replace(fresh=after)

    def _kept(self, on: AbstractProgram, inputs: Array | Inputs) -> Array | Inputs:
        """What is on the tape of a segment's inputs."""
        push = pushed(inputs)
        if not self.driven and push is not None:
            raise ValueError(
                f"{on.name} streams from a tape of its inputs, which has no room for "
                f"drive=: make the rule as {on.name}({self.steps}, driven=True)."
            )
        if not self.driven:
            return inputs
        x, cell = features(inputs), on.cell
        own = jax.eval_shape(lambda x: cell.drive(cell.message(start_of(cell, x.shape[:-1])), x), x)
        silent = jax.tree.map(lambda d: jnp.zeros(d.shape, d.dtype), own)
        return Inputs(x, silent if push is None else _filled(push, silent))


def _filled(push: PyTree, silent: PyTree) -> PyTree:
    """Zeros where nothing is added."""
    return jax.tree.map(lambda p, s: s if p is None else p, push, silent, is_leaf=is_none)


def _beginnings(
    fresh: Bool[Array, "*batch"], keep: Bool[Array, "T *batch"], flags: Flags | None
) -> tuple[Bool[Array, "T *batch"], Bool[Array, "1 *batch"]]:
    """Whether the state before each step is the cell's own start, and whether that after all is."""

    def body(start, at):
        keep, begins = at
        start = start | begins
        return start & ~keep, start

    begins = jnp.zeros_like(keep) if flags is None else flags.fresh
    after, before = lax.scan(body, fresh, (keep, begins))
    return before, after[None]


def _followed(fresh: Bool[Array, "T *batch"], steps: int) -> Bool[Array, "steps *batch"]:
    """Whether a sequence begins after a step, for the last of so many steps."""
    begins = lax.cummax(fresh.astype(jnp.int32), axis=0, reverse=True).astype(bool)
    earlier = jnp.broadcast_to(begins[:1], (steps - len(fresh), *begins.shape[1:]))
    return jnp.concatenate([earlier, begins[1:], jnp.zeros_like(begins[:1])])
