"""How many synapses each neuron has."""

import math

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from .. import _arguments as arguments
from ._random import generator


def lognormal_degrees(
    key: PRNGKeyArray,
    n: int,
    *,
    mean: float | int,
    spread: float | int = 1.0,
    most: int | None = None,
) -> np.ndarray:
    r"""Numbers of synapses of n neurons, log-normal, as whole numbers.

    \[ k_j = \min(\max(\mathrm{round}(m\, e^{\sigma \xi_j - \sigma^2 / 2}),\, 1),\, k_{max}),
       \qquad \xi_j \sim N(0, 1) \]

    Made for `Sparse.random(fan_in=)`. Before rounding and without the cap their mean is m; a cap
    that many reach lowers it. In NumPy, O(n).

    **Arguments:**

    - `key`: not traced, as the numbers decide the shapes of arrays.
    - `n`: neurons.
    - `mean`: m, 1 or more.
    - `spread`: σ, the standard deviation of the logarithm; 0: all have m, rounded.
    - `most`: the largest number; n − 1, all other neurons, if None.

    **Raises:** `ValueError` if the key is traced, or `mean` is not in [1, `most`].

    Source: connections of brains have heavy-tailed degrees, which a log-normal describes
    (Buzsáki & Mizuseki, Nature Reviews Neuroscience 15, 2014).
    """
    if arguments.is_traced(key):
        raise ValueError(
            "lognormal_degrees decides how long a list of synapses is, so its key must not be "
            "traced: draw the degrees outside of the transformed function."
        )
    n = arguments.size("n", n)
    most = max(n - 1, 1) if most is None else arguments.size("most", most)
    within = arguments.Range(f"in [1, {most}], from one synapse to most", 1, most, True, True)
    mean = arguments.number("mean", mean, within)
    spread = arguments.number("spread", spread, arguments.NOT_NEGATIVE)
    with jax.ensure_compile_time_eval():  # the key is known, where the cell is traced too
        draw = generator(key).normal(math.log(mean) - spread**2 / 2, spread, n)
    return np.clip(np.round(np.exp(draw)), 1, most).astype(np.int64)
