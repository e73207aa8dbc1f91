"""The largest curvature of the exact loss."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._grad import with_rule
from .._precision import widened
from .._readout import Readout
from .._rule import BPTT


class HessianTop(eqx.Module):
    """The ends of a Hessian's spectrum, with their signs.

    `eigenvalue`: the largest (algebraically), as the Rayleigh quotient v·Hv of the unit `vector`,
    which has the structure of the selected parameters. `residual`: ‖Hv - λv‖ / |λ|, computed
    anew, so it also shows what was lost to rounding; some eigenvalue lies within that share of λ.
    `iterations`: Hessian-vector products that it took. `lowest`, `lowest_residual`: the same at
    the other end, never below the smallest eigenvalue, and close to it where its magnitude is
    comparable with that of the largest.
    """

    eigenvalue: Float[Array, ""]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    vector: PyTree
    lowest: Float[Array, ""]
    lowest_residual: Float[Array, ""]

    @property
    def dominant(self) -> Array:
        """The one of larger magnitude, with its sign: what power iteration finds."""
        larger = jnp.abs(self.eigenvalue) >= jnp.abs(self.lowest)
        return jnp.where(larger, self.eigenvalue, self.lowest)


def hessian_top(
    loss: Callable[..., Any],
    model: PyTree,
    *args: Any,
    where: Callable[[PyTree], Any] | None = None,
    key: PRNGKeyArray,
    iterations: int = 40,
    tol: float = 1e-3,
) -> HessianTop:
    r"""Largest eigenvalue of the Hessian of the exact loss, by the Lanczos method.

    \[ \lambda_1 = \max_{\|v\| = 1} v \cdot H v, \qquad H = \nabla^2_\theta\, loss \]

    Exact: every RNN layer runs under BPTT and every readout with symmetric feedback, whatever the
    model's own. The largest *algebraic* eigenvalue is the one that bounds the learning rate of
    gradient descent (`curvature_bound`); the largest in magnitude, which may be negative, is
    `dominant`.

    **Arguments:**

    - `loss`: `loss(model, *args) -> scalar`.
    - `where`: selects the parameters θ, as in `lambda m: m.rnn.cell.weight_rec`; all by default.
    - `key`: for the starting vector.
    - `iterations`: at most so many Hessian-vector products (and two for the residuals).
    - `tol`: stop once the residual is estimated below it (at the lowest end, relative to the
        larger of the two). The eigenvalue itself is then much more accurate: its error falls with
        the square of the residual.

    **Returns:** a `HessianTop`. Runs under `jit` and `vmap`. Cost: a Hessian-vector product takes
    about two gradients; memory `iterations` times the number of parameters, and the residuals
    of one gradient.

    **Errors:** ValueError if `where` selects no parameter, or the model has no RNN layer.

    Sources: Lanczos, J. Res. Nat. Bur. Stand. 45 (1950), here with full reorthogonalisation; the
    use, curvature under approximate credit: Liu, Ghosh, Richards, Shea-Brown & Lajoie,
    NeurIPS 2022 (arXiv 2206.00823).
    """
    arguments.function("loss", loss, "loss(model, *args) -> scalar")
    if where is not None:
        arguments.function("where", where, "where(model) -> parameters")
    key, iterations = arguments.key("key", key), arguments.size("iterations", iterations)
    tol = arguments.number("tol", tol, arguments.NOT_NEGATIVE)
    model = widened(_exact(model))
    selected = model if where is None else where(model)
    params, rest = eqx.partition(selected, eqx.is_inexact_array)
    if not jax.tree.leaves(params):
        raise ValueError(
            "hessian_top needs parameters, but `where` selects no inexact array: select leaves as "
            "in where=lambda m: m.rnn.cell.weight_rec."
        )
    with jax.numpy_dtype_promotion("standard"):  # leaves may differ in precision
        flat, unravel = ravel_pytree(params)

    def value(flat):
        new = eqx.combine(unravel(flat), rest)
        return loss(new if where is None else eqx.tree_at(where, model, new), *args)

    # Reverse over reverse: scan has no forward mode. The linearisation serves all products.
    _, pull = jax.vjp(jax.grad(value), flat)

    def product(v):
        return pull(v)[0]

    start = jr.normal(key, flat.shape, flat.dtype)
    count, lowest, top = _lanczos(product, start, min(iterations, flat.size), tol)
    (eigenvalue, residual), (low, low_residual) = (_rayleigh(product, v) for v in (top, lowest))
    return HessianTop(eigenvalue, residual, count, unravel(top), low, low_residual)


def _exact(model: PyTree) -> PyTree:
    """The model without any approximation in its derivative."""

    def symmetric(node):
        if not isinstance(node, Readout):
            return node
        return eqx.tree_at(
            lambda r: r.feedback_weight, node, None, is_leaf=lambda leaf: leaf is None
        )

    model = with_rule(model, BPTT())
    return jax.tree.map(symmetric, model, is_leaf=lambda node: isinstance(node, Readout))


def _rayleigh(product: Callable[[Array], Array], v: Float[Array, " P"]) -> tuple[Array, Array]:
    """v·Hv, and the residual relative to it."""
    image = product(v)
    value = jnp.sum(v * image)
    error = jnp.linalg.norm(image - value * v)
    return value, jnp.where(error == 0, 0, error / jnp.abs(value))


def _lanczos(
    product: Callable[[Array], Array], start: Float[Array, " P"], size: int, tol: float
) -> tuple[Array, Array, Array]:
    """Products taken, and unit Ritz vectors of the smallest and the largest eigenvalue."""
    first = start / jnp.linalg.norm(start)
    basis = jnp.zeros((size + 1, *start.shape), start.dtype).at[0].set(first)
    zeros = jnp.zeros(size, start.dtype)

    def unconverged(carry):
        step, _, _, _, errors, ends = carry
        # The lowest on the scale of the larger: enough for it to be the dominant one, if it is.
        allowed = tol * jnp.stack([jnp.max(jnp.abs(ends)), jnp.abs(ends[1])])
        # written so that NaN ends the loop
        return (step == 0) | ((step < size) & jnp.any(errors > allowed))

    def body(carry):
        step, basis, diagonal, beside, _, _ = carry
        image = product(basis[step])
        diagonal = diagonal.at[step].set(jnp.sum(basis[step] * image))
        for _ in range(2):  # a second pass leaves nothing but rounding
            image = image - basis.T @ (basis @ image)
        length = jnp.linalg.norm(image)
        beside = beside.at[step].set(length)
        basis = basis.at[step + 1].set(image / jnp.where(length == 0, 1, length))
        ends, vectors = _ritz(diagonal, beside, step + 1)
        errors = length * jnp.abs(vectors[step])
        return step + 1, basis, diagonal, beside, errors, ends

    pair = jnp.zeros(2, start.dtype)
    begin = (jnp.int32(0), basis, zeros, zeros, pair, pair)
    step, basis, diagonal, beside, _, _ = lax.while_loop(unconverged, body, begin)
    _, vectors = _ritz(diagonal, beside, step)
    lowest, top = (v / jnp.linalg.norm(v) for v in (basis[:-1].T @ vectors).T)
    return step, lowest, top


def _ritz(
    diagonal: Float[Array, " k"], beside: Float[Array, " k"], step: Int[Array, ""]
) -> tuple[Array, Array]:
    """Lowest and top eigenvalue, and vectors (k, 2), of the tridiagonal matrix of `step` steps.

    Steps to come are given a value above all eigenvalues, so that the first `step` pairs, in
    ascending order, are those of the steps taken.
    """
    index = jnp.arange(len(diagonal), dtype=step.dtype)
    above = 4 * (jnp.max(jnp.abs(diagonal)) + jnp.max(beside))
    diagonal = jnp.where(index < step, diagonal, above)
    beside = jnp.where(index < step - 1, beside, 0)[:-1]
    matrix = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    values, vectors = jnp.linalg.eigh(matrix)
    ends = jnp.stack([jnp.zeros_like(step), step - 1])
    return values[ends], vectors[:, ends]
