"""The page of `real_sequences.py`, from its rows: protocols side by side, and baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modprop_jax.experiments._statistics import holm, interval, p_value


Rows = Mapping[str, Mapping[str, Any]]
# Mean and standard deviation over 10 seeds (KF-RTRL 5), and what they are of.
LASER = {
    "RTRL": ".0199 ± .0041",
    "SnAp-1": ".0214 ± .0012",
    "SK-RTRL, rank 4": ".0239 ± .0037",
    "SK-RTRL, rank 16": ".0217 ± .0021",
    "KF-RTRL": ".1788 ± .2339",
    "UORO": ".4145 ± .1523",
    "published RFLO": ".2759 ± .2241",
}
CHEST = {"RTRL, 40 neurons": ".403", "SnAp-1": ".335", "UORO": ".384", "DNI": ".337", "LMS": ".490"}
# of docs/results/real-sequences-baselines.md
LASER_BASELINES = {
    "AR(50), recursive least squares": ".180",
    "echo state network, n = 64, recursive least squares": ".0172 ± .0014",
    "echo state network, n = 200, ridge": ".0092 ± .0012",
}
CHEST_BASELINES = {
    "persistence": ("–", "–", "1.029", ".347", "1.105", "1.520"),
    "LMS": (".490", ".489", ".719", ".403", ".782", ".884"),
    "ridge AR, fitted once": ("–", "–", ".865", ".362", "1.013", "1.069"),
    "recursive least squares": ("–", "–", ".593", ".201", ".671", ".815"),
    "echo state network, n = 90, the same": ("–", "–", ".573", ".210", ".658", ".748"),
}
SET_BASELINES = {
    "japanese_vowels": {
        "logistic regression, three frames": ".989",
        "random convolutions": ".981",
        "1-NN DTW": ".949",
    },
    "basic_motions": {
        "random convolutions": "1.000",
        "1-NN DTW": ".975",
        "logistic regression, means and sds": ".950",
    },
}
PROTOCOLS = {"laser": ("as published", "one pass"), "respiration": ("as published", "real time")}

HEAD = """# Real sequences: what are online rules worth?

Output of `python reproductions/real_sequences.py rows`, then `python
reproductions/real_sequences.py page > docs/results/real-sequences.md` (CPU, float32). The markers
are shipped, the other data are read from the packages that carry them ([recorded
streams](../usage/recorded-streams.md)). Streams are learnt by [`modprop_jax.learn_stream`][].
Baselines are those of [their own page](real-sequences-baselines.md), at the same steps.

What follows stands beside two publications, whose protocols differ from what a learner in the
world has: one walks over the same data many times, the other learns from targets before they
could be known. So each table has both columns, the protocol as published, which says that the
rules are those of the publication, and one causal pass, which says what they are worth there.

± is the standard deviation over seeds, as published; in brackets is a 95 % interval of the mean
over seeds (bootstrap, as in `compare`). p is of a paired t test over seeds, after Holm.
"""

LASER_HEAD = """
## A chaotic laser, the next reading

`RateCell` without a leak (tanh), 64 neurons, a linear readout, Adam after every step, no
clipping.

- *As published* (SK-RTRL, Table 7): the first 1,000 readings, 15 times over, in 8 lanes that are
  shifts of the same series, a reset before every 200th step, a rate of 1e-3; the error is of the
  last of 15 passes, **on data seen 14 times before**. The published "RFLO" has a trace that
  decays by .9 a step on a cell that does not leak, which is not e-prop: here `KeRNL(alpha=0.1,
  learn=optax.set_to_zero())`.
- *One pass*: all 10,093 readings once, normalised by the first 1,000. NMSE over steps 5,000 to
  10,091; the rate is that of {rates}
  with the least mean error over steps 1,000 to 4,999 of three networks of other seeds, which see
  no later step ([`compare_recording`][modprop_jax.experiments.compare_recording]).

| rule | published | as published, here | one pass | − e-prop | p | rate | seeds |
|---|---|---|---|---|---|---|---|"""

CHEST_HEAD = """
## Markers on a chest, 0.3 to 2.1 s ahead

