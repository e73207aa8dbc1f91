"""How one rule's gradient compares with another's."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._grad import value_and_grad
from ._rule import AbstractRule, BPTT


class Alignment(eqx.Module):
    """Agreement of a rule's gradient g with a reference r; leaf by leaf, and in total.

    `cosine`, `norm_ratio`, `sign_agreement` are scalars over all parameters together, and the
    `leaf_*` fields have the model's structure. A zero gradient has cosine 0,
    and two of them have norm ratio 1.
    """

    cosine: Float[Array, ""]
    norm_ratio: Float[Array, ""]
    sign_agreement: Float[Array, ""]
    leaf_cosine: PyTree
    leaf_norm_ratio: PyTree
    leaf_sign_agreement: PyTree


def alignment(
    loss: Callable[..., Any],
    model: PyTree,
    *args: Any,
    rule: AbstractRule,
    reference: AbstractRule = BPTT(),
) -> Alignment:
    r"""Compare the gradients of two rules on the same model and data.

    \[ \cos = \frac{g \cdot r}{\|g\|\,\|r\|}, \qquad ratio = \frac{\|g\|}{\|r\|}, \qquad
       agreement = \mathrm{mean}(\mathrm{sign}\,g = \mathrm{sign}\,r) \]

    **Arguments:** `loss(model, *args) -> scalar`; `rule` gives g and `reference` r. Runs under
    `jit` and `vmap`. Cost: the two gradients.
    """
    _, gradient = value_and_grad(loss, rule)(model, *args)
    _, target = value_and_grad(loss, reference)(model, *args)

    def flat(tree):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])

    return Alignment(
        *(f(flat(gradient), flat(target)) for f in (_cosine, _ratio, _agreement)),
        *(jax.tree.map(f, gradient, target) for f in (_cosine, _ratio, _agreement)),
    )


def _cosine(g: Array, r: Array) -> Array:
    norms = jnp.linalg.norm(g) * jnp.linalg.norm(r)
    return jnp.where(norms > 0, jnp.sum(g * r) / jnp.where(norms > 0, norms, 1), 0)


def _ratio(g: Array, r: Array) -> Array:
    ours, theirs = jnp.linalg.norm(g), jnp.linalg.norm(r)
    both_zero = (ours == 0) & (theirs == 0)
    return jnp.where(both_zero, 1, ours / jnp.where(both_zero, 1, theirs))


def _agreement(g: Array, r: Array) -> Array:
    return jnp.mean((jnp.sign(g) == jnp.sign(r)).astype(g.dtype))
