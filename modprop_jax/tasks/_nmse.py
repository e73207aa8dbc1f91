"""Errors of a predicted stream as the field reports them: over named steps, by the spread."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _arguments as arguments


def nmse(
    outputs: Float[Array, "T *axes"],
    ys: Float[Array, "T *axes"],
    *,
    steps: tuple[int, int] | None = None,
) -> Float[Array, ""]:
    r"""The normalised mean squared error of the steps a, ..., b − 1.

    \[ \frac{\sum_{t=a}^{b-1} \sum_i (\hat y_{ti} - y_{ti})^2}
            {\sum_{t=a}^{b-1} \sum_i (y_{ti} - \bar y_i)^2}, \qquad
       \bar y_i = \frac{1}{b-a} \sum_{t=a}^{b-1} y_{ti} \]

    with i over outputs and examples: 0 is perfect, and the best constants, known in hindsight, have
    1. It is 1 − R². Both sums are over all outputs, so that those with a large spread count most:
    outputs in different units belong apart. Infinite or NaN where no target moves.

    **Arguments:** `outputs`, `ys`: predictions and targets. `steps`: (a, b) of those that count;
    None: all. Choices (a learning rate) belong to steps before these.

    **Errors:** ValueError for shapes that differ, and steps outside of 0 ... T.
    """
    outputs, ys = arguments.floats("outputs", outputs), arguments.floats("ys", ys)
    if ys.shape != outputs.shape or ys.ndim < 1:
        raise ValueError(
            f"ys must have the shape (T, ...) of outputs, but they have {ys.shape} and "
            f"{outputs.shape}."
        )
    first, last = (0, len(ys)) if steps is None else span(steps, len(ys))
    outputs, ys = outputs[first:last], ys[first:last]
    spread = jnp.sum((ys - ys.mean(0, keepdims=True)) ** 2)
    return jnp.sum((outputs - ys) ** 2) / spread


def nrmse(
    outputs: Float[Array, "T *axes"],
    ys: Float[Array, "T *axes"],
    *,
    steps: tuple[int, int] | None = None,
) -> Float[Array, ""]:
    """The root of `nmse`, with its arguments: an error in units of the spread."""
    return jnp.sqrt(nmse(outputs, ys, steps=steps))


def span(steps: object, count: int) -> tuple[int, int]:
    """(a, b) of steps a, ..., b − 1, checked."""
    if not isinstance(steps, tuple | list) or len(steps) != 2:
        raise ValueError(f"steps must be (first, last + 1), but is {arguments.shown(steps)}.")
    first, last = (arguments.count("an entry of steps", step) for step in steps)
    if not first < last <= count:
        raise ValueError(
            f"steps must be (a, b) with 0 ≤ a < b ≤ T = {count}, but is {arguments.shown(steps)}."
        )
    return first, last
