"""The names that experiments understand: cells, credit rules and their options."""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from .._cell import LeakyCell, RateCell
from .._rule import BPTT, EProp, MDGL, ModProp, RTRL


CELLS: dict[str, Any] = {"leaky": LeakyCell, "rate": RateCell}


@dataclasses.dataclass(frozen=True)
class RuleEntry:
    """A rule by name: `build(types, **options)` makes it for these cell types."""

    description: str
    build: Callable[..., Any]
    options: tuple[str, ...] = ()


RULES: dict[str, RuleEntry] = {
    "modprop": RuleEntry(
        "ModProp: credit over any timespan, type-specific modulatory filters; mu=0.25 or auto",
        lambda types, mu, taps=None: ModProp(mu, types=types, taps=taps),
        ("mu", "taps"),
    ),
    "modprop_cell": RuleEntry(
        "ModProp with a weight for every pair of cells, not of types; mu=0.25 or auto",
        lambda types, mu, taps=None: ModProp(mu, taps=taps),
        ("mu", "taps"),
    ),
    "mdgl": RuleEntry(
        "MDGL: one synaptic hop of credit, by cell type over existing synapses",
        lambda types: MDGL(types=types),
    ),
    "mdgl_cell": RuleEntry("MDGL with the weight of every pair of cells", lambda types: MDGL()),
    "mdgl_diffuse": RuleEntry(
        "MDGL by cell type, every neuron reached whether connected or not",
        lambda types: MDGL(types=types, diffuse=True),
    ),
    "eprop": RuleEntry(
        "e-prop = RFLO = three-factor: credit stays in the neuron",
        lambda types: EProp(),
    ),
    "bptt": RuleEntry("backpropagation through time: the exact gradient", lambda types: BPTT()),
    "rtrl": RuleEntry(
        "real-time recurrent learning: the exact gradient, for small networks",
        lambda types: RTRL(),
    ),
}

DEFAULT_RULES = ("modprop", "modprop_cell", "mdgl", "eprop", "bptt")


def build_rule(text: str, types: tuple[int, ...], **defaults: Any) -> Any:
    """The rule that `text` names: `"eprop"`, or with options `"modprop:mu=0.5"`.

    **Arguments:** `types`: the cell type of each neuron, for the rules that use types.
    `defaults`: values for options that `text` leaves open.

    **Raises:** `ValueError` for an unknown name or option, or a value that is no
    number.
    """
    name, _, rest = text.partition(":")
    entry = RULES[known("rule", name, RULES)]
    options = {key: defaults[key] for key in entry.options if key in defaults}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        options[known(f"{name} option", key, entry.options)] = _value(text, key, value)
    return entry.build(types, **options)


def known(kind: str, name: str, choices: Iterable[str]) -> str:
    """`name` if it is one of `choices`; else a ValueError that lists them."""
    choices = tuple(choices)
    if name in choices:
        return name
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {kind} {name!r}; possible: {', '.join(choices) or 'none'}.{hint}")


def summary(cls: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _value(text: str, key: str, value: str) -> Any:
    if key == "mu" and value == "auto":
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        possible = 'a number or "auto"' if key == "mu" else "a number"
        raise ValueError(f"rule {text!r}: {key} needs {possible}, but got {value!r}.")
    return int(number) if number.is_integer() and key == "taps" else number
