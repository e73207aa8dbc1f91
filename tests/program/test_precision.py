"""Narrow floats and long sums: all but parameters and operands of matmuls is float32 at least."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import BATCH, cell, distance, jit, M, N, rule

import modprop_jax as mpj
from modprop_jax._fold import fold


pytestmark = pytest.mark.slow


bf16, f16, f32 = jnp.bfloat16, jnp.float16, jnp.float32
key = jr.key(0)


def cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, tree)


# --- slow leaks ---

SLOW = {
    "leaky": lambda: mpj.LeakyCell(M, N, tau=512.0, use_bias=True, key=key),
    "taus": lambda: mpj.LeakyCell(M, N, tau=jnp.full(N, 512.0), key=key),
    "rate": lambda: mpj.RateCell(M, N, alpha=0.005, key=key),
    "lif": lambda: mpj.LIFCell(M, N, tau=500.0, threshold=50.0, scale_input=True, key=key),
    "alif": lambda: mpj.ALIFCell(
        M,
        N,
        tau=20.0,
        tau_adaptation=512.0,
        beta=0.1,
        threshold=1e-3,
        scale_adaptation=True,
        key=key,
    ),
    "lru": lambda: mpj.LRUCell(M, N, r_min=0.998, r_max=0.999, max_phase=0.01, key=key),
    "rtu": lambda: mpj.RTUCell(M, N, r_min=0.998, r_max=0.999, max_phase=0.01, key=key),
    "gle": lambda: mpj.GLECell(
        [M, N], tau_m=500.0, tau_r=1.0, dt=1.0, activations=jnp.tanh, learn_tau=True, key=key
    ),
    "filtered": lambda: mpj.Filtered(
        mpj.RateCell(M, N, key=key), (0.999, np.linspace(0.99, 1, N)), scale=True
    ),
}


@pytest.mark.parametrize("dtype", [bf16, pytest.param(f16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SLOW)
def test_slow_dynamics_of_narrow_cells_are_those_of_wide_ones(name, dtype):
    """Of the same rounded parameters, after steps whose increments a narrow state would lose."""
    narrow = cast(SLOW[name](), dtype)
    if name == "alif":  # one spike a step or none, whatever the rounding of the drive
        narrow = eqx.tree_at(lambda c: c.weight_rec, narrow, 0 * narrow.weight_rec)
        narrow = eqx.tree_at(lambda c: c.weight_in, narrow, jnp.abs(narrow.weight_in) + 0.5)
    wide = cast(narrow, float)
    xs = jnp.ones((1500, M), dtype)
    found, zs = jit(mpj.scan)(narrow, narrow.init(), xs)
    right, _ = jit(mpj.scan)(wide, wide.init(), xs.astype(float))
    assert zs.dtype == f32
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        assert a.dtype in (f32, jnp.int32)
        a, b = np.float64(a), np.float64(b)
        assert np.abs(a - b).max() <= 0.01 * np.abs(b).max()


@pytest.mark.parametrize("dtype", [bf16, f16])
def test_counts_of_spikes_go_on(dtype):
    """Beyond 256 (bfloat16) and 2,048 (float16), where a narrow count would stay."""
    neuron = mpj.LIFCell(1, N, tau=20.0, dtype=dtype, key=key)
    weights = jnp.zeros((N, N), dtype), jnp.full((N, 1), 3.0, dtype)
    neuron = eqx.tree_at(lambda c: (c.weight_rec, c.weight_in), neuron, weights)
    counted = mpj.Filtered(neuron, (0.9, 1.0))
    _, zs = jit(mpj.scan)(counted, counted.init((2,)), jnp.ones((3000, 2, 1), dtype))
    counts = zs[-1, :, N:]
    np.testing.assert_array_equal(counts, np.full((2, N), 3000.0))
    np.testing.assert_allclose(mpj.rate_cost(counts, 3000, target=0.5), N / 8, rtol=1e-6)
    narrow = mpj.rate_cost(jnp.ones((3, N), dtype), 3, target=0.01)
    np.testing.assert_allclose(narrow, N / 2 * (1 / 3 - 0.01) ** 2, rtol=1e-6)


@pytest.mark.parametrize("ratio", [1e6, 1e8])
def test_a_drive_enters_as_the_gain_says(ratio):
    """1 - η to all digits, also where η rounds to 1."""
    right, ones = -np.expm1(-1 / ratio), jnp.ones(N, f32)
    for tau in (ratio, jnp.asarray(ratio, f32), jnp.full(N, ratio, f32)):
        leaky = mpj.LeakyCell(M, N, tau=tau, dtype=f32, key=key)
        np.testing.assert_allclose(leaky.gain, right, rtol=1e-6)
        np.testing.assert_allclose(leaky.integrate(0 * ones, ones), right, rtol=1e-6)
        spiking = mpj.ALIFCell(
            M,
            N,
            tau=tau,
            tau_adaptation=tau,
            beta=0.1,
            scale_input=True,
            scale_adaptation=True,
            dtype=f32,
            key=key,
        )
        np.testing.assert_allclose(spiking.gain, right, rtol=1e-6)
        v, b, _ = spiking.integrate((2 * ones, 0 * ones, jnp.zeros(N, jnp.int32)), ones)
        np.testing.assert_allclose(b, right, rtol=1e-6)
    filtered = mpj.Filtered(leaky, 1 - 1 / ratio, scale=True)
    np.testing.assert_allclose(filtered.parts()[1].filter(0 * ones, ones), 1 / ratio, rtol=1e-6)


# --- gradients ---


class Stack(eqx.Module):
    rnns: list
    readout: mpj.Readout

    def init(self):
        return [rnn.init(BATCH) for rnn in self.rnns]

    def __call__(self, carry, zs):
        after = []
        for rnn, one in zip(self.rnns, carry, strict=True):
            one, zs = rnn(zs, one)
            after.append(one)
        return after, self.readout(zs)


def segment_loss(model, carry, xs, ys):
    carry, outputs = model(carry, xs)
    return jnp.sum((outputs - ys) ** 2), carry


STREAMED = [
    ("leaky", "eprop", 1),
    ("leaky", "modprop_types", 8),
    ("taus", "eprop", 8),
    ("rate", "rtrl", 1),
    ("lru", "diagonal", 8),
]


@pytest.mark.parametrize("name, by, segment", STREAMED)
def test_streamed_traces_of_slow_leaks(name, by, segment):
    """A narrow trace would forget what it takes up, or not decay."""
    credit = mpj.DiagonalRTRL() if by == "diagonal" else rule(by)
    rnn = mpj.RNN(SLOW[name](), rule=credit)
    size = M if name == "lru" else N
    model = cast(Stack([rnn], mpj.Readout(size, 2, key=key)), bf16)
    xs = 1 + jr.normal(key, (600, *BATCH, M)).astype(bf16)
    take = jit(mpj.online_value_and_grad(segment_loss, segment=segment))

    def run(model, dtype):
        ys = jnp.ones((600, *BATCH, 2), dtype)
        return take(model, model.init(), xs.astype(dtype), ys)

    (value, carry), narrow = run(model, f32)
    (right, _), wide = run(cast(model, float), float)
    assert value.dtype == f32 and abs(float(value) / float(right) - 1) < 0.01
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype(f32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype(bf16)}
    assert distance(cast(narrow, float), wide) < 0.01


def test_layers_take_the_float32_of_those_below():
    """Narrow cells and readouts emit float32 and take it, offline and streamed."""
    rnns = [
        mpj.RNN(mpj.GRUCell(M, N, dtype=bf16, key=key), rule=mpj.EProp()),
        mpj.RNN(mpj.LeakyCell(N, N, tau=5.0, dtype=bf16, key=key), rule=mpj.BPTT()),
    ]
    readout = mpj.Readout(N, 2, feedback="adaptive", dtype=bf16, key=key)
    model, xs = Stack(rnns, readout), jr.normal(key, (8, *BATCH, M))
    ys = jnp.ones((8, *BATCH, 2))
    take = jit(mpj.online_value_and_grad(segment_loss, segment=8))
    (value, _), narrow = take(model, model.init(), xs.astype(f32), ys.astype(f32))
    wide = cast(model, float)
    (right, _), exact = take(wide, wide.init(), xs, ys)
    assert value.dtype == f32 and abs(float(value) / float(right) - 1) < 0.01
    assert distance(cast(narrow, float), exact) < 0.01


class Own(mpj.NeuronCell):
    """A neuron of a user, who makes states in the dtype of the weights."""

    tau: jax.Array

    def __init__(self, in_size, hidden_size, **options):
        mpj.NeuronCell.__init__(self, in_size, hidden_size, **options)
        self.tau = jnp.full(hidden_size, 512.0, self.weight_rec.dtype)

    def init(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), self.weight_rec.dtype)

    def integrate(self, state, drive):
        leak = jnp.broadcast_to(jnp.exp(-1 / self.tau), state.shape)
        return leak * state + (1 - leak) * drive

    def emit(self, state):
        return jax.nn.relu(state)


def test_a_neuron_of_ones_own_is_wide_too():
    """Its start is cast, and its parameters, and a sequence's end brings no narrow state back."""
    own = Own(M, N, dtype=bf16, key=key)
    built_in = mpj.LeakyCell(M, N, tau=own.tau, dtype=bf16, key=key)
    xs, done = jnp.ones((1000, M), bf16), jnp.arange(1000) == 400

    def loss(cell, xs):
        last, zs = mpj.scan(cell, cell.init(), xs, rule=mpj.EProp(), done=done)
        return jnp.sum(zs), last

    take = jit(eqx.filter_value_and_grad(loss, has_aux=True))
    ((value, last), gradient), ((right, _), exact) = take(own, xs), take(built_in, xs)
    assert last.dtype == f32
    np.testing.assert_allclose(value, right, rtol=1e-4)
    for name in ("weight_rec", "weight_in", "tau"):
        pair = getattr(gradient, name), getattr(exact, name)
        assert pair[0].dtype == bf16 and distance(*cast(pair, float)) < 0.01
    # where one's segments are chained over bare states too
    carry = own.init()
    chained = jit(mpj.checkpointed_value_and_grad(chained_loss, segment=100))
    (again, _), _ = chained(mpj.RNN(own), carry, xs, xs)
    np.testing.assert_allclose(again, value_without_done(own, xs), rtol=1e-4)


