"""Data as they come: NumPy arrays, lists, spikes and counts mean the same eagerly and under jit."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import (
    assert_close,
    BATCH,
    cell,
    data,
    jit,
    M,
    meeting,
    N,
    net,
    NEURONS,
    offline_loss,
    OWN_CELLS,
    segment_loss,
    serves,
    T,
)

import modprop_jax as mpj


pytestmark = pytest.mark.slow


RNG = np.random.default_rng(0)
SPIKES = RNG.random((T, *BATCH, M)) < 0.4
COUNTS = RNG.integers(0, 200, (T, *BATCH, M))


def squares(rnn, xs, **flags):
    return jnp.sum(rnn(xs, **flags) ** 2)


@pytest.mark.parametrize(
    "came, jitted",
    [
        (SPIKES, False),
        (SPIKES, True),
        (COUNTS.astype(np.uint8), False),
        (COUNTS, True),
        (COUNTS.tolist(), True),
    ],
)
def test_inputs_have_one_meaning(came, jitted):
    """That of the same numbers in the cell's dtype, as JAX's array."""
    c = cell("leaky")
    rnn = mpj.RNN(c, rule=mpj.EProp())
    take = jax.value_and_grad(lambda bias, xs: squares(at_bias(rnn, bias), xs))
    expected = take(c.bias, jnp.asarray(np.asarray(came), float))
    actual = (jax.jit(take) if jitted else take)(c.bias, came)
    assert_close(actual, expected, 1e-12)
    assert np.abs(expected[1]).max() > 1e-3


def at_bias(rnn, bias):
    return eqx.tree_at(lambda rnn: rnn.cell.bias, rnn, bias)


def test_flags_context_and_types_as_lists():
    rule = mpj.DNI(labels=2, learn=optax.sgd(0.1))
    c, (xs, _) = cell("rate"), data()
    flags = {"done": RNG.random((T, *BATCH)) < 0.3, "valid": RNG.random((T, *BATCH)) < 0.7}
    context = RNG.integers(0, 2, (T, *BATCH, 2))
    carry = mpj.RNN(c, rule=rule).init(BATCH, key=jr.key(0))

    def run(carry, xs, context, done, mask):
        return mpj.scan(c, carry, xs, rule=rule, context=context, done=done, valid=mask)[1]

    arrays = jax.tree.map(jnp.asarray, (context.astype(float), *flags.values()))
    expected = run(carry, xs, *arrays)
    lists = [a.tolist() for a in (np.asarray(xs), context, *flags.values())]
    numpys = jax.tree.map(np.asarray, carry)
    for carry in (carry, numpys):
        assert_close(run(carry, *lists), expected, 1e-12)
    assert_close(jax.jit(lambda xs, *rest: run(carry, xs, *rest))(*lists), expected, 1e-12)
    connected = RNG.random((N, N)) < 0.5
    options = {"tau": [2.0] * N, "mask": connected, "signs": [1, -1] * (N // 2), "key": jr.key(0)}
    listed = mpj.LeakyCell(M, N, **(options | {"mask": connected.tolist()}))
    types = [0, 1] * (N // 2)
    assert_close(
        mpj.RNN(listed, rule=mpj.MDGL(types))(xs), mpj.RNN(mpj.LeakyCell(M, N, **options))(xs)
    )


@pytest.mark.slow
def test_numpy_streams():
    model, (xs, ys) = net("eprop", "leaky"), data()
    stream = mpj.online_value_and_grad(segment_loss, segment=4)
    expected = jax.jit(lambda xs, ys: stream(model, model.rnn.init(BATCH), xs, ys)[1])(xs, ys)
    # a restored carry holds NumPy arrays
    carry = jax.tree.map(np.asarray, model.rnn.init(BATCH))
    actual = stream(model, carry, np.asarray(xs), np.asarray(ys).tolist())[1]
    assert_close(actual, expected)


def test_numpys_float64_is_jaxs_default_float_eagerly_too():
    rng = np.random.default_rng(0)
    xs, start = rng.normal(size=(4, 2, M)), rng.normal(size=(2, N))
    with jax.enable_x64(False):
        rnn = mpj.RNN(mpj.LeakyCell(M, N, tau=4.0, key=jr.key(0)))
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), rnn)
        expected = jax.jit(lambda *args: rnn(*args)[1])(xs, start)
        for model in (rnn, wide):
            assert_close(model(xs, start)[1], expected, 1e-6)
            assert_close(model(xs), rnn(jnp.asarray(xs)), 1e-6)
    # in 64 bits it is wider than the cell, eagerly as under jit
    for call in (rnn, jax.jit(lambda xs: rnn(xs))):
        with pytest.raises(ValueError, match="xs is float64, but the cell computes in float32"):
            call(xs)


CELLS = {
    "leaky": lambda: cell("leaky"),
    "rate": lambda: cell("rate"),
    "filtered": lambda: cell("filtered_adaptive"),
    "function": lambda: cell("function"),
    "lif": lambda: mpj.LIFCell(M, N, tau=4.0, key=jr.key(0)),
    "alif": lambda: mpj.ALIFCell(M, N, tau=4.0, tau_adaptation=9.0, beta=1.0, key=jr.key(0)),
    "gru": lambda: mpj.GRUCell(M, N, key=jr.key(0)),
    "lstm": lambda: mpj.LSTMCell(M, N, key=jr.key(0)),
    "lru": lambda: mpj.LRUCell(M, N, key=jr.key(0)),
    "rtu": lambda: mpj.RTUCell(M, N, key=jr.key(0)),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_batch_of_one_axis_is_a_number(name):
    c = CELLS[name]()
    for shape in (3, np.int64(3), [3]):
        assert_close(c.init(shape), c.init((3,)), 0.0)
        assert_close(mpj.RNN(c).init(shape).state, c.init((3,)), 0.0)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("wrong", [2.0, -1, (2, -1), "2", None, np.ones(2)])
def test_a_batch_shape_that_is_none(wrong):
    for init in (cell("leaky").init, mpj.RNN(cell("adaptive")).init):
        with pytest.raises(ValueError, match="batch_shape must be a number of examples or a tuple"):
            init(wrong)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("wrong", [None, "spikes", {"x": 1}, [[1.0], [1.0, 2.0]]])
def test_what_is_no_data(wrong):
    rnn = mpj.RNN(cell("leaky"))
    with pytest.raises(ValueError, match="xs must be an array, or nested lists of numbers"):
        rnn(wrong)
    with pytest.raises(ValueError, match="done must be an array, or nested lists of numbers"):
        rnn(data()[0], done=[[True], [True, False]])


def test_complex_inputs_of_a_real_cell():
    with pytest.raises(ValueError, match="xs is complex128, but the cell computes in float64"):
        mpj.RNN(cell("leaky"))(data()[0].astype(complex))


def test_a_stream_of_a_number():
    model, (xs, _) = net("eprop", "leaky"), data()
    for ys in (1.0, {"rate": 1.0}):
        with pytest.raises(ValueError, match="same number of time steps.*0"):
            mpj.online_value_and_grad(segment_loss)(model, model.rnn.init(BATCH), xs, ys)
    assert np.isfinite(offline_loss(model, np.asarray(xs), np.zeros(())))


@pytest.mark.parametrize("name", meeting("numpy"))
def test_a_numpy_array_under_vmap_within_jit(name):
    """It is still NumPy's when it meets a derivative of its own, which JAX refuses."""
    fits = [c for c in (*NEURONS, "filtered_adaptive", *OWN_CELLS) if serves(name, c)]
    xs: Any = np.asarray(data()[0])
    zs: Any = np.ones((2, N))
    random = mpj.Readout(N, 2, feedback="random", key=jr.key(0))
    models = [net(name, cell_name) for cell_name in fits]

    def run(models):
        return [jax.vmap(model, in_axes=1)(xs) for model in models], jax.vmap(random)(zs)

    shapes, _ = eqx.filter_eval_shape(run, models)
    assert [z.shape for z in shapes] == [(BATCH[0], T, 2)] * len(fits)
    if name == "eprop":
        (z, *_), read = jit(run)(models)
        assert_close(z, jnp.swapaxes(models[0](xs), 0, 1))
        assert_close(read, random(jnp.asarray(zs)))


def test_a_spike_of_a_numpy_array_under_vmap_within_jit():
    xs: Any = np.asarray(data()[0])
    found = jax.eval_shape(jax.jit(lambda: jax.vmap(mpj.spike)(xs)))
    assert found.shape == xs.shape
