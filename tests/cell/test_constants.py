"""Numeric hyper-parameters of cells: each trains where it is given as an array."""

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
    generic,
    gradient,
    jit,
    M,
    N,
    Net,
    offline_loss,
    OUT,
    plain_loss,
    segment_loss,
    streamed_gradient,
)

import modprop_jax as mpj
from modprop_jax.experiments import train, TrainingDiverged


pytestmark = pytest.mark.slow


EACH = jnp.linspace(0.8, 1.2, N)


def spiking(cls, **options):
    made = cls(M, N, dampening=0.5, use_bias=True, key=jr.key(2), **options)
    return mpj.Filtered(generic(made, 3.0), 0.6)


# every constant that trains, as one value and as one a neuron, raw and constrained
CELLS = {
    "leaky": lambda: generic(
        mpj.LeakyCell(*(M, N), tau=jnp.asarray(4.0), dt=EACH, activation=jnp.tanh, key=jr.key(1))
    ),
    "leaky_positive": lambda: generic(
        mpj.LeakyCell(
            M,
            N,
            tau=mpj.Positive(4 * EACH),
            dt=mpj.Positive(1.5),
            activation=jnp.tanh,
            use_bias=True,
            key=jr.key(1),
        )
    ),
    "rate": lambda: generic(mpj.RateCell(M, N, alpha=0.5 * EACH, key=jr.key(4))),
    "rate_between": lambda: generic(
        mpj.RateCell(M, N, alpha=mpj.Between(0.6, 0.0, 1.0), key=jr.key(4))
    ),
    "lif": lambda: spiking(
        mpj.LIFCell, tau=mpj.Positive(4.0), threshold=0.4 * EACH, dt=jnp.asarray(1.0)
    ),
    "alif": lambda: spiking(
        mpj.ALIFCell,
        tau=4 * EACH,
        threshold=mpj.Positive(0.4),
        dt=EACH,
        tau_adaptation=jnp.asarray(6.0),
        beta=mpj.Positive(0.3 * EACH),
        divide_by_adaptive=True,
        scale_input=True,
        reset_gradient=True,
    ),
}


def net(cell_name, rule):
    return Net(mpj.RNN(made(cell_name), rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))


made = functools.cache(lambda name: CELLS[name]())
plain = jit(eqx.filter_grad(plain_loss))


def constants(gradients):
    """The gradients of all that is no weight."""
    cell = gradients.rnn.cell
    cell = cell.cell if isinstance(cell, mpj.Filtered) else cell
    return eqx.tree_at(lambda c: (c.weight_rec, c.weight_in), cell, (None, None))


@pytest.mark.parametrize("cell_name", CELLS)
def test_constants_train(cell_name):
    """BPTT and streamed RTRL are JAX's own derivative, of each constant; none is zero."""
    found = gradient(net(cell_name, mpj.BPTT()), *data())[1]
    exact = plain(net(cell_name, mpj.BPTT()), *data())
    assert_close(found, exact, 1e-9)
    # a neuron that stays silent has none
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(constants(found)))
    rtrl = streamed_gradient(3)(net(cell_name, mpj.RTRL()), *data())[1]
    assert_close(constants(rtrl), constants(exact), 1e-9)


@pytest.mark.parametrize(
    "rule, cell_name",
    [(mpj.EProp(), name) for name in CELLS]
    + [(mpj.SnAp(1), "leaky"), (mpj.SnAp(1), "alif"), (mpj.ModProp(0.5), "rate_between")],
)
@pytest.mark.slow
def test_constants_stream(rule, cell_name):
    model = net(cell_name, rule)
    offline = gradient(model, *data())[1]
    assert_close(streamed_gradient(3)(model, *data())[1], offline, 1e-9)


def test_numbers_and_numpy_values_do_not_train():
    """One value a neuron too, and the same dynamics as of one value."""
    given: dict = dict(dampening=0.5, use_bias=True, key=jr.key(2))
    each = np.full(N, 0.4)
    cell = mpj.LIFCell(M, N, tau=4.0 * each / 0.4, threshold=each, dt=each / 0.4, **given)
    one = mpj.LIFCell(M, N, tau=4.0, threshold=np.float64(0.4), dt=1, **given)
    assert len(jax.tree.leaves(cell)) == len(jax.tree.leaves(one)) == 3
    assert (float(one.threshold), float(one.dt)) == (0.4, 1.0)
    states = [mpj.scan(c, c.init((2,)), data()[0])[0] for c in (cell, one)]
    assert_close(*states)


def test_constants_made_inside_the_loss():
    """A cell of traced constants: their gradient flows, and is that of finite differences."""
    xs = data()[0]

    def loss(constants):
        leaky = mpj.LeakyCell(
            *(M, N), tau=constants[0], dt=constants[1], activation=jnp.tanh, key=jr.key(2)
        )
        rate = mpj.RateCell(M, N, alpha=constants[2], key=jr.key(4))
        gle = mpj.GLECell(
            [M, N],
            tau_m=mpj.Between(constants[0], 1.5, np.inf),
            tau_r=constants[0],
            dt=constants[1],
            activations=jnp.tanh,
            key=jr.key(5),
        )
        emitted = [mpj.scan(c, c.init((2,)), xs)[1] for c in (leaky, rate, gle)]
        return sum((jnp.sum(zs**2) for zs in emitted), jnp.zeros(()))

    at = jnp.array([4.0, 1.0, 0.6])
    value, found = jit(jax.value_and_grad(loss))(at)
    h = 1e-5 * jnp.eye(3)
    at_each = jit(lambda points: jax.lax.map(loss, points))
    ahead, back = np.split(at_each(jnp.concatenate([at[None] + h, at[None] - h])), 2)
    assert np.isfinite(value)
    np.testing.assert_allclose(found, (ahead - back) / 2e-5, rtol=1e-6)


