"""Constraints on weights, as optax gradient transformations."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax


def dale(signs: Sequence[int] | np.ndarray) -> optax.GradientTransformation:
    """Keep every presynaptic neuron excitatory or inhibitory (Dale's law).

    For each weight `w[post, pre]` with update `u[post, pre]` and sign `s[pre]` = ±1,

        u ← u if s (w + u) ≥ 0, else −w

    so that the stepped weight keeps its sign or is exactly 0. Put it last in
    `optax.chain`, and use `optax.masked` to keep it off parameters that have no
    presynaptic sign (input weights, biases). A weight that stands on the wrong side
    already is brought to 0.

    **Arguments:** `signs`: +1 or −1 for each presynaptic neuron; the last axis of every
    weight.

    **Raises:** `ValueError` if a sign is not ±1, if a weight's last axis has another
    length, or if the optimizer is updated without its parameters.
    """
    fixed = np.asarray(signs)
    if fixed.ndim != 1 or not np.isin(fixed, (-1, 1)).all():
        raise ValueError(
            f"dale needs one sign, +1 or -1, for each presynaptic neuron, but got {signs!r}."
        )

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("dale needs the weights: call optimizer.update(grads, state, params).")

        def keep_sign(u, w):
            if w.ndim == 0 or w.shape[-1] != fixed.size:
                raise ValueError(
                    f"dale has {fixed.size} presynaptic signs, but a weight has shape "
                    f"{w.shape}; use optax.masked to apply it to recurrent and readout "
                    "weights only."
                )
            sign = jnp.asarray(fixed, w.dtype).reshape((1,) * (w.ndim - 1) + (-1,))
            return jnp.where(sign * (w + u) >= 0, u, -w)

        return jax.tree.map(keep_sign, updates, params), state

    return optax.GradientTransformation(init, update)
