"""A learning rate and options for each rule, judged on seeds and data of their own."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from .._files import FolderFault
from .._storage import digest_of
from .._summary import Row, table
from .._tuning import RATE, shown, Tuning, Value, with_options


def chosen(tuning: Tuning, rules: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    """The label with the least loss of each rule, a mean over seeds, of which those that stopped count as untrained."""
    loss = losses(rows)
    return {rule: min(tuning.labels(rule), key=lambda label: loss[label]) for rule in rules}


def losses(rows: Sequence[Row]) -> dict[str, float]:
    """By label; infinite where all seeds stopped."""
    return {
        row.rule: math.inf if row.diverged or row.loss is None else row.loss.mean for row in rows
    }


def report(tuning: Tuning, rules: Sequence[str], rows: Sequence[Row]) -> str:
    """Every trial, as Markdown: loss by rule, its options and its rate, and what was chosen."""
    loss, best = losses(rows), chosen(tuning, rules, rows)
    trials = {rule: tuning.trials(rule) for rule in rules}
    tuned = [rule for rule in rules if len(trials[rule]) > 1]
    # rules of one grid of rates share a table
    grids: dict[tuple[str, ...], list[list[str]]] = {}
    for rule in tuned:
        lines: dict[str, dict[str, str]] = {}
        for label, options in trials[rule].items():
            others = {name: value for name, value in options.items() if name != RATE}
            rate = shown(options[RATE]) if RATE in options else "loss"
            text = f"{loss[label]:.4g}"
            line = lines.setdefault(with_options(rule, others), {})
            line[rate] = f"**{text}**" if label == best[rule] else text
        grid = tuple(next(iter(lines.values())))
        grids.setdefault(grid, []).extend([name, *cells.values()] for name, cells in lines.items())
    tables = (table(["rule", *grid], lines) + "\n" for grid, lines in grids.items())
    notes = [
        f"- {rule} learns best at an end of what was tried, {name} {shown(trial[name])}: try more."
        for rule in tuned
        if math.isfinite(loss[best[rule]])
        for trial in [trials[rule][best[rule]]]
        for name in trial
        if _at_an_end(trial[name], [each[name] for each in trials[rule].values()])
    ]
    notes += [
        f"- {rule} diverged in every trial." for rule in tuned if loss[best[rule]] == math.inf
    ]
    notes += [
        f"- {rule} had nothing to choose from: {best[rule]}." for rule in rules if rule not in tuned
    ]
    counts = {rule: len(each) for rule, each in trials.items()}
    budget = "Trials: " + ", ".join(f"{rule} {count}" for rule, count in counts.items()) + "."
    if len({counts[rule] for rule in tuned}) > 1:
        budget += " Not all rules had as many: more trials are more chances of a low loss."
    return (
        f"Final loss of each trial, a mean over seeds {tuning.first_seed} to "
        f"{tuning.first_seed + tuning.seeds - 1}, which are reported nowhere; bold: chosen. "
        f"{budget}\n\n" + "\n".join(tables) + "\n" + "\n".join(notes) + "\n"
    )


def _at_an_end(value: Value, tried: Sequence[Value]) -> bool:
    """Whether a number is the least or the greatest of several."""
    numbers = {each for each in tried if not isinstance(each, str)}
    return len(numbers) > 1 and value in (min(numbers), max(numbers))


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
