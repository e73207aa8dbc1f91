"""Learning rates, and other numbers that tuning tries, as they are typed."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


RATES = 5
"""Learning rates in a range that says no number."""


def rates_of(rates: str | Sequence[float], times: Fraction = Fraction(1)) -> tuple[float, ...]:
    """Of `"1e-4..1e-2"` five from the one to the other, evenly spaced by their logarithms, of
    `"1e-4..1e-2/9"` nine, or `times` as many, rounded down; of numbers, in a text or not, those."""
    try:
        if is_range(rates):
            found = spaced(str(rates), times)
        else:
            each = rates.replace(",", " ").split() if isinstance(rates, str) else rates
            found = tuple(map(float, each))
    except (TypeError, ValueError) as error:
        raise ValueError(f"learning rates are such as 1e-4..1e-2, but got {rates!r}.") from error
    if not found or not all(0 < rate < math.inf for rate in found) or len({*found}) < len(found):
        raise ValueError(f"learning rates must be different and greater than 0, but got {rates!r}.")
    return found


def is_range(text: object) -> bool:
    """Whether it names two ends, and not each number."""
    return isinstance(text, str) and ".." in text


def spaced(text: str, times: Fraction = Fraction(1)) -> tuple[float, ...]:
    """The numbers of a range; a ValueError where it is none, or not above 0."""
    ends, _, count = text.partition("/")
    low, high = map(float, ends.split(".."))
    if not 0 < min(low, high) <= max(low, high) < math.inf:
        raise ValueError(f"a range is between numbers above 0, but got {text!r}.")
    # three digits: a number is named in tables
    values = np.geomspace(low, high, int(times * int(count or RATES)))
    return tuple(float(f"{value:.3g}") for value in values)