def chained_loss(rnn, carry, xs, ys):
    del ys
    carry, zs = rnn(xs, carry)
    return jnp.sum(zs), carry


def value_without_done(cell, xs):
    return jnp.sum(mpj.scan(cell, cell.init(), xs)[1])


def test_a_function_computes_wide_and_may_not_round_its_state():
    def step(weight, state, x):
        return 0.998 * state + 0.002 * (x @ weight.T)

    weight = jr.normal(key, (N, M)).astype(bf16)
    function = mpj.FunctionCell(step, weight, np.zeros(N, bf16))
    state, _ = mpj.scan(function, function.init(), jnp.ones((2000, M), bf16))
    right = np.ones(M) @ np.asarray(weight, float).T * (1 - 0.998**2000)
    np.testing.assert_allclose(state, right, rtol=1e-4)

    def rounding(weight, state, x):
        return step(weight, state, x).astype(bf16)

    cell = mpj.FunctionCell(rounding, weight, np.zeros(N, bf16))
    with pytest.raises(ValueError, match="takes a state in float32, and returns it in bfloat16"):
        mpj.scan(cell, cell.init(), jnp.ones((2, M), bf16))


@pytest.mark.parametrize("by", ["bptt", "mdgl"])
def test_credit_below_the_range_of_float16(by):
    """Losses are means over many examples: credit of 1e-9 is no exception."""
    narrow, xs = cast(cell("leaky"), f16), jnp.ones((4, *BATCH, M), f16)

    def loss(start, cell, scale):
        return scale * jnp.sum(mpj.scan(cell, start, xs, rule=rule(by))[1])

    take = jit(jax.grad(loss))
    start = narrow.init(BATCH)
    small, large = take(start, narrow, 1e-9), take(start, narrow, 1.0)
    np.testing.assert_allclose(small, 1e-9 * large, rtol=1e-4)


