"""GRUCell and LSTMCell: the equations of equinox, under every rule that serves them."""

import functools
import pathlib
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flagged import DONE, flagged, MASK as PRESENT, ORDER, padded, stream
from helpers import (
    assert_close,
    BATCH,
    data,
    distance,
    error,
    gradient,
    jit,
    M,
    MASK,
    N,
    Net,
    offline_loss,
    OUT,
    segment_loss,
    streamed_gradient,
    T,
    TYPES,
    weights,
)
from jax import lax

import modprop_jax as mpj
from modprop_jax._rule.snap._own import OwnUnit


pytestmark = pytest.mark.slow


FIGURES = np.load(pathlib.Path(__file__).parents[1] / "golden" / "eprop_mdgl_snap.npz")
EQUINOX = {"gru": eqx.nn.GRUCell, "lstm": eqx.nn.LSTMCell}
OURS = {"gru": mpj.GRUCell, "lstm": mpj.LSTMCell}


class Counting(mpj.SeparableCell):
    """A leaky unit that sends nothing and forgets faster in odd steps, which it counts."""

    weight: jax.Array
    rho: jax.Array
    slope: jax.Array

    def __init__(self):
        self.weight = jr.normal(jr.key(1), (N, M))
        self.rho = jnp.linspace(0.3, 0.9, N)
        self.slope = jnp.linspace(1.5, 0.5, N)

    @property
    def in_size(self):
        return M

    @property
    def hidden_size(self):
        return N

    @property
    def drive_parameters(self):
        return ("weight",)

    @property
    def unit_parameters(self):
        return "weight", "rho", "slope"

    def init(self, batch_shape=()):
        return jnp.zeros((*batch_shape, N)), jnp.zeros((*batch_shape, N), jnp.int32)

    def message(self, state) -> Any:
        return None

    def drive(self, message, x):
        return x @ self.weight.T

    def integrate(self, state, drive):
        h, count = state
        rho = jnp.broadcast_to(self.rho, h.shape)
        return jnp.where(count % 2 == 1, 0.5, 1.0) * rho * h + drive, count + 1

    def emit(self, state):
        return jnp.tanh(jnp.broadcast_to(self.slope, state[0].shape) * state[0])


def strong(cell):
    """Recurrence strong enough for the rules to differ."""
    return eqx.tree_at(lambda c: c.weight_hh, cell, 2 * cell.weight_hh)


@functools.cache
def cell(name) -> Any:
    if name == "filtered":
        inner = strong(mpj.GRUCell(M, N, use_bias=False, mask=MASK, key=jr.key(3)))
        return mpj.Filtered(inner, (0.7, 1.0))
    return strong(OURS[name](M, N, key=jr.key(2)))


def net(name, rule):
    out = 2 * N if name == "filtered" else N
    return Net(mpj.RNN(cell(name), rule=rule), mpj.Readout(out, OUT, key=jr.key(7)))


@functools.cache
def offline(name, rule):
    return gradient(net(name, rule), *data())


def arrays(cell):
    names = "weight_ih", "weight_hh", "bias", "bias_n"
    every = {name: getattr(cell, name, None) for name in names}
    return {name: array for name, array in every.items() if array is not None}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_equals_equinox(kind, use_bias):
    """States step by step; gradients of parameters, initial state and inputs."""
    theirs = strong(EQUINOX[kind](M, N, use_bias, key=jr.key(1)))
    ours: Any = OURS[kind].from_equinox(theirs)
    xs, weight = data()[0], jr.normal(jr.key(4), (T, *BATCH, N))
    start = jax.tree.map(lambda s: 0.3 * jr.normal(jr.key(5), s.shape), ours.init(BATCH))

    def loss(run, cell, start, xs):
        last, hs = run(cell, start, xs)
        ends = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(last))
        return jnp.sum(weight * hs + hs**3) + ends, (last, hs)

    def by_equinox(cell, start, xs):
        def step(state, x):
            state = jax.vmap(cell)(x, state)
            return state, state if kind == "gru" else state[0]

        return lax.scan(step, start, xs)

    def by_us(cell, start, xs):
        return mpj.scan(cell, start, xs, chunk=4)

    def both(*args):
        each = []
        for run, cell in ((by_us, ours), (by_equinox, theirs)):
            grad = eqx.filter_grad(lambda a, run=run: loss(run, *a), has_aux=True)
            (d_cell, *ds), values = grad((cell, *args))
            each.append((arrays(d_cell), ds, values))
        return each

    found, expected = jit(both)(start, xs)
    assert_close(found, expected, 1e-10)
    assert set(expected[0]) == set(arrays(theirs))


