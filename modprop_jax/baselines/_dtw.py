"""The nearest neighbour by dynamic time warping."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ._sequences import problem, Sequences


def nearest_neighbour_dtw(
    train: Float[ArrayLike, "T train features"],
    labels: Int[ArrayLike, " train"],
    test: Float[ArrayLike, "S test features"],
    *,
    train_lengths: Int[ArrayLike, " train"] | None = None,
    test_lengths: Int[ArrayLike, " test"] | None = None,
) -> Int[Array, " test"]:
    r"""The label of the training sequence that is nearest by dynamic time warping (1-NN DTW).

    \[ d(x, y)^2 = \min_{paths} \sum_{(i, j)} |x_i - y_j|^2 \]

    over paths from the first steps of both to the last, in which i, j or both go on by one: all
    features are warped together ("dependent"), without a window. Of equal distances the first
    sequence counts.

    **Arguments:** `train` (T, examples, features), `test` (S, examples, features): floats, time
    first; whether they are normalised matters. `labels`: integers, one a training sequence.
    `train_lengths`, `test_lengths`: steps of each example, all of them if None; what stands behind
    them is not read.

    **Returns:** labels (examples of `test`,). It runs under `jit`.

    Exact. Time O(T S features) a pair of sequences, memory O(T features) a training sequence.

    **Errors:** ValueError for other shapes, NaN, or lengths and labels that do not fit.

    Source: Sakoe & Chiba, IEEE Trans. Acoust., Speech, Signal Process. 26 (1978); as a baseline of
    many features, Bagnall et al., arXiv 1811.00075.
    """
    known, labels, new = problem(train, labels, test, train_lengths, test_lengths)
    return labels[jnp.argmin(distances(new, known), axis=1)]


@jax.jit
def distances(rows: Sequences, columns: Sequences) -> Float[Array, "rows columns"]:
    """d² of each pair of sequences."""

    def to_all(one):
        over = jax.vmap(_distance, in_axes=(1, 0, None, None))
        return over(columns.steps, columns.lengths, *one)

    return lax.map(to_all, (jnp.moveaxis(rows.steps, 1, 0), rows.lengths))


def _distance(
    x: Float[Array, "T features"], n: Array, y: Float[Array, "S features"], m: Array
) -> Float[Array, ""]:
    """d² of the first n and m steps, diagonal by diagonal: the cells of one need none of it."""
    rows, infinite = jnp.arange(len(x)), jnp.full(len(x), jnp.inf, x.dtype)

    def down(diagonal, above):
        return jnp.concatenate([jnp.full(1, above, x.dtype), diagonal[:-1]])

    def step(carry, index):
        older, last, found = carry
        column = index - rows
        cost = jnp.sum((x - y[jnp.clip(column, 0, len(y) - 1)]) ** 2, axis=-1)
        before = down(older, jnp.where(index == 0, 0.0, jnp.inf))  # the path begins at (0, 0)
        before = jnp.minimum(before, jnp.minimum(last, down(last, jnp.inf)))
        here = jnp.where((column >= 0) & (column < len(y)), cost + before, jnp.inf)
        return (last, here, jnp.where(index == n + m - 2, here[n - 1], found)), None

    start = infinite, infinite, jnp.zeros((), x.dtype)
    (_, _, found), _ = lax.scan(step, start, jnp.arange(len(x) + len(y) - 1))
    return found
