"""The names that experiments understand: cells, credit rules and their options."""

import dataclasses
import difflib
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from .._cell import (
    ALIFCell,
    EquilibriumCell,
    GLECell,
    GRUCell,
    LeakyCell,
    LIFCell,
    LRUCell,
    LSTMCell,
    RateCell,
)
from .._cell._lif import AbstractLIF
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
from ..tasks import Preset
from ._force_network import force_network


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
class CellEntry:
    """A cell by name.

    - `cell`: the class; `cell(in_size, hidden_size, key=key, **options)`.
    - `settings(preset)`: what changes in a preset that was made for another cell; see `with_cell`.
    - `recurrent(cell)`: the cell's recurrent parameters, or those that take their place.
    - `synapses`: "neurons": it has `signs=`, `weight_rec` and `weight_in`, which Dale's law, sparse
      synapses and scaled initial weights need. "units": it has one `weight` from all units,
      clamped inputs among them, and `signs=` of all. None: it has no Dale's law.
    - `build`: what makes it, if not the class itself.
    - `rules`: those that are compared by default, and on streams.
    """

    cell: Any
    settings: Callable[[Preset], Mapping[str, Any]] = lambda preset: {}
    recurrent: Callable[[Any], tuple[Any, ...]] = lambda cell: (cell.weight_rec,)
    synapses: Literal["neurons", "units"] | None = "neurons"
    build: Callable[..., Any] | None = None
    rules: tuple[tuple[str, ...], tuple[str, ...]] = (DEFAULT_RULES, ONLINE_RULES)

    def __call__(self, in_size: int, hidden_size: int, **options: Any) -> Any:
        """A cell of this kind."""
        return (self.build or self.cell)(in_size, hidden_size, **options)


def _partly_adaptive(
    in_size: int, hidden_size: int, *, beta: float, adaptive: float = 1.0, **options: Any
) -> ALIFCell:
    """An `ALIFCell` of whose neurons a share adapts, evenly spread; the others have beta 0."""
    counts = [math.floor(i * adaptive) for i in range(hidden_size + 1)]
    betas = [beta * (after - before) for before, after in itertools.pairwise(counts)]
    return ALIFCell(in_size, hidden_size, beta=np.array(betas), **options)


def _tau(preset: Preset) -> float:
    return preset.cell_options.get("tau", 20.0)


def _leaky(preset: Preset) -> Mapping[str, Any]:
    return {"cell_options": {"tau": _tau(preset)}}


def _rate(preset: Preset) -> Mapping[str, Any]:
    return {"cell_options": {"alpha": 1 - math.exp(-1 / _tau(preset))}}


def _spiking(**options: Any) -> Callable[[Preset], Mapping[str, Any]]:
    """A membrane that is an average of its drive, and a readout as slow as it."""

    def settings(preset):
        if preset.cell in ("lif", "alif"):
            shared = inspect.signature(AbstractLIF.__init__).parameters
            kept = {name: value for name, value in preset.cell_options.items() if name in shared}
            fields = ("readout_tau", "scale_readout", "rate_cost")
            return {"cell_options": options | kept} | {f: getattr(preset, f) for f in fields}
        membrane = {"tau": _tau(preset), "threshold": 0.1, "scale_input": True}
        leaky = {"readout_tau": membrane["tau"], "scale_readout": True}
        return {"cell_options": membrane | options} | leaky

    return settings


def _prospective(
    in_size: int,
    hidden_size: int,
    *,
    tau: float,
    layers: int = 3,
    lagging: float = 0.67,
    activation: str = "tanh",
    key: PRNGKeyArray,
) -> GLECell:
    """Layers of one size, of whose neurons a share lags behind its drive by `tau` steps."""
    prospective = np.where(np.arange(hidden_size) < lagging * hidden_size, 1.0, tau)
    return GLECell(
        [in_size] + [hidden_size] * layers,
        tau_m=tau,
        tau_r=[prospective] * layers,
        dt=1.0,
        activations=getattr(jax.nn, known("activation", activation, ACTIVATIONS)),
        key=key,
    )


LAYERS = 2
"""Of a network that settles, by default."""


def _settling(
    in_size: int,
    hidden_size: int,
    *,
    layers: int = LAYERS,
    activation: str = "sigmoid",
    **options: Any,
) -> EquilibriumCell:
    """Layers of one size, and the inputs."""
    return EquilibriumCell.layered(
        [in_size] + [hidden_size] * layers,
        activation=getattr(jax.nn, known("activation", activation, ACTIVATIONS)),
        **options,
    )


ACTIVATIONS = "identity", "relu", "sigmoid", "softplus", "tanh"
_GLE_RULES = ("gle", "gle_instantaneous", "bptt"), ("gle", "gle_instantaneous")
_EQUILIBRIUM_RULES = ("ei_credit", "ei_credit:sweeps=0", "bptt"), ("ei_credit", "readout_only")

CELLS: dict[str, CellEntry] = {
    "leaky": CellEntry(LeakyCell, _leaky),
    "rate": CellEntry(RateCell, _rate),
    "lif": CellEntry(LIFCell, _spiking()),
    "alif": CellEntry(
        ALIFCell,
        _spiking(beta=1.8, tau_adaptation=200.0, scale_adaptation=True, adaptive=0.5),
        build=_partly_adaptive,
    ),
    "gru": CellEntry(GRUCell, recurrent=lambda cell: (cell.weight_hh,), synapses=None),
    "lstm": CellEntry(LSTMCell, recurrent=lambda cell: (cell.weight_hh,), synapses=None),
    "lru": CellEntry(LRUCell, recurrent=lambda cell: (cell.nu, cell.theta), synapses=None),
    "gle": CellEntry(
        GLECell,
        lambda preset: {"cell_options": {"tau": _tau(preset)}},
        recurrent=lambda cell: tuple(layer.weight for layer in cell.layers),
        synapses=None,
        build=_prospective,
        rules=_GLE_RULES,
    ),
    "equilibrium": CellEntry(
        EquilibriumCell,
        recurrent=lambda cell: (cell.weight,),
        synapses="units",
        build=_settling,
        rules=_EQUILIBRIUM_RULES,
    ),
}


def with_cell(preset: Preset, name: str) -> Preset:
    """The preset with another cell: its time constant stays, as does what is not the cell's."""
    entry = CELLS[known("cell", name, CELLS)]
    if name == preset.cell:
        return preset
    changes: dict[str, Any] = {"cell_options": {}, "readout_tau": None, "scale_readout": False}
    changes["rate_cost"] = 0.0
    if entry.synapses != "neurons":
        changes |= {"excitatory": None, "shrink": 0.0, "connectivity": 0.0, "density": 1.0}
        changes |= {
            "orthogonal": False,
            "input_signs": None,
            "input_scale": 1.0,
            "recurrent_scale": 1.0,
        }
    changes |= entry.settings(preset)
    return dataclasses.replace(preset, cell=name, **changes)


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
