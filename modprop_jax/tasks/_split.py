"""How data are parted into those to learn from, to choose by and to test on."""

from typing import NamedTuple

import numpy as np

from .. import _arguments as arguments


PARTS = "fit", "validation", "test"


class Split(NamedTuple):
    """How sequences are parted."""

    test: float
    validation: float
    seed: int
    groups: np.ndarray | None = None

    def checked(self) -> "Split":
        for name in ("test", "validation"):
            arguments.number(name, getattr(self, name), arguments.Range("in (0, 1)", 0, 1))
        if self.test + self.validation >= 1:
            raise ValueError(
                f"test={self.test} and validation={self.validation} are shares of all sequences, "
                "which must leave a part to learn from: take less than 1 together."
            )
        if not 0 <= arguments.whole("seed", self.seed) < 2**32:
            raise ValueError(f"seed must be between 0 and 2³² − 1, but is {self.seed}.")
        return self

    def parts(self, count: int) -> np.ndarray:
        """Of which part each sequence is: whole groups, in random order, until it is full."""
        self.checked()
        groups = np.arange(count) if self.groups is None else self.groups
        if groups.shape != (count,):
            raise ValueError(
                f"groups must have one entry for each of the {count} sequences of inputs, but have "
                f"the shape {groups.shape}."
            )
        _, of = np.unique(groups, return_inverse=True)
        sizes = np.bincount(of)
        what = "sequences" if self.groups is None else "groups"
        if len(sizes) < 3:
            raise ValueError(
                f"{what} are parted into three, to learn from, to choose by and to test on, but "
                f"there are {len(sizes)}."
            )
        # RandomState, as its stream is guaranteed: the split never moves
        order = np.random.RandomState(self.seed).permutation(len(sizes))
        part = np.full(len(sizes), "fit", object)
        # each part after it gets a group at least
        for name, least in (("test", 3), ("validation", 2)):
            due, have = getattr(self, name) * count, 0
            for group in order[part[order] == "fit"]:
                if have >= due or (part == "fit").sum() < least:
                    break
                part[group], have = name, have + sizes[group]
        return part[of]
