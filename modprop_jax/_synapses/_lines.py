"""Sums over the synapses of each neuron, of which neurons have different numbers."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


# lines of up to so many items have a table each of their length; longer ones are cut
LONGEST = 64

# lines and items of each: pieces of 64 first, then by length
Tables = tuple[tuple[int, int], ...]


class Lines(eqx.Module):
    """A line of items for each of n neurons, to be summed.

    Lines of one length stand together as a table, so that nothing is padded and nothing scattered.
    Of a line of more than 64 items, pieces of 64 come first; their sums are added to that of the
    rest. Sums of a tree, not of a chain: rounding does not grow with the length.

    - `order`: the items (by their place in the list) as the tables have them, `ordered` the same of
      what an item refers to; None: as they come.
    - `place`: which line is each neuron's; behind the last: it has none. None: in their order.
    - `owner`: the neuron of each piece; None: there are none.
    - `tables`: lines and items of each, the pieces first.
    """

    order: Int[Array, "*members items"] | None
    place: Int[Array, "*members n"] | None
    owner: Int[Array, "*members pieces"] | None
    tables: Tables = eqx.field(static=True)

    def __init__(self, owners: np.ndarray, n: int, tables: Tables | None = None):
        """**Arguments:**

        - `owners`: the neuron of each item.
        - `n`: how many neurons there are.
        - `tables`: lines and items of each, to which the tables are filled up by lines that no
            neuron has; by default what the items need.
        """
        self.tables = tables_of([owners], n) if tables is None else tables
        order, place, owner = laid(owners, n, self.tables)
        filled = tables is not None
        self.order = None if not filled and _in_order(order) else indices(np.maximum(order, 0))
        whole = not filled and place.max(initial=-1) < n and _in_order(place)
        self.place = None if whole else indices(place)
        self.owner = indices(owner) if owner.size else None

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
        if self.owner is None:
            return rows
        return rows.at[self.owner].add(pieces, indices_are_sorted=True, mode="drop")


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


def tables_of(lists: list[np.ndarray], n: int) -> Tables:
    """Tables large enough for each of several lists, by the neuron of each item."""
    counts = [np.bincount(owners, minlength=n) for owners in lists]
    pieces = max(int((lengths // LONGEST).sum()) for lengths in counts)
    lines = np.max([np.bincount(lengths % LONGEST, minlength=LONGEST) for lengths in counts], 0)
    rest = [(int(count), length) for length, count in enumerate(lines) if length and count]
    return ((pieces, LONGEST), *rest)


def laid(owners: np.ndarray, n: int, tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The items as tables have them (-1 where they are filled up), the line of each neuron (behind
    the last: none), and the neuron of each piece (n: of none)."""
    by_owner = np.argsort(owners, kind="stable")
    lengths = np.bincount(owners, minlength=n)
    within = np.arange(owners.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    left = lengths % LONGEST
    cut = within < (lengths - left)[owners[by_owner]]
    pieces, rest = by_owner[cut], by_owner[~cut]
    # a stable sort keeps the items of a line together
    rest = rest[np.argsort(left[owners[rest]], kind="stable")]
    order = np.full(sum(lines * length for lines, length in tables), -1)
    order[: pieces.size] = pieces
    count = tables[0][0]
    owner = np.full(count, n)
    owner[: pieces.size // LONGEST] = owners[pieces[::LONGEST]]
    place = np.full(n, sum(lines for lines, _ in tables[1:]))
    item, line, taken = count * LONGEST, 0, 0
    for lines, length in tables[1:]:
        neurons = np.flatnonzero(left == length)
        size = neurons.size * length
        order[item : item + size] = rest[taken : taken + size]
        place[neurons] = np.arange(line, line + neurons.size)
        item, line, taken = item + lines * length, line + lines, taken + size
    return order, place, owner


def _in_order(index: np.ndarray) -> bool:
    return np.array_equal(index, np.arange(index.size))


def indices(index: np.ndarray) -> jax.Array:
    """As a program takes them."""
    return jnp.asarray(index, jnp.int32)
