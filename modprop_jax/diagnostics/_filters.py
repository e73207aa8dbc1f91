"""ModProp's filters: their taps, whether they are stable, and the μ that "auto" measures."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._cell import AbstractCell, computing
from .._cell._base import as_cell, dynamics
from .._precision import start_of
from .._program._run import by_drive, run
from .._rule import AbstractRule, ModProp
from .._rule._base import as_rule, over_members, require_neurons
from .._rule.modprop._filter import powers
from .._tree import stop


def filter_taps(
    rule: ModProp, cell: AbstractCell, n: int
) -> tuple[Float[Array, "*members n C C"], Float[Array, "*members n C"]]:
    r"""ModProp's filter taps at the lags 0 ... n-1: `(F, D)`.

    \[ \hat J^s = \mathrm{diag}(D^s) + U F_s U^T, \qquad F_0 = 0,\; D^0 = 1 \]

    `F[s, a, b]` is the modulatory tap from neurons of type b to those of type a, s steps later, and
    `D[s, a]` what stays in a neuron of type a; the direct credit at lag s reaches a synapse onto
    type b through `F[s, :, b]`. C = n neurons if cell-specific. On cells whose own leak is not
    one number, D̄ is the nominal leak. Of an ensemble, those of each member. Cost: O(n C³).

    **Errors:** ValueError for another rule, or a μ that is measured and changes along a run.
    """
    n = arguments.size("n", n)
    given = _given(rule, as_cell("cell", cell))
    inner = require_neurons(given, cell)
    taps = over_members(lambda cell: powers(given.filter(cell), n - 1), inner)
    return taps.modulated, taps.local


def spectral_radius(rule: AbstractRule, cell: AbstractCell) -> Float[Array, "*members"]:
    r"""Spectral radius of ModProp's transport Ĵ: credit is stable at 1 or less.

    \[ \rho(\hat J) = \max(\rho(\bar D - \kappa_{self} + \kappa N),\; |\bar D_a - \kappa_{aa}|) \]

    over the types a of more than one neuron. Of an ensemble, a cell that `eqx.filter_vmap` made,
    one radius a member. Runs under `jit` and `vmap`. Cost: O(C³), or O(n³) if cell-specific; of
    more than 2,048 neurons whose map has no matrix (`Sparse`), about 300 products of it, good to
    about a percent.

    **Errors:** ValueError for a rule whose transport is not a matrix of the weights alone: another
    rule than ModProp, a measured μ, or taps.
    """
    radius = None
    rule, cell = as_rule("rule", rule), as_cell("cell", cell)
    if isinstance(rule, ModProp):
        radius = rule.radius(rule.check_fits(cell))
    if radius is None:
        raise ValueError(
            "spectral_radius needs a rule whose transport the weights alone decide, as of "
            f"ModProp(mu) with a given mu and no taps, but got {arguments.shown(rule)}."
        )
    return radius


def running_mu(
    cell: AbstractCell, xs: Float[Array, "T *batch m"], types: Sequence[int] | None = None
) -> Float[Array, "T *batch C"]:
    r"""The μ that `ModProp("auto", types)` uses: after each step, by example and type.

    \[ \mu_t = \frac{1}{t}\sum_{u \le t}\mathrm{mean}_{type}\,h_u, \qquad
       h_u = \partial message_u/\partial drive_u / gain \]

    The run starts from the cell's initial state. To fix μ: `ModProp(mu[-1].mean(0), types)` with
    a NumPy array. Cost: one forward pass.
    """
    rule = ModProp("auto", types)
    rule.check(as_cell("cell", cell))
    if np.ndim(arguments.array("xs", xs, "the inputs (T, *batch, m)")) < 2:
        raise ValueError(f"xs must be (T, *batch, m), time first, but has the shape {xs.shape}.")
    on = stop(rule.on(computing(dynamics(cell))))
    batch = xs.shape[1:-1]
    _, record = run(by_drive(on.cell), on.cell, start_of(on.cell, batch), xs)
    means, (_, last) = on.rule.observer.steps(on, record, on.rule.observer.init(on, batch))
    return jnp.concatenate([means[1:], last[None]])


def plot_filter_taps(
    rule: ModProp, cell: AbstractCell, n: int = 100, *, names: Sequence[str] | None = None
) -> Any:
    """A matplotlib figure of `filter_taps`: a panel for each pair of types, against the lag.

    Rows are the type that receives the modulator's effect (whose synapses learn), columns the type
    that secretes it; each panel shows the modulatory tap `F[s, secreting, receiving]`, and on the
    diagonal also the local `D[s]`. `names`: of the types; by default their numbers.
    """
    if names is not None and not isinstance(names, Sequence):
        raise ValueError(f"names must be a list of words, but is {arguments.shown(names)}.")
    modulated, local = map(jax.device_get, filter_taps(rule, cell, n))
    # imported here: it takes a second, and only this function needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = local.shape[-1]
    given = [names] if isinstance(names, str) else names
    names = [f"type {a}" for a in range(count)] if given is None else list(given)
    if len(names) != count or count > 6:
        raise ValueError(
            f"plot_filter_taps draws at most 6 types with one name each, but has {count} types and "
            f"{len(names)} names: group the neurons with types=."
        )
    figure = Figure(figsize=(2.6 * count + 0.6, 2.1 * count + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(count, count, sharex=True, squeeze=False)
    for b in range(count):
        for a in range(count):
            axes = panels[b, a]
            axes.axhline(0, color="grey", lw=0.6)
            axes.plot(modulated[:, a, b], color="#D55E00", label="modulatory F")
            if a == b:
                twin = axes.twinx()
                twin.plot(local[:, a], color="#0072B2", lw=1, ls="--", label="local D")
                twin.set_ylim(0, 1.05)
                twin.tick_params(labelsize=7, colors="#0072B2")
                twin.spines["top"].set_visible(False)
            axes.set_title(f"{names[a]} → {names[b]}", fontsize=9)
            axes.tick_params(labelsize=7)
            axes.spines["top"].set_visible(False)
    figure.supxlabel("lag s (steps)", fontsize=9)
    figure.supylabel("tap F (orange); what stays in the neuron, D (blue)", fontsize=9)
    return figure


def _given(rule: object, cell: AbstractCell) -> ModProp:
    if not isinstance(rule, ModProp) or rule.mu is None:
        raise ValueError(
            "rule must be ModProp with a mu that does not change along a run, but is "
            f"{arguments.shown(rule)}: measure it with running_mu and pass ModProp(mu, types)."
        )
    rule.check_fits(cell)
    return rule
