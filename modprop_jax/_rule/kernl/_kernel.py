from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from ..._credit import Credit, Point
from ..._flags import erase_trace
from ..._inputs import drive_of, features
from ..._program._base import AbstractProgram
from ..._trace._influence import AbstractInfluence, Influence
from ..._trace._learner import learnt
from ..._trace._per_synapse import local_afferents
from ..._tree import each, nothing, pullback
from ..stochastic._rank_one import KEYS


class Learned(NamedTuple):
    """What the examples of a batch share: A (n, n), alpha (n,), and their optimizer's state."""

    sensitivity: Array
    alpha: Array
    optimizer: PyTree


class Past(NamedTuple):
    """What the past has left in each example; leaves (1, *batch, n, ...).

    `eligibility`: P of each afferent, by name. `response`: Ω, the
    twin's noise under the kernel. `drift`: Γ = ∂Ω/∂alpha. `apart`: the twin's state less the
    network's, so that zeros are a twin that starts where the network does.
    """

    eligibility: dict[str, Array]
    response: Array
    drift: Array
    apart: Array


class Draws(NamedTuple):
    """The key of each example, and its steps so far."""

    key: Array
    step: Array


class KernelState(NamedTuple):
    """The value of a `Kernel` trace."""

    learned: Learned
    past: Past
    draws: Draws


class Kernel(AbstractInfluence):
    r"""The influence \( M_t[k, i, j] = A_{ki} P_t[i, j] \), for neurons of one state variable.

    P is an eligibility trace that decays by alpha. A and alpha are learned on the way, from a twin
    of the network that gets noise. Memory O(n(n + m)) an example, and A.
    """

    def init(
        self, on: AbstractProgram, state: PyTree, key: PRNGKeyArray | None = None
    ) -> Influence:
        """No past, A = I, the rule's first alpha, and a key for each example (else zeros)."""
        rule, cell = on.rule, on.cell
        (like,) = jax.tree.leaves(state)
        batch, n, dtype = like.shape[:-1], cell.hidden_size, like.dtype
        rule.check_noise(cell, batch)

        def zeros(*features):
            return jnp.zeros((1, *batch, *features), dtype)

        values = jnp.eye(n, dtype=dtype), rule.init_alpha(cell)
        learned = Learned(*values, rule.learn.init(values))
        each = {name: zeros(*s.weight.shape) for name, s in local_afferents(on).items()}
        past = Past(each, zeros(n), zeros(n), zeros(n))
        data = jnp.zeros((1, *batch, 2), jnp.uint32)
        if key is not None:
            data = jr.bits(key, data.shape, data.dtype)
        draws = Draws(data, jnp.zeros((1, *batch), jnp.int32))
        return Influence(KernelState(learned, past, draws))

    def advance(
        self, on: AbstractProgram, point: Point, after: PyTree, trace: Influence
    ) -> Influence:
        """A step of the kernel and of the twin, from whose difference A and alpha learn."""
        rule = on.rule
        learned, past, draws = trace.state
        now = _noise(rule, draws, past.apart)
        early, late, seen = jnp.zeros_like(now), now, now
        later = draws._replace(step=draws.step + 1)
        if rule.author_compat:
            # it moves before its step, and the kernel sees the noise of the next one
            early, late, seen = now, early, _noise(rule, later, past.apart)
        step = each(_step_of(on.cell, learned.alpha), point.x.ndim - 1)
        # over the leading axis too: taken off and put back, XLA would copy the eligibility
        step = jax.vmap(step, in_axes=(None, None, None, 0, 0, 0, 0))
        past = step(point.before, point.inputs, after, past, early, late, seen)
        keep = None if point.flags is None else point.flags.keep
        learned = _learn(rule, on.weights, learned, past, keep)
        return Influence(KernelState(learned, past, later))

    def contract(self, on: AbstractProgram, trace: Influence, credit: Credit) -> PyTree:
        """`Σ_batch (c A)[i] P[i, j]`."""
        cell = on.cell
        learned, past, _ = trace.state
        (direct,) = jax.tree.leaves(credit.state)
        rows = direct.reshape(-1, direct.shape[-1]) @ learned.sensitivity

        def total(p, synapses):
            # one leading axis: XLA's CPU reduction over two is an order of magnitude slower
            each = p.reshape(-1, *synapses.weight.shape)
            return synapses.of_weight(jnp.sum(synapses.spread(rows) * each, axis=0))

        each = {n: total(past.eligibility[n], s) for n, s in local_afferents(on).items()}
        return cell.with_afferents(each)

    def forget(self, flag: Bool[Array, "*batch"], trace: Influence) -> Influence:
        """Without its past, and the twin where the network is; what was learned stays."""
        value = trace.state
        return Influence(value._replace(past=erase_trace(flag, value.past)))

    def batch_axes(self, trace: Influence) -> Influence:
        """What was learned is shared."""
        past, draws = jax.tree.map(lambda _: 1, tuple(trace.state[1:]))
        return Influence(KernelState(nothing(trace.state.learned), past, draws))

    def hold(self, keep: Bool[Array, "*batch"], further: Influence, trace: Influence) -> Influence:
        """`further` where a step takes place; only such examples have taught in it."""
        _, *own = trace.state
        learned, *advanced = further.state
        past, draws = AbstractInfluence.hold(self, keep, advanced, own)
        return Influence(KernelState(learned, past, draws))

    @property
    def by_example(self) -> bool:
        """False: what was learned is the batch's."""
        return False


