"""The influence as the units' own, exact, and a sketch of low rank of all the rest."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._bound import growth, squares
from ._linear import Linear
from ._orthonormal import largest_first, orthonormal
from ._weights import Weights


class Sketch(NamedTuple):
    r"""The influence of p parameters of each of n units on the k variables of all of them.

    `own`: S, of a unit's parameters on its own variables. The rest is \(U Z^T\): `rest` is Z^T, and
    the first r columns of `basis` (kn, r + extra) are U, orthonormal. `gram`: ZᵀZ. `bound`: e, at
    least the norm of what is missing; `lost`: η, the norm of what the last step has dropped.
    """

    own: Float[Array, "k n p"]
    basis: Float[Array, "kn c"]
    rest: Float[Array, "r n p"]
    gram: Float[Array, "r r"]
    bound: Float[Array, ""]
    lost: Float[Array, ""]


class Truncation(NamedTuple):
    """How the rest is brought back to its rank; see `SKRTRL`. None: the best one."""

    iterations: int | None
    extra: int
    certificate: bool


def advanced(held: Sketch, step: Linear, weights: Weights, how: Truncation) -> Sketch:
    r"""One step on.

    E' = A E + O blk(S), with S as sent, is (A U) Zᵀ + O blk(S): its Gram matrix G (kn, kn) takes
    one contraction over parameters, and is only ever multiplied with few columns.
    """
    k, n = step.sent.shape
    rank = len(held.rest)
    seen = jnp.einsum("kn,knp->np", step.sent, held.own) + step.said
    autapse = jnp.einsum("kgn,gn->kn", step.received, weights.own)
    own = jnp.einsum("kln,lnp->knp", step.own, held.own) + step.fresh
    own += autapse[..., None] * seen[None]
    size = jnp.sum(seen**2, axis=-1)
    total = squares(step, weights, size)
    if rank == 0:
        return _bounded(held._replace(own=own), total, step, weights, how)

    def flat(columns):
        return columns.reshape(k * n, -1)

    moved = flat(step.push(weights, held.basis[:, :rank].reshape(k, n, rank)))
    met = flat(step.arrive(weights.others, jnp.einsum("np,anp->na", seen, held.rest)))
    total += jnp.sum(moved * (moved @ held.gram)) + 2 * jnp.sum(moved * met)

    def times(columns):
        """G times them."""
        back = moved.T @ columns
        sent = step.depart(weights.others, columns.reshape(k, n, -1))
        new = flat(step.arrive(weights.others, size[:, None] * sent))
        return moved @ (held.gram @ back + met.T @ columns) + met @ back + new

    if rank == k * n:
        basis = jnp.eye(rank, dtype=moved.dtype)
        gram = times(basis)
        total = jnp.trace(gram)
    else:
        basis, gram = _leading(times, held.basis, rank, how)
    kept = basis[:, :rank]
    onto = step.depart(weights.others, kept.reshape(k, n, rank))
    rest = jnp.tensordot(kept.T @ moved, held.rest, 1) + onto.T[..., None] * seen[None]
    after = Sketch(own, basis, rest, gram, held.bound, held.lost)
    return _bounded(after, total - jnp.trace(gram), step, weights, how)


def _leading(times, basis: Array, rank: int, how: Truncation) -> tuple[Array, Array]:
    """An orthonormal basis whose first columns are those to keep, and their Gram matrix."""
    if how.iterations is None or basis.shape[1] == len(basis):
        values, vectors = largest_first(times(jnp.eye(len(basis), dtype=basis.dtype)))
        return vectors[:, : basis.shape[1]], jnp.diag(values[:rank])
    for _ in range(how.iterations):
        # not by Cholesky: in float32 these columns are too near to dependent
        basis = orthonormal(times(basis))
    gram = basis.T @ times(basis)
    if how.extra:
        values, vectors = largest_first(gram)
        basis, gram = basis @ vectors, jnp.diag(values[:rank])
    return basis, gram


def _bounded(
    after: Sketch, dropped: Array, step: Linear, weights: Weights, how: Truncation
) -> Sketch:
    """With e' = ρ e + η."""
    if not how.certificate:
        return after
    complete = len(after.rest) == len(after.basis)
    lost = jnp.zeros_like(dropped) if complete else jnp.sqrt(jnp.maximum(dropped, 0))
    bound = jnp.min(growth(step, weights)) * after.bound + lost
    return after._replace(bound=bound, lost=lost)


def nothing(k: int, n: int, p: int, rank: int, extra: int, dtype) -> Sketch:
    """No influence, of one example."""
    rank, columns = min(rank, k * n), min(rank + extra, k * n)
    basis = jnp.eye(k * n, columns if rank else 0, dtype=dtype)
    own, rest = jnp.zeros((k, n, p), dtype), jnp.zeros((rank, n, p), dtype)
    zero = jnp.zeros((), dtype)
    return Sketch(own, basis, rest, jnp.zeros((rank, rank), dtype), zero, zero)


def contracted(held: Sketch, credit: Float[Array, "k n"]) -> Float[Array, "n p"]:
    """Credit on the state times the influence, of one example."""
    rank = len(held.rest)
    through = credit.ravel() @ held.basis[:, :rank]
    return jnp.einsum("kn,knp->np", credit, held.own) + jnp.tensordot(through, held.rest, 1)


def size_of(held: Sketch) -> Float[Array, ""]:
    """√(|S|² + |Z|²), the scale of the influence that is kept."""
    return jnp.sqrt(jnp.sum(held.own**2) + jnp.trace(held.gram))