Nine recordings at 3.33 Hz, the last 12 samples of 9 signals in, the 9 signals 1 to 7 samples
later out; 90 tanh neurons, or 40 where that is said (published RTRL has no more), weights
N(0, .02²), plain SGD after every step with the gradient clipped to norm 100. nRMSE of the test part
(from 60 s on), mean over seeds, horizons and recordings; the rate is chosen for each recording and
horizon on the 30 s before.

- *As published* (Pohl et al. 2025): the target h samples ahead is learnt at once, so that for h >
  1 the weights know h − 1 samples **of the future**; rates {.005, .01, .02}.
- *Real time*: each target is learnt when it is known (`delay=horizon - 1`); rates {.0005, ...,
  .02}.

LMS, a linear filter from 0 without a network, has no randomness: that it meets the published figure
says that the protocol is read as it was meant. Published figures are of grids of neurons, lags and
rates, ours of one number of neurons and lags. The synthesiser of DNI learns at its published rate.
"Diverges": on some recording, at every rate.

| rule | published | as published, here | real time | h = 1 | h = 4 | h = 7 | seeds |
|---|---|---|---|---|---|---|---|"""

WATCH_HEAD = """
## A watch on people not seen before

Seven exercises of the shoulder, six axes of a watch at 12.5 Hz, windows of 4 s (50 steps), the
label at the last step; ten people, two left out in each of five folds. {iterations:,} iterations of
{batch} windows, offline, Adam: `RateCell` (tanh, α = .1), 64 neurons. The rate, of 1e-3, 3e-3 and
1e-2, is chosen in each fold by the two people next to those that are tested, on weights of another
seed, and the network is then trained anew on all eight.

RTRL's gradient is BPTT's here. SK-RTRL would take half a second an iteration; KeRNL and DNI learn
what they estimate along a stream, which windows are not.

Accuracy, mean over folds and {seeds} seeds. People differ by far more than rules do, so differences
are taken fold by fold and seed by seed; the interval is that of the mean over five folds (five
values can hold 94 % at most).

| rule | accuracy | by fold | − readout only | − BPTT | rates |
|---|---|---|---|---|---|"""

SETS_HEAD = """
## Two sets that are nearly solved

Speakers by two vowels (`japanese_vowels`: 270 series to learn, 370 to test), and motions of a watch
(`basic_motions`: 40 and 40). As above, with batches of 32; the rate by a fifth of the training
series. An error is .003 and .025. These say that the tool works on series of unequal lengths, and
nothing about rules: baselines that know no order are as good.

| set | classifier | accuracy | seeds | rate |
|---|---|---|---|---|"""

TIME_HEAD = """
## Time a step

Microseconds of one core for a step of the laser (one lane, 64 neurons): the least of three runs of
the process' own time, so that other work on the machine counts little.

| rule | µs |
|---|---|"""


READING = """
## What it says

- **The laser tells two groups of rules apart, and no more.** In one pass SnAp-1, e-prop, both rules
  with types and KeRNL are level (.077 to .094; no difference from e-prop is supported by ten
  seeds), at a third of the error of the readout alone. Credit of one step is enough here. More
  exact credit is behind: RTRL has .122, SK-RTRL .120 (rank 16) and .151 (rank 4), all at a lower
  rate, as their errors scatter without a clip at that of the others. The unbiased rules, KF-RTRL
  and UORO, do no better than the readout, and the trace with a leak that the cell does not have
  does worse. DNI is between (.152). As published all are within the published spread; there
  KF-RTRL, at one rate and with 15 passes, is far ahead of the readout.
- **Rates decide as much as rules.** Among six rates those of the readout and of the published RFLO
  are still at an end ("end"), and on the watch BPTT and the readout chose the largest of three in
  four folds of five: a wider grid may serve them better.
- **Repetition flatters.** .022 of the published protocol is .077 in one pass. A fixed network with
  a readout by least squares has .017 there, and needs no credit at all.
