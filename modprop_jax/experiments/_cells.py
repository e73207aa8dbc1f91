"""The cells that experiments know by name."""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
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
    RTUCell,
)
from .._cell._lif import AbstractLIF
from ..tasks import Preset
from ..tasks._preset import defaults
from ._names import known
from ._rules import DEFAULT_RULES, ONLINE_RULES


@dataclasses.dataclass(frozen=True)
class CellEntry:
    """A cell by name.

    - `cell`: the class; `cell(in_size, hidden_size, key=key, **options)`.
    - `settings(preset)`: what changes in a preset that was made for another cell, by name; see
      `with_cell`.
    - `recurrent(cell)`: the cell's recurrent parameters, or those that take their place.
    - `synapses`: "neurons": it has `signs=`, `weight_rec` and `weight_in`, which Dale's law, sparse
      synapses and scaled initial weights need. "units": it has one `weight` from all units,
      clamped inputs among them, and `signs=` of all. None: it has no Dale's law.
    - `build`: what makes it, if not the class itself.
    - `rules`: those that are compared by default, and on streams.
    """

    cell: type
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


TAU = 20.0
"""In steps, of leaky neurons where a preset says none."""


def _tau(preset: Preset) -> float:
    return preset.network.cell_options.get("tau", TAU)


def _leaky(preset: Preset) -> Mapping[str, Any]:
    return {"cell_options": {"tau": _tau(preset)}}


def _rate(preset: Preset) -> Mapping[str, Any]:
    return {"cell_options": {"alpha": 1 - math.exp(-1 / _tau(preset))}}


def _spiking(**options: object) -> Callable[[Preset], Mapping[str, Any]]:
    """A membrane that is an average of its drive, and a readout as slow as it."""

    def settings(preset):
        before = preset.network
        if before.cell in ("lif", "alif"):
            shared = inspect.signature(AbstractLIF.__init__).parameters
            kept = {name: value for name, value in before.cell_options.items() if name in shared}
            return {
                "cell_options": options | kept,
                "readout_tau": before.readout_tau,
                "scale_readout": before.scale_readout,
                "rate_cost": preset.objective.rate_cost,
            }
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


def _leaky_cell(
    in_size: int, hidden_size: int, *, tau: float = TAU, activation: str = "relu", **options: Any
) -> LeakyCell:
    """With an activation by its name."""
    function = getattr(jax.nn, known("activation", activation, ACTIVATIONS))
    return LeakyCell(in_size, hidden_size, tau=tau, activation=function, **options)


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
_EQUILIBRIUM_RULES = (
    ("ei_credit", "ei_credit:sweeps=0", "bptt"),
    ("ei_credit", "ei_credit:sweeps=0", "readout_only"),
)

CELLS: dict[str, CellEntry] = {
    "leaky": CellEntry(LeakyCell, _leaky, build=_leaky_cell),
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
    "rtu": CellEntry(RTUCell, recurrent=lambda cell: (cell.nu, cell.theta), synapses=None),
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
    if name == preset.network.cell:
        return preset
    changes = defaults("cell_options", "readout_tau", "scale_readout", "rate_cost")
    if entry.synapses != "neurons":
        changes |= defaults("excitatory", "shrink", "connectivity", "density")
        changes |= defaults("orthogonal", "input_signs", "input_scale", "recurrent_scale")
    changes |= entry.settings(preset)
    return preset.replace(cell=name, **changes)
