"""A learning rate for each rule: the same grid for all, judged on seeds and data of its own."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from ._files import FolderFault
from ._rates import Tuning
from ._storage import digest_of
from ._summary import Row


def chosen(tuning: Tuning, rules: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    """The label with the least loss of each rule, a mean over seeds; what diverged has none."""
    loss = losses(rows)
    return {rule: min(tuning.labels(rule), key=lambda label: loss[label]) for rule in rules}


def losses(rows: Sequence[Row]) -> dict[str, float]:
    """By label; infinite where a seed diverged."""
    return {
        row.rule: math.inf if row.diverged or row.loss is None else row.loss.mean for row in rows
    }


def report(tuning: Tuning, rules: Sequence[str], rows: Sequence[Row]) -> str:
    """Every trial, as Markdown: loss by rule and rate, and what was chosen."""
    loss, best = losses(rows), chosen(tuning, rules, rows)
    rated = [rule for rule in rules if len(tuning.labels(rule)) > 1]
    lines = [["rule", *(f"{rate:g}" for rate in tuning.rates)], ["---"] * (1 + len(tuning.rates))]
    for rule in rated:
        each = [(f"{loss[label]:.4g}", label == best[rule]) for label in tuning.labels(rule)]
        lines.append([rule, *(f"**{text}**" if mine else text for text, mine in each)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = [
        f"- {rule} learns best at an end of the grid, {best[rule]}: try a wider one."
        for rule in rated
        if math.isfinite(loss[best[rule]])
        and len(tuning.rates) > 1
        and best[rule] in (tuning.labels(rule)[0], tuning.labels(rule)[-1])
    ]
    notes += [f"- {rule} diverged at every rate." for rule in rated if loss[best[rule]] == math.inf]
    notes += [f"- {rule} has a learning rate of its own." for rule in rules if rule not in rated]
    return (
        f"Final loss by learning rate, a mean over seeds {tuning.first_seed} to "
        f"{tuning.first_seed + tuning.seeds - 1}, which are reported nowhere; bold: chosen.\n\n"
        f"{table}\n\n" + "\n".join(notes) + "\n"
    )


def read_choice(
    content: bytes, tuning: Tuning, rules: Sequence[str], folder: Path
) -> dict[str, str]:
    """What `as_json` wrote, if it is of these rules."""
    try:
        data = json.loads(content)
        found = data["chosen"]
        valid = all(found[rule] in tuning.labels(rule) for rule in rules)
        if valid and data["sha256"] == digest_of(data):
            return found
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise FolderFault(
        f"{folder / 'tuning.json'} is damaged: delete it, and the choice is made anew from the "
        f"trials in {folder / 'tuning'}."
    )


def as_json(tuning: Tuning, rules: Sequence[str], rows: Sequence[Row]) -> str:
    """`tuning.json`."""
    loss = {label: value if math.isfinite(value) else None for label, value in losses(rows).items()}
    data = {"chosen": chosen(tuning, rules, rows), "loss": loss}
    return json.dumps(data | {"sha256": digest_of(data)}, indent=2) + "\n"