# --- long sums ---


def trivial(weight, carry, xs, ys):
    del ys
    return jnp.sum(weight * xs), carry


@pytest.mark.parametrize("take", [mpj.online_value_and_grad, mpj.checkpointed_value_and_grad])
@pytest.mark.parametrize("segment", [1, 7])
def test_a_long_stream_does_not_drift(take, segment):
    """Plain float32 sums are 1e-3 and more off here."""
    steps = 700_001
    xs, one = jnp.full(steps, 0.1, f32), jnp.ones((), f32)
    (value, _), gradient = jit(take(trivial, segment=segment))(one, (), xs, xs)
    right = steps * float(np.float32(0.1))
    assert abs(value / right - 1) < 1e-6
    # credit through the boundaries is summed by JAX
    exact = take is mpj.online_value_and_grad
    assert abs(gradient / right - 1) < (1e-6 if exact else 1e-5)


@pytest.mark.parametrize("take", [mpj.online_value_and_grad, mpj.checkpointed_value_and_grad])
def test_a_long_stream_of_a_narrow_model(take):
    """2,500 and 5,000, where bfloat16 stops at 128 and 256."""

    def loss(weight, carry, xs, ys):
        return jnp.sum(weight * xs + ys), carry

    xs, ys = jnp.ones(5000, bf16), jnp.full(5000, -0.5, bf16)
    (value, _), gradient = jit(take(loss, segment=1))(jnp.ones((), bf16), (), xs, ys)
    assert value.dtype == f32 and value == 2500
    assert gradient == jnp.asarray(5000, bf16) and gradient.dtype == bf16