def gle(**options):
    given: dict = dict(tau_m=4.0, tau_r=2.0, dt=1.0) | options
    return mpj.GLECell([M, N], activations=jnp.tanh, key=jr.key(5), **given)


def test_gle_has_a_gradient_of_tau_m_alone():
    for options, names in [
        (dict(dt=mpj.Positive(1.0)), "dt"),
        (dict(tau_r=jnp.asarray(2.0)), r"layers\[0\].tau_r"),
    ]:
        c = gle(**options)
        with pytest.raises(ValueError, match=f"no gradient for {names}.*use BPTT, which is exact"):
            mpj.GLE().check(c)
    by_array, learnt = gle(tau_m=[jnp.full(N, 4.0)]), gle(learn_tau=True)
    mpj.GLE().check(by_array)
    assert jax.tree.map(jnp.shape, by_array) == jax.tree.map(jnp.shape, learnt)


def test_constrained_constants_stay_in_range():
    """Whatever a step; and where they start is exact."""
    start = np.array([1e-3, 1.0, 1e4])
    for constant, low, high in [
        (mpj.Positive(start), 0.0, np.inf),
        (mpj.Between(start, 1e-4, np.inf), 1e-4, np.inf),
        (mpj.Between(start / 2e4, 0.0, 1.0), 0.0, 1.0),
    ]:
        np.testing.assert_allclose(constant, start if high > 1 else start / 2e4, rtol=1e-14)
        for step in (-30.0, 30.0):
            moved = np.asarray(jax.tree.map(lambda leaf: leaf + step, constant))
            assert (moved > low).all() and (moved < high).all()
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\].*Positive came.*Between"):
        mpj.RateCell(M, N, alpha=mpj.Positive(0.5), key=jr.key(0))
    with pytest.raises(ValueError, match="tau_m must be at least dt=1.0.*Positive came"):
        gle(tau_m=mpj.Positive(4.0))
    narrow = mpj.LeakyCell(M, N, tau=mpj.Positive(4.0), dtype=jnp.float32, key=jr.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {np.dtype(jnp.float32)}


def with_tau(model, tau):
    return eqx.tree_at(lambda m: m.rnn.cell.tau, model, tau)


@pytest.mark.parametrize("form", ["offline", "online", "checkpointed"])
def test_a_constant_out_of_its_range_is_found(form):
    model = net("leaky", mpj.RTRL())
    if form == "offline":
        take = mpj.value_and_grad(offline_loss, check=True)
    elif form == "online":
        stream = mpj.online_value_and_grad(segment_loss, segment=4, check=True)
        take = lambda m, *a: stream(m, m.rnn.init((2,)), *a)  # noqa: E731
    else:
        stream = mpj.checkpointed_value_and_grad(segment_loss, segment=4, check=True)
        take = lambda m, *a: stream(m, m.rnn.cell.init((2,)), *a)  # noqa: E731
    take = jit(take)
    jax.block_until_ready(take(model, *data()))
    with pytest.raises(RuntimeError, match="LeakyCell.tau must be positive.*Positive"):
        jax.block_until_ready(take(with_tau(model, jnp.asarray(-4.0)), *data()))


def test_an_experiment_stops_where_a_constant_leaves_its_range():
    """At that iteration, with its name, though all is finite."""
    cell = mpj.LeakyCell(M, N, tau=jnp.asarray(0.5), key=jr.key(0))

    def shrinks(cell, xs, ys):
        return jnp.sum(cell.tau) + 0 * jnp.sum(xs), ys

    with pytest.raises(TrainingDiverged, match="LeakyCell.tau must be positive.*iteration 2") as e:
        train(
            mpj.RNN(cell),
            lambda key: (jnp.ones((2, 1, M)), jnp.zeros(())),
            lambda rnn, xs, ys: shrinks(rnn.cell, xs, ys),
            optax.sgd(0.3),
            key=jr.key(0),
            iterations=3,
            eval_every=3,
        )
    assert e.value.iteration == 2


def test_an_activation_that_holds_arrays_is_refused():
    """It is part of the structure, where its slope would never learn."""
    message = "activation holds arrays.*PReLU.*never learn: write a NeuronCell of your own"
    with pytest.raises(ValueError, match=message):
        mpj.LeakyCell(M, N, tau=4.0, activation=eqx.nn.PReLU(), key=jr.key(0))
    # one constant a neuron has a meaning: it is no parameter
    gains = np.linspace(0.5, 1.5, N)
    mpj.LeakyCell(M, N, tau=4.0, activation=lambda v: jnp.tanh(gains * v), key=jr.key(0))
    # also under jit, where a concrete trial is needed
    eqx.filter_eval_shape(mpj.RateCell, M, N, activation=lambda v: 0.5 * v, key=jr.key(0))
