"""The learning rates that tuning tries, and on which seeds."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ._rules import settings_of


RATES = 5
"""Learning rates in a range that says no number."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The budget of every rule: each rate once, on `seeds` networks that are reported nowhere."""

    rates: tuple[float, ...]
    seeds: int
    first_seed: int

    @classmethod
    def make(
        cls, rates: str | Sequence[float], seeds: int, first_seed: int, reported: range
    ) -> "Tuning":
        """Checked; `reported`: the seeds that are."""
        tuning = cls(rates_of(rates), seeds, first_seed)
        if seeds < 1 or first_seed < 0:
            raise ValueError(f"tuning needs seeds of at least 1 from 0 on, but got {tuning}.")
        if set(range(first_seed, first_seed + seeds)) & set(reported):
            raise ValueError(
                f"tuning on seeds {first_seed} to {first_seed + seeds - 1} meets the reported "
                f"ones, {reported.start} to {reported.stop - 1}: give another first_seed."
            )
        return tuning

    def labels(self, rule: str) -> list[str]:
        """The rule at each rate; as it is, if it has one of its own."""
        if "learning_rate" in settings_of(rule):
            return [rule]
        joint = "," if ":" in rule else ":"
        return [f"{rule}{joint}learning_rate={rate:g}" for rate in self.rates]


def rates_of(rates: str | Sequence[float]) -> tuple[float, ...]:
    """Of `"1e-4..1e-2"` five from the one to the other, evenly spaced by their logarithms, of
    `"1e-4..1e-2/9"` nine; of numbers, in a text or not, those."""
    try:
        if isinstance(rates, str) and ".." in rates:
            ends, _, count = rates.partition("/")
            low, high = map(float, ends.split(".."))
            spaced = np.geomspace(low, high, int(count or RATES)) if min(low, high) > 0 else [-1.0]
            # three digits: a rate is named in tables
            found = tuple(float(f"{rate:.3g}") for rate in spaced)
        else:
            each = rates.replace(",", " ").split() if isinstance(rates, str) else rates
            found = tuple(map(float, each))
    except (TypeError, ValueError) as error:
        raise ValueError(f"learning rates are such as 1e-4..1e-2, but got {rates!r}.") from error
    if not found or not all(0 < rate < math.inf for rate in found) or len({*found}) < len(found):
        raise ValueError(f"learning rates must be different and greater than 0, but got {rates!r}.")
    return found
