"""What a rule learns by the optax transformation that came with it."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree


def start(learn: optax.GradientTransformation, params: PyTree) -> PyTree:
    """The transformation's state with its counters as floats: a trace has only floats."""
    dtype = jax.tree.leaves(params)[0].dtype
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), learn.init(params))


def learnt(
    learn: optax.GradientTransformation,
    gradient: PyTree,
    state: PyTree,
    params: PyTree,
    takes_place: Float[Array, ""] | None,
) -> tuple[PyTree, PyTree]:
    """`params` and the transformation's state after one step of it.

    `takes_place`: the share of examples whose step does (None: all). If none, nothing changes.
    """
    like = jax.eval_shape(learn.init, params)
    exact = jax.tree.map(lambda a, b: a.astype(b.dtype), state, like)
    with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
        updates, after = learn.update(gradient, exact, params)
        further = optax.apply_updates(params, updates)
    after = jax.tree.map(lambda a, b: a.astype(b.dtype), after, state)
    if takes_place is None:
        return further, after

    def one(new, old):
        return jnp.where(takes_place > 0, new, old)

    return jax.tree.map(one, (further, after), (params, state))


def mean_outer(
    errors: Float[Array, "*batch i"], rates: Float[Array, "*batch j"], keep: Array | None
) -> Float[Array, "i j"]:
    """errors ⊗ rates, a mean over the examples (whose step takes place)."""
    errors, rates = errors.reshape(-1, errors.shape[-1]), rates.reshape(-1, rates.shape[-1])
    if keep is None:
        return errors.T @ rates / len(errors)
    keep = keep.reshape(-1, 1).astype(errors.dtype)
    return (keep * errors).T @ (keep * rates) / jnp.maximum(jnp.sum(keep), 1)
