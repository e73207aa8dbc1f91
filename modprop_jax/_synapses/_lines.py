"""Sums over the synapses of each neuron, of which neurons have different numbers."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


# lines of up to so many items have a table each of their length; longer ones are cut
LONGEST = 64


class Lines(eqx.Module):
    """A line of items for each of n neurons, to be summed.

    Lines of one length stand together as a table, so that nothing is padded and nothing scattered.
    Of a line of more than 64 items, pieces of 64 come first; their sums are added to that of the
    rest. Sums of a tree, not of a chain: rounding does not grow with the length.

    - `order`: the items (by their place in the list) as the tables have them, `ordered` the same of
      what an item refers to; None: as they come.
    - `place`: which line is each neuron's; behind the last: it has none. None: in their order.
    - `owner`: the neuron of each piece.
    - `tables`: lines and items of each, the pieces first.
    """

    order: Int[Array, "*members items"] | None
    place: Int[Array, "*members n"] | None
    owner: Int[Array, "*members pieces"]
    tables: tuple[tuple[int, int], ...] = eqx.field(static=True)

    def __init__(self, owners: np.ndarray, n: int):
        """**Arguments:** `owners`: the neuron of each item; `n`: how many neurons there are."""
        by_owner = np.argsort(owners, kind="stable")
        lengths = np.bincount(owners, minlength=n)
        within = np.arange(owners.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        left = lengths % LONGEST
        owner = owners[by_owner]
        cut = within < (lengths - left)[owner]
        pieces, rest = by_owner[cut], by_owner[~cut]
        sizes = [int(size) for size in np.unique(left) if size]
        each = [np.flatnonzero(left == size) for size in sizes]
        # a stable sort keeps the items of a line together
        order = np.concatenate([pieces, rest[np.argsort(left[owners[rest]], kind="stable")]])
        count = sum(map(len, each))
        place = np.full(n, count)
        place[np.concatenate([np.zeros(0, int), *each])] = np.arange(count)
        tables = [(pieces.size // LONGEST, LONGEST)]
        tables += [(len(neurons), size) for neurons, size in zip(each, sizes)]
        self.order = None if _in_order(order) else _indices(order)
        self.place = None if count == n and _in_order(place) else _indices(place)
        self.owner = _indices(owners[pieces[::LONGEST]])
        self.tables = tuple(tables)

    def ordered(self, items: Array) -> Array:
        """What is one number an item, as the tables have them."""
        return items if self.order is None else at(items, self.order)

    def __call__(self, terms: Float[Array, "items columns"]) -> Float[Array, "n columns"]:
        """The sums of terms in the tables' order."""
        columns = terms.shape[1]
        sizes = [lines * length for lines, length in self.tables]
        cuts = list(itertools.accumulate(sizes))[:-1]
        pieces, *sums = (
            part.reshape(*table, columns).sum(1)
            for table, part in zip(self.tables, jnp.split(terms, cuts))
        )
        if self.place is None:
            rows = jnp.concatenate(sums)
        else:
            rows = at(
                jnp.concatenate([*sums, jnp.zeros_like(terms, shape=(1, columns))]), self.place
            )
        if not len(pieces):
            return rows
        return rows.at[self.owner].add(pieces, indices_are_sorted=True, mode="promise_in_bounds")


def at(values: Array, index: Int[Array, "..."]) -> Array:
    """Entries of the first axis, by indices that are known to be inside."""
    return values.at[index].get(mode="promise_in_bounds")


def columns_of(activity: Float[Array, "*axes n"]) -> Float[Array, "n columns"]:
    """One column for each place on the leading axes: what a synapse reads then lies together."""
    return activity.reshape(-1, activity.shape[-1]).T


def in_order(post: np.ndarray, pre: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The list in the order in which it is summed."""
    order = Lines(post, n).order
    return (post, pre) if order is None else (post[np.asarray(order)], pre[np.asarray(order)])


def _in_order(index: np.ndarray) -> bool:
    return np.array_equal(index, np.arange(index.size))


def _indices(index: np.ndarray) -> jax.Array:
    return jnp.asarray(index, jnp.int32)
