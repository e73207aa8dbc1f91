import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._precision import widened


def rate_cost(
    counts: Float[Array, "*batch n"],
    steps: int,
    *,
    target: float,
    strength: float = 1.0,
) -> Float[Array, ""]:
    r"""The firing-rate regulariser, of how often each neuron has spiked.

    \[ E = \frac{c}{2} \sum_j (\bar z_j - f_0)^2, \qquad
       \bar z_j = \frac{1}{T B} \sum_{t,b} z_{j,t,b}, \qquad
       \frac{\partial E}{\partial z_{j,t,b}} = \frac{c\,(\bar z_j - f_0)}{T B} \]

    A plain sum of spikes has no leak, so under e-prop this credit meets the unfiltered
    eligibility trace. `Filtered(cell, (k, 1.0))` makes the sum, and every rule transports it
    exactly, so a stream adds the cost once, to the loss of its last segment:

    >>> import jax, modprop_jax as mpj
    >>> cell = mpj.LIFCell(3, 8, tau=20.0, key=jax.random.key(0))
    >>> rnn = mpj.RNN(mpj.Filtered(cell, (0.9, 1.0), scale=True), rule=mpj.EProp())
    >>> zs = rnn(jax.numpy.ones((100, 5, 3)))
    >>> filtered, counts = zs[..., :8], zs[-1, :, 8:]  # what a readout sees, and spikes so far
    >>> cost = mpj.rate_cost(counts, 100, target=0.01, strength=1.0)

    **Arguments:**

    - `counts`: spikes of each example and neuron since the start.
    - `steps`: T, the number of steps since then.
    - `target`: f_0, in spikes a step (in kHz, if a step is 1 ms).
    - `strength`: c.

    **Errors:** ValueError if `steps` is less than 1.

    Source: Bellec et al., Nature Communications 11 (2020).
    """
    if not arguments.is_real(counts) or np.ndim(counts) < 1:
        raise ValueError(
            f"counts must be an array (*batch, n) of numbers, but is {arguments.shown(counts)}."
        )
    if not eqx.is_array(steps):
        arguments.size("steps", steps)
    arguments.amount("target", target)
    arguments.amount("strength", strength)
    counts = widened(counts)
    rates = jnp.mean(counts, axis=tuple(range(counts.ndim - 1))) / steps
    return strength / 2 * jnp.sum((rates - target) ** 2)
