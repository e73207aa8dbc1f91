"""Bias and variance of rules whose gradient is random."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._grad import online_value_and_grad, with_rule
from .._rule import AbstractRule, RTRL
from .._rule._base import as_rule
from ._online import flat
from ._pairs import cosine, norm


class GradientSpread(eqx.Module):
    r"""A random gradient g against the exact one r, over independent draws.

    - `bias`: \(\|\bar g - r\| / \|r\|\) of the mean over draws.
    - `bias_error`: what that is by chance (root mean square) if there is no bias,
        \(\sqrt{variance / draws}\).
    - `variance`: \(E \|g - E g\|^2 / \|r\|^2\), of one draw.
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

    **Arguments:**

    - `segment_loss`, `model`, `xs`, `ys`: as in `online_value_and_grad`. The gradient is that of
        the whole of `xs`, taken as one segment, at fixed weights.
    - `init(model, key)`: a carry of no past; its key makes the draw.
    - `rule`: the rule, which may also draw nothing: then all draws are alike.
    - `draws`: how many, 2 or more, all side by side.
    - `reference`: the exact rule.

    **Returns:** a `GradientSpread`, relative to the exact gradient: NaN where that is zero. Runs
    under `jit`. Cost: `draws` streamed gradients, in time and in memory.

    **Errors:** ValueError for fewer than 2 draws.

    The variance of a mean over k probes is 1/k of that of one: `UORO(probes=k)`.
    """
    arguments.function("segment_loss", segment_loss, "(model, carry, xs, ys) -> (loss, carry)")
    arguments.function("init", init, "init(model, key) -> carry")
    rule, reference = as_rule("rule", rule), as_rule("reference", reference)
    key, draws = arguments.key("key", key), arguments.whole("draws", draws, 2)
    arguments.sequences(xs=xs, ys=ys)
    gradient = online_value_and_grad(segment_loss, segment=jax.tree.leaves(xs)[0].shape[0])

    def of(rule, key):
        under = with_rule(model, rule)
        _, grads = gradient(under, init(under, key), xs, ys)
        return flat(grads)

    keys = jax.random.split(key, draws + 1)
    exact = of(reference, keys[0])
    each = jax.vmap(lambda key: of(rule, key))(keys[1:])
    mean, scale = each.mean(0), norm(exact)
    variance = jnp.sum((each - mean[None]) ** 2) / (draws - 1) / scale**2
    return GradientSpread(
        bias=norm(mean - exact) / scale,
        bias_error=jnp.sqrt(variance / draws),
        variance=variance,
        cosine=jax.vmap(cosine, (0, None))(each, exact).mean(),
        mean_cosine=cosine(mean, exact),
    )