def by_hand(kind, cell, autapse, state, x):
    """A step whose message has no derivative, but along its own autapse if asked."""
    h = lax.stop_gradient(state if kind == "gru" else state[0])
    inside = h @ cell.weight_hh.T
    if autapse:
        moved = (state if kind == "gru" else state[0]) - h
        own = jnp.concatenate([jnp.diag(u) for u in jnp.split(cell.weight_hh, len(cell.bias) // N)])
        own = jnp.broadcast_to(lax.stop_gradient(own), inside.shape)
        inside = inside + own * jnp.tile(moved, len(cell.bias) // N)
    outside = x @ cell.weight_ih.T + jnp.broadcast_to(cell.bias, inside.shape)
    if kind == "gru":
        ir, iz, into = jnp.split(outside, 3, axis=-1)
        hr, hz, hn = jnp.split(inside, 3, axis=-1)
        hn = hn + jnp.broadcast_to(cell.bias_n, hn.shape)
        z = jax.nn.sigmoid(iz + hz)
        return z * state + (1 - z) * jnp.tanh(into + jax.nn.sigmoid(ir + hr) * hn)
    i, f, g, o = jnp.split(outside + inside, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


@pytest.mark.parametrize("rule", [mpj.EProp(), OwnUnit()])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_local_rules_are_autodiff_with_the_message_stopped(kind, rule):
    model, (xs, ys) = net(kind, rule), data()

    def loss(model):
        cell = model.rnn.cell

        def step(state, x):
            state = by_hand(kind, cell, isinstance(rule, OwnUnit), state, x)
            return state, cell.emit(state)

        return error(model.readout(lax.scan(step, cell.init(BATCH), xs)[1]), ys)

    expected = jit(eqx.filter_value_and_grad(loss))(model)
    assert_close(offline(kind, rule), expected, 1e-10)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_rules_differ(kind):
    each = [weights(offline(kind, r)[1]) for r in (mpj.EProp(), OwnUnit(), mpj.BPTT())]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert distance(each[i], each[j]) > 1e-2


def golden_gradient(cell, rule, name):
    """Gradient of the golden loss, and the figures of a network."""
    figures = {key.split("/", 1)[1]: FIGURES[key] for key in FIGURES if key.startswith(name)}
    xs, ys = (np.swapaxes(figures[key], 0, 1) for key in ("x", "target"))
    batch = xs.shape[1:-1]

    def loss(cell):
        _, zs = mpj.scan(cell, cell.init(batch), jnp.asarray(xs), rule=rule)
        return 0.5 * jnp.sum((zs @ figures["C"].T - ys) ** 2) / batch[0]

    return jit(eqx.filter_value_and_grad(loss))(cell), figures


def assert_golden(found, figures, name, keys):
    for field, key in keys.items():
        assert_close(getattr(found, field), jnp.asarray(figures[f"{name}/{key}"]), 1e-10, key)


@pytest.mark.parametrize(
    "rule, name", [(mpj.BPTT(), "rtrl"), (mpj.SnAp(1), "snap1"), (mpj.SnAp(20), "rtrl")]
)
def test_golden_gru(rule, name):
    """With another connectivity for each gate."""
    like = eqx.nn.GRUCell(3, 6, key=jr.key(0))
    figures = [jnp.asarray(FIGURES[f"gru/{key}"]) for key in ("Wi", "Wh", "b", "bn")]
    like = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n), like, figures)
    cell = mpj.GRUCell.from_equinox(like, mask=FIGURES["gru/mask_h"] > 0)
    (loss, found), figures = golden_gradient(cell, rule, "gru")
    np.testing.assert_allclose(loss, figures["loss"], rtol=1e-12)
    keys = {"weight_ih": "dWi", "weight_hh": "dWh", "bias": "db", "bias_n": "dbn"}
    assert_golden(found, figures, name, keys)


@pytest.mark.parametrize("rule, name", [(mpj.BPTT(), "rtrl"), (OwnUnit(), "snap1")])
def test_golden_tanh(rule, name):
    """A NeuronCell's own message passes its autapse alone."""
    like = mpj.RateCell(3, 6, mask=FIGURES["tanh/mask"] > 0, key=jr.key(0))
    figures = [jnp.asarray(FIGURES[f"tanh/{key}"]) for key in ("W", "U", "b")]
    like = eqx.tree_at(lambda c: (c.weight_rec, c.weight_in, c.bias), like, figures)
    (loss, found), figures = golden_gradient(like, rule, "tanh")
    np.testing.assert_allclose(loss, figures["loss"], rtol=1e-12)
    keys = {"weight_rec": "dW", "weight_in": "dU", "bias": "db"}
    assert_golden(found, figures, name, keys)


STREAMS = [
    *[("gru", mpj.EProp(), k) for k in (1, 4, T)],
    *[(name, mpj.EProp(), k) for name in ("lstm", "filtered") for k in (1, 4)],
    *[("gru", mpj.RTRL(), k) for k in (1, 4, T)],
    *[(name, mpj.RTRL(), 4) for name in ("lstm", "filtered")],
    ("lstm", OwnUnit(), 4),
]


@pytest.mark.parametrize("name, rule, segment", STREAMS)
def test_streamed_is_offline(name, rule, segment):
    model, (xs, ys) = net(name, rule), data()
    (loss, _), found = streamed_gradient(segment)(model, xs, ys)
    expected = offline(name, mpj.BPTT() if isinstance(rule, mpj.RTRL) else rule)
    assert_close((loss, weights(found)), (expected[0], weights(expected[1])))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "filtered"])
def test_flags(name):
    """Two sequences in each example, and padding: as if each had been run apart."""
    model, (xs, ys) = net(name, mpj.EProp()), data()
    pieces = [(np.asarray(ORDER[b] == i), b) for b, i in ((0, 1), (0, 2), (1, 3), (1, 4))]
    each = [jnp.stack([a[where, b] for where, b in pieces], 1) for a in (xs, ys)]
    apart = flagged(model, *each, None, jnp.ones((4, 4), bool))
    xs, ys = padded()
    assert_close(flagged(model, xs, ys, DONE, PRESENT), apart)
    (loss, _), found = stream(3)(model, model.rnn.init(BATCH), (xs, DONE, PRESENT), ys)
    assert_close((loss, found), apart)


@pytest.mark.parametrize("counting", [Counting(), mpj.Filtered(Counting(), 0.7, scale=True)])
@pytest.mark.parametrize("segment", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_cell_of_ones_own_with_an_integer_variable(segment, counting):
    """Units that send nothing: local rules are exact, and each parameter's trace its unit's own."""
    model, (xs, ys) = Net(mpj.RNN(counting), mpj.Readout(N, OUT, key=jr.key(7))), data()
    _, *local = models = [mpj.with_rule(model, r) for r in (mpj.BPTT(), mpj.EProp(), OwnUnit())]
    exact, *others = jit(lambda: [mpj.value_and_grad(offline_loss)(m, xs, ys) for m in models])()
    for m in local:
        (loss, _), found = streamed_gradient(segment)(m, xs, ys)
        others.append((loss, found))
    for loss, found in others:
        assert_close((loss, weights(found)), (exact[0], weights(exact[1])))


@pytest.mark.slow
def test_finite_differences():
    (xs, ys), model = data(), net("lstm", mpj.BPTT())
    diff, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(diff)
    keys = jr.split(jr.key(8), len(leaves))
    along = [jr.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]

    def loss(step):
        moved = [leaf + step * a for leaf, a in zip(leaves, along)]
        return offline_loss(eqx.combine(jax.tree.unflatten(structure, moved), static), xs, ys)

    after, before = jit(jax.vmap(loss))(jnp.asarray([1e-5, -1e-5]))
    slope = sum(
        jnp.sum(a * g) for a, g in zip(along, jax.tree.leaves(offline("lstm", mpj.BPTT())[1]))
    )
    np.testing.assert_allclose((after - before) / 2e-5, slope, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_the_step_of_eprop_in_forward_mode(kind):
    """`jax.jvp` along `rule.step` gives the rule's directional derivative."""
    (xs, ys), model = data(), net(kind, mpj.EProp())
    diff, static = eqx.partition(model.rnn.cell, eqx.is_inexact_array)
    along = jax.tree.map(lambda p: jr.normal(jr.key(p.size), p.shape), diff)

    def loss(diff):
        c = eqx.combine(diff, static)

        def step(state, x):
            state = mpj.EProp().step(c, state, x)
            return state, c.emit(state)

        return error(model.readout(lax.scan(step, c.init(BATCH), xs)[1]), ys)

    _, slope = jit(lambda: jax.jvp(loss, (diff,), (along,)))()
    found = offline(kind, mpj.EProp())[1].rnn.cell
    products = jax.tree.map(lambda a, g: jnp.sum(a * g), along, found)
    np.testing.assert_allclose(slope, sum(jax.tree.leaves(products)), rtol=1e-10)


@pytest.mark.parametrize("rule", [mpj.BPTT(), mpj.EProp()])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_mask_is_zero_weights_without_gradient(kind, rule):
    connected = jnp.tile(MASK, (len(cell(kind).bias) // N, 1))
    masked: Any = OURS[kind].from_equinox(strong(EQUINOX[kind](M, N, key=jr.key(6))), mask=MASK)
    full: Any = OURS[kind].from_equinox(strong(EQUINOX[kind](M, N, key=jr.key(6))))
    zeroed = eqx.tree_at(lambda c: c.weight_hh, full, jnp.where(connected, full.weight_hh, 0))
    np.testing.assert_array_equal(masked.weight_hh, zeroed.weight_hh)
    # what is stored at missing synapses is not used
    masked = eqx.tree_at(lambda c: c.weight_hh, masked, full.weight_hh)
    effective = masked.effective()
    assert effective.mask is None
    np.testing.assert_array_equal(effective.weight_hh, zeroed.weight_hh)
    readout = mpj.Readout(N, OUT, key=jr.key(7))
    (loss, found), (expected_loss, expected) = (
        gradient(Net(mpj.RNN(c, rule=rule), readout), *data()) for c in (masked, zeroed)
    )
    expected = arrays(expected.rnn.cell)
    assert (np.asarray(expected["weight_hh"])[~connected] != 0).all()
    expected["weight_hh"] = jnp.where(connected, expected["weight_hh"], 0)
    assert_close((loss, arrays(found.rnn.cell)), (expected_loss, expected))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_initial_parameters_are_those_of_equinox(kind, use_bias, getkey):
    key = getkey()
    theirs = EQUINOX[kind](M, N, use_bias, key=key)
    made = OURS[kind](M, N, use_bias=use_bias, key=key)
    taken = OURS[kind].from_equinox(theirs, mask=MASK)
    for ours in (made, taken):
        assert arrays(ours).keys() == arrays(theirs).keys()
        for name, array in arrays(theirs).items():
            if ours is taken and name == "weight_hh":
                array = jnp.where(np.tile(MASK, (len(array) // N, 1)), array, 0)
            np.testing.assert_array_equal(getattr(ours, name), array)
    assert (made.in_size, made.hidden_size, made.mask) == (M, N, None)
    np.testing.assert_array_equal(taken.mask, MASK)


def test_single_precision():
    """Parameters, activity, gradients and traces stay float32, close to those in float64."""
    model = net("gru", mpj.EProp())
    single = jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, model)
    xs, ys = (a.astype(jnp.float32) for a in data())
    (loss, carry), found = streamed_gradient(4)(single, xs, ys)
    for leaf in jax.tree.leaves((loss, carry, found)):
        assert leaf.dtype == jnp.float32
    assert 0 < distance(found, offline("gru", mpj.EProp())[1]) < 1e-5
    assert mpj.GRUCell(M, N, dtype=jnp.float32, key=jr.key(0)).weight_ih.dtype == jnp.float32


@pytest.mark.slow
def test_vmap_over_examples():
    model, (xs, ys) = net("gru", mpj.EProp()), data()
    online = mpj.online_value_and_grad(segment_loss, segment=4)

    def each(x, y):
        streamed = online(model, model.rnn.init(), x, y)[1]
        return streamed, mpj.value_and_grad(offline_loss)(model, x, y)[1]

    streamed, whole = jit(eqx.filter_vmap(each, in_axes=1))(xs, ys)
    assert_close(streamed, whole)
    assert_close(jax.tree.map(lambda g: g.sum(0), whole), offline("gru", mpj.EProp())[1])


def test_one_trace_under_jit():
    chex.clear_trace_counter()

    @jit
    @chex.assert_max_traces(n=1)
    def step(model, xs, ys):
        gradients = mpj.value_and_grad(offline_loss)(model, xs, ys)[1]
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradients))

    model: Any = net("lstm", mpj.EProp())
    before, *_ = offline("lstm", mpj.EProp())
    for _ in range(3):
        model = step(model, *data())
    assert offline_loss(model, *data()) < before


def flax_gru(variables, carry, x):
    """`flax.linen.GRUCell(N).apply`: (carry, output), parameters in Flax's layout."""
    p = variables["params"]

    def dense(layer, x):
        y = x @ layer["kernel"]
        return y + jnp.broadcast_to(layer["bias"], y.shape) if "bias" in layer else y

    r = jax.nn.sigmoid(dense(p["ir"], x) + dense(p["hr"], carry))
    z = jax.nn.sigmoid(dense(p["iz"], x) + dense(p["hz"], carry))
    n = jnp.tanh(dense(p["in"], x) + r * dense(p["hn"], carry))
    carry = (1 - z) * n + z * carry
    return carry, carry


def test_a_recurrent_cell_of_flax_or_haiku():
    """A bare function with a dictionary of parameters is a cell; its gradients are a dictionary.

    Haiku: `apply = hk.without_apply_rng(hk.transform(lambda x, s: hk.GRU(n)(x, s))).apply`, and
    `lambda params, state, x: apply(params, x, state)[1]`.
    """
    ours = cell("gru")
    into, sent = (jnp.split(w, 3) for w in (ours.weight_ih, ours.weight_hh))
    biases = jnp.split(ours.bias, 3)
    gates = zip("rzn", into, sent, biases)
    params = {}
    for gate, w, u, b in gates:
        params[f"i{gate}"], params[f"h{gate}"] = {"kernel": w.T, "bias": b}, {"kernel": u.T}
    params["hn"]["bias"] = ours.bias_n

    wrapped = mpj.FunctionCell(
        lambda params, state, x: flax_gru({"params": params}, state, x)[0], params, np.zeros(N)
    )

    (xs, ys), readout = data(), mpj.Readout(N, OUT, key=jr.key(7))
    model = Net(mpj.RNN(wrapped, rule=mpj.RTRL()), readout)
    (loss, _), found = streamed_gradient(4)(model, xs, ys)
    found = found.rnn.cell.params
    assert jax.tree.structure(found) == jax.tree.structure(params)
    expected_loss, expected = offline("gru", mpj.BPTT())
    expected = expected.rnn.cell
    side = {
        "weight_ih": jnp.concatenate([found[f"i{g}"]["kernel"].T for g in "rzn"]),
        "weight_hh": jnp.concatenate([found[f"h{g}"]["kernel"].T for g in "rzn"]),
        "bias": jnp.concatenate([found[f"i{g}"]["bias"] for g in "rzn"]),
        "bias_n": found["hn"]["bias"],
    }
    assert_close((loss, side), (expected_loss, arrays(expected)))


@pytest.mark.parametrize("mask", [np.ones((N, N)), np.ones((N, N - 1), bool)])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_wrong_mask(kind, mask):
    with pytest.raises(ValueError, match=r"boolean of shape \(6, 6\) or \((18|24), 6\) \[post"):
        OURS[kind](M, N, mask=mask, key=jr.key(0))


def test_wrong_arguments(without_type_checks):
    with pytest.raises(ValueError, match="cell to be an equinox.nn.LSTMCell, but it is GRUCell"):
        gru: Any = eqx.nn.GRUCell(M, N, key=jr.key(0))
        mpj.LSTMCell.from_equinox(gru)
    xs, _ = data()
    for rule in (mpj.MDGL(TYPES), mpj.ModProp(0.5)):
        with pytest.raises(ValueError, match="needs a NeuronCell"):
            mpj.scan(cell("gru"), cell("gru").init(BATCH), xs, rule=rule)
    with pytest.raises(ValueError, match="xs has 3 features, but this GRUCell was made for"):
        mpj.GRUCell(M + 1, N, key=jr.key(0)).check_input(M)


class Odd(Counting):
    """Sends what it emits, and has a parameter that belongs to no unit."""

    def message(self, state):
        return self.emit(state)

    def drive(self, message, x):
        return message + x @ self.weight.T


def test_a_cell_that_does_not_fit():
    def of(cell):
        return Net(mpj.RNN(cell), mpj.Readout(N, OUT, key=jr.key(7)))

    odd: Any = Odd()  # pyright: ignore
    with pytest.raises(ValueError, match=r"Odd does not say .* define received_own"):
        jit(mpj.value_and_grad(offline_loss, OwnUnit()))(of(odd), *data())
    odd = eqx.tree_at(lambda c: c.rho, odd, jnp.ones(N - 1))
    with pytest.raises(ValueError, match="Odd.integrate must take arrays with any number of"):
        mpj.EProp().init(odd, odd.init(BATCH))
