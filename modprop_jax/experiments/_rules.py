"""The credit rules that experiments know by name, and what is typed with a name."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxtyping import PRNGKeyArray

from .._rule import AbstractRule, LAST
from .._taxonomy import rules
from ._methods import Method, METHODS
from ._names import known


DEFAULT_RULES = ("modprop", "modprop_cell", "mdgl", "eprop", "bptt")
ONLINE_RULES = (
    "rtrl",
    "future_bptt",
    "kf_rtrl",
    "rkf_rtrl",
    "uoro",
    "dni",
    "eprop",
    "kernl",
    "readout_only",
)
"""By default, on a stream."""


@dataclasses.dataclass(frozen=True)
class RuleEntry:
    """A rule by name: `build(types, **options)` makes it for these cell types.

    - `options`: the numbers that may come with the name, int for counts.
    - `online`: it learns on a stream only (`Schedule.segment`).
    - `settings`: what it replaces in every preset, by name.
    - `papers`: where it comes from, as in `Card.papers`.
    - `place`: rows are listed in this order.
    """

    description: str
    build: Callable[..., Any]
    options: Mapping[str, type] = dataclasses.field(default_factory=dict)
    online: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    papers: tuple[str, ...] = ()
    place: int = LAST

    def network(self, network: Any, key: PRNGKeyArray, **options: Any) -> Any:
        """What it trains: the network that all rows start from, as it is."""
        del key, options
        return network


Entry = RuleEntry | Method
E = TypeVar("E", bound=Entry)


def _rule_entries() -> dict[str, RuleEntry]:
    """What the cards of the package's rules say."""
    return {
        named.name: RuleEntry(
            named.description,
            functools.partial(named.build, rule),
            named.options,
            named.online,
            named.settings,
            papers=rule.card.papers,
            place=named.place,
        )
        for rule in rules()
        for named in rule.card.names
    }


def _by_place(entries: Mapping[str, E]) -> dict[str, E]:
    return dict(sorted(entries.items(), key=lambda item: item[1].place))


RULES: dict[str, RuleEntry] = _by_place(_rule_entries())
"""The credit rules by name; `METHODS` are what else a comparison may have."""
ENTRIES: dict[str, Entry] = _by_place({**RULES, **METHODS})
"""All that a row of a comparison may be."""


def build_rule(text: str, types: tuple[int, ...], **defaults: Any) -> Any:
    """The rule that `text` names: `"eprop"`, or with options `"modprop:mu=0.5"`.

    **Arguments:** `types`: the cell type of each neuron, for the rules that use types.
    `defaults`: values for options that `text` leaves open.

    **Raises:** `ValueError` for an unknown name or option, a value that is no number, an option
    that changes how a network is trained, such as `learning_rate`, or the name of a method.
    """
    entry, options = _parse(text)
    if isinstance(entry, Method):
        raise ValueError(
            f"{text!r} is a method, which makes a network of its own: `compare` trains it, but it "
            f"is none of the rules, {', '.join(RULES)}."
        )
    trained = [key for key in options if key in SETTINGS]
    if trained:
        raise ValueError(
            f"rule {text!r}: {trained[0]} is of the training under a rule, which `compare` does; "
            f"the rule alone is {rule_alone(text)!r}."
        )
    return layer_rule(text, types, **defaults)


def layer_rule(text: str, types: tuple[int, ...], **defaults: Any) -> AbstractRule:
    """As `build_rule`; of a method, the rule of its network's layers."""
    entry, options = _parse(text)
    given = {key: defaults[key] for key in entry.options if key in defaults}
    return entry.build(types, **(given | _of_row(options)))


def entry_of(text: str) -> Entry:
    """The rule or method that `text` names."""
    return _parse(text)[0]


def given_with(text: str) -> dict[str, Any]:
    """The options that come with a rule's name."""
    return _parse(text)[1]


def settings_of(text: str) -> dict[str, Any]:
    """The settings that are a row's own: the rule's or method's, and those typed with its name."""
    entry, options = _parse(text)
    return {**entry.settings, **{key: options[key] for key in options if key in SETTINGS}}


def rule_alone(text: str) -> str:
    """What names the rule, without how networks are trained under it."""
    name, _, rest = text.partition(":")
    kept = [item for item in rest.split(",") if item and item.partition("=")[0] not in SETTINGS]
    return ":".join([name, ",".join(kept)]) if kept else name


def network_of(text: str, network: Any, key: PRNGKeyArray) -> Any:
    """The network that a row trains, made of the one that all rows start from."""
    entry, options = _parse(text)
    return entry.network(network, key, **_of_row(options))


def segment_of(text: str, segment: int) -> int:
    """Steps from one optimizer step to the next on a stream: the rule's own, or the preset's."""
    return _parse(text)[1].get("segment", segment)


# on streams, of all rules
_SEGMENT = {"segment": int}
SETTINGS: dict[str, type] = {"learning_rate": float, "optimizer": str, "feedback": str, "l2": float}
"""Settings that may be given for one row alone, as in `"eprop:learning_rate=0.01"`."""


def _parse(text: str) -> tuple[Entry, dict[str, Any]]:
    """A rule or method, and the options that come with it; all take `segment` and `SETTINGS`."""
    name, _, rest = text.partition(":")
    entry = ENTRIES[known("rule", name, ENTRIES)]
    options: dict[str, Any] = {}
    allowed = {**entry.options, **_SEGMENT, **SETTINGS}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        kind = allowed[known(f"{name} option", key, allowed)]
        if key in options:
            raise ValueError(f"rule {text!r}: {key} is given twice.")
        if key in entry.settings:
            raise ValueError(f"rule {text!r}: {key} is what {name} is, {entry.settings[key]!r}.")
        options[key] = option_value(text, key, value, kind)
    return entry, options


def _of_row(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what streams and the training read."""
    return {key: value for key, value in options.items() if key not in {**_SEGMENT, **SETTINGS}}


def option_value(text: str, key: str, value: str, kind: type) -> Any:
    """What was typed for an option, as a number if it is one; `text`: where it stands."""
    if key == "mu" and value == "auto" or kind is str:
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        possible = 'a number or "auto"' if key == "mu" else "a number"
        raise ValueError(f"rule {text!r}: {key} needs {possible}, but got {value!r}.")
    return int(number) if number.is_integer() and kind is int else number
