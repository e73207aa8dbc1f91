"""Gradients from runs of the loss with noise: no derivative of the loss is taken."""

from collections.abc import Callable
from typing import Any, get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from . import _arguments as arguments
from ._direction import check_reached, drawn, plus, watched
from ._grad import checked
from ._noisy import Pass, running
from ._precision import widened
from ._rule._noise import LAWS
from ._tree import as_dtypes, inexact


Kind = Literal["node", "weight", "activity"]


def perturbed_value_and_grad(
    loss: Callable[..., Any],
    kind: Kind = "node",
    *,
    key: PRNGKeyArray,
    sigma: float | int = 0.001,
    noise: Literal["rademacher", "normal"] = "rademacher",
    antithetic: bool = False,
    has_aux: bool = False,
    check: bool = False,
) -> Callable[..., tuple[Any, PyTree]]:
    r"""`value_and_grad` by perturbation: what noise did to the loss, times that noise.

    \[ \text{weight: } \nabla_\theta = \frac{L(\theta + \sigma v) - L(\theta)}{\sigma}\, v, \qquad
       \text{node: } \nabla_W = \frac{L(h + \sigma\xi) - L(h)}{\sigma}
       \sum_t \xi_t \otimes \hat a_t \]
    \[ \text{activity: } \nabla_W = \frac{N}{|\delta h|^2} \big(L(h + \sigma\xi) - L(h)\big)
       \sum_t \delta h_t \otimes \hat a_t \]

    with v and \(\xi\) (`noise`) independent numbers of mean 0 and variance 1, one for each
    parameter or for each drive h of each step and example, \(\hat a_t\) what synapses see without
    noise (messages, inputs, 1), and \(\delta h\) by how much all N drives of a layer (of all its
    steps and examples) are others than without noise, what the noise before has done among it.

    Only values of the loss are used, so it may be a reward, a count of errors or anything else
    without a derivative. With "node" and "activity" noise goes to the drives of every layer that
    the loss runs, by `RNN` or `scan`; in the same runs all other parameters of the model (readouts,
    time constants) are perturbed as weights.

    Exact: the expectation of "weight" and "node" as `sigma` goes to 0. Approximate: at a finite
    `sigma` both have a bias of order `sigma`², one-sided or `antithetic` alike; "activity" has one
    at any `sigma`, since \(\delta h\) is correlated over time. The limits without the bias, without
    a second run, and streaming, are rules: `NodePerturbation` and `ForwardGradient`. Variance of
    one draw, relative to the squared gradient: about P of "weight" with P parameters, about n T of
    "node" with n drives and T steps, and with examples that many more. In float32 a difference of
    losses has digits down to 10⁻⁷ L, and the gradient down to 10⁻⁷ L / `sigma`.

    **Arguments:**

    - `loss`: `loss(model, *args) -> scalar`, or `(scalar, aux)` with `has_aux`; the value and aux
        that are returned are those without noise.
    - `kind`: "node", "weight" or "activity".
    - `key`: of the noise. The same key gives the same noise: split one for each call.
    - `sigma`: σ, the size of the noise. Where the loss is curved, one-sided differences have a
        larger variance at a large σ, and at a small one rounding shows.
    - `noise`: "rademacher" (±1), whose variance is smaller, or "normal".
    - `antithetic`: the mean of σ and -σ, \((L(+\sigma) - L(-\sigma)) / 2\sigma\), which takes the
        curvature's part of the variance away; \(\delta h\) is then half of the difference.
    - `has_aux`, `check`: as in `value_and_grad`.

    **Returns:** `(model, *args) -> (loss, gradients)` as that of `value_and_grad`. What the loss
    does not depend on by its nature (a rule's numbers, feedback weights) and missing synapses get
    0. Examples share one loss, so noise of one is noise in the credit of all: a vmap over examples,
    with a key each, pairs each example's noise with its own loss.

    **Cost:** two runs of the loss, three if `antithetic`, and for drives one pass of weight
    gradients; no reverse pass. Memory: the parameters, and with "node" and "activity" the states
    and drives of all steps. A model of narrow floats runs in float32. Locality: a synapse knows its
    own noise, or its neuron's and its presynaptic activity, and one number of all.

    **Errors:** ValueError for "node" and "activity" where a layer has no drive (`FunctionCell`,
    `EquilibriumCell`, `GLECell`), where no layer runs, or where one runs inside of a transformation
    (`jit`, `vmap`, `scan`, `checkpoint`) that the loss makes; for complex parameters.

    Sources: node: Williams, Machine Learning 8 (1992); Fiete & Seung, Physical Review Letters 97
    (2006). Activity: García Fernández, Keemink & van Gerven, Frontiers in Neuroscience 18 (2024,
    arXiv 2405.08967). There each step's noise meets that step's loss alone, which in the mean is
    the instantaneous part of the gradient, and what synapses see is decorrelated; here it meets the
    whole loss.
    """
    loss = arguments.function("loss", loss, "loss(model, *args)")
    kind = arguments.choice("kind", kind, get_args(Kind))
    key = arguments.key("key", key)
    sigma = arguments.number("sigma", sigma, arguments.POSITIVE)
    law = arguments.choice("noise", noise, tuple(LAWS))
    antithetic, has_aux, check = (
        arguments.boolean(name, flag)
        for name, flag in (("antithetic", antithetic), ("has_aux", has_aux), ("check", check))
    )
    of_weights, of_drives = jax.random.split(key)

    def wrapped(model, *args, **kwargs):
        _require_real(model)
        wide = widened(model)
        direction = drawn(law, of_weights, wide, kind == "weight")

        def run(model, scale, along=None):
            """The pass, and what the loss returns."""
            if kind == "weight":
                return None, loss(model, *args, **kwargs)
            with running(Pass(law, of_drives, scale, along)) as one:
                out = loss(model, *args, **kwargs)
            return one, out

        def noisy(scale):
            one, out = run(plus(wide, direction, scale), scale)
            value = out[0] if has_aux else out
            return _scalar(value), () if one is None else one.drives

        high, drives = noisy(sigma)
        low, lower = noisy(-sigma) if antithetic else (high, drives)

        def along(call, noise, drive):
            if kind == "node":
                return jax.tree.map(lambda d: d / sigma, noise)
            if antithetic:
                away = jax.tree.map(lambda a, b: (a - b) / 2, drives[call], lower[call])
            else:
                away = jax.tree.map(jnp.subtract, drives[call], drive)
            size = sum(leaf.size for leaf in jax.tree.leaves(away))
            square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(away))
            return jax.tree.map(lambda d: d * size / square, away)

        reached: set[int] = set()

        def met(model):
            """Σ along · drive of all layers, and what the loss returns without noise."""
            one, out = run(watched(model, reached), 0.0, along)
            if one is None or not one.terms:
                raise ValueError(
                    f'perturbed_value_and_grad(loss, "{kind}") adds noise to the drives of '
                    'recurrent layers, but the loss runs none (RNN or scan): take "weight".'
                )
            return sum(one.terms, jnp.zeros((), one.terms[0].dtype)), out

        if kind == "weight":
            out = loss(wide, *args, **kwargs)
            gradients = jax.tree.map(jnp.zeros_like, inexact(wide))
        else:
            (_, out), gradients = eqx.filter_value_and_grad(met, has_aux=True)(wide)
            check_reached(wide, reached)
        value = out[0] if has_aux else out
        change = (high - low) / 2 if antithetic else high - _scalar(value)
        gradients = jax.tree.map(lambda g: change.astype(g.dtype) * g, gradients)
        gradients = plus(gradients, direction, change / sigma)
        gradients = as_dtypes(gradients, model)
        return checked(model, out, gradients) if check else (out, gradients)

    return wrapped


def _scalar(value: Any) -> Array:
    if jnp.shape(value) != ():
        raise ValueError(
            "loss must return a scalar, or (scalar, aux) with has_aux, but its value has the "
            f"shape {jnp.shape(value)}."
        )
    return jnp.asarray(value, jnp.result_type(float, value))


def _require_real(model: PyTree) -> None:
    for leaf in jax.tree.leaves(inexact(model)):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                f"perturbed_value_and_grad moves real numbers, but the model has parameters of "
                f"{leaf.dtype}: keep real and imaginary parts as arrays of their own."
            )
