from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ..._cell._base import batch_shape
from ..._credit import Point
from ..._flags import erase, select
from ..._precision import start_of, widened
from ..._program._base import AbstractProgram
from ..._trace._by_error import AbstractCreditTrace
from ..._trace._learner import learnt, mean_outer, start
from ..._trace._rows import credit_from_rows, credit_to_rows, to_rows
from ..._tree import nothing, pullback


class Synthetic(NamedTuple):
    """The value of a `SyntheticGradient` trace.

    Shared by all examples: `weight` A (state, state + labels + 1), its copy `target` A⁻, `jacobian`
    J̃ (state, state) or None, the optimizers' states, and the number of steps (`step`). Of each
    example's last step: its `state`, `labels` and direct credit (`error`), and if there was one.
    """

    weight: Float[Array, "s f"]
    target: Float[Array, "s f"]
    jacobian: Float[Array, "s s"] | None
    learners: PyTree
    step: Float[Array, ""]
    state: Float[Array, "*batch s"]
    labels: Float[Array, "*batch k"]
    error: Float[Array, "*batch s"]
    begun: Float[Array, "*batch"]


class Seen(NamedTuple):
    """What a step makes visible: direct credit, the synthetic gradient, the state that was
    predicted (None: with the exact Jacobian, none is), and the target for the step before."""

    error: Float[Array, "*batch s"]
    credit: Float[Array, "*batch s"]
    prediction: Float[Array, "*batch s"] | None
    teaching: Float[Array, "*batch s"]


class SyntheticGradient(AbstractCreditTrace):
    r"""Synthetic gradients, \( \hat\lambda_t = A \tilde a_t \), learnt by bootstrapping.

    The order of a step, as published: the Jacobian's model, then A with it, then the weights with
    the new A. Memory O(s²) for a state of s numbers, and O(s + k) an example.
    """

    @property
    def by_example(self) -> bool:
        """False: what was learned is the batch's."""
        return False

    def init(self, on: AbstractProgram, state: PyTree, key: PRNGKeyArray | None) -> Synthetic:
        """A as the rule draws it; J̃ = W_rec."""
        assert key is not None
        rule, cell = on.rule, on.cell
        batch, example = batch_shape(cell, state), to_rows(start_of(cell))
        s, k, dtype = len(example), rule.labels, example.dtype
        weight = rule.initial(key, s, dtype)
        jacobian = of_jacobian = None
        # copies of their own, also of A: buffers of a carry may be donated
        if rule.learn_jacobian is not None:
            jacobian = jnp.copy(widened(cell.recurrent.as_matrix()))
            of_jacobian = start(rule.learn_jacobian, jacobian)
        state, labels, error = (jnp.zeros((*batch, size), dtype) for size in (s, k, s))
        return Synthetic(
            weight,
            jnp.copy(weight),
            jacobian,
            (start(rule.learn, weight), of_jacobian),
            jnp.zeros((), dtype),
            state,
            labels,
            error,
            jnp.zeros(batch, dtype),
        )

    def advance(
        self,
        on: AbstractProgram,
        point: Point,
        after: PyTree,
        direct: PyTree,
        context: Float[Array, "*batch k"],
        trace: Synthetic,
    ) -> tuple[PyTree, Synthetic]:
        """One step of the model of the Jacobian, of A, and the synthetic gradient."""
        seen, further = self.phases(on, point, after, direct, context, trace)
        return credit_from_rows(seen.credit, direct), further

    def phases(
        self,
        on: AbstractProgram,
        point: Point,
        after: PyTree,
        direct: PyTree,
        context: Float[Array, "*batch k"],
        trace: Synthetic,
    ) -> tuple[Seen, Synthetic]:
        """As `advance`, with what can be seen of it."""
        rule, cell = on.rule, on.cell
        lead = context.ndim - 1
        before, now = to_rows(point.before, lead), to_rows(after, lead)
        error = credit_to_rows(direct, lead)
        keep = None if point.flags is None else point.flags.keep
        share = None if keep is None else jnp.mean(keep, dtype=now.dtype)
        of_weight, of_jacobian = trace.learners

        jacobian, prediction = trace.jacobian, None
        if jacobian is not None:
            prediction = before @ jacobian.T
            gradient = mean_outer(prediction - now, before, keep)
            jacobian, of_jacobian = learnt(
                rule.learn_jacobian, gradient, of_jacobian, jacobian, share
            )

        labels = select(trace.begun > 0, trace.labels, context)
        earlier, later = _features(trace.state, labels), _features(now, context)
        sent = rule.squash(later @ trace.target.T)
        if jacobian is not None:
            brought = sent @ jacobian
        else:
            step = pullback(lambda s: cell.step(s, point.inputs), point.before)
            (credit,) = step(credit_from_rows(sent, direct))
            brought = credit_to_rows(credit, lead)
        teaching = trace.error + brought
        gradient = mean_outer(earlier @ trace.weight.T - teaching, earlier, keep)
        weight, of_weight = learnt(rule.learn, gradient, of_weight, trace.weight, share)

        more = jnp.ones((), now.dtype) if share is None else (share > 0).astype(now.dtype)
        count = trace.step + more
        refresh = (more > 0) & (count % rule.refresh == 0)
        further = Synthetic(
            weight,
            jnp.where(refresh, weight, trace.target),
            jacobian,
            (of_weight, of_jacobian),
            count,
            now,
            context,
            error,
            jnp.ones_like(trace.begun),
        )
        return Seen(error, later @ weight.T, prediction, teaching), further

    def batch_axes(self, trace: Synthetic) -> Synthetic:
        """Only the last step is an example's own."""
        return Synthetic(*nothing(trace[:5]), *jax.tree.map(lambda _: 0, trace[5:]))

    def forget(self, flag: Bool[Array, "*batch"], trace: Synthetic) -> Synthetic:
        """Forgets the last step, not what was learnt."""
        last = erase(flag, (trace.state, trace.labels, trace.error, trace.begun))
        return Synthetic(*trace[:5], *last)

    def hold(self, keep: Bool[Array, "*batch"], further: Synthetic, trace: Synthetic) -> Synthetic:
        """Keeps the last step that took place."""
        return Synthetic(*further[:5], *select(keep, further[5:], trace[5:]))


def _features(rows: Float[Array, "*batch s"], labels: Float[Array, "*batch k"]) -> Array:
    return jnp.concatenate([rows, labels, jnp.ones_like(rows[..., :1])], axis=-1)
