"""The readout's feedback pathway: what it sends back, what it learns, alone and under the rules."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import (
    assert_close,
    data,
    distance,
    error,
    gradient,
    jit,
    N,
    net,
    offline_loss,
    OUT,
    RULES,
    streamed_gradient,
    weights,
)

import modprop_jax as mpj


FEEDBACK = ["symmetric", "random", "adaptive"]


def readout_of(feedback, **kwargs):
    made = mpj.Readout(N, OUT, feedback=feedback, key=jr.key(7), **kwargs)
    bias = jnp.arange(1, OUT + 1).astype(made.weight.dtype)
    return eqx.tree_at(lambda r: r.bias, made, bias)


def pull_back(readout, z, d_y):
    """(outputs, cotangents of the readout and of z)."""
    y, back = jax.vjp(lambda r, z: r(z), readout, z)
    return y, *back(d_y)


@pytest.mark.parametrize("shape", [(), (5, 2)])
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_value_and_gradients_against_numpy(feedback, shape):
    rng = np.random.default_rng(1)
    z, d_y = rng.normal(size=(*shape, N)), rng.normal(size=(*shape, OUT))
    readout = readout_of(feedback)
    W, B = np.asarray(readout.weight), readout.feedback_weight
    y, grads, d_z = pull_back(readout, jnp.asarray(z), jnp.asarray(d_y))
    assert_close(y, z @ W.T + np.arange(1, OUT + 1), 1e-12)
    assert_close(grads.weight, np.einsum("so,si->oi", d_y.reshape(-1, OUT), z.reshape(-1, N)))
    assert_close(grads.bias, d_y.reshape(-1, OUT).sum(0))
    if feedback == "symmetric":
        assert B is None and grads.feedback_weight is None
        assert_close(d_z, d_y @ W, 1e-12)
        return
    assert distance(W, B) > 0.5
    assert_close(d_z, d_y @ np.asarray(B), 1e-12)
    learns = np.asarray(grads.weight) if feedback == "adaptive" else np.zeros((OUT, N))
    np.testing.assert_array_equal(grads.feedback_weight, learns)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("feedback", ["random", "adaptive"])
def test_narrow_parameters_keep_their_dtype(feedback, dtype):
    readout = readout_of(feedback, dtype=dtype)
    z = jr.normal(jr.key(0), (4, N), dtype)
    d_y = jr.normal(jr.key(1), (4, OUT), jnp.float32)  # outputs are float32 at least
    narrow = jit(pull_back)(readout, z, d_y)
    assert {leaf.dtype for leaf in jax.tree.leaves((readout, narrow[1:]))} == {jnp.dtype(dtype)}
    assert narrow[0].dtype == jnp.float32
    wide = pull_back(*jax.tree.map(lambda a: a.astype(float), (readout, z, d_y)))
    back_to = jax.tree.map(lambda a: a.astype(float), narrow)
    assert_close(back_to, wide, 4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_derivatives_of_the_gradients(feedback):
    """Of second order: those of the gradients' formulas, by all that these depend on."""
    readout, z = readout_of(feedback), jr.normal(jr.key(1), (3, N))

    def found(readout, z):
        return jax.grad(lambda both: jnp.sum(both[0](both[1]) ** 3))((readout, z))

    def formula(readout, z):
        d_y = 3 * readout(z) ** 2
        back = readout.feedback_weight
        d_weight = d_y.T @ z
        learns = {"symmetric": None, "random": jnp.zeros((OUT, N)), "adaptive": d_weight}
        made = eqx.tree_at(lambda r: (r.weight, r.bias), readout, (d_weight, d_y.sum(0)))
        made = eqx.tree_at(
            lambda r: r.feedback_weight, made, learns[feedback], is_leaf=lambda x: x is None
        )
        return made, d_y @ (readout.weight if back is None else back)

    def second(gradients):
        return jit(jax.jacfwd(gradients, argnums=(0, 1)))(readout, z)

    assert_close(second(found), second(formula))


