"""Examples of a batch that end between two segments, or that are selected from a carry."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, cell, jit, M, N, TYPES
from test_starts import Neurons

import modprop_jax as mpj


pytestmark = pytest.mark.slow


# as many examples as neurons, and as a trace may have rows: where axes are mixed up, shapes fit
B = N
ENDED = jnp.asarray([True, False, True, False, False, True])

CASES: dict[str, Any] = {
    "bptt": (mpj.BPTT(), "gru"),
    "eprop, presynaptic": (mpj.EProp(), "leaky"),
    "eprop, per synapse": (mpj.EProp(), "filtered_adaptive"),
    "eprop, per unit": (mpj.EProp(), "gru"),
    "eprop, learnt start": (mpj.EProp(), "learnt"),
    "rtrl": (mpj.RTRL(), "filtered_function"),
    "modprop_auto": (mpj.ModProp("auto", TYPES), "leaky"),
    "mdgl_online": (mpj.MDGL(online=True), "filtered_adaptive"),
    "future_bptt": (mpj.FutureBPTT(6), "leaky"),
    "snap": (mpj.SnAp(2), "leaky"),
    "uoro": (mpj.UORO(), "filtered_adaptive"),
    "kf_rtrl": (mpj.KFRTRL(probes=6), "leaky"),
    "kernl": (mpj.KeRNL(), "leaky"),
    "dni": (mpj.DNI(learn=optax.sgd(0.05)), "leaky"),
    "gle": (mpj.GLE(), "gle"),
}
CELLS = {
    "learnt": lambda: Neurons(jr.key(1)),
    "gru": lambda: mpj.GRUCell(M, N, key=jr.key(2)),
    "gle": lambda: mpj.GLECell(
        [M, 4, N], tau_m=4.0, tau_r=1.0, dt=1.0, activations=jnp.tanh, order="sync", key=jr.key(3)
    ),
}


def layer(name):
    rule, of = CASES[name]
    return mpj.RNN(CELLS[of]() if of in CELLS else cell(of), rule=rule)


def ran(rnn, xs, done=None):
    """The carry, after a segment with errors."""

    def loss(rnn, carry, xs, done):
        carry, zs = rnn(xs, carry, done=done)
        return jnp.sum(zs**2), carry

    stream = mpj.online_value_and_grad(loss, segment=len(xs))
    return stream(rnn, rnn.init((B,), key=jr.key(4)), xs, done)[0][1]


def numbers(carry):
    """Flags as numbers, to be compared."""
    return jax.tree.map(lambda a: a.astype(float) if a.dtype == bool else a, carry)


def inputs():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, B, M)))


@pytest.mark.parametrize("name", CASES)
def test_reset_is_done_at_the_step_before(name):
    rnn, xs = layer(name), inputs()
    never = jnp.zeros((3, B), bool)

    def both(rnn, xs):
        carry = ran(rnn, xs, never)
        other = mpj.reset(rnn.cell, carry, ENDED)
        ended = ran(rnn, xs, never.at[-1].set(ENDED))
        return numbers((mpj.reset(rnn, carry, ENDED), other, ended, carry))

    by_layer, by_cell, expected, before = jit(both)(rnn, xs)
    assert_close(by_layer, expected, 1e-12)
    assert_close(by_cell, expected, 1e-12)
    assert any(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(expected))
    )


@pytest.mark.parametrize("name", ["eprop, per synapse", "rtrl", "snap", "uoro", "kernl", "dni"])
@pytest.mark.slow
def test_taken_examples_go_on_as_they_would(name):
    """A carry of some examples is what these examples make on their own, or share."""
    rnn, xs, index = layer(name), inputs(), [4, 0, 4]

    def both(rnn, xs):
        carry = ran(rnn, xs)
        taken = mpj.take_examples(rnn, carry, index)

        def gradient(carry, xs):
            loss = lambda rnn: jnp.sum(rnn(xs, carry)[1] ** 2)  # noqa: E731
            return eqx.filter_grad(loss)(rnn)

        each = mpj.take_examples(rnn, carry, jnp.arange(B))
        return (
            carry,
            each,
            taken,
            [gradient(taken, xs[:, jnp.asarray(index)])]
            + [gradient(mpj.take_examples(rnn.cell, carry, [i]), xs[:, i : i + 1]) for i in (0, 4)],
        )

    carry, same, taken, (together, zero, four) = jit(both)(rnn, xs)
    assert_close(same, carry, 0.0)
    if name not in ("kernl", "dni"):  # what these learn comes from the whole batch
        assert_close(together, jax.tree.map(lambda a, b: a + 2 * b, zero, four), 1e-9)


def test_bare_states_and_vmap():
    rnn, xs = layer("eprop, learnt start"), inputs()
    state = jnp.ones((B, N))
    expected = jnp.where(ENDED[:, None], rnn.cell.init((B,)), state)
    np.testing.assert_array_equal(mpj.reset(rnn, state, list(map(bool, ENDED))), expected)
    np.testing.assert_array_equal(mpj.take_examples(rnn, state, [1]), state[:1])

    def alone(x, ended):
        carry, _ = rnn(x, rnn.init())
        return mpj.reset(rnn, carry, ended)

    each = jit(jax.vmap(alone, in_axes=(1, 0)))(xs, ENDED)
    carry, _ = rnn(xs, rnn.init((B,)))
    whole = mpj.reset(rnn, carry, ENDED)
    np.testing.assert_allclose(each.state, whole.state, atol=1e-14)
    for a, b in zip(jax.tree.leaves(each.trace), jax.tree.leaves(whole.trace), strict=True):
        np.testing.assert_allclose(jnp.moveaxis(a, 0, 1), b, atol=1e-14)


@pytest.mark.usefixtures("without_type_checks")
def test_errors():
    rnn = layer("eprop, presynaptic")
    carry = rnn.init((B,))
    with pytest.raises(ValueError, match=r"ended must be boolean of shape \(\*batch\) = \(6,\)"):
        mpj.reset(rnn, carry, jnp.ones(B))
    with pytest.raises(ValueError, match=r"but is bool of shape \(1, 6\)"):
        mpj.reset(rnn, carry, jnp.ones((1, B), bool))
    with pytest.raises(ValueError, match="does not fit rule=RTRL"):
        mpj.reset(mpj.RNN(rnn.cell, rule=mpj.RTRL()), carry, ENDED)
    with pytest.raises(ValueError, match="layer of reset must be an RNN or a cell, but is EProp"):
        mpj.reset(mpj.EProp(), carry, ENDED)  # pyright: ignore
    noise = mpj.RNN(rnn.cell, rule=mpj.KFRTRL(noise=np.ones((3, B, 2))))
    with pytest.raises(ValueError, match="take_examples can't take the noise of KFRTRL"):
        mpj.take_examples(noise, noise.init((B,), key=jr.key(0)), [0])
    with pytest.raises(ValueError, match="index must be integers of shape"):
        mpj.take_examples(rnn, carry, ENDED)
    with pytest.raises(ValueError, match=r"The carry is none of this LeakyCell"):
        mpj.reset(rnn.cell, jnp.zeros((B, N + 1)), ENDED)


class Doubled(mpj.NeuronCell):
    """One array for both variables, and a parameter for the start of a single example."""

    v0: jax.Array

    def __init__(self, key):
        mpj.NeuronCell.__init__(self, M, N, key=key)
        self.v0 = jnp.ones(N)

    def init(self, batch_shape: Any = ()):
        v = jnp.broadcast_to(self.v0, (*batch_shape, N))
        return v, v

    def integrate(self, state, drive):
        return 0.5 * state[0] + drive, 0.9 * state[1]

    def emit(self, state):
        return jnp.tanh(state[0] + state[1])


def assert_can_be_donated(given, *others):
    """Every buffer stands in it once, and in the others not at all."""
    leaves = jax.tree.leaves((given, *others), is_leaf=eqx.is_array)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in leaves if eqx.is_array(leaf) and leaf.size]
    assert len(set(buffers)) == len(buffers)


PRESETS: Any = "bellec_alif", "bellec_elig_alif", "mdgl"
STARTS = {
    "alif": lambda k: mpj.ALIFCell(M, N, tau=9.0, tau_adaptation=90.0, beta=1.0, key=k),
    "lif": lambda k: mpj.LIFCell(M, N, tau=9.0, key=k),
    "leaky": lambda k: mpj.LeakyCell(M, N, tau=9.0, key=k),
    "rate": lambda k: mpj.RateCell(M, N, key=k),
    "gru": lambda k: mpj.GRUCell(M, N, key=k),
    "lstm": lambda k: mpj.LSTMCell(M, N, key=k),
    "lru": lambda k: mpj.LRUCell(M, N, key=k),
    "rtu": lambda k: mpj.RTUCell(M, N, key=k),
    "gle": lambda _: CELLS["gle"](),
    "equilibrium": lambda k: mpj.EquilibriumCell.layered([M, N], activation=jnp.tanh, key=k),
    "filters": lambda _: mpj.Filtered(cell("leaky"), (0.5, 1.0)),
    "function": lambda _: mpj.FunctionCell(
        lambda p, s, x: s, jnp.ones(2), (np.zeros(2), np.zeros(2)), lambda s: s[0]
    ),
    **{
        name: lambda k, name=name: mpj.spiking_preset(
            name, M, N, tau=9.0, leak=0.5, tau_adaptation=90.0, beta=1.0, key=k
        )
        for name in PRESETS
    },
}


@pytest.mark.parametrize("batch", [(), (2,)])
def test_starts_can_be_donated(batch):
    cells = [make(jr.key(0)) for make in STARTS.values()]
    for c in cells:
        assert_can_be_donated(c.init(batch), c)
    public = {one for one in vars(mpj).values() if isinstance(one, type)}
    public = {one for one in public if issubclass(one, mpj.AbstractCell)}
    assert {one for one in public if not one.__abstractmethods__} <= set(map(type, cells))
    rnn = mpj.RNN(Doubled(jr.key(1)), rule=mpj.EProp())
    assert_can_be_donated(rnn.init(batch), rnn)


def test_carries_can_be_donated():
    learned = mpj.DNI(
        labels=2, jacobian="learned", learn=optax.adam(0.1), learn_jacobian=optax.sgd(0.1)
    )
    rnn = mpj.RNN(cell("leaky"), rule=mpj.ModProp(0.5, taps=2))
    carry = rnn.init((B,))
    assert_can_be_donated(carry, rnn)
    for other in [*map(layer, CASES), mpj.RNN(cell("leaky"), rule=learned)]:
        assert_can_be_donated(other.init((B,), key=jr.key(4)), other)
    assert_can_be_donated(mpj.take_examples(rnn, carry, range(B)), carry)
    jax.block_until_ready(jax.jit(lambda c: jax.tree.map(jnp.negative, c), donate_argnums=0)(carry))
