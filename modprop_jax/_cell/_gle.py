"""Layers of leaky neurons that look ahead: the network of Generalized Latent Equilibrium."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._constrained import AbstractConstrained
from .._precision import wide, widened
from .._static import Given, is_constant, numeric, Trainable
from ._base import AbstractCell, batch_axes, BatchShape, Final
from ._constants import trainable, trained_ranges
from ._prospective_layer import (
    at_least,
    driven,
    layer_constant,
    parameter_dtype,
    ProspectiveLayer,
    slope,
)


class GLEState(NamedTuple):
    r"""The state of a `GLECell`, its tuples by layer, all entries (*batch, N_l).

    `u` the membrane, `ub` the prospective membrane \(\breve u\), `out` the emission. "sync" also
    has the rates `r` = φ(ub) and their slopes `rp` = φ'(ub), which the next step reads; else `()`.
    """

    u: tuple[Array, ...]
    ub: tuple[Array, ...]
    r: tuple[Array, ...]
    rp: tuple[Array, ...]
    out: Array


class GLECell(AbstractCell):
    r"""Layers of leaky neurons that send a prospective rate, for the rule `GLE`.

    With \(r_0 = x\), in layer l

    \[ s_l = W_l r_{l-1} + b_l, \qquad \tau^m_l \dot u_l = -u_l + s_l + \gamma e_l, \qquad
       \breve u_l = u_l + \tau^r_l \dot u_l, \qquad r_l = \varphi_l(\breve u_l) \]

    by forward Euler: \(u \leftarrow u + dt\,\dot u\), and \(\breve u\) from the u before the step.
    A neuron has two constants: τ_r < τ_m lags behind its drive (memory), τ_r = τ_m follows it at
    once, τ_r > τ_m runs ahead. No recurrent weights: the neurons' constants are all the memory.

    `order`: "sweep": each layer reads the rates of this step, and the emission is this step's
    output rate. "sync" (the published order): all layers update at once from the rates before the
    step, a delay of `dt` a layer; the emission is the output rate from before the step, and the
    first rates and slopes are 0, not φ(0) and φ'(0). The slope φ' is JAX's derivative of φ.

    γ (`gamma`) nudges membranes by the errors \(e_l\) of the rule `GLE`. Under any other rule there
    are none, and it has no effect: evaluate a nudged network under BPTT.

    Parameters: `layers[l].weight` (post, pre), `layers[l].bias` (post,) or None, and, with
    `learn_tau`, `layers[l].tau_m` (post,). `tau_m`, `tau_r` and `dt` also train if they are given
    as a `jax.Array` or, to stay in range, as `Between(value, dt, inf)` (`dt`: `Positive(value)`).
    BPTT gives the exact gradient of this recursion; the rule GLE has none for τ_r and dt, and
    refuses them. Time O(Σ_l N_l N_{l-1}) a step and example. State: `GLEState`.

    Source: Ellenberger, Haider, Jordan, Max, Jaras, Kriener, Benitez & Petrovici, "Backpropagation
    through space, time and the brain", Nature Communications (arXiv 2403.16933).
    """

    papers: ClassVar[tuple[str, ...]] = ("ellenberger2025gle",)
    _final: ClassVar[Final] = Final(
        ("in_size", "step", "emit", "received", "slopes", "effective", "check_input"),
        "For other dynamics write a FunctionCell.",
    )

    layers: tuple[ProspectiveLayer, ...]
    dt: Trainable
    gamma: float = eqx.field(static=True)
    order: Literal["sweep", "sync"] = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sequence[Any],
        *,
        tau_m: Given | Sequence[Given],
        tau_r: Given | Sequence[Given],
        dt: Given,
        activations: Callable | Sequence[Callable],
        gamma: float = 0.0,
        order: Literal["sweep", "sync"] = "sweep",
        use_bias: bool = True,
        learn_tau: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `sizes`: the number of inputs, then an entry a layer: a number of neurons (a dense
            layer), or a layer of equinox with a linear drive, such as `eqx.nn.Conv1d`. Rates are
            flat: a convolution takes them as (channels, positions), any other layer as (N,), and
            what comes out is flattened again. That a drive is linear is not checked: errors pass
            through any layer by its derivative at the rates that it receives.
        - `tau_m`, `tau_r`: membrane and prospective time constant, of at least `dt`: one entry a
            layer, a number or (N_l,); or one number for all. What trains is each layer's own.
        - `dt`: length of a step, one number.
        - `activations`: elementwise φ, one a layer or one for all (linear: `jax.nn.identity`).
        - `gamma`: strength of nudging; needs "sync".
        - `order`: "sweep" or "sync".
        - `use_bias`: whether dense layers have a bias.
        - `learn_tau`: whether τ_m trains, one a neuron, whatever it is given as.
        - `dtype`: of the parameters of dense layers; the JAX default if None.
        - `key`: for the weights and biases of dense layers, uniform within
            ±1 / √(presynaptic neurons) (`eqx.nn.Linear`).

        **Errors:** ValueError for anything that does not fit.
        """
        words = "sizes holds the number of inputs and one entry a layer, at least one"
        arguments.entries(sizes, 2, words)
        self.order = arguments.choice("order", order, ("sweep", "sync"))
        self.gamma = arguments.number("gamma", gamma, arguments.NOT_NEGATIVE)
        if self.gamma > 0 and order != "sync":
            raise ValueError(
                f'gamma={gamma!r} came with order={order!r}: nudging needs gamma >= 0 and "sync", '
                "where a step's errors do not depend on its own membranes."
            )
        learn_tau = arguments.boolean("learn_tau", learn_tau)
        use_bias = arguments.boolean("use_bias", use_bias)
        dtype, key = arguments.dtype("dtype", dtype), arguments.key("key", key)
        dt = self.dt = trainable("dt", dt, None, arguments.POSITIVE, dtype)
        known = dt if is_constant(dt) else numeric(dt, dtype)
        layers, size = [], arguments.size("the first entry of sizes", sizes[0])
        count = len(sizes) - 1
        constants = _by_layer("tau_m", tau_m, count), _by_layer("tau_r", tau_r, count)
        functions = _by_layer("activations", activations, count)
        rows = zip(sizes[1:], *constants, functions, jr.split(key, count))
        for index, (entry, membrane, prospective, activation, key) in enumerate(rows, 1):
            if not isinstance(entry, eqx.Module):
                entry = arguments.size("an entry of sizes that is no layer of equinox", entry)
                entry = eqx.nn.Linear(size, entry, use_bias=use_bias, dtype=dtype, key=key)
            n = driven(entry, size, index)
            given = (n, known, parameter_dtype(entry))
            membrane = layer_constant("tau_m", membrane, *given, each=learn_tau)
            prospective = layer_constant("tau_r", prospective, *given)
            activation = arguments.elementwise("activations", activation, n)
            layers.append(ProspectiveLayer(entry, membrane, prospective, activation, size, n))
            size = n
        self.layers = tuple(layers)

    @property
    def in_size(self) -> int:
        """Number of input features."""
        return self.layers[0].in_size

    def init(self, batch_shape: BatchShape = ()) -> GLEState:
        """Zeros, also for the rates and slopes."""
        dtype = wide(parameter_dtype(self.layers))
        axes = batch_axes(batch_shape)

        # arrays of their own: buffers of a carry may be donated
        def zeros(layers):
            return tuple(jnp.zeros((*axes, layer.size), dtype) for layer in layers)

        sent = self.layers if self.order == "sync" else ()
        (out,) = zeros(self.layers[-1:])
        return GLEState(zeros(self.layers), zeros(self.layers), zeros(sent), zeros(sent), out)

    def step(self, state: GLEState, x: Float[Array, "*batch m"]) -> GLEState:
        """One Euler step, without nudging."""
        u, ub, fresh, rates = [], [], [], [widened(x)]
        for index, (layer, before) in enumerate(zip(widened(self.layers), state.u)):
            change = (layer.drive(rates[-1]) - before) / layer.membrane_constant(before)
            u.append(before + numeric(self.dt, before.dtype) * change)
            ub.append(before + layer.rate_constant(before) * change)
            fresh.append(layer.activation(ub[-1]))
            rates.append(state.r[index] if self.order == "sync" else fresh[-1])
        r = rp = ()
        if self.order == "sync":
            r, rp = (
                tuple(fresh),
                tuple(slope(layer.activation, b) for layer, b in zip(self.layers, ub)),
            )
        return GLEState(tuple(u), tuple(ub), r, rp, rates[-1])

    def emit(self, state: GLEState) -> Float[Array, "*batch k"]:
        """The output rate."""
        return state.out

    def in_range(self) -> dict[str, Bool[Array, ""]]:
        """Of what trains."""
        found = trained_ranges(self, dt=arguments.POSITIVE)
        within = at_least(numeric(self.dt, parameter_dtype(self.layers)))
        for index, layer in enumerate(self.layers):
            found |= trained_ranges(layer, f"layers[{index}].", tau_m=within, tau_r=within)
        return found

    def received(self, before: GLEState, after: GLEState, x: Array) -> tuple[Array, ...]:
        """The rates that each layer receives in a step."""
        if self.order == "sync":
            return (x, *before.r[:-1])
        lower = zip(self.layers[:-1], after.ub[:-1])
        return (x, *(layer.activation(ub) for layer, ub in lower))

    def slopes(self, before: GLEState, after: GLEState) -> tuple[Array, ...]:
        """φ' of each layer, by which the errors of a step are made."""
        if self.order == "sync":
            return before.rp
        return tuple(slope(layer.activation, ub) for layer, ub in zip(self.layers, after.ub))

    def check_input(self, features: int) -> None:
        """Raise a ValueError if inputs of this many features do not fit."""
        if features != self.in_size:
            raise ValueError(
                f"xs has {features} features, but this GLECell was made for "
                f"sizes[0]={self.in_size}: xs is (T, *batch, sizes[0])."
            )


def _by_layer(name: str, value: Any, count: int) -> list[Any]:
    """One entry a layer."""
    # NumPy would look into the traced array of a constrained constant
    if callable(value) or isinstance(value, AbstractConstrained):
        return [value] * count
    if not isinstance(value, list | tuple) and np.ndim(value) == 0:
        return [value] * count
    if not isinstance(value, list | tuple | np.ndarray | jax.Array):
        raise ValueError(f"{name} must have one entry a layer, but is {arguments.shown(value)}.")
    if len(value) != count:
        raise ValueError(
            f"{name} has {len(value)} entries, but there are {count} layers: give one a layer, or "
            "one for all."
        )
    return list(value)
