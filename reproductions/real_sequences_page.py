"""The page of `real_sequences.py`: two protocols side by side, from the rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


# Mean and standard deviation over 10 seeds (KF-RTRL 5), and what they are of.
LASER = {
    "RTRL": ".0199 ± .0041",
    "SnAp-1": ".0214 ± .0012",
    "KF-RTRL": ".1788 ± .2339",
    "UORO": ".4145 ± .1523",
    "published RFLO": ".2759 ± .2241",
}
CHEST = {"RTRL": ".403", "SnAp-1": ".335", "UORO": ".384", "DNI": ".337", "LMS": ".48956"}

HEAD = """# Real sequences: as published, and in one causal pass

Output of `python reproductions/real_sequences.py rows`, then `python
reproductions/real_sequences.py page > docs/results/real-sequences.md` (CPU, float32). The laser
is read from the package `reservoirpy`, the markers are shipped ([recorded
streams](../usage/recorded-streams.md)). All is learnt by [`modprop_jax.learn_stream`][]. ± is the
standard deviation over seeds.

What follows stands beside two publications, whose protocols differ from what a learner in the
world has: one walks over the same data many times, the other learns from targets before they
could be known. So each table has both columns, the protocol as published, which says that the
rules are those of the publication, and one causal pass, which says what they are worth there.

## A chaotic laser, the next reading

`RateCell` without a leak (tanh), 64 neurons, a linear readout, Adam after every step, no
clipping.

- *As published* (SK-RTRL, Table 7): the first 1,000 readings, 15 times over, in 8 lanes that are
  shifts of the same series, a reset before every 200th step, a rate of 1e-3; the error is of the
  last of 15 passes, **on data seen 14 times before**. The published "RFLO" has a trace that
  decays by .9 a step on a cell that does not leak, which is not e-prop: here `KeRNL(alpha=0.1,
  learn=optax.set_to_zero())`.
- *One pass*: all 10,093 readings once, normalised by the first 1,000. NMSE over steps 5,000 to
  10,091; the rate is that of {3e-4, 1e-3, 3e-3, 1e-2} with the least mean error over steps 1,000
  to 4,999.

"""

CHEST_HEAD = """
## Markers on a chest, 0.3 to 2.1 s ahead

Nine recordings at 3.33 Hz, the last 12 samples of 9 signals in, the 9 signals 1 to 7 samples
later out; 90 tanh neurons, weights N(0, .02²), plain SGD after every step with the gradient
clipped to norm 100. nRMSE of the test part (from 60 s on), mean over seeds, horizons and
recordings; the rate is chosen for each recording and horizon on the 30 s before.

- *As published* (Pohl et al. 2025): the target h samples ahead is learnt at once, so that for h >
  1 the weights know h − 1 samples **of the future**; rates {.005, .01, .02}.
- *Real time*: each target is learnt when it is known (`delay=horizon - 1`); rates {.0005, ...,
  .02}.

LMS (a linear filter from 0, no network; rates {2e-4, 5e-4, 1e-3}) has no randomness: that it
meets the published figure says that the protocol is read as it was meant.

"""


def page(rows: Mapping[str, Mapping[str, Any]], rules: Sequence[str]) -> str:
    """The page as Markdown."""
    lines = [HEAD + "| rule | published | as published, here | one pass | rate | seeds | s |"]
    lines.append("|---|---|---|---|---|---|---|")
    for rule in [*rules, "persistence"]:
        here, once = (rows.get(f"laser/{p}/{rule}") for p in ("as published", "one pass"))
        if here or once:
            rate = "–" if not once or once["rate"] is None else f"{once['rate']:g}"
            cells = [rule, LASER.get(rule, "–"), spread(here, "nmse"), spread(once, "nmse"), rate]
            lines.append(row(*cells, *cost(here, once)))
    lines.append(
        CHEST_HEAD + "| rule | published | as published, here | real time | h = 1 | h = 4 | h = 7 |"
    )
    lines.append("|---|---|---|---|---|---|---|")
    for rule in [*rules, "LMS", "persistence"]:
        here, late = (rows.get(f"respiration/{p}/{rule}") for p in ("as published", "real time"))
        if here or late:
            at = [f"{late['by_horizon'][h]:.3f}" if late else "–" for h in "147"]
            cells = [rule, CHEST.get(rule, "–"), spread(here, "nrmse"), spread(late, "nrmse"), *at]
            lines.append(row(*cells))
    return "\n".join(lines) + "\n"


def spread(found: Mapping[str, Any] | None, what: str) -> str:
    """Mean ± standard deviation over seeds."""
    if found is None:
        return "–"
    values = np.array(found[what])
    shown = f"{values.mean():.4f}" if values.mean() < 0.1 else f"{values.mean():.3f}"
    if len(values) == 1:
        return shown
    digits = 4 if values.mean() < 0.1 else 3
    return f"{shown} ± {values.std():.{digits}f}"


def cost(*found: Mapping[str, Any] | None) -> tuple[str, str]:
    """Seeds, and seconds of all of it."""
    there = [one for one in found if one]
    return str(there[0]["seeds"]), f"{sum(one['seconds'] for one in there):.0f}"


def row(*cells: str) -> str:
    """Of a table."""
    return "| " + " | ".join(cells) + " |"