def test_many_readouts_at_once():
    """Under vmap, as experiments train their seeds."""
    make = eqx.filter_vmap(lambda key: mpj.Readout(N, OUT, feedback="adaptive", key=key))
    many, z = make(jr.split(jr.key(0), 3)), jr.normal(jr.key(1), (4, N))
    d_y = jr.normal(jr.key(2), (4, OUT))
    together = jit(lambda many: jax.vmap(lambda r: pull_back(r, z, d_y))(many))(many)
    for i in range(3):
        alone = pull_back(jax.tree.map(lambda a: a[i], many), z, d_y)
        assert_close(jax.tree.map(lambda a: a[i], together), alone, 1e-12)


@functools.cache
def emissions_and_errors():
    """zs and ∂E/∂y of the net with adaptive feedback; no rule changes a value."""
    (xs, ys), readout = data(), readout_of("adaptive")
    zs = jit(lambda rnn: rnn(xs))(net("bptt", "leaky").rnn)
    W, b = readout.weight, readout.bias
    return zs, jax.grad(error)(zs @ W.T + jnp.broadcast_to(b, ys.shape), ys)


@pytest.mark.parametrize("name", ["bptt", "rtrl", "eprop", "mdgl_types", "modprop_types"])
def test_adaptive_feedback_under_every_rule(name):
    """The cell learns from errors sent through B, as from a loss that is linear in zs."""
    (xs, ys), readout = data(), readout_of("adaptive")
    model = eqx.tree_at(lambda m: m.readout, net(name, "leaky"), readout)
    _, actual = gradient(model, xs, ys)
    zs, errors = emissions_and_errors()

    def linear(rnn):
        return jnp.sum(errors * (rnn(xs) @ readout.feedback_weight.T))

    assert_close(actual.rnn.cell, jit(eqx.filter_grad(linear))(model.rnn).cell)
    expected = np.einsum("tbo,tbi->oi", errors, zs)
    assert_close(actual.readout.weight, expected)
    np.testing.assert_array_equal(actual.readout.feedback_weight, actual.readout.weight)
    if "streams" not in RULES[name].opts_out:
        _, streamed = streamed_gradient(1)(model, xs, ys)
        assert_close(weights(streamed), weights(actual))


DECAY, RATE = 0.4, 0.05


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE)),
        optax.adamw(RATE, weight_decay=DECAY),
    ],
    ids=["sgd", "adamw"],
)
def test_decay_draws_adaptive_feedback_to_the_weights(optimizer):
    """B − W shrinks by 1 − lr · decay a step, whatever W does meanwhile."""
    model = eqx.tree_at(lambda m: m.readout, net("eprop", "leaky"), readout_of("adaptive"))
    xs, steps = data()[0], 150
    ys = model.rnn(xs) @ jr.normal(jr.key(1), (N, OUT))

    @jit
    def train(model):
        def step(carry, _):
            model, state = carry
            _, grads = mpj.value_and_grad(offline_loss, mpj.EProp())(model, xs, ys)
            params = eqx.filter(model, eqx.is_inexact_array)
            with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
                updates, state = optimizer.update(grads, state, params)
            model = eqx.apply_updates(model, updates)
            return (model, state), (model.readout.weight, model.readout.feedback_weight)

        state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        return jax.lax.scan(step, (model, state), length=steps)[1]

    W0, B0 = np.asarray(model.readout.weight), np.asarray(model.readout.feedback_weight)
    W, B = map(np.asarray, train(model))
    left = (1 - RATE * DECAY) ** np.arange(1, steps + 1)
    np.testing.assert_allclose(B - W, left[:, None, None] * (B0 - W0), rtol=1e-9, atol=1e-12)
    moved = np.abs(np.diff(W, axis=0)).max(axis=(1, 2))
    assert (moved > 1e-5).all()

    def cosine(a, b):
        return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)

    assert cosine(W0, B0) < 0.5 and cosine(W[-1], B[-1]) > 0.9


@pytest.mark.usefixtures("without_type_checks")
def test_unknown_feedback_is_an_error_that_lists_the_three():
    with pytest.raises(ValueError, match='"symmetric", "random" or "adaptive", but is \'sign\''):
        mpj.Readout(N, OUT, feedback="sign", key=jr.key(0))  # pyright: ignore
