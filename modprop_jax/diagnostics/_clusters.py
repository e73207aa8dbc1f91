"""Neurons in groups that one response each serves best: a regression by clusters."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ._filter_solve import EPS, solve


# a ridge, as prototypes of few neurons would fit rounding
RIDGE = 1e-3
SWEEPS = 10


def clustered(
    products: Float[np.ndarray, "n rows rows"],
    columns: Sequence[int],
    base: int,
    start: Sequence[int],
    count: int,
    eps: float = EPS,
) -> tuple[int, ...]:
    r"""`count` groups of neurons, each within one of `start`.

    Split after split of the group that gains most, then neurons go to the group whose weights
    \(w\) leave least of their own exact gradient, \(2 b_j w - w^T H_j w\) at most, and groups get
    the weights of their neurons, until nothing moves. Deterministic; a local optimum.
    """
    first = np.asarray(start)
    labels = first.copy()
    normal = products[:, columns][:, :, columns]
    right = products[:, columns, 0] - products[:, columns, base]

    def gains(weights):
        """(neurons, weights): what each neuron has of each."""
        own = np.einsum("wc,jcd,wd->jw", weights, normal, weights)
        return 2 * right @ weights.T - own

    def weights_of(labels, size):
        sums = np.stack([products[labels == group].sum(0) for group in range(size)])
        return solve(sums, columns, base, RIDGE, eps).weights

    def settled(labels, size, movable):
        for _ in range(SWEEPS):
            found = gains(weights_of(labels, size))
            # types that were given stay apart
            home = np.array([first[labels == group][0] for group in range(size)])
            found = np.where(home[None] == first[:, None], found, -np.inf)
            moved = np.where(movable, found.argmax(1), labels)
            if len(np.unique(moved)) < size or np.array_equal(moved, labels):
                break
            labels = moved
        return labels

    alone = solve(products, columns, base, RIDGE, eps).weights
    best = np.einsum("jw->j", gains(alone) * np.eye(len(labels)))
    for size in range(labels.max() + 1, count):
        now = gains(weights_of(labels, size))[np.arange(len(labels)), labels]
        lost = np.maximum(best - now, 0)
        several = np.bincount(labels, minlength=size) > 1
        by_group = np.where(several, np.bincount(labels, lost, minlength=size), -1.0)
        group = int(by_group.argmax())
        mine = labels == group
        seed = int(np.where(mine, lost, -1.0).argmax())
        pair = np.stack([weights_of(labels, size)[group], alone[seed]])
        apart = gains(pair)
        goes = mine & (apart[:, 1] > apart[:, 0])
        goes[seed] = True
        if goes.sum() == mine.sum():
            goes = np.arange(len(labels)) == seed
        labels = np.where(goes, size, labels)
        labels = settled(labels, size + 1, mine)
    return numbered(settled(labels, labels.max() + 1, np.ones(len(labels), bool)))


def numbered(labels: Int[np.ndarray, " n"]) -> tuple[int, ...]:
    """0 ... C-1 in the order in which they come."""
    order = {int(label): place for place, label in enumerate(dict.fromkeys(labels.tolist()))}
    return tuple(order[int(label)] for label in labels)
