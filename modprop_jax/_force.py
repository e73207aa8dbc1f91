import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from . import _arguments as arguments
from ._precision import times, wide
from ._readout import Readout
from ._sharding import over_steps
from ._tree import traced


class ForceReadout(eqx.Module):
    r"""A linear readout that learns by recursive least squares: FORCE, as a derivative.

    With \(\hat z = [z; 1]\) and \(\hat W = [W\; b]\), for a call on T steps of B examples

    \[ y_t = \hat W \hat z_t, \qquad
       P^{-1} \leftarrow P^{-1} + \tfrac1B \sum_{t,\,b} \hat z_t \hat z_t^T, \qquad
       \nabla_{\hat W} = \sum_{t,\,b} \frac{\partial E}{\partial y_t} \otimes P \hat z_t, \]

    with \(P = I / \alpha\) at first and, in the gradient, P after all that the call has read. P is
    never inverted: each \(\hat z\) takes \(k k^T / (1 + \hat z^T k)\) off it, \(k = P \hat z\), and
    has no derivative. What goes back to z is the exact \(W^T\, \partial E / \partial y_t\).

    One step of `optax.sgd(1.0)` after every call on one time step is FORCE. For an error
    \(E = \tfrac12 \sum_t |y_t - y^*_t|^2\), a mean over examples, such steps after calls of any
    lengths leave the minimiser of E over all that was read, plus
    \(\tfrac\alpha2 |\hat W - \hat W_0|^2\): exact, if z does not depend on the outputs. With output
    feedback it does, and calls on one step keep the error small from the start, which is FORCE's
    point. For other losses it is a step with the curvature of the squared error, cautious for
    softmax cross-entropy, whose curvature by y is at most ½.

    **Cost and locality:** time O(in²) a step and example, memory O(in²) whatever T. Nonlocal: P
    couples all synapses of the readout, so that each must know the activity of all neurons and
    its history, where the plain gradient (`Readout`) needs one neuron's and the error.
    float32 holds: after 10⁶ steps of 32 neurons P was off by 3e-4 of its norm.

    >>> import equinox as eqx, jax, modprop_jax as mpj
    >>> readout = mpj.ForceReadout(8, 1, key=jax.random.key(0))
    >>> zs, ys = jax.numpy.ones((1, 8)), jax.numpy.ones((1, 1))
    >>> def loss(readout, P):
    ...     P, outputs = readout(zs, P)
    ...     return 0.5 * ((outputs - ys) ** 2).sum(), P
    >>> (_, P), grads = eqx.filter_value_and_grad(loss, has_aux=True)(readout, readout.init())
    >>> readout = eqx.apply_updates(readout, jax.tree.map(lambda g: -g, grads))

    Source: Sussillo & Abbott, Neuron 63 (2009), who update after one or a few steps of one stream;
    blocks and batches are recursive least squares all the same.
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"] | None
    alpha: float = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        alpha: float = 1.0,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_size`, `out_size`: features read and outputs.
        - `alpha`: how far the first steps go: P starts as I / alpha. Published: 1 to 100 for 1000
            neurons with rates in (-1, 1).
        - `use_bias`: add a bias, initially zero, which learns with the weights.
        - `dtype`: of the parameters; the JAX default if None.
        - `key`: for `W ~ N(0, 1/in_size)`, as `Readout` has it.
        """
        self.alpha = arguments.number("alpha", alpha, arguments.POSITIVE)
        plain = Readout(in_size, out_size, use_bias=use_bias, dtype=dtype, key=key)
        self.weight, self.bias = plain.weight, plain.bias

    def init(self) -> Float[Array, "m m"]:
        """P of no past, in float32 or wider: m = in + 1, or in without a bias."""
        size = self.weight.shape[-1] + (self.bias is not None)
        return jnp.eye(size, dtype=wide(self.weight.dtype)) / self.alpha

    def __call__(
        self, zs: Float[Array, "T *batch in"], P: Float[Array, "m m"]
    ) -> tuple[Float[Array, "m m"], Float[Array, "T *batch out"]]:
        """P after these steps, and the outputs, whose derivative is the formula above."""
        seen = self._augmented(zs)
        if P.shape != (seen.shape[-1],) * 2:
            raise ValueError(
                f"ForceReadout reads {seen.shape[-1]} features, bias included, but its P has the "
                f"shape {P.shape}: start from readout.init()."
            )
        regressors = lax.stop_gradient(seen).astype(P.dtype)
        P = _advanced(lax.stop_gradient(P), regressors)
        gains = (regressors @ P).astype(seen.dtype)
        return P, _by_gain(*traced((self._weights(), seen, gains)))

    def read(self, zs: Float[Array, "*axes in"]) -> Float[Array, "*axes out"]:
        """The outputs alone, with the derivative of a plain linear layer: nothing is learnt."""
        return times(self._augmented(zs), self._weights().T)

    def _augmented(self, zs: Array) -> Array:
        if zs.shape[-1] != self.weight.shape[-1]:
            raise ValueError(
                f"ForceReadout was made for in_size={self.weight.shape[-1]}, but its input has "
                f"{zs.shape[-1]} features."
            )
        if self.bias is None:
            return zs
        return jnp.concatenate([zs, jnp.ones((*zs.shape[:-1], 1), zs.dtype)], axis=-1)

    def _weights(self) -> Array:
        if self.bias is None:
            return self.weight
        return jnp.concatenate([self.weight, self.bias[:, None]], axis=1)


def _advanced(P: Array, zs: Float[Array, "T *batch m"]) -> Array:
    """P after updates of rank one, in any order: exact, and symmetric to the last bit."""
    _, *batch, size = zs.shape
    rows = zs.reshape(-1, size) / math.sqrt(math.prod(batch))

    def one(P, z):
        k = P @ z
        return P - jnp.outer(k, k) / (1 + z @ k), None

    return over_steps(one, P, rows)[0]


@jax.custom_jvp
def _by_gain(weight: Array, z: Array, gain: Array) -> Array:
    """`z @ weight.T`, whose derivative by the weight has the gain in the place of z."""
    del gain
    return times(z, weight.T)


@_by_gain.defjvp
def _by_gain_jvp(primals, tangents):
    weight, _, gain = primals
    d_weight, d_z, _ = tangents
    return _by_gain(*primals), times(gain, d_weight.T) + times(d_z, weight.T)
