import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray


Feedback = Literal["symmetric", "random"]


class Readout(eqx.Module):
    r"""A linear readout \(y = W z + b\), whose derivative is the feedback pathway.

    \[ \partial E/\partial z = B^T\,\partial E/\partial y, \qquad
       \nabla_W = \partial E/\partial y \otimes z \]

    `feedback="symmetric"`: B = W, the exact derivative. `"random"`: B is a fixed random matrix
    (feedback alignment): `feedback_weight` is a leaf with zero gradient, so gradient descent leaves
    it alone (mask it out of weight decay). Any leading axes; composes with every rule.

    Source: Lillicrap, Cownden, Tweed & Akerman, Nature Communications 7 (2016).
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"] | None
    feedback_weight: Float[Array, "out in"] | None
    feedback: Feedback = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        feedback: Feedback = "symmetric",
        use_bias: bool = True,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_size`, `out_size`: features read and outputs.
        - `feedback`: "symmetric" or "random".
        - `use_bias`: add a bias, initially zero.
        - `dtype`: of the parameters; the JAX default if None.
        - `key`: for `W, B ~ N(0, 1/in_size)`.
        """
        if feedback not in ("symmetric", "random"):
            raise ValueError(f'feedback must be "symmetric" or "random", but is {feedback!r}.')
        key, feedback_key = jr.split(key)
        dtype = dtype or jnp.result_type(float)
        scale = 1 / math.sqrt(in_size)
        self.weight = scale * jr.normal(key, (out_size, in_size), dtype)
        self.bias = jnp.zeros(out_size, self.weight.dtype) if use_bias else None
        self.feedback_weight = None
        if feedback == "random":
            self.feedback_weight = scale * jr.normal(feedback_key, (out_size, in_size), dtype)
        self.feedback = feedback

    def __call__(
        self, z: Float[Array, "*axes in"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*axes out"]:
        """The readout of every time step and example."""
        del key
        if z.shape[-1] != self.weight.shape[-1]:
            raise ValueError(
                f"Readout was made for in_size={self.weight.shape[-1]}, but its input has "
                f"{z.shape[-1]} features."
            )
        if self.feedback_weight is None:
            y = z @ self.weight.T
        else:
            forward = lax.stop_gradient(z) @ self.weight.T
            y = _with_feedback(forward, lax.stop_gradient(self.feedback_weight), z)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


@jax.custom_jvp
def _with_feedback(forward: Array, feedback: Array, z: Array) -> Array:
    """`forward`, whose derivative by z is `feedback`."""
    del feedback, z
    return forward


@_with_feedback.defjvp
def _with_feedback_jvp(primals, tangents):
    forward, feedback, _ = primals
    d_forward, _, d_z = tangents
    return forward, d_forward + d_z @ feedback.T
