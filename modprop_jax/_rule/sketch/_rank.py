"""Another rank for a sketch that goes on."""

import jax.numpy as jnp

from ._orthonormal import largest_first, orthonormal
from ._sketch import Sketch


def resized(held: Sketch, rank: int, extra: int, certificate: bool) -> Sketch:
    """The best sketch of this rank, of one example.

    The norm of what a smaller one drops goes into η and e, so that e stays a bound. A larger one
    has columns of zeros, in directions that the basis had not.
    """
    size, old = len(held.basis), len(held.rest)
    rank = min(rank, size)
    columns = min(rank + extra, size) if rank else 0
    if rank >= old:
        blank = jnp.zeros((size, columns - held.basis.shape[1]), held.basis.dtype)
        whole = orthonormal(jnp.concatenate([held.basis, blank], axis=1))
        basis = jnp.concatenate([held.basis, whole[:, held.basis.shape[1] :]], axis=1)
        more = rank - old
        rest = jnp.pad(held.rest, ((0, more), (0, 0), (0, 0)))
        return held._replace(basis=basis, rest=rest, gram=jnp.pad(held.gram, (0, more)))
    values, vectors = largest_first(held.gram)
    turned = jnp.concatenate([held.basis[:, :old] @ vectors, held.basis[:, old:]], axis=1)
    rest = jnp.tensordot(vectors[:, :rank].T, held.rest, 1)
    after = held._replace(
        basis=turned[:, :columns], rest=rest, gram=jnp.diag(jnp.maximum(values[:rank], 0))
    )
    if not certificate:
        return after
    dropped = jnp.sqrt(jnp.sum(jnp.maximum(values[rank:], 0)))
    return after._replace(bound=held.bound + dropped, lost=held.lost + dropped)
