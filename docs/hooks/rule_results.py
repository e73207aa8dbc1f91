"""What kept runs say of a rule: rows of the tables of docs/results, and sentences."""

import pathlib
import re

from rule_cells import WORDS

import modprop_jax as mpj


RESULTS = pathlib.Path(__file__).parents[1] / "results"
# folder in docs/results, what it is, and the row that others stand beside
TABLES = {
    "xor-published": ("Delayed XOR at its published size", "bptt"),
    "evidence-published": ("Evidence accumulation at its published size", "bptt"),
    "align-digits": ("Digits read row by row, plain SGD", "bptt"),
    "digits": ("Digits at equilibrium, Dale's law", "bptt"),
    "online-add": ("Add, online", "rtrl"),
    "online-add-slow": ("Add, online, slow symbols", "rtrl"),
    "online-mimic": ("Mimic, online", "rtrl"),
    "online-mimic-slow": ("Mimic, online, slow", "rtrl"),
    "online-align": ("Gradients of single steps on add", "rtrl"),
}


def results(name: str) -> str:
    """What kept runs say of it: rows of their tables, and sentences."""
    labels = [named.name for named in mpj.cards()[name].names]
    parts = [f"- {line}" for line in WORDS[name]["results"]]
    parts = ["\n".join(parts)] if parts else []
    for folder, (title, beside) in TABLES.items():
        parts += rows(folder, title, labels, beside)
    return "\n\n".join(parts) or "No kept run has it."


def rows(folder: str, title: str, labels: list[str], beside: str) -> list[str]:
    """The rows of these rules in a table of docs/results, beside one other; none: nothing."""
    text = (RESULTS / folder / "table.md").read_text("utf-8")
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    head, line, *body = table[0].splitlines()
    own = [row for row in body if _label(row) in labels]
    if not own:
        return []
    others = [row for row in body if _label(row) == beside and row not in own]
    shown = _without_empty([head, line, *own, *others])
    return [f"[{title}](../results/{folder}/table.md):\n\n" + "\n".join(shown)]


def _label(row: str) -> str:
    return row.split("|")[1].strip().partition(":")[0]


def _without_empty(lines: list[str]) -> list[str]:
    columns = zip(*(line.strip("|").split("|") for line in lines))
    kept = [c for c in columns if not all(entry.strip() == "– → –" for entry in c[2:])]
    return ["|" + "|".join(row) + "|" for row in zip(*kept)]
