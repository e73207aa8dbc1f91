"""SnAp's pattern: which state variables a parameter reaches, parameters grouped by what they do."""

import dataclasses
import functools

import numpy as np

from ..._cell import AbstractCell
from ..._skeleton import Skeleton, skeleton
from ._sparsity import Sparse
from ._structure import Dependence, dependence, features_of, rows_after, units


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Groups of parameters, alike in size; all members of a group reach the same rows.

    `rows` (k, groups) and `members` (groups, m). Into the values of J, F, ∂emit/∂s and ∂emit/∂θ:
    `moves` (k, k, groups), `fresh` (f, groups, m) for the first f rows, `reads` (q, k, groups) and
    `own` (q, groups, m), with `features` (q, groups) those of the emission that the group reaches.
    Padding points behind the last value.
    """

    rows: np.ndarray
    members: np.ndarray
    moves: np.ndarray
    fresh: np.ndarray
    features: np.ndarray
    reads: np.ndarray
    own: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """P_n, the pairs of a row and a parameter that are kept, in blocks.

    `step` and `emission` (None: not of interest) are all that is not structurally zero. `entries`:
    row, column and place (see `Sparse.index`) of what the blocks use of J. `places`: where each
    parameter is among the blocks' members; behind the last one if it is in none.
    """

    step: Dependence
    emission: Dependence | None
    blocks: tuple[Block, ...]
    entries: tuple[np.ndarray, np.ndarray, np.ndarray]
    places: np.ndarray


def pattern_of(
    cell: AbstractCell, in_size: int, n: int, *, filtered: bool = False, start: bool = False
) -> Pattern:
    """P_n of a cell whose arrays that do not train are known.

    `filtered`: also of the memory of a filtered emission. `start`: of the initial state's rows in
    place of the parameters.
    """
    return _pattern(skeleton(cell), in_size, n, filtered, start)


@functools.lru_cache(maxsize=64)
def _pattern(bones: Skeleton, in_size: int, n: int, filtered: bool, start: bool) -> Pattern:
    step = dependence(bones, in_size, rows_after)
    emission = dependence(bones, in_size, features_of) if filtered else None
    unit = units(bones)
    size = len(unit)
    identity = Sparse(np.arange(size), np.arange(size), (size, size))
    fresh = _Entries((identity,) if start else step.parameters)
    own = _Entries(emission.parameters if emission else ())
    reads = emission.state.dense() if emission else np.zeros((0, size), bool)
    groups = _groups(unit, step.state, fresh, own, reads, n)

    needed = np.zeros((size + 1, size + 1), bool)
    for group in groups:
        needed[np.ix_(group.rows, group.rows)] = True
    used = needed[step.state.rows, step.state.cols]
    entries = step.state.rows[used], step.state.cols[used], step.state.index[used]
    moves = np.full(needed.shape, used.sum())
    moves[entries[:2]] = np.arange(used.sum())
    seen = np.zeros((len(reads) + 1, size + 1), int)
    if emission:
        seen[:] = emission.state.size
        seen[emission.state.rows, emission.state.cols] = emission.state.index
    blocks = tuple(_block(alike, moves, fresh, seen, own) for alike in _by_size(groups))

    members = np.concatenate([np.zeros(0, int), *(block.members.ravel() for block in blocks)])
    places = np.full(fresh.width + 1, members.size)
    places[members] = np.arange(members.size)
    return Pattern(step, emission, blocks, entries, places[:-1])


class _Entries:
    """Several Jacobians side by side: where they can be nonzero, and where these values are."""

    def __init__(self, parts: tuple[Sparse, ...]):
        columns = np.cumsum([0] + [part.shape[1] for part in parts])
        values = np.cumsum([0] + [part.size for part in parts])
        none = [np.zeros(0, int)]
        self.rows = np.concatenate(none + [part.rows for part in parts])
        self.cols = np.concatenate(none + [part.cols + c for part, c in zip(parts, columns)])
        self.index = np.concatenate(none + [part.index + v for part, v in zip(parts, values)])
        self.width, self.size = int(columns[-1]), int(values[-1])

    def by_column(self, width: int) -> list[tuple[int, ...]]:
        order = np.lexsort((self.rows, self.cols))
        cuts = np.searchsorted(self.cols[order], np.arange(width + 1))
        rows = self.rows[order].tolist()
        return [tuple(rows[a:b]) for a, b in zip(cuts[:-1], cuts[1:])]


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """Parameters that reach the same rows, of which they act on the first `fresh` at once."""

    rows: np.ndarray
    fresh: int
    features: np.ndarray
    members: np.ndarray


def _groups(
    unit: np.ndarray, state: Sparse, fresh: _Entries, own: _Entries, reads: np.ndarray, n: int
) -> list[_Group]:
    """Parameters by what they reach: units they act on, and those up to n - 1 connections away."""
    classes: dict[tuple, list[int]] = {}
    acts = zip(fresh.by_column(fresh.width), own.by_column(fresh.width), strict=True)
    for parameter, touched in enumerate(acts):
        if any(touched):
            classes.setdefault(touched, []).append(parameter)
    count = unit.max() + 1
    connected = np.zeros((count, count), np.float32)
    connected[unit[state.rows], unit[state.cols]] = 1
    first = np.zeros((count, len(classes)), bool)
    emitted = np.zeros((len(reads), len(classes)), bool)
    for c, (rows, features) in enumerate(classes):
        first[unit[list(rows)], c] = True
        emitted[list(features), c] = True
    reached = first
    for _ in range(n - 1):
        before, reached = reached, first | (connected @ reached > 0)
        if (before == reached).all():
            break
    kept = reached[unit]
    emitted |= reads.astype(np.float32) @ kept > 0

    alike: dict[bytes, list[int]] = {}
    for c, column in enumerate(np.concatenate([kept, emitted]).T):
        alike.setdefault(column.tobytes(), []).append(c)
    touched, members = list(classes), list(classes.values())

    def group(together):
        now = np.unique([row for c in together for row in touched[c][0]]).astype(int)
        later = np.setdiff1d(np.flatnonzero(kept[:, together[0]]), now)
        return _Group(
            np.concatenate([now, later]),
            len(now),
            np.flatnonzero(emitted[:, together[0]]),
            np.concatenate([members[c] for c in together]),
        )

    return [group(together) for together in alike.values()]


def _by_size(groups: list[_Group]) -> list[list[_Group]]:
    """Groups that less than double in rows when padded to one size."""
    sizes: dict[tuple[int, int], list[_Group]] = {}
    for group in groups:
        size = len(group.rows).bit_length(), len(group.features).bit_length()
        sizes.setdefault(size, []).append(group)
    return list(sizes.values())


def _block(
    groups: list[_Group], moves: np.ndarray, fresh: _Entries, seen: np.ndarray, own: _Entries
) -> Block:
    rows = _padded([group.rows for group in groups], len(moves) - 1)
    features = _padded([group.features for group in groups], len(seen) - 1)
    members = _padded([group.members for group in groups], fresh.width)
    top = max(group.fresh for group in groups)
    return Block(
        rows.T,
        members,
        moves[rows.T[:, None], rows.T[None]],
        _values(fresh, rows[:, :top], members),
        features.T,
        seen[features.T[:, None], rows.T[None]],
        _values(own, features, members),
    )


def _padded(lists: list[np.ndarray], padding: int) -> np.ndarray:
    table = np.full((len(lists), max(map(len, lists))), padding)
    for line, values in zip(table, lists):
        line[: len(values)] = values
    return table


def _values(entries: _Entries, rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Where the values of each group's (rows x members) are; (rows, groups, members)."""
    table = np.full((rows.shape[1], *members.shape), entries.size)
    line = {(g, row): k for g, some in enumerate(rows.tolist()) for k, row in enumerate(some)}
    place = {p: (g, m) for g, some in enumerate(members.tolist()) for m, p in enumerate(some)}
    for row, col, index in zip(*(a.tolist() for a in (entries.rows, entries.cols, entries.index))):
        if col in place:
            g, m = place[col]
            table[line[g, row], g, m] = index
    return table