- **The published figures of the markers know the future.** The published protocol is met (SnAp-1
  .334, published .335; RTRL .408, published .403; DNI .324, published .337). When each target is
  learnt when it is known, SnAp-1 and KeRNL have .709, SK-RTRL of rank 4 .710, e-prop, MDGL and
  ModProp .708, and a fixed network whose readout alone learns .709. What is noisy costs (KF-RTRL
  .718, UORO .861), as does the wrong leak (.928); DNI has .724. That published RTRL is behind
  SnAp-1 is its 40 neurons: with as many SnAp-1 has what it has. Recurrent credit gains one sample
  ahead (.319 for .380 there, where the protocols are one; persistence has .347), little two ahead
  (.546 for .558), and loses from three on. Recursive least squares have .593.
- **On people not seen before, credit shows.** BPTT is ahead of e-prop in every fold, and both are
  ahead of a network whose readout alone learns. ModProp by pairs of cells, with μ measured, is
  between the two in every fold: .760, behind BPTT by .02 and ahead of e-prop by .02. Credit by two
  arbitrary types, SnAp-1 and KF-RTRL lie below e-prop here (.72 to .73), and UORO below the
  readout. This is offline learning: it says what the approximation costs, not what a stream does.
  And logistic regression on the mean and the spread of each axis, without any network, has .809
  where BPTT has .778 at this size and length of training.
- So on the two streams an online rule is worth a good deal against a fixed network with the same
  readout where the next step is asked for, nothing where later ones are, and less than least
  squares in both.
