"""Forecasts that are linear in the last inputs."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._sharding import over_steps
from . import _stream as of
from ._least_squares import recursive_forecast, ridge_forecast


def persistence(
    inputs: Float[ArrayLike, "T features"],
    targets: Float[ArrayLike, "T outputs"],
    *,
    delay: int = 0,
) -> Float[Array, "T outputs"]:
    r"""The last target that is known: \(\hat y_t = y_{t - 1 - delay}\), and 0 before there is one.

    For a series' own value h steps ahead, \(y_t = x_{t+h}\) with `delay=h - 1`, it is \(x_t\). A
    forecast that is worse has learnt nothing. Inputs are not read.

    **Arguments:** `inputs` (T, features), `targets` (T, outputs): floats, time first. `delay`:
    as of `learn_stream`, further steps until a target is known, 0 or more; a `Recording` has its
    own.

    **Returns:** (T, outputs), in float32 or wider, as all forecasts here. O(T outputs).

    **Errors:** ValueError for other shapes, NaN, or a delay that is not in 0 ... T - 2.
    """
    _, ys = of.stream(inputs, targets)
    lag = of.lag_of(delay, len(ys))
    return jnp.concatenate([jnp.zeros_like(ys[:lag]), ys[:-lag]])


def ar_least_squares(
    inputs: Float[ArrayLike, "T features"],
    targets: Float[ArrayLike, "T outputs"],
    *,
    order: int,
    fit: int,
    ridge: ArrayLike = 1e-3,
    delay: int = 0,
) -> Float[Array, "T outputs"]:
    r"""Linear in the last `order` inputs, fitted once, to the first `fit` steps (AR, or ARX).

    \[ \varphi_t = (x_t, x_{t-1}, \ldots, x_{t-order+1}, 1), \qquad \hat y_t = W^T \varphi_t, \qquad
       W = \mathrm{argmin} \sum_{t=order-1}^{fit-1} |W^T \varphi_t - y_t|^2 + ridge\, |W|^2 \]

    Predictions begin where all of these targets are known, at step fit + delay. Before it they
    are NaN: what the weights have seen is no forecast, and a score over it says so.

    **Arguments:** `inputs`, `targets`, `delay`: as of `persistence`; inputs are best normalised,
    by steps before `fit`. `order`: inputs that are read, the newest included, 1 or more. `fit`:
    steps. `ridge`: above 0, on the constant too; it may be traced, so that one program serves all
    values, also under `vmap`.

    Exact: by QR, in which the condition number is not squared. Time O(T m outputs + fit m²), memory
    O(T m), m = order · features + 1.

    **Errors:** ValueError for other shapes, NaN, or where `order`, `fit` and `delay` leave nothing
    to fit or to predict.
    """
    xs, ys = of.stream(inputs, targets)
    lag = of.lag_of(delay, len(ys))
    order = of.order_of(order, len(ys), lag)
    fit = of.fit_of(fit, len(ys), lag, order)
    ridge = of.amount("ridge", ridge, arguments.POSITIVE, ys.dtype)
    return _ar(xs, ys, ridge, lag, order=order, fit=fit)


def recursive_least_squares(
    inputs: Float[ArrayLike, "T features"],
    targets: Float[ArrayLike, "T outputs"],
    *,
    order: int,
    forgetting: ArrayLike = 1.0,
    ridge: ArrayLike = 1e-3,
    delay: int = 0,
) -> Float[Array, "T outputs"]:
    r"""Linear in the last `order` inputs, fitted anew at every step to all that is known.

    With φ as of `ar_least_squares`, λ for `forgetting` and s = t - 1 - delay the last step whose
    target is known,

    \[ \hat y_t = W_s^T \varphi_t, \qquad
       W_s = \mathrm{argmin} \sum_{r=order-1}^{s} \lambda^{s-r} |W^T \varphi_r - y_r|^2
             + \lambda^{s-order+2}\, ridge\, |W|^2 \]

    and 0 before there is a pair. By recursion: with \(P = S S^T\) the inverse of the matrix of this
    problem, \(a = S^T \varphi\), \(\beta = 1 / (\lambda + |a|^2)\),

    \[ k = \beta S a, \qquad W \leftarrow W + k\,(y - W^T \varphi)^T, \qquad
       S \leftarrow \lambda^{-1/2} \Big( S - \frac{k a^T}{1 + \sqrt{\lambda \beta}} \Big) \]

    **Arguments:** `inputs`, `targets`, `delay`: as of `persistence`. `order`: inputs that are read,
    1 or more. `forgetting`: in (0, 1]; 1 / (1 - forgetting) steps count. `ridge`: above 0, at the
    start. Both may be traced, as of `ar_least_squares`.

    Exact. float32 holds, as S is kept (Potter's square root), not P: P can't become indefinite by
    rounding, which is what ends the textbook's form, and S has but the root of its condition.
    Below 1, `forgetting` forgets `ridge` too: S grows along directions that inputs no longer take,
    as \(\lambda^{-t/2}\), and after \(88 / (1 - \lambda)\) steps of none in float32 (354 in
    float64) its square overflows: predictions are NaN.
    Time O(m²) a step, memory O(T m + m²), m = order · features + 1.

    **Errors:** as of `ar_least_squares`.

    Source: the recursion, Plackett, Biometrika 37 (1950); the square root, Potter (1963), in
    Bierman, *Factorization methods for discrete sequential estimation* (1977). `ForceReadout` is
    the same problem without forgetting, as a derivative.
    """
    xs, ys = of.stream(inputs, targets)
    lag = of.lag_of(delay, len(ys))
    order = of.order_of(order, len(ys), lag)
    forgetting = of.amount("forgetting", forgetting, arguments.POSITIVE_FRACTION, ys.dtype)
    ridge = of.amount("ridge", ridge, arguments.POSITIVE, ys.dtype)
    return _recursive(xs, ys, ridge, forgetting, lag, order=order)


def lms(
    inputs: Float[ArrayLike, "T features"],
    targets: Float[ArrayLike, "T outputs"],
    *,
    order: int,
    rate: ArrayLike,
    clip: ArrayLike | None = None,
    delay: int = 0,
) -> Float[Array, "T outputs"]:
    r"""Linear in the last `order` inputs, learnt by stochastic gradient descent (Widrow & Hoff).

    With φ as of `ar_least_squares` and s = t - 1 - delay the step whose target is new, before the
    prediction of step t

    \[ W \leftarrow W + rate\; \varphi_s (y_s - W^T \varphi_s)^T, \qquad \hat y_t = W^T \varphi_t \]

    from W = 0: the error is that of the newest weights. Stable below rate = 2 / |φ|²; far above,
    predictions are infinite or NaN.

    **Arguments:** `inputs`, `targets`, `delay`: as of `persistence`. `order`: inputs that are read,
    1 or more. `rate`: above 0. `clip`: the largest norm of a gradient, no bound if None. Both may
    be traced, as of `ar_least_squares`.

    Time O(m outputs) a step, memory O(T m), m = order · features + 1.

    **Errors:** as of `ar_least_squares`.

    Source: Widrow & Hoff, *Adaptive switching circuits*, IRE WESCON (1960).
    """
    xs, ys = of.stream(inputs, targets)
    lag = of.lag_of(delay, len(ys))
    order = of.order_of(order, len(ys), lag)
    rate = of.amount("rate", rate, arguments.POSITIVE, ys.dtype)
    if clip is not None:
        clip = of.amount("clip", clip, arguments.POSITIVE, ys.dtype)
    return _lms(xs, ys, rate, clip, lag, order=order)


@functools.partial(jax.jit, static_argnames=("order", "fit"))
def _ar(xs, ys, ridge, lag, *, order, fit):
    return ridge_forecast(of.windows(xs, order), ys, ridge, lag, fit, order - 1)


@functools.partial(jax.jit, static_argnames=("order",))
def _recursive(xs, ys, ridge, forgetting, lag, *, order):
    return recursive_forecast(of.windows(xs, order), ys, ridge, forgetting, lag, order - 1)


@functools.partial(jax.jit, static_argnames=("order",))
def _lms(xs, ys, rate, clip, lag, *, order):
    regressors = of.windows(xs, order)

    def step(weights, seen):
        (z, y, _), now = seen  # without a pair z = 0: nothing changes
        change = jnp.outer(z, y - z @ weights)
        if clip is not None:
            norm = jnp.linalg.norm(change)
            change = jnp.where(norm > clip, clip / norm, 1) * change
        weights = weights + rate * change
        return weights, now @ weights

    pairs = of.known(regressors, ys, lag, order - 1)
    start = jnp.zeros((regressors.shape[1], ys.shape[1]), ys.dtype)
    return over_steps(step, start, (pairs, regressors))[1]