def _step_of(cell: Any, alpha: Array) -> Callable:
    """What a step makes of the past of one example."""
    keep = jnp.maximum(1 - alpha, 0)

    def moved(state, by):
        return jax.tree.map(lambda s: s + by, state)

    def step(before, inputs, after, past, early, late, seen):
        twin = moved(cell.step(moved(before, past.apart + early), inputs), late)
        (apart,) = jax.tree.leaves(jax.tree.map(jnp.subtract, twin, after))
        sent = cell.message(before)
        drive = drive_of(cell, sent, inputs)
        unit = jax.tree.map(jnp.ones_like, after)
        (slope,) = pullback(lambda drive: cell.integrate(before, drive), drive)(unit)

        activity = cell.presynaptic(sent, features(inputs))

        def trace(name, p):
            synapses = cell.afferents[name]
            return synapses.spread(keep) * p + synapses.spread(slope) * synapses.gather(
                activity[name]
            )

        return Past(
            {name: trace(name, p) for name, p in past.eligibility.items()},
            keep * past.response + seen,
            keep * past.drift - past.response,
            apart,
        )

    return step


def _learn(
    rule: Any, lowest: Array, learned: Learned, past: Past, keep: Bool[Array, "*batch"] | None
) -> Learned:
    """One step of the optimizer, on the mean over the examples whose step takes place."""
    sensitivity, alpha, optimizer = learned
    response, drift, apart = (
        a.reshape(-1, a.shape[-1]) for a in (past.response, past.drift, past.apart)
    )
    error, count = response @ sensitivity.T - apart, None
    if keep is None:
        error = error / len(error)
    else:
        keep = keep.reshape(-1, 1)
        count = keep.sum().astype(error.dtype)
        error = jnp.where(keep, error, 0) / jnp.maximum(count, 1)
    gradients = error.T @ response, jnp.sum((error @ sensitivity) * drift, axis=0)
    (sensitivity, alpha), optimizer = learnt(
        rule.learn, gradients, optimizer, (sensitivity, alpha), count
    )
    if not rule.author_compat:
        alpha = jnp.clip(alpha, lowest, 1)
    return Learned(sensitivity, alpha, optimizer)


def _noise(rule: Any, draws: Draws, like: Array) -> Array:
    """Noise (1, *batch, n) of each example's step."""

    def at(key, step):
        return jr.fold_in(jr.wrap_key_data(key, impl=KEYS), step)

    keys = each(at, draws.step.ndim)(draws.key, draws.step)
    return rule.sigma * rule.noise.draw(keys, draws.step, like.shape[-1], like.dtype)
