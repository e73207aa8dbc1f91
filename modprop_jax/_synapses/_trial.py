"""Whether a map is one: a trial on a few numbers, where a cell takes it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._precision import wide, widened
from .._tree import inexact
from ._base import AbstractSynapses


LEAD = (2, 3)
WAYS = (
    "Write __call__ as products of its parameters and pre, over the last axis of pre alone; a "
    "constant is a bias (use_bias=True), a nonlinearity belongs into the cell's message."
)


def fault(synapses: AbstractSynapses) -> str | None:
    """What is wrong with a map, by its shapes and by numbers if these are known; else None."""
    if not jax.tree.leaves(inexact(synapses)):
        return "has no parameter, a jax.Array of floats: hold its weights in one"
    synapses = widened(synapses)
    post, pre = ((*LEAD, size) for size in synapses.shape)
    dtype = wide(synapses.dtype)
    return (
        _of_call(synapses, pre, post, dtype)
        or _of_back(synapses, post, pre, dtype)
        or _of_numbers(synapses, pre, post, dtype)
    )


def _of_call(synapses: AbstractSynapses, pre: tuple, post: tuple, dtype: np.dtype) -> str | None:
    try:
        made = jax.eval_shape(synapses, jax.ShapeDtypeStruct(pre, dtype))
    except Exception as error:  # a map of the user's may raise anything
        return f"raised {type(error).__name__} on inputs of shape {pre}: {error}"
    if made.shape != post:
        return f"made shape {made.shape} of inputs of shape {pre}, where {post} is due. {WAYS}"
    return None


def _of_back(synapses: AbstractSynapses, post: tuple, pre: tuple, dtype: np.dtype) -> str | None:
    """By default the transpose, which only what is linear has."""
    try:
        made = jax.eval_shape(synapses.back, jax.ShapeDtypeStruct(post, dtype))
    except Exception as error:  # JAX's own are of many types
        return f"is not linear, or its back is not ({type(error).__name__}). {WAYS}"
    if made.shape != pre:
        return f"sends credit of shape {post} back as {made.shape}, where {pre} is due"
    return None


def _of_numbers(synapses: AbstractSynapses, pre: tuple, post: tuple, dtype: np.dtype) -> str | None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(synapses)):
        return None
    rng = np.random.default_rng(0)
    with jax.ensure_compile_time_eval():
        x, credit = (jnp.asarray(rng.normal(size=shape), dtype) for shape in (pre, post))
        received, sent = synapses(x), synapses.back(credit)
        if isinstance(received, Tracer) or isinstance(sent, Tracer):
            return "closes over a traced array, which would get no gradient: make it a field"
        if np.any(np.asarray(synapses(jnp.zeros_like(x)))):
            return f"makes something of nothing: W 0 is not 0. {WAYS}"
        if not _same(synapses(x - 2 * x[::-1]), received - 2 * received[::-1]):
            return f"is not linear. {WAYS}"
        if not _same(synapses(x[1, 2]), received[1, 2]):
            return f"mixes what stands on leading axes (steps and examples). {WAYS}"
        if not _same(jnp.sum(sent * x, -1), jnp.sum(credit * received, -1)):
            return "has a back that is not the transpose of its call: leave back out"
    return None


def _same(one: Array, two: Array) -> bool:
    scale = np.abs(np.asarray(two)).max(initial=0.0)
    return np.allclose(one, two, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)
