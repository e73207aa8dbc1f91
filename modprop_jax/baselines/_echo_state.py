"""A fixed random network, and a readout of it that is fitted by least squares."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.random as jr
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._cell import RateCell
from .._precision import wide
from .._radius import radius as spectral_radius
from .._sharding import over_steps
from . import _stream as of
from ._least_squares import recursive_forecast, ridge_forecast


def reservoir(
    inputs: Float[ArrayLike, "T *batch features"],
    *,
    size: int = 200,
    radius: ArrayLike = 0.9,
    leak: ArrayLike = 0.3,
    input_scale: ArrayLike = 1.0,
    key: PRNGKeyArray,
) -> Float[Array, "T *batch size"]:
    r"""States of a fixed random network of leaky tanh neurons, those of an echo state network.

    \[ a_t = (1 - leak)\, a_{t-1} + leak\, \tanh(W a_{t-1} + U x_t + b), \qquad a_{-1} = 0 \]

    with W normal, scaled to the spectral radius `radius`, and U, b uniform in (-input_scale,
    input_scale): a `RateCell` with these weights. Of sequences with one label each,
    the last state or the mean state is what any linear classifier may read.

    **Arguments:**

    - `inputs`: floats (T, *batch, features), any number of batch axes; best normalised.
    - `size`: neurons.
    - `radius`: of W, 0 or more. Where it is below 1 states mostly forget where they began (the echo
        state property, which also depends on the inputs); where it is far above, they do not.
    - `leak`: in (0, 1]; 1 / leak is the time constant in steps.
    - `input_scale`: 0 or more.
    - `key`: the same key gives the same network.

    The key and the three numbers may be traced: one program serves all seeds and values, also under
    `vmap`.

    **Returns:** (T, *batch, size), in float32 or wider. Time O(size³) once, for the radius, and
    O(size (size + features)) a step and example.

    **Errors:** ValueError for NaN, or an argument out of its range.

    Source: Jaeger, GMD report 148 (2001); with leaks, Jaeger, Lukoševičius, Popovici & Siewert,
    Neural Networks 20 (2007).
    """
    xs = of.series("inputs", inputs, "(T, *batch, features)")
    xs = xs.astype(wide(xs.dtype))
    size = arguments.size("size", size)
    return _states(xs, _Network.checked(xs.dtype, radius, leak, input_scale, key), size=size)


def echo_state(
    inputs: Float[ArrayLike, "T features"],
    targets: Float[ArrayLike, "T outputs"],
    *,
    size: int = 200,
    radius: ArrayLike = 0.9,
    leak: ArrayLike = 0.3,
    input_scale: ArrayLike = 1.0,
    fit: int | None = None,
    forgetting: ArrayLike = 1.0,
    ridge: ArrayLike = 1e-6,
    delay: int = 0,
    key: PRNGKeyArray,
) -> Float[Array, "T outputs"]:
    r"""A fixed random network whose readout alone is fitted, by least squares (echo state network).

    With \(a_t\) the state of the `reservoir`, \(\hat y_t = W_t^T (a_t, 1)\). Without `fit`, \(W_t\)
    is fitted at every step to all targets that are known, as of `recursive_least_squares`; with it
    once, to the first `fit` steps, as of `ar_least_squares`, and predictions before step
    fit + delay are NaN.

    **Arguments:** `inputs`, `targets`, `delay`: as of `persistence`. `size`, `radius`, `leak`,
    `input_scale`, `key`: of the `reservoir`. `fit`: steps, or None. `forgetting`: in (0, 1], of the
    recursion: with `fit` it must be 1. `ridge`: above 0. All but `size`, `fit` and `delay` may be
    traced.

    Exact given the network. Time O(size²) a step, and O(size³) once; memory O(T size + size²).

    **Errors:** ValueError for other shapes, NaN, an argument out of its range, `fit` and
    `forgetting` together, or a `fit` that leaves no step to predict.

    Source: as of `reservoir`; with recursive least squares, Jaeger & Haas, Science 304 (2004). Not
    as there, the readout does not see the inputs, and outputs are not fed back: for that see
    `ForceReadout`.
    """
    xs, ys = of.stream(inputs, targets)
    lag = of.lag_of(delay, len(ys))
    if fit is not None:
        fit = of.fit_of(fit, len(ys), lag)
        if arguments.is_traced(forgetting) or forgetting != 1:
            raise ValueError(
                "forgetting is of the recursion, and must be 1 where the readout is fitted once, "
                f"with fit={fit}, but is {arguments.shown(forgetting)}."
            )
    forgetting = of.amount("forgetting", forgetting, arguments.POSITIVE_FRACTION, ys.dtype)
    ridge = of.amount("ridge", ridge, arguments.POSITIVE, ys.dtype)
    network = _Network.checked(ys.dtype, radius, leak, input_scale, key)
    size = arguments.size("size", size)
    return _echo_state(xs, ys, network, ridge, forgetting, lag, size=size, fit=fit)


class _Network(NamedTuple):
    """What a network is drawn from."""

    radius: Float[Array, ""]
    leak: Float[Array, ""]
    input_scale: Float[Array, ""]
    key: PRNGKeyArray

    @classmethod
    def checked(
        cls,
        dtype: DTypeLike,
        radius: ArrayLike,
        leak: ArrayLike,
        input_scale: ArrayLike,
        key: PRNGKeyArray,
    ) -> "_Network":
        """A ValueError for what is out of its range."""
        return cls(
            of.amount("radius", radius, arguments.NOT_NEGATIVE, dtype),
            of.amount("leak", leak, arguments.POSITIVE_FRACTION, dtype),
            of.amount("input_scale", input_scale, arguments.NOT_NEGATIVE, dtype),
            arguments.key("key", key),
        )

    def cell(self, features: int, size: int, dtype: DTypeLike) -> RateCell:
        """The network."""
        key, within_key = jr.split(self.key)
        cell = RateCell(features, size, alpha=self.leak, dtype=dtype, key=key)
        within = jr.uniform(within_key, (size, features + 1), dtype, -1, 1) * self.input_scale
        recurrent = cell.weight_rec * (self.radius / spectral_radius(cell.weight_rec))
        weights = recurrent, within[:, :-1], within[:, -1]
        return eqx.tree_at(lambda c: (c.weight_rec, c.weight_in, c.bias), cell, weights)


@functools.partial(jax.jit, static_argnames=("size",))
def _states(xs: Array, network: _Network, *, size: int) -> Array:
    cell = network.cell(xs.shape[-1], size, xs.dtype)

    def step(state, x):
        state = cell.step(state, x)
        return state, state

    return over_steps(step, cell.init(xs.shape[1:-1]), xs)[1]


@functools.partial(jax.jit, static_argnames=("size", "fit"))
def _echo_state(xs, ys, network, ridge, forgetting, lag, *, size, fit):
    regressors = of.windows(_states(xs, network, size=size), 1)
    if fit is None:
        return recursive_forecast(regressors, ys, ridge, forgetting, lag, 0)
    return ridge_forecast(regressors, ys, ridge, lag, fit, 0)
