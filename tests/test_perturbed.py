"""Gradients by runs with noise: golden figures, the mean over all noise, and what is perturbed."""

import contextlib
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import perturbing
import pytest
from helpers import assert_close, distance, jit
from perturbing import golden, side_by_side

import modprop_jax as mpj
from modprop_jax._rule._noise import LAWS


KEY = jr.key(2)


def loss_of(case):
    """Of the golden network, whose readout is a constant."""

    def loss(model, xs):
        zs = model(xs)
        return 0.5 * jnp.sum((zs @ golden(case, "Wo").T - golden(case, "ys")) ** 2)

    return loss


@contextlib.contextmanager
def given(draw):
    """`draw(shape)` in place of random numbers."""
    law = LAWS["rademacher"]
    LAWS["rademacher"] = lambda key, shape, dtype: draw(shape)
    try:
        yield
    finally:
        LAWS["rademacher"] = law


def estimate(case, kind, noise, **options):
    """One draw's gradient with this noise: (T, n) of drives, or (n, m) of weights."""
    model = mpj.RNN(perturbing.rate_cell(case))
    order = [model.cell.weight_rec, model.cell.weight_in, model.cell.bias]
    n, m = order[1].shape

    def draw(shape):
        if kind != "weight":
            return jnp.reshape(noise, shape)
        parts = noise[:, :n], noise[:, n : n + m], noise[:, -1]
        (part,) = (p for p in parts if p.shape == shape)
        return jnp.asarray(part)

    with given(draw):
        run = mpj.perturbed_value_and_grad(loss_of(case), kind, key=KEY, **options)
        return run(model, jnp.asarray(golden(case, "xs")))


@pytest.mark.parametrize("antithetic, key", [(False, "one"), (True, "anti")])
@pytest.mark.parametrize("case", perturbing.CASES)
def test_nodes_meet_the_figures(case, antithetic, key):
    options = {"sigma": float(golden(case, "sigma")), "antithetic": antithetic}
    value, gradient = estimate(case, "node", golden(case, "xi"), **options)
    assert_close(side_by_side(gradient.cell), golden(case, f"node_finite_{key}"), 1e-8)


@pytest.mark.parametrize("antithetic, key", [(False, "one"), (True, "anti")])
@pytest.mark.parametrize("case", perturbing.CASES)
def test_weights_meet_the_figures(case, antithetic, key):
    options = {"sigma": float(golden(case, "sigma")), "antithetic": antithetic}
    value, gradient = estimate(case, "weight", golden(case, "v"), **options)
    assert_close(side_by_side(gradient.cell), golden(case, f"weight_finite_{key}"), 1e-8)


def patterns(*shape: int) -> Any:
    """All ±1 arrays of a shape."""
    rows = itertools.product((-1.0, 1.0), repeat=int(np.prod(shape)))
    return jnp.asarray(np.array(list(rows)).reshape(-1, *shape))


@pytest.mark.parametrize("kind", ["node", "weight"])
@pytest.mark.parametrize("antithetic, key", [(False, "one"), (True, "anti")])
def test_the_mean_over_all_patterns(kind, antithetic, key):
    sigma, n = float(golden("tiny", "sigma")), len(golden("tiny", "W"))
    shape = {"node": (len(golden("tiny", "xs")), n), "weight": golden("tiny", "W").shape}[kind]

    @jit
    def mean(noise, sigma):
        def one(noise):
            return estimate("tiny", kind, noise, sigma=sigma, antithetic=antithetic)[1].cell

        return jax.tree.map(lambda g: g.mean(0), jax.vmap(one)(noise))

    found = side_by_side(mean(patterns(*shape), sigma))
    assert_close(found, golden("tiny", f"mean_{kind}_finite_{key}"), 1e-8)
    exact = golden("tiny", "grad")
    assert 1e-6 < distance(found, exact) < 1e-2
    coarse = distance(side_by_side(mean(patterns(*shape), 10 * sigma)), exact)
    assert 80 < coarse / distance(found, exact) < 120  # of second order
