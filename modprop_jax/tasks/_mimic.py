"""Mimic: answer random inputs as a fixed recurrent network does."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._cell import RateCell
from .._readout import Readout
from ._add import BRIEF, LONG, online_preset
from ._preset import Architecture, Objective, Optimizer, Preset, Schedule
from ._task import squared_error, Task


def mimic(
    key: PRNGKeyArray,
    batch: int = 1,
    *,
    steps: int = 20_000,
    in_size: int = 32,
    size: int = 32,
    out_size: int = 32,
    alpha: float = 1.0,
    repeat: int = 1,
    recurrent_scale: float = 1.0,
    teacher: int = 0,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "T batch in"], Float[Array, "T batch out"]]:
    r"""Random bits in; the label is what a fixed network of rate neurons, the teacher, puts out.

    With \(a_{-1} = 0\), inputs \(x_t \in \{0, 1\}^{in}\) of fair bits that last `repeat` steps,
    and for t = 0 ... T−1

    \[ a_t = (1-\alpha)\, a_{t-1} + \alpha \tanh(W_{rec} a_{t-1} + W_{in} x_t + b), \qquad
       y_t = W_{out} a_t + b_{out}, \]

    \(W_{in}\) and \(W_{out}\) are normal with variance 1 / (number of presynaptic neurons),
    \(W_{rec}\) is random orthogonal times `recurrent_scale`, and the biases are N(0, 0.1²). So a
    `RateCell` of the same `alpha` with a `Readout` can reach a loss of 0. `teacher` alone
    fixes these weights: training, evaluation and all seeds of a comparison share them.

    The loss of the record `MIMIC` is ½ Σ (y − y*)² over the outputs, a mean over steps and batch:
    what the public program descends. The figures it prints are this loss divided by `out_size`.

    **Arguments:**

    - `key`: PRNG key of the inputs: the same key gives the same batch.
    - `batch`: number of independent streams (published: 1).
    - `steps`: T.
    - `in_size`, `size`, `out_size`: inputs, neurons and outputs of the teacher (published: 32, 32
      and 32).
    - `alpha`: α of the teacher, in (0, 1] (published: 1 and 0.5, as the student's).
    - `repeat`: steps an input lasts.
    - `recurrent_scale`: multiplies the teacher's recurrent weights (published: 0.5 to 1.9 with 2
      inputs and outputs, the longer memory the larger).
    - `teacher`: which teacher; any integer names one.
    - `dtype`: of both; by default JAX's default float.

    **Returns:** `xs` of shape `(steps, batch, in_size)`, `ys` of shape `(steps, batch, out_size)`.

    **Raises:** `ValueError` if a size, `steps` or `repeat` is below 1, or `alpha` not in (0, 1].

    Source: Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649), and their public program.
    """
    arguments.sizes(batch=batch, steps=steps, repeat=repeat)
    arguments.sizes(in_size=in_size, size=size, out_size=out_size)
    arguments.amounts(recurrent_scale=recurrent_scale)
    arguments.number("alpha", alpha, arguments.POSITIVE_FRACTION)
    arguments.whole("teacher", teacher)
    key = arguments.key("key", key)
    dtype = arguments.dtype("dtype", dtype)
    # Drawn in float32 whatever the dtype: a teacher is the same in every precision.
    cell, readout = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf,
        _teacher(jr.key(teacher), in_size, size, out_size, alpha, recurrent_scale),
    )
    bits = jr.bernoulli(key, shape=(-(-steps // repeat), batch, in_size))
    xs = jnp.repeat(bits.astype(dtype), repeat, axis=0)[:steps]

    def step(rates, x):
        rates = cell.step(rates, x)
        return rates, readout(rates)

    # narrow networks answer in float32
    return xs, jax.lax.scan(step, cell.init((batch,)), xs)[1].astype(dtype)


def _teacher(
    key: PRNGKeyArray,
    in_size: int,
    size: int,
    out_size: int,
    alpha: float,
    recurrent_scale: float,
) -> tuple[RateCell, Readout]:
    cell_key, rec_key, bias_key, out_key, out_bias_key = jr.split(key, 5)
    cell = RateCell(in_size, size, alpha=alpha, dtype=jnp.float32, key=cell_key)
    readout = Readout(size, out_size, dtype=jnp.float32, key=out_key)
    orthogonal = jr.orthogonal(rec_key, size, dtype=jnp.float32)
    return eqx.tree_at(
        lambda net: (net[0].weight_rec, net[0].bias, net[1].bias),
        (cell, readout),
        (
            recurrent_scale * orthogonal,
            0.1 * jr.normal(bias_key, (size,), jnp.float32),
            0.1 * jr.normal(out_bias_key, (out_size,), jnp.float32),
        ),
    )


def squared_error_of_a_step(
    outputs: Float[Array, "T batch out"], ys: Float[Array, "T batch out"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """½ Σ (y − y*)² over outputs, a mean over steps and batch; and R², as in `squared_error`.

    The loss of a segment does not depend on its length; R² takes several steps or trials, since
    labels of a single one have no spread.
    """
    loss, score = squared_error(outputs, ys)
    return loss / ys.shape[0], score


MIMIC = Task(
    name="mimic",
    description="Random bits: give the answers of a fixed recurrent network, at every step.",
    out_size=32,
    batch=mimic,
    evaluation=functools.partial(mimic, batch=64),
    loss=squared_error_of_a_step,
    readout="every",
    stream=True,
    score="R²",
    presets={
        # In batches, with Adam.
        "small": Preset(
            network=Architecture(
                hidden_size=32, cell="rate", cell_options={"alpha": 0.5}, orthogonal=True
            ),
            data={"steps": 40, "alpha": 0.5, "repeat": 2},
            schedule=Schedule(iterations=1500, eval_every=25),
            optimizer=Optimizer(learning_rate=5e-3),
            objective=Objective(criterion=0.9),
        ),
        # The review's simulations; "slow" is a teacher and a network of twice the time constant.
        "published": online_preset({"alpha": 1.0}, alpha=1.0, **LONG),
        "published_slow": online_preset({"alpha": 0.5, "repeat": 2}, alpha=0.5, **LONG),
        # The same in a fiftieth of the steps.
        "brief": online_preset({"alpha": 1.0}, alpha=1.0, **BRIEF),
        "brief_slow": online_preset({"alpha": 0.5, "repeat": 2}, alpha=0.5, **BRIEF),
    },
)
