"""The credit rules that experiments know by name, and their options."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import PRNGKeyArray

from .._rule import LAST, ReadoutOnly
from .._taxonomy import rules
from ._force_network import force_network
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
    - `online`: it learns on a stream only (`Preset.segment`).
    - `settings`: what it replaces in every preset, by field.
    - `network(network, key, **options)`: what a method makes of the network that all rules start
      from; None: a rule, which trains it as it is.
    - `papers`: where it comes from, as in `Card.papers`.
    - `place`: entries are listed in this order.
    """

    description: str
    build: Callable[..., Any]
    options: Mapping[str, type] = dataclasses.field(default_factory=dict)
    online: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: Callable[..., Any] | None = None
    papers: tuple[str, ...] = ()
    place: int = LAST


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


# a step is what the readout says it is, and nothing else moves
_LEAST_SQUARES = {
    "optimizer": "sgd",
    "learning_rate": 1.0,
    "decay": 1.0,
    "l2": 0.0,
    "shrink": 0.0,
    "connectivity": 0.0,
    "dale_readout": False,
    "feedback": "symmetric",
}

# A method is no rule: it changes the network, and how it learns.
METHODS: dict[str, RuleEntry] = {
    "force": RuleEntry(
        "FORCE: recursive least squares in the readout, fed back to a fixed network; alpha, gain=1",
        lambda types, **network: ReadoutOnly(),
        {"alpha": float, "gain": float},
        online=True,
        settings=_LEAST_SQUARES,
        network=lambda net, key, **options: force_network(net.rnn, net.readout, key, **options),
        papers=("sussillo2009force",),
        place=230,
    ),
}

RULES: dict[str, RuleEntry] = dict(
    sorted((_rule_entries() | METHODS).items(), key=lambda item: item[1].place)
)


def build_rule(text: str, types: tuple[int, ...], **defaults: Any) -> Any:
    """The rule that `text` names: `"eprop"`, or with options `"modprop:mu=0.5"`.

    **Arguments:** `types`: the cell type of each neuron, for the rules that use types.
    `defaults`: values for options that `text` leaves open.

    **Raises:** `ValueError` for an unknown name or option, a value that is no number, or an
    option that changes how a network is trained, such as `learning_rate`.
    """
    entry, options = _parse(text)
    trained = [key for key in options if key in SETTINGS]
    if trained:
        raise ValueError(
            f"rule {text!r}: {trained[0]} is of the training under a rule, which `compare` does; "
            f"the rule alone is {rule_alone(text)!r}."
        )
    given = {key: defaults[key] for key in entry.options if key in defaults}
    return entry.build(types, **(given | _of_rule(options)))


def rule_entry(text: str) -> RuleEntry:
    """What the catalogue has of the rule that `text` names."""
    return _parse(text)[0]


def settings_of(text: str) -> dict[str, Any]:
    """The fields of `Preset` that are a rule's own: the catalogue's, and those typed with it."""
    entry, options = _parse(text)
    return {**entry.settings, **{key: options[key] for key in options if key in SETTINGS}}


def rule_alone(text: str) -> str:
    """What names the rule, without how networks are trained under it."""
    name, _, rest = text.partition(":")
    kept = [item for item in rest.split(",") if item and item.partition("=")[0] not in SETTINGS]
    return ":".join([name, ",".join(kept)]) if kept else name


def network_of(text: str, network: Any, key: PRNGKeyArray) -> Any:
    """The network that a rule trains, made of the one that all rules start from."""
    entry, options = _parse(text)
    return network if entry.network is None else entry.network(network, key, **_of_rule(options))


def segment_of(text: str, segment: int) -> int:
    """Steps from one optimizer step to the next on a stream: the rule's own, or the preset's."""
    return _parse(text)[1].get("segment", segment)


# on streams, of all rules
_SEGMENT = {"segment": int}
SETTINGS: dict[str, type] = {"learning_rate": float, "optimizer": str, "feedback": str, "l2": float}
"""Fields of `Preset` that may be given for one rule alone, as in `"eprop:learning_rate=0.01"`."""


def _parse(text: str) -> tuple[RuleEntry, dict[str, Any]]:
    """A rule's entry, and the options that come with it; all take `segment` and `SETTINGS`."""
    name, _, rest = text.partition(":")
    entry = RULES[known("rule", name, RULES)]
    options: dict[str, Any] = {}
    allowed = {**entry.options, **_SEGMENT, **SETTINGS}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        kind = allowed[known(f"{name} option", key, allowed)]
        if key in options:
            raise ValueError(f"rule {text!r}: {key} is given twice.")
        if key in entry.settings:
            raise ValueError(f"rule {text!r}: {key} is what {name} is, {entry.settings[key]!r}.")
        options[key] = _value(text, key, value, kind)
    return entry, options


def _of_rule(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what streams and the training read."""
    return {key: value for key, value in options.items() if key not in {**_SEGMENT, **SETTINGS}}


def _value(text: str, key: str, value: str, kind: type) -> Any:
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
