"""The credit rules that experiments know by name, and their options."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import optax
from jaxtyping import PRNGKeyArray

from .._rule import (
    BPTT,
    DiagonalRTRL,
    DNI,
    EICredit,
    EProp,
    FutureBPTT,
    GLE,
    KeRNL,
    KFRTRL,
    LocalDNI,
    MDGL,
    ModProp,
    QuasiStatic,
    ReadoutOnly,
    RKFRTRL,
    RTRL,
    SnAp,
    UORO,
)
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

    - `online`: it learns on a stream only (`Preset.segment`).
    - `settings`: what it replaces in every preset, by field.
    - `network(network, key, **options)`: what it makes of the network that all rules start from;
      None: trains it as it is.
    """

    description: str
    build: Callable[..., Any]
    options: tuple[str, ...] = ()
    online: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: Callable[..., Any] | None = None


def _kernl(types: Any, rate: float | None = None, **options: Any) -> KeRNL:
    return KeRNL(**options) if rate is None else KeRNL(learn=optax.sgd(rate), **options)


def _local_dni(
    types: Any, rate: float = 0.01, jacobian_rate: float = 0.01, **options: Any
) -> LocalDNI:
    return LocalDNI(learn=optax.sgd(rate), learn_jacobian=optax.sgd(jacobian_rate), **options)


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
    "diagonal_rtrl": RuleEntry(
        "exact RTRL of units that send nothing to each other: cell lru",
        lambda types: DiagonalRTRL(),
    ),
    "snap1": RuleEntry(
        "SnAp-1: credit stays in the unit, with its connection to itself; extra snap",
        lambda types: SnAp(1),
    ),
    "future_bptt": RuleEntry(
        "future-facing BPTT: exact credit of the next steps; horizon=10",
        lambda types, horizon=10: FutureBPTT(horizon),
        ("horizon",),
    ),
    "uoro": RuleEntry(
        "UORO: an unbiased estimate of rank one, on streams; probes=1",
        lambda types, **options: UORO(**options),
        ("probes",),
        online=True,
    ),
    "kf_rtrl": RuleEntry(
        "KF-RTRL: an unbiased Kronecker-factored estimate, on streams; probes=1",
        lambda types, **options: KFRTRL(**options),
        ("probes",),
        online=True,
    ),
    "rkf_rtrl": RuleEntry(
        "R-KF-RTRL: KF-RTRL with the factors reversed, on streams; probes=1",
        lambda types, **options: RKFRTRL(**options),
        ("probes",),
        online=True,
    ),
    "kernl": RuleEntry(
        "KeRNL: learnt sensitivities and decays, on streams; sigma, alpha, rate (of SGD)",
        _kernl,
        ("sigma", "alpha", "rate"),
        online=True,
    ),
    "dni": RuleEntry(
        "DNI: synthetic gradients, on streams; rate=0.01, refresh=5",
        lambda types, rate=0.01, **options: DNI(learn=optax.sgd(rate), **options),
        ("rate", "refresh", "labels"),
        online=True,
    ),
    "local_dni": RuleEntry(
        "DNI by local plasticity, random feedback, on streams; rate, jacobian_rate=0.01",
        _local_dni,
        ("rate", "jacobian_rate", "refresh", "labels"),
        online=True,
        settings={"feedback": "random"},
    ),
    "quasi_static": RuleEntry(
        "credit at equilibrium at every step, times e-prop's trace: slow inputs; sweeps, ridge",
        lambda types, **options: QuasiStatic(**options),
        ("sweeps", "ridge"),
    ),
    "gle": RuleEntry(
        "GLE: prospective errors, run forward in time: cell gle",
        lambda types: GLE(),
    ),
    "gle_instantaneous": RuleEntry(
        "GLE without prospective errors, instantaneous backpropagation: cell gle",
        lambda types: GLE(prospective_errors=False),
    ),
    "ei_credit": RuleEntry(
        "retrograde credit that relaxes to equilibrium: cell equilibrium; sweeps, damping",
        lambda types, **options: EICredit(**options),
        ("sweeps", "damping"),
    ),
    "ei_credit_clamp": RuleEntry(
        "the same with the credit of output units held, as published; sweeps, damping",
        lambda types, **options: EICredit(output="clamp", **options),
        ("sweeps", "damping"),
    ),
    "readout_only": RuleEntry(
        "a fixed recurrent network, as in reservoir computing: the readout alone learns",
        lambda types: ReadoutOnly(),
    ),
    "force": RuleEntry(
        "FORCE: recursive least squares in the readout, fed back to a fixed network; alpha, gain=1",
        lambda types, **network: ReadoutOnly(),
        ("alpha", "gain"),
        online=True,
        settings=_LEAST_SQUARES,
        network=lambda net, key, **options: force_network(net.rnn, net.readout, key, **options),
    ),
    "rtrl": RuleEntry(
        "real-time recurrent learning: the exact gradient, for small networks",
        lambda types: RTRL(),
    ),
}


def build_rule(text: str, types: tuple[int, ...], **defaults: Any) -> Any:
    """The rule that `text` names: `"eprop"`, or with options `"modprop:mu=0.5"`.

    **Arguments:** `types`: the cell type of each neuron, for the rules that use types.
    `defaults`: values for options that `text` leaves open.

    **Raises:** `ValueError` for an unknown name or option, or a value that is no
    number.
    """
    entry, typed = _typed(text)
    options = {key: defaults[key] for key in entry.options if key in defaults}
    return entry.build(types, **(options | typed))


def rule_entry(text: str) -> RuleEntry:
    """What the catalogue has of the rule that `text` names."""
    return _parse(text)[0]


def network_of(text: str, network: Any, key: PRNGKeyArray) -> Any:
    """The network that a rule trains, made of the one that all rules start from."""
    entry, typed = _typed(text)
    return network if entry.network is None else entry.network(network, key, **typed)


def segment_of(text: str, segment: int) -> int:
    """Steps from one optimizer step to the next on a stream: the rule's own, or the preset's."""
    return _parse(text)[1].get("segment", segment)


# options that are counts
_WHOLE = ("taps", "horizon", "probes", "refresh", "labels", "segment", "sweeps")


def _parse(text: str) -> tuple[RuleEntry, dict[str, Any]]:
    """A rule's entry, and the options that come with its name; all take `segment`."""
    name, _, rest = text.partition(":")
    entry = RULES[known("rule", name, RULES)]
    options = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        allowed = (*entry.options, "segment")
        options[known(f"{name} option", key, allowed)] = _value(text, key, value)
    return entry, options


def _typed(text: str) -> tuple[RuleEntry, dict[str, Any]]:
    """As `_parse`, without what streams read."""
    entry, options = _parse(text)
    return entry, {key: value for key, value in options.items() if key != "segment"}


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
    return int(number) if number.is_integer() and key in _WHOLE else number
