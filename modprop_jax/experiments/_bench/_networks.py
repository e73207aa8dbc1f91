"""The networks that are measured: a cell each, what it reads, and the rules that go with it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ..._cell import (
    AbstractCell,
    ALIFCell,
    Filtered,
    GLECell,
    GRUCell,
    LeakyCell,
    LIFCell,
    LRUCell,
)
from ...surrogate import fast_sigmoid


INPUTS = 32
# of the surrogate derivative 1 / (1 + 25 |u|)², the default of spyx and of snntorch
SLOPE = 25.0


class Network(NamedTuple):
    """A network, and the rows of the table that it has.

    - `about`: what it is, for readers of the table.
    - `cell(n, key)`: of float32, `INPUTS` inputs and n neurons.
    - `rules`: measured unless told otherwise, in `modes`; `offline`: those measured offline alone.
    - `drives`: matrices (n, n + m + 1) that a step multiplies by; None: no matmul leads its cost.
    - `spikes`: whether its inputs are spikes, not normal numbers.
    """

    about: str
    cell: Callable[[int, PRNGKeyArray], AbstractCell]
    rules: tuple[str, ...]
    modes: tuple[str, ...] = ("offline", "segment=50")
    offline: tuple[str, ...] = ()
    drives: int | None = 1
    spikes: bool = False


def _leaky(n: int, key: PRNGKeyArray) -> AbstractCell:
    return LeakyCell(INPUTS, n, tau=20.0, autapses=True, dtype=np.float32, key=key)


def _steep(u: jax.Array) -> jax.Array:
    return fast_sigmoid(SLOPE * u)


def _lif(*, reset_gradient: bool) -> Callable[[int, PRNGKeyArray], AbstractCell]:
    def cell(n, key):
        return LIFCell(
            INPUTS,
            n,
            tau=-1 / math.log(0.9),
            dampening=1.0,
            surrogate=_steep,
            reset_gradient=reset_gradient,
            autapses=True,
            dtype=np.float32,
            key=key,
        )

    return cell


def _alif(n: int, key: PRNGKeyArray) -> AbstractCell:
    cell = ALIFCell(
        INPUTS,
        n,
        tau=20.0,
        tau_adaptation=2000.0,
        beta=1.8,
        threshold=0.3,
        refractory=5,
        scale_input=True,
        scale_adaptation=True,
        reset_gradient=True,
        dtype=np.float32,
        key=key,
    )
    return Filtered(cell, 0.95, scale=True)


def _gle(n: int, key: PRNGKeyArray) -> AbstractCell:
    lagging = np.where(np.arange(n) < 0.67 * n, 1.0, 20.0)  # its share is the experiments'
    return GLECell(
        [INPUTS, n, n],
        tau_m=20.0,
        tau_r=[lagging, lagging],
        dt=1.0,
        activations=jax.nn.tanh,
        dtype=np.float32,
        key=key,
    )


NETWORKS: dict[str, Network] = {
    "leaky": Network(
        "leaky neurons (relu, one time constant)",
        _leaky,
        (
            *("bptt", "rtrl", "eprop", "mdgl", "mdgl_cell", "modprop", "modprop_cell"),
            *("modprop:mu=auto", "braintrace_d_rtrl", "braintrace_pp_prop"),
        ),
        ("offline", "segment=1", "segment=50", "checkpointed"),
    ),
    "lif": Network(
        "integrate-and-fire neurons, reset by subtraction, no credit through the reset",
        _lif(reset_gradient=False),
        ("bptt", "eprop", "snntorch"),
        spikes=True,
    ),
    "lif_reset": Network(
        "the same neurons, with credit through the reset",
        _lif(reset_gradient=True),
        ("bptt", "eprop", "spyx"),
        spikes=True,
    ),
    "alif": Network(
        "adaptive integrate-and-fire neurons under a leaky readout, as in evidence accumulation",
        _alif,
        ("bptt", "eprop", "mdgl:online=1"),
        offline=("mdgl",),
        spikes=True,
    ),
    "gru": Network(
        "gated recurrent units",
        lambda n, key: GRUCell(INPUTS, n, dtype=np.float32, key=key),
        ("bptt", "snap1"),
        drives=3,
    ),
    "lru": Network(
        "linear recurrent units",
        lambda n, key: LRUCell(INPUTS, n, dtype=np.float32, key=key),
        ("bptt", "diagonal_rtrl"),
        drives=None,
    ),
    "gle": Network(
        "two layers of n prospective neurons, no recurrent weights; the inputs are new at every "
        "step, too fast for the errors of the rule GLE, whose cosine is low here",
        _gle,
        ("bptt", "gle"),
        drives=None,
    ),
}
