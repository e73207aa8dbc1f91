"""Files of labelled time series (.ts), as the UEA and UCR archives have them."""

from pathlib import Path

import numpy as np


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Series (T, features), each of its own length, and the name of the class of each.

    A line a series: its dimensions, each a list of numbers, then the class, with colons between.

    **Errors:** ValueError for a file that is none.
    """
    series, labels, data = [], [], False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not data:
            data = line.lower() == "@data"
            continue
        *dimensions, label = line.split(":")
        try:
            signals = [np.array(signal.split(","), np.float64) for signal in dimensions]
        except ValueError:
            signals = []
        if not signals or len({len(signal) for signal in signals}) > 1:
            raise ValueError(
                f"Line {number} of {path.name} is no series of numbers: dimensions of one length, "
                "then the class, with colons between, are due."
            )
        series.append(np.stack(signals, axis=1))
        labels.append(label.strip())
    if not series:
        raise ValueError(f"{path.name} has no series after a line @data.")
    return series, labels
