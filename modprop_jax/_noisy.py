"""Runs of a loss in which the drives of all layers get noise, and what the runs have in common."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, PRNGKeyArray, PyTree

from . import _arguments as arguments
from ._cell import AbstractCell, SeparableCell
from ._cell._base import dynamics
from ._flags import entering
from ._inputs import drive_of, features, Inputs, pushed
from ._precision import start_of
from ._program._base import AbstractProgram, Steps
from ._rule._noise import LAWS
from ._tree import shifted, stop


Along = Callable[[int, PyTree, PyTree], PyTree]


class Pass:
    """One run of a loss: what it adds to drives, and what it has seen of each call of `scan`.

    The same key gives the same noise to the same call of another pass, times `scale`. Kept of each
    call: its drives; and, with `along(call, noise, drive)`, the term Σ along · drive, whose
    derivative by the weights is Σ_t along_t ⊗ presynaptic_t, with what synapses see held fixed.
    """

    def __init__(self, law: str, key: PRNGKeyArray, scale: float, along: Along | None = None):
        self.law, self.key, self.scale, self.along = law, key, scale, along
        self.noise: list[PyTree] = []
        self.drives: list[PyTree] = []
        self.terms: list[Array] = []
        self.traced_in = get_opaque_trace_state(convention="modprop_jax")

    def push(self, cell: AbstractCell, steps: Steps) -> Steps:
        """The steps with noise on their drives."""
        inner = dynamics(cell)
        units = arguments.require(
            inner,
            SeparableCell,
            "Noise on drives needs layers with a drive, a NeuronCell or another SeparableCell, but "
            f"this one is a {type(inner).__name__}: perturb weights, "
            'perturbed_value_and_grad(loss, "weight", ...).',
        )
        if self.traced_in != get_opaque_trace_state(convention="modprop_jax"):
            raise ValueError(
                "perturbed_value_and_grad meets each layer where the loss itself runs, but this "
                "one runs inside of a jit, vmap, scan, checkpoint or grad of the loss: put that "
                "around the call of perturbed_value_and_grad (a vmap with one key each)."
            )
        x = features(steps.inputs)
        start = jax.eval_shape(lambda: start_of(units, x.shape[:-1]))
        like = jax.eval_shape(lambda s, x: units.drive(units.message(s), x), start, x)
        leaves, structure = jax.tree.flatten(like)
        keys = jax.random.split(jax.random.fold_in(self.key, len(self.noise)), len(leaves))
        drawn = [LAWS[self.law](k, d.shape, d.dtype) for k, d in zip(keys, leaves)]
        noise = jax.tree.unflatten(structure, drawn)
        self.noise.append(noise)
        if self.scale == 0:
            return steps
        push = _added(pushed(steps.inputs), noise, self.scale)
        return steps._replace(inputs=Inputs(x, push))

    def meet(self, program: AbstractProgram, before: PyTree, steps: Steps, after: PyTree) -> None:
        """What has become of a call: the layer's state before it, and after each step."""
        cell, flags = program.cell, steps.flags
        (before, _), (after, _) = (program.emission.split(s) for s in (before, after))
        states = shifted(before, after)
        if flags is not None:
            states = entering(cell, flags, states)
        message = stop(cell.message(stop(states)))
        drive = drive_of(cell, message, stop(steps.inputs))
        self.drives.append(stop(drive))
        if self.along is None:
            return
        along = stop(self.along(len(self.terms), self.noise[-1], self.drives[-1]))

        def met(along, drive):
            if flags is not None:
                along = jnp.where(flags.keep[..., None], along, 0)
            return jnp.sum(along * drive)

        self.terms.append(jax.tree.reduce(jnp.add, jax.tree.map(met, along, drive)))


_current: contextvars.ContextVar[Pass | None] = contextvars.ContextVar("pass", default=None)
# a key of JAX's caches: what was traced without noise is traced anew
_noisy = jax.make_user_context(default_value=False)


@contextlib.contextmanager
def running(one: Pass) -> Iterator[Pass]:
    """All calls of `scan` belong to this pass."""
    token = _current.set(one)
    try:
        with _noisy(True):
            yield one
    finally:
        _current.reset(token)


def current() -> Pass | None:
    """The pass that runs, if any."""
    return _current.get()


def _added(push: PyTree, noise: PyTree, scale: float) -> PyTree:
    noise = jax.tree.map(lambda d: scale * d, noise)
    if push is None:
        return noise
    return jax.tree.map(
        lambda p, d: d if p is None else p + d, push, noise, is_leaf=lambda p: p is None
    )
