"""How much a step can enlarge an error: bounds of the 2-norm of the state's Jacobian."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._linear import Linear
from ._weights import Weights


def growth(step: Linear, weights: Weights) -> Float[Array, " 2"]:
    r"""Two bounds of \( |J|_2 \): \( \min(|J|_F, \sqrt{|J|_1 |J|_\infty}) \), and
    \( \max_i |D_i| + \max_i |R_i| \, \sigma_{max}(W) \, \max_i |Q_i| \).

    D: ∂integrate/∂state, R: ∂integrate/∂drive, Q: ∂message/∂state, each of one unit.
    """
    blocks, others = step.blocks(weights), jnp.abs(weights.others)
    received, sent = jnp.abs(step.received), jnp.sum(jnp.abs(step.sent), axis=0)
    frobenius = jnp.sum(blocks**2) + squares(step, weights, jnp.sum(step.sent**2, axis=0))
    heard = jnp.einsum("gij,j->gi", others, sent)
    rows = jnp.sum(jnp.abs(blocks), axis=1) + jnp.einsum("kgn,gn->kn", received, heard)
    reached = jnp.einsum("gij,gi->j", others, jnp.sum(received, axis=0))
    columns = jnp.sum(jnp.abs(blocks), axis=0) + jnp.abs(step.sent) * reached[None]
    first = jnp.minimum(jnp.sqrt(frobenius), jnp.sqrt(jnp.max(rows) * jnp.max(columns)))

    def largest(squared, axes):
        return jnp.sqrt(jnp.max(jnp.sum(squared, axis=axes)))

    own = largest(step.own**2, (0, 1))
    through = largest(step.received**2, (0, 1)) * largest(step.sent**2, 0)
    return jnp.stack([first, own + through * weights.largest])


def squares(step: Linear, weights: Weights, scale: Float[Array, " n"]) -> Float[Array, ""]:
    """`Σ O² scale` over all entries of O, the part of the Jacobian from message to others' state;
    `scale`: of the sender."""
    both = jnp.einsum("kgn,khn->ghn", step.received, step.received)
    return jnp.sum(both * jnp.einsum("ghij,j->ghi", weights.pairs, scale))
