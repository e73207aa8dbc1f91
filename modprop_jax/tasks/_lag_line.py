"""Lag line: answer a square wave as a chain of two neurons that lag behind their inputs."""

import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._cell import GLECell
from .._scan import scan
from ._mimic import squared_error_of_a_step
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import Task


def lag_line(
    key: PRNGKeyArray,
    batch: int = 100,
    *,
    steps: int = 10_000,
    dt: float = 0.01,
    half_period: float = 2.0,
    smoothing: float = 0.05,
    weights: Sequence[float] = (1.0, 2.0),
    tau_m: Sequence[float] = (1.0, 2.0),
    tau_r: float = 0.1,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch 1"], Float[Array, "T batch 1"]]:
    """A smooth square wave, and what a chain of lagging neurons makes of it.

    Each stream is a wave of -1 and +1, low first, that begins at a random step of its first half
    period. The teacher is `lag_line_cell`, from rest.

    **Arguments:**

    - `key`: PRNG key: the same key gives the same batch.
    - `batch`: number of streams.
    - `steps`: T, the length of the streams (published: 405,000).
    - `dt`: length of a step.
    - `half_period`: of the wave, in units of time, rounded to steps.
    - `smoothing`: standard deviation of the Gaussian that smooths it, in units of time, positive.
    - `weights`, `tau_m`: of the teacher's neurons; `tau_r`: of all of them.
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` and `ys`, both of shape `(steps, batch, 1)`.

    **Raises:** `ValueError` if `steps < 1`, if `half_period` is less than a step, or if
    `smoothing` is not positive and finite.

    Source: Ellenberger et al., "Backpropagation through space, time and the brain", Figure 5
    (arXiv 2403.16933), and their public program.
    """
    arguments.sizes(batch=batch, steps=steps)
    dt = arguments.number("dt", dt, arguments.POSITIVE)
    half = round(arguments.number("half_period", half_period, arguments.POSITIVE) / dt)
    if half < 1:
        raise ValueError(f"half_period must be at least dt={dt}, but is {half_period}.")
    # a hundredth of dt leaves the wave square
    smoothing = arguments.number("smoothing", smoothing, arguments.POSITIVE)
    key = arguments.key("key", key)
    dtype = arguments.dtype("dtype", dtype)
    teacher = lag_line_cell(weights, tau_m, tau_r=tau_r, dt=dt, dtype=dtype)
    wave = np.repeat([-1.0, 1.0], half)
    from scipy.ndimage import gaussian_filter1d  # here, as importing it takes a while

    wave = jnp.asarray(gaussian_filter1d(wave, smoothing / dt, mode="wrap"), dtype)
    begin = jr.randint(key, (1, batch), 0, half)
    phase = (jnp.arange(steps)[:, None].astype(begin.dtype) + begin) % (2 * half)
    xs = wave[phase][..., None]
    return xs, scan(teacher, teacher.init((batch,)), xs)[1].astype(xs.dtype)


def lag_line_cell(
    weights: Sequence[float] = (1.0, 2.0),
    tau_m: Sequence[float] = (1.0, 2.0),
    *,
    tau_r: float = 0.1,
    dt: float = 0.01,
    dtype: DTypeLike | None = None,
    **options: Any,
) -> GLECell:
    """A chain of softplus neurons without biases, of given weights: the lag line.

    It updates in the published order ("sync"). `options` are further arguments of `GLECell`, such
    as `gamma=1.0, learn_tau=True` for a student.
    """
    for name, value in (("weights", weights), ("tau_m", tau_m)):
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(
                f"{name} must hold a number for each neuron, at least one, but is "
                f"{arguments.shown(value)}."
            )
    weights = [arguments.amount("an entry of weights", weight) for weight in weights]
    cell = GLECell(
        [1] * (len(weights) + 1),
        tau_m=list(tau_m),
        tau_r=tau_r,
        dt=dt,
        activations=jax.nn.softplus,
        order="sync",
        use_bias=False,
        dtype=dtype,
        key=jr.key(0),  # its draws are replaced
        **options,
    )
    return eqx.tree_at(
        lambda cell: [layer.weight for layer in cell.layers],
        cell,
        [jnp.full((1, 1), weight, dtype) for weight in weights],
    )


_SMALL = Preset(
    network=Architecture(hidden_size=16, cell="rate", cell_options={"alpha": 0.1}),
    data={"steps": 80, "dt": 0.1},  # ten times coarser, and two periods
    schedule=Schedule(iterations=1000, eval_every=25),
    optimizer=Optimizer(learning_rate=3e-3),
    objective=Objective(criterion=0.9),
)

LAG_LINE = Task(
    name="lag_line",
    description="A square wave: answer as two neurons in a chain that lag behind it.",
    out_size=1,
    batch=lag_line,
    evaluation=functools.partial(lag_line, batch=64),
    loss=squared_error_of_a_step,
    readout="every",
    stream=True,
    score="R²",
    presets={
        "small": _SMALL,
        # The published stream; the published network, a lag line, is not one of the experiments'
        # (`reproductions/gle_lag_line.py` trains it).
        "published": _SMALL.replace(
            data={"steps": 2000}, cell_options={"alpha": 0.01}, iterations=10_000
        ),
    },
)
