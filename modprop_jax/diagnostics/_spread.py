"""Bias and variance of rules whose gradient is random."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._grad import online_value_and_grad, with_rule
from .._rnn import layers
from .._rule import AbstractRule, RTRL
from ._pairs import cosine, norm


class GradientSpread(eqx.Module):
    r"""A random gradient g against the exact one r, over independent draws.

    - `bias`: \(\|\bar g - r\| / \|r\|\) of the mean over draws.
    - `bias_error`: how large that is by chance if there is no bias, \(\sqrt{variance / draws}\).
    - `variance`: \(E \|g - \bar g\|^2 / \|r\|^2\), of one draw.
    - `cosine`: of a single draw with r, a mean over draws; `mean_cosine`: of their mean with r.
    """

    bias: Float[Array, ""]
    bias_error: Float[Array, ""]
    variance: Float[Array, ""]
    cosine: Float[Array, ""]
    mean_cosine: Float[Array, ""]


def gradient_spread(
    segment_loss: Callable[..., tuple[Any, PyTree]],
    model: PyTree,
    xs: PyTree,
    ys: PyTree,
    *,
    init: Callable[[Any, PRNGKeyArray], PyTree],
    rule: AbstractRule,
    key: PRNGKeyArray,
    draws: int = 100,
    reference: AbstractRule = RTRL(),
) -> GradientSpread:
    """Bias and variance of a stochastic rule's gradient of the recurrent layers.

    **Arguments:** `segment_loss`, `model`, `xs`, `ys`: as in `online_value_and_grad`, which takes
    the whole of `xs` as one segment. `init(model, key)`: a carry of no past. `draws`: keys, all
    side by side. `reference`: the exact rule. Runs under `jit`.

    **Errors:** ValueError for fewer than 2 draws.

    The variance of a mean over k probes is 1/k of that of one: `UORO(probes=k)`.
    """
    if draws < 2:
        raise ValueError(f"gradient_spread needs 2 draws or more, but draws is {draws}.")
    steps = jax.tree.leaves(xs)[0].shape[0]
    gradient = online_value_and_grad(segment_loss, segment=steps)

    def of(rule, key):
        under = with_rule(model, rule)
        _, grads = gradient(under, init(under, key), xs, ys)
        leaves = [leaf.ravel() for layer in layers(grads) for leaf in jax.tree.leaves(layer)]
        return jnp.concatenate(leaves)

    exact = of(reference, key)
    each = jax.vmap(lambda key: of(rule, key))(jax.random.split(key, draws))
    mean, scale = each.mean(0), norm(exact)
    variance = jnp.sum((each - mean[None]) ** 2) / (draws - 1) / scale**2
    return GradientSpread(
        norm(mean - exact) / scale,
        jnp.sqrt(variance / draws),
        variance,
        jax.vmap(cosine, (0, None))(each, exact).mean(),
        cosine(mean, exact),
    )
