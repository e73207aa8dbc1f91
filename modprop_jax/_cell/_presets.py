from typing import Any, Literal

from .. import _arguments as arguments
from .._static import Given
from ._filtered import Filtered
from ._lif import ALIFCell, LIFCell


Convention = Literal["bellec_lif", "bellec_alif", "bellec_elig_alif", "mdgl"]

_SCALED = {"scale_input": True, "scale_adaptation": True}
_CONVENTIONS: dict[str, tuple[Any, dict[str, bool]]] = {
    "bellec_lif": (LIFCell, {"scale_input": True}),
    "bellec_alif": (ALIFCell, _SCALED | {"divide_by_adaptive": True}),
    "bellec_elig_alif": (ALIFCell, {}),
    "mdgl": (ALIFCell, _SCALED | {"reset_gradient": True}),
}


def spiking_preset(
    name: Convention,
    in_size: int,
    hidden_size: int,
    *,
    leak: Given | tuple[Given, ...],
    **options: Any,
) -> Filtered:
    """A spiking cell under a leaky readout, scaled as in a published program.

    Public programs that go by the same equations scale them differently, so constants of one
    (thresholds, weights, learning rates) mean something else in another:

    | `name` | the program's cell | s_in | s_a | u divided by | credit through the reset |
    |---|---|---|---|---|---|
    | `"bellec_lif"` | e-prop, pattern generation: LightLIF | 1-α | | v_th | no |
    | `"bellec_alif"` | e-prop: LightALIF | 1-α | 1-ρ | v_th + β b | no |
    | `"bellec_elig_alif"` | e-prop, evidence accumulation: EligALIF | 1 | 1 | v_th | no |
    | `"mdgl"` | MDGL and LSNN: ALIF | 1-α | 1-ρ | v_th | yes |

    All four scale what the readout sees by s_out = 1-k. (The e-prop paper writes the third without
    it: `Filtered(ALIFCell(...), k)`.)

    **Arguments:** `leak`: k, as in `Filtered`, also a tuple. `options`: those of `LIFCell`
    (`"bellec_lif"`) or `ALIFCell`, but for the columns of the table: `tau`, `key`, ...

    **Errors:** ValueError for an unknown name.

    Sources: Bellec et al., Nature Communications 11 (2020); Liu et al., PNAS 118 (2021); and the
    programs that came with them.
    """
    cell, flags = _CONVENTIONS[arguments.choice("name", name, tuple(_CONVENTIONS))]
    for option in sorted(flags.keys() & options.keys()):
        raise ValueError(
            f"{option}={options[option]!r} came with name={name!r}, which sets it: leave it out, "
            "or make the Filtered cell yourself."
        )
    return Filtered(cell(in_size, hidden_size, **flags, **options), leak, scale=True)
