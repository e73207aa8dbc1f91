"""Eligibility traces over parameters, for learning from a TD error (`optim.eligibility_traces`)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from . import _arguments as arguments
from ._precision import wide


class EligibilityTracesState(NamedTuple):
    """The decaying sum of past gradients, float32 at least; with `agents`, that of each."""

    traces: PyTree


def eligibility_traces(
    decay: float | Array, *, agents: int | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Past gradients, to which a TD error gives credit when it comes: TD(λ), actor-critic AC(λ).

    For the gradient g of each step, in this order,

        z ← γλ z + g,   u ← δ z,   z ← 0 where `done`

    with the update u, γλ = `decay`, and δ = `td_error` and `done` given at each step:

        optimizer.update(grads, state, params, td_error=δ, done=done)

    Gradients are those of a loss to descend, so of minus what a positive δ should raise: −V(s_t)
    for TD(λ), −log π(a_t | s_t) for an actor, the sum of both for networks that share a core. With
    δ_t = r_t + γ V(s_{t+1}) − V(s_t), and no V(s_{t+1}) where an episode ends, a descent by u is
    the textbook's θ ← θ + α δ_t z_t. `done` says that the episode ends with this step: its error
    still reaches the trace, which then is 0. Put it first in `optax.chain`: what follows sees u.

    Exact: at fixed weights, u summed over an episode is Σ_t (G_t − V(s_t)) g_t, with G_t the
    λ-return (the forward view). Approximate: as weights move at every step, gradients in the trace
    are those of the weights of their time. γ^t, which the gradient of a discounted return has in
    theory, is left out, as usual.

    These are not e-prop's eligibility traces. Those are derivatives of a network's state, which
    wait within the network for an error; these are gradients, by whatever rule, which wait outside
    of it for a reward, and decay at one constant rate. They compose: g may come from a rule's
    trace.

    Memory: the size of the parameters, times `agents`; time likewise, a step. Locality: a trace for
    each parameter, and one number that all of them receive.

    **Arguments:**

    - `decay`: γλ, in [0, 1]. It may be traced.
    - `agents`: None: one life, δ and `done` of shape (). B: one network lives B lives at once:
        gradients come with a first axis of B, δ and `done` are (B,), each life has a trace of its
        own, and u is the mean over them. For networks of their own use `jax.vmap`.

    **Raises:** `ValueError` if `td_error` is missing, or holds no floats of that shape; if `done`
    holds no booleans of that shape; or if gradients have other shapes than `init` was told.

    Sources: Barto, Sutton & Anderson, IEEE Transactions on Systems, Man, and Cybernetics 13 (1983);
    Sutton, Machine Learning 3 (1988); Sutton & Barto, "Reinforcement learning", 2018, sections 12.2
    and 13.5. These traces accumulate; replacing ones, and true online TD(λ), are others.
    """
    decay = arguments.amount("decay", decay, arguments.FRACTION)
    lives = () if agents is None else (arguments.size("agents", agents),)

    def init(params):
        def silent(w):
            return jnp.zeros((*lives, *jnp.shape(w)), wide(jnp.result_type(w)))

        return EligibilityTracesState(jax.tree.map(silent, params))

    def update(updates, state, params=None, *, td_error=None, done=None, **others):
        del params, others
        if td_error is None:
            raise ValueError(
                "eligibility_traces needs td_error: call optimizer.update(grads, state, params, "
                "td_error=..., done=...)."
            )
        error = _of_lives("td_error", td_error, lives, jnp.floating)
        ended = None if done is None else _of_lives("done", done, lives, jnp.bool_)

        def extended(z, g):
            if z.shape != jnp.shape(g):
                raise ValueError(
                    f"eligibility_traces has a trace of shape {z.shape}, but a gradient of shape "
                    f"{jnp.shape(g)} came: with agents=B gradients are (B, *parameter)."
                )
            return jnp.asarray(decay, z.dtype) * z + g.astype(z.dtype)

        def credited(z, g):
            found = _along(error.astype(z.dtype), z) * z
            return (found.mean(0) if lives else found).astype(g.dtype)

        def kept(z):
            return z if ended is None else jnp.where(_along(ended, z), jnp.zeros_like(z), z)

        traces = jax.tree.map(extended, state.traces, updates)
        updates = jax.tree.map(credited, traces, updates)
        return updates, EligibilityTracesState(jax.tree.map(kept, traces))

    return optax.GradientTransformationExtraArgs(init, update)


def _of_lives(name: str, value: Any, lives: tuple[int, ...], kind: Any) -> Array:
    """One number, or one boolean, for each life."""
    if isinstance(value, bool | float):
        value = jnp.asarray(value)
    found = arguments.array(name, value, "one number, or one for each of `agents`")
    if found.shape != lives or not jnp.issubdtype(found.dtype, kind):
        words = "booleans" if kind is jnp.bool_ else "floats"
        raise ValueError(
            f"{name} of eligibility_traces must hold {words} of shape {lives}, one for each life, "
            f"but is {found.dtype} of shape {found.shape}."
        )
    return jnp.asarray(found)


def _along(signal: Array, trace: Array) -> Array:
    """A number for each life, shaped to multiply its trace."""
    return jnp.reshape(signal, signal.shape + (1,) * (trace.ndim - signal.ndim))
