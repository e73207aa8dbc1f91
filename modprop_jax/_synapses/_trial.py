"""Whether a map is one: a trial on a few numbers, where a cell takes it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._precision import wide, widened
from .._tree import inexact, pullback
from ._base import AbstractLocalSynapses, AbstractSynapses


LEAD = (2, 3)
WAYS = (
    "Write __call__ as products of its parameters and pre, over the last axis of pre alone; a "
    "constant is a bias (use_bias=True), a nonlinearity belongs into the cell's message."
)


def fault(synapses: AbstractSynapses) -> str | None:
    """What is wrong with a map, by its shapes and by numbers if these are known; else None."""
    if vars(type(synapses)).get("_is_linear"):
        return None
    if not jax.tree.leaves(inexact(synapses)):
        return "has no parameter, a jax.Array of floats: hold its weights in one"
    if isinstance(synapses, AbstractLocalSynapses) and len(jax.tree.leaves(inexact(synapses))) > 1:
        return (
            "has parameters beside its weight, which would get no gradient from a trace of each "
            "synapse: subclass AbstractSynapses, or make them static"
        )
    synapses = widened(synapses)
    post, pre = ((*LEAD, size) for size in synapses.shape)
    dtype = wide(synapses.dtype)
    return (
        _of_call(synapses, pre, post, dtype)
        or _of_back(synapses, post, pre, dtype)
        or _of_gradient(synapses, post, pre, dtype)
        or _of_numbers(synapses, pre, post, dtype)
    )


def is_single(weights: Array | AbstractSynapses) -> bool:
    """Whether it is one matrix or map, and not those of an ensemble together: by what it makes of
    one vector."""
    if not isinstance(weights, AbstractSynapses):
        return weights.ndim == 2
    post, pre = weights.shape
    try:
        like = jax.ShapeDtypeStruct((pre,), wide(weights.dtype))
        return eqx.filter_eval_shape(widened(weights), like).shape == (post,)
    except Exception:  # JAX's own are of many types
        return False


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


def _of_gradient(
    synapses: AbstractSynapses, post: tuple, pre: tuple, dtype: np.dtype
) -> str | None:
    credit, sent = (jax.ShapeDtypeStruct(shape, dtype) for shape in (post, pre))
    own = [leaf.shape for leaf in jax.tree.leaves(inexact(synapses))]
    try:
        made = eqx.filter_eval_shape(
            lambda s, *of: inexact(s.gradient(*of)), synapses, credit, sent
        )
    except Exception as error:
        return f"has a gradient that raised {type(error).__name__}: {error}"
    shapes = [leaf.shape for leaf in jax.tree.leaves(made)]
    if shapes != own:
        return f"has a gradient of shapes {shapes}, where its parameters are of {own}"
    return (
        _of_local(synapses, credit, sent) if isinstance(synapses, AbstractLocalSynapses) else None
    )


def _of_local(
    synapses: AbstractLocalSynapses, credit: jax.ShapeDtypeStruct, sent: jax.ShapeDtypeStruct
) -> str | None:
    weight = synapses.weight.shape
    rows = jax.ShapeDtypeStruct((1, *credit.shape), credit.dtype)
    try:
        seen = jax.eval_shape(synapses.gather, sent).shape
        heard = jax.eval_shape(synapses.spread, credit).shape
        made = jax.eval_shape(synapses.outer, rows, sent).shape
    except Exception as error:
        return f"has a gather, spread or outer that raised {type(error).__name__}: {error}"
    due = (*LEAD, *weight)
    for name, shape in (("gather", seen), ("spread", heard)):
        fits = len(shape) == len(due) and all(a in (1, b) for a, b in zip(shape[2:], weight))
        if not fits or shape[:2] != LEAD:
            return f"has a {name} of shape {shape}, where (steps, batch, *synapses) is {due}"
    due = (1, LEAD[1], *weight)
    if made != due:
        return f"has an outer of shape {made}, where (rows, batch, *synapses) is {due}"
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
        found = inexact(synapses.gradient(credit, x))
        due = pullback(lambda s: s(x), synapses)(credit)[0]
        if not all(map(_same, jax.tree.leaves(found), jax.tree.leaves(due))):
            return "has a gradient that is not that of its call: leave gradient out"
        if isinstance(synapses, AbstractLocalSynapses):
            return _of_contractions(synapses, credit, x, jax.tree.leaves(due)[0])
    return None


def _of_contractions(
    synapses: AbstractLocalSynapses, credit: Array, x: Array, due: Array
) -> str | None:
    each = synapses.spread(credit) * synapses.gather(x)
    if not _same(each.sum((0, 1)), due):
        return "gathers or spreads what its synapses do not see: Σ spread gather is the gradient"
    rows = jnp.stack([credit, -2 * credit])
    if not _same(synapses.outer(rows, x), jnp.stack([each.sum(0), -2 * each.sum(0)])):
        return "has an outer that is not Σ_t spread(post) gather(pre), each row and example apart"
    return None


def _same(one: Array, two: Array) -> bool:
    scale = np.abs(np.asarray(two)).max(initial=0.0)
    return np.allclose(one, two, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)
