"""A stream as the baselines take it: inputs, targets, and when a target is known."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int

from .. import _arguments as arguments
from .._precision import wide


def stream(
    inputs: Float[ArrayLike, "T features"], targets: Float[ArrayLike, "T outputs"]
) -> tuple[Float[Array, "T features"], Float[Array, "T outputs"]]:
    """Both in one dtype, float32 or wider, and finite as far as is known."""
    xs, ys = series("inputs", inputs), series("targets", targets)
    if len(xs) != len(ys):
        raise ValueError(
            f"inputs and targets must have the same steps, but inputs has {len(xs)} and targets "
            f"{len(ys)}: cut the longer one."
        )
    dtype = common(xs.dtype, ys.dtype)
    return xs.astype(dtype), ys.astype(dtype)


def common(one: DTypeLike, other: DTypeLike) -> np.dtype:
    """What both are computed in, whatever is allowed to meet elsewhere: float32 or wider."""
    with jax.numpy_dtype_promotion("standard"):
        return wide(jnp.promote_types(one, other))


def series(name: str, value: object, axes: str = "(T, features)") -> Array:
    """An array of floats with time first, and these axes."""
    found = arguments.floats(name, value)
    fits = found.ndim >= 2 if "*" in axes else found.ndim == axes.count(",") + 1
    if not fits or not found.size:
        raise ValueError(f"{name} must be an array {axes}, but has the shape {found.shape}.")
    if not arguments.is_traced(value):
        gaps = np.ravel(~np.isfinite(np.asarray(value)).all(tuple(range(1, found.ndim))))
        if gaps.any():
            raise ValueError(
                f"{name} must be finite, but {gaps.sum()} of {len(found)} steps hold NaN or "
                f"infinity, the first of them step {gaps.argmax()}: fill the gaps, or cut the "
                "series there."
            )
    return found


def amount(name: str, value: ArrayLike, within: arguments.Range, dtype: DTypeLike) -> Array:
    """A number, which may be traced, as an array: another value compiles nothing anew."""
    return jnp.asarray(arguments.amount(name, value, within), dtype)


def lag_of(delay: object, steps: int) -> int:
    """Steps from a prediction to the first that knows its target: `delay` further ones, and 1."""
    lag = arguments.count("delay", delay) + 1
    if lag >= steps:
        raise ValueError(
            f"delay must be below {steps - 1}, as no target were known in the {steps} steps of the "
            f"series otherwise, but is {delay}."
        )
    return lag


def order_of(order: object, steps: int, lag: int) -> int:
    """Inputs that a prediction reads: at least one pair with as many must become known."""
    order = arguments.size("order", order)
    if order > steps - lag:
        raise ValueError(
            f"order must be at most {steps - lag}, as nothing could be learnt of {steps} steps "
            f"with delay={lag - 1} otherwise, but is {order}."
        )
    return order


def fit_of(fit: object, steps: int, lag: int, order: int = 1) -> int:
    """Steps whose targets the weights are fitted to; a step must be left to predict."""
    fit = arguments.size("fit", fit)
    if not order <= fit <= steps - lag:
        raise ValueError(
            f"fit must be at least the order, {order}, and at most {steps - lag}, so that one of "
            f"the {steps} steps is left to predict with delay={lag - 1}, but is {fit}."
        )
    return fit


def windows(inputs: Float[Array, "T features"], order: int) -> Float[Array, "T m"]:
    """φ_t = (x_t, x_{t-1}, ..., x_{t-order+1}, 1), with zeros before the first step."""
    steps = len(inputs)
    padded = jnp.pad(inputs, ((order - 1, 0), (0, 0)))
    lags = [padded[order - 1 - lag :][:steps] for lag in range(order)]
    return jnp.concatenate([*lags, jnp.ones_like(inputs[:, :1])], axis=1)


def known(
    regressors: Float[Array, "T m"],
    targets: Float[Array, "T outputs"],
    lag: Int[ArrayLike, ""],
    first: int,
) -> tuple[Float[Array, "T m"], Float[Array, "T outputs"], Bool[Array, " T"]]:
    """The pair that becomes known before each prediction, and whether there is one; else zeros.

    Pairs before step `first` are none.
    """
    before = jnp.arange(len(targets)) - lag
    is_pair = before >= first

    def then(a):
        return jnp.where(is_pair[:, None], a[jnp.maximum(before, 0)], 0)

    return then(regressors), then(targets), is_pair


def predicted_from(predictions: Float[Array, "T outputs"], first: Array) -> Array:
    """NaN before a first step: what is no forecast can't flatter a score."""
    steps = jnp.arange(len(predictions))
    return jnp.where((steps >= first)[:, None], predictions, jnp.nan)
