"""The differences of `modprop_claim.py` that were named before its runs were read.

The paper's claim is of two forms of ModProp, MDGL and e-prop, not of nine rows: for each form the
mu with the least loss in tuning, so five pairs, of the score and of the loss. And what clipping
changes, row by row.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modprop_jax import _figures as figures
from modprop_jax.experiments._statistics import ALARMS, holm, interval, p_value
from modprop_jax.experiments._summary import counted


CLAIMED = (
    *(("modprop_cell", "mdgl"), ("modprop_cell", "eprop")),
    *(("modprop", "mdgl"), ("modprop", "eprop"), ("mdgl", "eprop")),
)
NAMES = {
    "modprop_cell": "ModProp by cell",
    "modprop": "ModProp by type",
    "mdgl": "MDGL",
    "eprop": "e-prop",
}
QUANTITIES = ("accuracy", "loss")


class Difference(NamedTuple):
    """By seed; `holm`: p of the paired t test, corrected for the pairs that it stands with."""

    name: str
    by_seed: np.ndarray
    holm: float

    @property
    def supported(self) -> bool:
        return self.holm <= ALARMS

    @property
    def cells(self) -> list[str]:
        low, high = interval(self.by_seed)
        return [
            f"{self.by_seed.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
            f"{np.median(self.by_seed):+.3f}",
            f"{self.holm:.2g}",
            "yes" if self.supported else "no",
        ]


def final(folder: Path, quantity: str) -> dict[str, np.ndarray]:
    """By rule and seed, of the last evaluation; a seed that stopped counts as untrained."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    last = {line["rule"]: line for line in counted([json.loads(line) for line in lines])}
    return {rule: np.array(line[quantity]) for rule, line in last.items()}


def claimed(runs: Path, name: str, study: Any, quantity: str) -> list[Difference]:
    """The claim's pairs, of the rows that tuning put first."""
    values = final(runs / name, quantity)
    tuning = json.loads((runs / (study.after or name) / "tuning.json").read_text("utf-8"))
    label = {kind: best(kind, tuning) for kind in NAMES}
    by_pair = {
        f"{NAMES[a]} − {NAMES[b]}": values[label[a]] - values[label[b]]
        for a, b in CLAIMED
        if {label[a], label[b]} <= {*values}
    }
    return _corrected(by_pair)


def best(kind: str, tuning: Mapping[str, Any]) -> str:
    """The row of a kind with the least loss in tuning."""
    labels = [each for each in tuning["chosen"].values() if each.partition(":")[0] == kind]
    loss = tuning["loss"]
    return min(labels, key=lambda each: math.inf if loss[each] is None else loss[each], default="")


def _corrected(by_pair: Mapping[str, np.ndarray]) -> list[Difference]:
    p = holm([p_value(each) for each in by_pair.values()]) if by_pair else []
    return [Difference(*pair, each) for pair, each in zip(by_pair.items(), p)]


def claim_tables(runs: Path, name: str, study: Any, score: str) -> str:
    """Of the score and of the loss."""
    head = "[95 %] | median | p (Holm) | supported |\n|---|---|---|---|---|\n"
    parts = []
    for quantity, what in zip(QUANTITIES, (score, "loss")):
        rows = claimed(runs, name, study, quantity)
        lines = "\n".join(f"| {row.name} | {' | '.join(row.cells)} |" for row in rows)
        parts.append(f"| the claim's pairs | difference in {what} {head}{lines}\n")
    return "\n".join(parts)


def claim_words(runs: Path, name: str, study: Any, score: str) -> str:
    """Which of the claim's differences are supported."""
    said = []
    for quantity, what in zip(QUANTITIES, (score, "loss")):
        rows = claimed(runs, name, study, quantity)
        yes = [f"{row.name} ({row.by_seed.mean():+.3f})" for row in rows if row.supported]
        said.append(f"{len(yes)} in {what}" + (f" ({'; '.join(yes)})" if yes else ""))
    return f"of the claim's {len(CLAIMED)} differences {' and '.join(said)}"


def untrainable(runs: Path, name: str, study: Any, label: Any) -> str:
    """Trials of its tuning in which no seed was left, if it has one; `label`: a rule in words."""
    if study.after is not None:
        return ""
    tuning = json.loads((runs / name / "tuning.json").read_text("utf-8"))
    gone = [rule for rule, loss in tuning["loss"].items() if loss is None]
    named = ": " + "; ".join(label(rule, True) for rule in gone) if gone else ""
    return f"in tuning no network was left in {len(gone)} of {len(tuning['loss'])} trials{named}."


def clipping(runs: Path, free: str, bound: str, label: Any) -> str:
    """What clipping changes at the same rates, mu and seeds; `label`: a rule in words."""
    values = final(runs / free, "accuracy"), final(runs / bound, "accuracy")
    lost = _lost(runs / free), _lost(runs / bound)
    rules = [rule for rule in values[1] if rule in values[0]]
    gone = {rule: " → ".join(str(each[rule]) for each in lost) for rule in rules}
    lines = [
        f"| {label(row.name)} | {' | '.join(row.cells)} | {gone[row.name]} |"
        for row in _corrected({rule: values[1][rule] - values[0][rule] for rule in rules})
    ]
    return (
        "Clipped minus not, of the final score, seed by seed; *gone*: seeds that stopped, or met "
        "the criterion and lost it.\n\n| rule | difference [95 %] | median | p (Holm) | supported "
        "| gone, not clipped → clipped |\n|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def _lost(folder: Path) -> dict[str, int]:
    """Seeds that stopped, or lost what they had learnt; by rule."""
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    found = {}
    for row in summary["rows"]:
        everyone = row["criterion"]["seeds"] if row["diverged"] else 0
        found[row["rule"]] = everyone or len(row["stopped"]) + row["collapsed"]
    return found


def forest(runs: Path, studies: Mapping[str, Any], titles: Mapping[str, str]) -> bytes:
    """The claim's differences in score as PNG: a row a pair, a panel a study."""
    names: Sequence[str] = list(studies)
    across = min(4, max(len(names), 1))
    down = max(math.ceil(len(names) / across), 1)
    with figures.styled():
        figure = figures.blank(figures.PAGE, 0.3 + 1.6 * down)
        panels = figure.subplots(down, across, sharey=True, squeeze=False).flat
        for axes, name in zip(panels, names):
            rows = claimed(runs, name, studies[name], "accuracy")
            for place, row in enumerate(rows):
                colour = figures.COLOURS[1] if row.supported else "grey"
                axes.plot(interval(row.by_seed), [place] * 2, color=colour)
                axes.plot(row.by_seed.mean(), place, "o", color=colour, mfc="white")
            axes.axvline(0, color="black", lw=0.6)
            axes.set_yticks(range(len(rows)), [row.name for row in rows])
            axes.set_title(titles[name])
            axes.locator_params(axis="x", nbins=3)
        figure.supxlabel("difference in score")
        figure.axes[0].invert_yaxis()
        for axes in list(figure.axes)[len(names) :]:
            axes.remove()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=200)
        return file.getvalue()
