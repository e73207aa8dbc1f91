"""A rule's name, colour, line and marker: the same in every figure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .._figures import COLOURS, LINES, MARKERS
from ._rules import ENTRIES


# As papers write them. Colours, lines and markers go by the order, so a new rule comes last.
_NAMES = {
    "modprop": "ModProp",
    "modprop_cell": "ModProp (cell)",
    "mdgl": "MDGL",
    "eprop": "e-prop",
    "readout_only": "fixed network",
    "mdgl_cell": "MDGL (cell)",
    "kernl": "KeRNL",
    "uoro": "UORO",
    "kf_rtrl": "KF-RTRL",
    "rkf_rtrl": "R-KF-RTRL",
    "dni": "DNI",
    "future_bptt": "F-BPTT",
    "local_dni": "DNI(b)",
    "force": "FORCE",
    "mdgl_diffuse": "MDGL (diffuse)",
    "snap1": "SnAp-1",
    "diagonal_rtrl": "diagonal RTRL",
    "quasi_static": "quasi-static",
    "gle": "GLE",
    "gle_instantaneous": "GLE (instantaneous)",
    "ei_credit": "E-I credit",
    "ei_credit_clamp": "E-I credit (clamp)",
    "forward_gradient": "forward gradient",
    "node_perturbation": "node perturbation",
    "eqprop": "EqProp",
    "type_filter": "type filter",
}
# the exact gradients, which others are read against
_EXACT = {"bptt": "BPTT", "rtrl": "RTRL"}
_SYMBOLS = {"mu": "μ", "learning_rate": "η"}


class RuleStyle(NamedTuple):
    """`name` as papers write it; `line`: keywords of a line in matplotlib; `place`: which of the
    figure's rules it is."""

    name: str
    line: dict[str, Any]
    place: int = 0


def is_exact(label: str) -> bool:
    """Whether a rule, with options or without, is the exact gradient."""
    return label.partition(":")[0] in _EXACT


def name_of(label: str) -> str:
    """A rule as papers write it, with its options: `"modprop:mu=0.5"` is "ModProp, μ = 0.5"."""
    base, _, rest = label.partition(":")
    name = (_NAMES | _EXACT).get(base, base.replace("_", " "))
    options = [item.partition("=") for item in rest.split(",") if item]
    said = [f"{_SYMBOLS.get(key, key.replace('_', ' '))} = {value}" for key, _, value in options]
    return ", ".join([name, *said])


def styles(labels: Sequence[str]) -> dict[str, RuleStyle]:
    """Of rules that one figure shows.

    Colour, line and marker are the rule's own; with options beside it, or several times with
    different ones, it has its colour, another line, and a hollow marker, and so on.
    """
    # a rule without options looks as it always does
    seen = {label: 1 for label in labels if ":" not in label}
    found = {}
    for label in labels:
        base, _, options = label.partition(":")
        again = seen.get(base, 0) if options else 0
        seen[base] = max(again + 1, seen.get(base, 0))
        found[label] = RuleStyle(name_of(label), _line(base, again), len(found))
    return found


def _line(base: str, again: int) -> dict[str, Any]:
    if base in _EXACT:
        place = 0 if base == "bptt" else 1
        kind, marker, colour = ("-", "--")[place], "", "black"
        if again:
            kind, marker = LINES[(place + again) % len(LINES)], MARKERS[again % len(MARKERS)]
    else:
        known = [*_NAMES, *(name for name in ENTRIES if name not in (*_NAMES, *_EXACT))]
        place = known.index(base) if base in known else len(known)
        colour = COLOURS[place % len(COLOURS)]
        kind = LINES[(place + place // len(COLOURS) + again) % len(LINES)]
        marker = MARKERS[place % len(MARKERS)]
    face = "white" if again % 2 else colour
    return {"color": colour, "ls": kind, "marker": marker, "mfc": face, "mec": colour, "mew": 0.8}
