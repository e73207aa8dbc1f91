"""How much worse a network does on data that it has not seen, clean and with input noise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _arguments as arguments


class GeneralisationGap(eqx.Module):
    """Loss and accuracy on training data, test data and noisy test data; gaps: train minus test.

    A network that does better on its training data has a negative loss gap and a positive accuracy
    gap. The fields `noisy_*` hold one value for each draw of the noise, on the last axis.
    """

    train_loss: Float[Array, ""]
    train_accuracy: Float[Array, ""]
    test_loss: Float[Array, ""]
    test_accuracy: Float[Array, ""]
    noisy_loss: Float[Array, " draws"]
    noisy_accuracy: Float[Array, " draws"]

    @property
    def loss_gap(self) -> Array:
        """Train loss minus test loss."""
        return self.train_loss - self.test_loss

    @property
    def accuracy_gap(self) -> Array:
        """Train accuracy minus test accuracy."""
        return self.train_accuracy - self.test_accuracy

    @property
    def noisy_loss_gap(self) -> Array:
        """Train loss minus the loss on noisy test data, mean over the draws."""
        return self.train_loss - self.noisy_loss.mean(-1)

    @property
    def noisy_accuracy_gap(self) -> Array:
        """Train accuracy minus the accuracy on noisy test data, mean over the draws."""
        return self.train_accuracy - self.noisy_accuracy.mean(-1)

    @property
    def noisy_loss_sd(self) -> Array:
        """Standard deviation over the draws of the loss, and so of its gap."""
        return self.noisy_loss.std(-1, ddof=1)

    @property
    def noisy_accuracy_sd(self) -> Array:
        """Standard deviation over the draws of the accuracy, and so of its gap."""
        return self.noisy_accuracy.std(-1, ddof=1)


def generalisation_gap(
    loss: Callable[[Any, Array, Array], tuple[Array, Array]],
    model: PyTree,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    *,
    key: PRNGKeyArray,
    sd: float = 0.2,
    bounds: tuple[float, float] | None = None,
    draws: int = 5,
) -> GeneralisationGap:
    """Performance on training data minus that on test data, clean and with input noise.

    The noise is on the test inputs alone: the gap with noise also shows how robust the network is.

    **Arguments:**

    - `loss`: `loss(model, xs, ys) -> (loss, accuracy)`, means over the data.
    - `train`, `test`: `(xs, ys)` each.
    - `key`, `sd`, `bounds`: of the noise, see `input_noise`.
    - `draws`: of the noise, at least 2, for their spread.

    **Returns:** a `GeneralisationGap`. Runs under `jit` and `vmap`. Cost: 2 + `draws`
    evaluations, one after the other.

    Source: Liu, Ghosh, Richards, Shea-Brown & Lajoie, NeurIPS 2022 (arXiv 2206.00823).
    """
    arguments.function("loss", loss, "loss(model, xs, ys) -> (loss, accuracy)")
    for name, data in (("train", train), ("test", test)):
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise ValueError(f"{name} must be a pair (xs, ys), but is {arguments.shown(data)}.")
    draws = arguments.whole("draws", draws, 2)
    key = arguments.key("key", key)
    _check_noise(sd, bounds)
    xs, ys = test

    def noisy(key):
        return loss(model, input_noise(key, xs, sd, bounds), ys)

    return GeneralisationGap(
        *loss(model, *train), *loss(model, xs, ys), *lax.map(noisy, jr.split(key, draws))
    )


def input_noise(
    key: PRNGKeyArray, xs: Array, sd: float = 0.2, bounds: tuple[float, float] | None = None
) -> Array:
    """`xs + N(0, sd²)`, drawn for every entry, then clipped to `bounds` = (low, high) if given.

    sd = 0.2 and (0, 1) are the published ones, for pixels.
    """
    key = arguments.key("key", key)
    xs = arguments.floats("xs", xs)
    _check_noise(sd, bounds)
    noisy = xs + sd * jr.normal(key, xs.shape, xs.dtype)
    return noisy if bounds is None else jnp.clip(noisy, *bounds)


def _check_noise(sd: object, bounds: object) -> None:
    arguments.amount("sd", sd, arguments.NOT_NEGATIVE)
    if bounds is None:
        return
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds must be (low, high) or None, but is {arguments.shown(bounds)}.")
    for bound in bounds:
        arguments.amount("an entry of bounds", bound)
