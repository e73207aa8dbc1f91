import functools
import math
from typing import get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from . import _arguments as arguments
from ._precision import times
from ._tree import traced


Feedback = Literal["symmetric", "random", "adaptive"]


class Readout(eqx.Module):
    r"""A linear readout \(y = W z + b\), whose derivative is the feedback pathway.

    \[ \partial E/\partial z = B^T\,\partial E/\partial y, \qquad
       \nabla_W = \partial E/\partial y \otimes z, \qquad
       \nabla_B = \begin{cases} \nabla_W & \text{adaptive} \\ 0 & \text{random} \end{cases} \]

    - `feedback="symmetric"`: B = W, the exact derivative, and no leaf for B.
    - `"random"`: `feedback_weight` B is random and fixed (feedback alignment).
    - `"adaptive"`: B starts random and is stepped as W is. Weight decay on both makes it forget
      where it began: under plain SGD or AdamW, B − W shrinks by exactly 1 − lr · decay a step
      (Kolen & Pollack; the same random start, the same updates).

    The gradients of W and b are exact given `z`. Any leading axes. Composes with every rule,
    offline and streamed. Time of a plain linear layer: ∇_B is ∇_W, computed once. Parameters may
    be narrow (`dtype=jnp.bfloat16`), as those of cells: outputs are float32 at least.

    Weight decay is the optimizer's. Put it after the moments (decoupled), so that both leaves
    take the same step but for the decay, and, here, keep it off the recurrent layer:

    >>> import equinox as eqx, jax, modprop_jax as mpj, optax
    >>> readout = mpj.Readout(8, 2, feedback="adaptive", key=jax.random.key(0))
    >>> def decayed(params):
    ...     off = jax.tree.map(lambda _: False, params)
    ...     leaves = lambda model: (model.weight, model.feedback_weight)
    ...     return eqx.tree_at(leaves, off, (True, True))
    >>> optimizer = optax.chain(
    ...     optax.scale_by_adam(),
    ...     optax.add_decayed_weights(1e-2, mask=decayed),
    ...     optax.scale_by_learning_rate(1e-3),
    ... )
    >>> state = optimizer.init(eqx.filter(readout, eqx.is_inexact_array))

    With "random", leave `feedback_weight` out of such a mask: decay would shrink the fixed B. A
    constraint that changes the step of W (`optim.dale`) has to change that of an adaptive B too.

    Sources: random: Lillicrap, Cownden, Tweed & Akerman, Nature Communications 7 (2016).
    Adaptive: Kolen & Pollack, IEEE International Conference on Neural Networks (1994); Akrout,
    Wilson, Humphreys, Lillicrap & Tweed, NeurIPS 2019; in e-prop, Bellec et al., Nature
    Communications 11 (2020).
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
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_size`, `out_size`: features read and outputs.
        - `feedback`: "symmetric", "random" or "adaptive".
        - `use_bias`: add a bias, initially zero.
        - `dtype`: of the parameters; the JAX default if None.
        - `key`: for `W, B ~ N(0, 1/in_size)`.
        """
        in_size, out_size = (
            arguments.size(name, value)
            for name, value in (("in_size", in_size), ("out_size", out_size))
        )
        feedback = arguments.choice("feedback", feedback, get_args(Feedback))
        use_bias = arguments.boolean("use_bias", use_bias)
        dtype = arguments.dtype("dtype", dtype, real=False)
        key, feedback_key = jr.split(arguments.key("key", key))
        scale = 1 / math.sqrt(in_size)
        self.weight = scale * jr.normal(key, (out_size, in_size), dtype)
        self.bias = jnp.zeros(out_size, self.weight.dtype) if use_bias else None
        self.feedback_weight = None
        if feedback != "symmetric":
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
        z = traced(z)
        if self.feedback_weight is None:
            y = times(z, self.weight.T)
        else:
            y = _with_feedback(self.feedback == "adaptive", z, self.weight, self.feedback_weight)
        if self.bias is None:
            return y
        return y + jnp.broadcast_to(self.bias.astype(y.dtype), y.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_feedback(adaptive: bool, z: Array, weight: Array, feedback: Array) -> Array:
    """`z @ weight.T`, whose derivative by z is `feedback`."""
    del adaptive, feedback
    return times(z, weight.T)


@_with_feedback.defjvp
def _with_feedback_jvp(adaptive, primals, tangents):
    z, _, feedback = primals
    d_z, d_weight, d_feedback = tangents
    # One product for both weights: the gradient of B is the very array that W gets.
    stepped = d_weight + d_feedback if adaptive else d_weight
    return _with_feedback(adaptive, *primals), times(z, stepped.T) + times(d_z, feedback.T)
