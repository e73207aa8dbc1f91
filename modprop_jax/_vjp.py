"""A function with a derivative of its own, for any pytree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import PyTree

from ._precision import wide
from ._sharding import alike, vary, varying
from ._tree import traced


def with_derivative(
    run: Callable[[Any], tuple[PyTree, PyTree]], backward: Callable[[Any, Any, Any], PyTree]
) -> Callable[[Any], PyTree]:
    """The first output of `run(pack) -> (out, residuals)`, with `backward` as its derivative.

    `backward(pack, residuals, cotangents)` returns the cotangents of the pack, None where there is
    none; it gets None for a cotangent that is zero. All arrays go into the pack: what is closed
    over has no gradient, nor a meta-gradient. In a `jax.shard_map` all of it is given to each
    device, whose sum of gradients is JAX's. (`eqx.filter_custom_vjp` does this too, but refuses
    integer arrays, such as refractory counters, that come out of another such function.)
    """

    def call(pack):
        arrays, static = eqx.partition(traced(alike(pack)), eqx.is_array)
        axes = varying(arrays)

        @jax.custom_vjp
        def primal(arrays):
            return run(eqx.combine(arrays, static))[0]

        def forward(arrays):
            arrays = jax.tree.map(lambda p: p.value, arrays, is_leaf=_is_primal)
            out, residuals = run(eqx.combine(arrays, static))
            return out, (arrays, residuals)

        def reverse(saved, cotangents):
            arrays, residuals = saved
            given = jax.tree.map(_none_if_zero, cotangents, is_leaf=_is_zero)
            given = vary(given, axes)
            found = _as_came(arrays, backward(eqx.combine(arrays, static), residuals, given))
            return (vary(found, axes),)

        primal.defvjp(forward, reverse, symbolic_zeros=True)
        try:
            return primal(arrays)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise ValueError(
                "What has a credit rule for its derivative has it in reverse mode alone, but "
                "jax.jvp or jax.jacfwd came: take jax.grad, jax.vjp or jax.jacrev; for forward "
                "mode jax.lax.scan of rule.step; and for second derivatives jax.hessian, jax.jvp "
                "of jax.grad, or hessian_top."
            ) from error

    return call


def _as_came(primals: PyTree, cotangents: PyTree) -> PyTree:
    """Cotangents of narrow floats, which are computed wide, in the dtype of the primals."""

    def one(cotangent, primal):
        if cotangent is None or not eqx.is_inexact_array(primal):
            return cotangent
        narrow = wide(primal.dtype) == cotangent.dtype
        return cotangent.astype(primal.dtype) if narrow else cotangent

    return jax.tree.map(one, cotangents, primals, is_leaf=lambda c: c is None)


def _is_primal(node: object) -> bool:
    return isinstance(node, CustomVJPPrimal)


def _is_zero(cotangent: object) -> bool:
    return isinstance(cotangent, SymbolicZero)


def _none_if_zero(cotangent: PyTree) -> PyTree:
    integer = not _is_zero(cotangent) and cotangent.dtype == jax.dtypes.float0
    return None if integer or _is_zero(cotangent) else cotangent