@pytest.mark.parametrize("credit", [mpj.EProp(), mpj.SnAp(2)])
def test_a_long_sequence_does_not_drift(credit):
    """Over chunks, and over the steps of a rule that runs forward."""
    steps = 50_000
    neuron = mpj.LeakyCell(1, 1, tau=1e-3, activation=jax.nn.identity, dtype=f32, key=key)
    weights = jnp.zeros((1, 1), f32), jnp.ones((1, 1), f32)
    neuron = eqx.tree_at(lambda c: (c.weight_rec, c.weight_in), neuron, weights)

    def loss(neuron):
        xs = jnp.full((steps, 1), 0.1, f32)
        return jnp.sum(mpj.scan(neuron, neuron.init(), xs, rule=credit, chunk=4)[1])

    gradient = jit(eqx.filter_grad(loss))(neuron).weight_in
    np.testing.assert_allclose(gradient, [[steps * float(np.float32(0.1))]], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 64, 97, 600])
def test_all_terms_of_a_fold(count):
    def step(index, carry):
        return carry + 1, (index.astype(float), jnp.ones(2, bf16))

    zeros = jnp.zeros(()), jnp.zeros(2, f32)
    carry, sums = jit(lambda: fold(step, jnp.zeros((), int), zeros, count))()
    assert carry == count and sums[0] == count * (count - 1) / 2
    np.testing.assert_array_equal(sums[1], np.full(2, float(count)))


def test_a_loss_that_is_infinite_stays_so():
    xs = jnp.asarray([1.0, jnp.inf] + [1.0] * 62, f32)
    (value, _), _ = jit(mpj.online_value_and_grad(trivial, segment=1))(
        jnp.ones((), f32), (), xs, xs
    )
    assert value == jnp.inf