"""


def page(rows: Rows, rules: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> str:
    """The page as Markdown. `rules`: by table. `settings`: of the sets with labels."""
    tables = [laser(rows, [*rules["laser"], "persistence"])]
    tables.append(chest(rows, [*rules["respiration"], "LMS", "persistence"]))
    tables += [labelled(rows, settings), times(rows, rules["time"])]
    left = [f"- {where}: {names}." for where, names in missing(rows, rules, settings)]
    without = "\n".join(["", "**Not run**:", "", *left, ""]) if left else ""
    lines = [line for table in tables for line in table]
    return HEAD + without + "\n".join(lines) + "\n" + READING


def missing(
    rows: Rows, rules: Mapping[str, Sequence[str]], settings: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """What the tables were to have and do not: where, and which rules."""
    found = []
    for table, protocols in PROTOCOLS.items():
        for protocol in protocols:
            names = [n for n in rules[table] if f"{table}/{protocol}/{n}" not in rows]
            if names:
                found.append((f"{table}, {protocol}", "; ".join(names)))
    for name, setting in settings.items():
        names = [rule for rule in setting.rules if len(folds(rows, name, rule)) < setting.folds]
        if names:
            found.append((name, "; ".join(names)))
    return found


def laser(rows: Rows, names: Sequence[str]) -> list[str]:
    """Its table."""
    once = {name: rows[key] for name in names if (key := f"laser/one pass/{name}") in rows}
    grids = [tuple(found["rates"]) for found in once.values() if "rates" in found]
    grid = max(grids, key=len, default=())
    lines = [LASER_HEAD.format(rates="{" + ", ".join(f"{rate:g}" for rate in grid) + "}")]
    base = once.get("e-prop")
    compared = {
        name: np.subtract(found["nmse"], base["nmse"][: len(found["nmse"])])
        for name, found in once.items()
        if base and name != "e-prop" and len(found["nmse"]) > 1
    }
    held = dict(zip(compared, holm([p_value(each) for each in compared.values()])))
    for name in names:
        here, late = rows.get(f"laser/as published/{name}"), once.get(name)
        if not (here or late):
            continue
        rate = "–" if not late or late["rate"] is None else f"{late['rate']:g}"
        if late and late.get("rate") in (grid[:1] + grid[-1:]):
            rate += " (end)"
        cells = [name, LASER.get(name, "–"), spread(here, "nmse"), around(late, "nmse")]
        cells += [signed(compared[name]), small(held[name])] if name in compared else ["–", "–"]
        lines.append(row(*cells, rate, seeds(here, late)))
    lines += [row(n, "–", "–", value, "–", "–", "–", "") for n, value in LASER_BASELINES.items()]
    return lines


def chest(rows: Rows, names: Sequence[str]) -> list[str]:
    """Its table."""
    lines = [CHEST_HEAD]
    for name in names:
        here, late = (rows.get(f"respiration/{p}/{name}") for p in PROTOCOLS["respiration"])
        if here or late:
            found = [late["by_horizon"][h] if late else None for h in "147"]
            at = ["–" if x is None else f"{x:.3f}" if x == x else "diverges" for x in found]
            cells = [name, CHEST.get(name, "–"), spread(here, "nrmse"), around(late, "nrmse")]
            lines.append(row(*cells, *at, seeds(here, late)))
    shown = {n: v for n, v in CHEST_BASELINES.items() if f"respiration/real time/{n}" not in rows}
    return lines + [row(name, *values, "") for name, values in shown.items()]


def folds(rows: Rows, name: str, rule: str) -> list[Mapping[str, Any]]:
    """Of a set, in order."""
    return [rows[key] for i in range(10) if (key := f"{name}/{i}/{rule}") in rows]


def labelled(rows: Rows, settings: Mapping[str, Any]) -> list[str]:
    """The table of the watch, and that of the sets."""
    setting = settings["watch"]
    whole = {
        rule: np.array([found["accuracy"] for found in folds(rows, "watch", rule)])
        for rule in setting.rules
        if len(folds(rows, "watch", rule)) == setting.folds
    }
    many = next(iter(whole.values())).shape[1] if whole else 0
    head = {"iterations": setting.iterations, "batch": setting.batch, "seeds": many}
    lines = [WATCH_HEAD.format(**head)]
    for rule, found in whole.items():
        parts = folds(rows, "watch", rule)
        cells = [rule, f"{found.mean():.3f}", " ".join(f"{x:.2f}" for x in found.mean(1))]
        for other in ("readout only", "BPTT"):
            known = other in whole and other != rule
            cells.append(signed((found - whole[other]).mean(1)) if known else "–")
        rates = " ".join(f"{part['rate']:g}" for part in parts)
        lines.append(row(*cells, rates))
    for name in sorted({key.split("/")[2] for key in rows if key.startswith("watch/")}):
        parts = folds(rows, "watch", name)
        if name not in whole and name not in setting.rules and len(parts) == setting.folds:
            each = np.array([part["accuracy"][0] for part in parts])
            shown = " ".join(f"{x:.2f}" for x in each)
            lines.append(row(name, f"{each.mean():.3f}", shown, "", "", ""))
    lines.append(SETS_HEAD)
    for name, known in SET_BASELINES.items():
        for rule in settings[name].rules:
            for found in folds(rows, name, rule):
                cells = name, rule, spread(found, "accuracy"), seeds(found), f"{found['rate']:g}"
                lines.append(row(*cells))
        lines += [row(name, label, value, "", "") for label, value in known.items()]
    return lines


def times(rows: Rows, rules: Sequence[str]) -> list[str]:
    """Its table, if they were measured."""
    found = {name: rows[key] for name in rules if (key := f"time/{name}") in rows}
    return [TIME_HEAD, *(row(n, f"{r['us']:.0f}") for n, r in found.items())] if found else []


def spread(found: Mapping[str, Any] | None, what: str) -> str:
    """Mean ± standard deviation over seeds."""
    if found is None:
        return "–"
    values = np.array(found[what])
    if not np.isfinite(values).all():
        return "diverges"
    digits = 4 if values.mean() < 0.1 else 3
    if len(values) == 1:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


def around(found: Mapping[str, Any] | None, what: str) -> str:
    """Mean, and its interval."""
    if found is None:
        return "–"
    values = np.array(found[what])
    if not np.isfinite(values).all():
        return "diverges"
    digits = 4 if values.mean() < 0.1 else 3
    if len(values) == 1:
        return f"{values.mean():.{digits}f}"
    low, high = interval(values)
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def signed(differences: np.ndarray) -> str:
    """Their mean, and its interval."""
    low, high = interval(differences)
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def small(p: float | None) -> str:
    """A p value."""
    return "–" if p is None else f"{p:.3f}" if p >= 0.001 else "< .001"


def seeds(*found: Mapping[str, Any] | None) -> str:
    """How many."""
    return "/".join(dict.fromkeys(str(one["seeds"]) for one in found if one))


def row(*cells: str) -> str:
    """Of a table."""
    return "| " + " | ".join(cells) + " |"
