"""The summed gradient does not depend on how a sequence is cut into segments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import oracles
import pytest
from helpers import (
    assert_close,
    at_home,
    BATCH,
    begin,
    cell,
    CELLS,
    data,
    distance,
    error,
    gradient,
    home,
    jit,
    M,
    marked,
    N,
    Net,
    net,
    offline,
    OUT,
    pairs,
    plain_loss,
    plain_scan,
    rule,
    RULES,
    segment_loss,
    serves,
    streamed,
    streamed_gradient,
    T,
    TYPES,
    weights,
)

import modprop_jax as mpj


def much_like_another(rule, cell_name):
    """Cells on which a rule runs the code that it runs on another one."""
    alike = cell_name in ("leaky_tau", "rate", "filtered_rate", "filtered_leaky")
    alike |= cell_name == "filtered_leaky_taus" and rule not in ("rtrl", "eprop")
    alike |= cell_name == "filtered_adaptive" and rule in ("mdgl", "modprop")
    alike |= RULES[rule].cells is not None and cell_name not in (home(rule), "adaptive")
    return alike and cell_name != home(rule)


STREAMED = [marked(*pair) for pair in pairs("streams") if not much_like_another(*pair)]


@pytest.mark.parametrize("rule, cell_name", STREAMED)
def test_streamed_equals_offline(rule, cell_name):
    loss, expected = offline(rule, cell_name)
    # 5 steps leave a segment of a single step over
    for segment in (1, 5, T) if cell_name in ("leaky", "adaptive") else (1, 5):
        (value, carry), actual = streamed(rule, cell_name, segment)
        assert_close(actual, expected, 1e-9, f"segment={segment} ")
        np.testing.assert_allclose(value, loss, rtol=1e-12)
        assert carry.made_by == type(net(rule, cell_name).rnn.rule).__name__


def read_state(state):
    """A loss on the outgoing state, other for each of its variables."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if eqx.is_inexact_array(leaf)]
    return sum(jnp.sum((0.7 + i) * leaf**2 + leaf) for i, leaf in enumerate(leaves))


CHAINED = pairs("chained", cells=["leaky_tau"])
CHAINED += pairs("chained", ["eprop", "mdgl", "modprop_types"], ["filtered_adaptive"])
# of the others as well, more slowly
OTHERS = [pair for pair in at_home("chained") if not serves(pair[0], "leaky_tau")]
CHAINED += [("rtrl", "filtered_function"), ("modprop_types", "rate")]


@pytest.mark.parametrize("rule, cell_name", CHAINED + [marked(*pair, slow=True) for pair in OTHERS])
def test_one_gradient_over_a_chain_of_carries_equals_offline(rule, cell_name):
    """Six steps, a single one, four: the loss reads all emissions and the last state."""
    model, (xs, ys) = net(rule, cell_name), data()

    def whole(model):
        bare = not model.rnn.rule.needs_key
        end, outputs = model(xs, model.rnn.cell.init(BATCH) if bare else begin(model))
        return error(outputs, ys) + read_state(end if bare else end.state)

    def chained(model):
        total, carry = 0.0, begin(model)
        for start, stop in ((0, 6), (6, 7), (7, T)):
            carry, outputs = model(xs[start:stop], carry)
            total = total + error(outputs, ys[start:stop])
        return total + read_state(carry.state)

    value, expected = jit(eqx.filter_value_and_grad(whole))(model)
    total, actual = jit(eqx.filter_value_and_grad(chained))(model)
    assert_close(actual, expected)
    np.testing.assert_allclose(total, value, rtol=1e-12)


BATCHED = [
    ("eprop", "leaky"),
    ("modprop_types", "leaky"),
    ("modprop_types", "filtered_adaptive"),
    ("rtrl", "filtered_function"),
]


@pytest.mark.parametrize("rule, cell_name", BATCHED)
@pytest.mark.slow
def test_leading_batch_axes(rule, cell_name):
    """Axes (2, 3), and one example after the other without any axis, equal one axis of 6."""
    model, (xs, ys) = net(rule, cell_name), data((2, 3))
    rows = xs.reshape(T, 6, M), ys.reshape(T, 6, OUT)
    _, expected = gradient(model, *rows)
    stream = streamed_gradient(5)
    assert_close(gradient(model, xs, ys)[1], expected, what="offline ")
    assert_close(stream(model, xs, ys)[1], expected, what="streamed ")
    each = [stream(model, rows[0][:, i], rows[1][:, i])[1] for i in range(6)]
    assert_close(jax.tree.map(lambda *leaves: sum(leaves), *each), expected, what="one by one ")


TRAINED = [("eprop", "leaky_taus"), ("modprop_types", "adaptive")]


@pytest.mark.parametrize("rule, cell_name", TRAINED)
@pytest.mark.slow
def test_a_users_scan_over_segments_with_updates(rule, cell_name):
    """Four segments of three steps; the weights move after each of them."""
    model, (xs, ys) = net(rule, cell_name), data(steps=12)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.8))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    xs, ys = (a.reshape(4, 3, *a.shape[1:]) for a in (xs, ys))
    take_gradient = eqx.filter_value_and_grad(segment_loss, has_aux=True)

    def update(state, seen):
        params, moments, carry = state
        (loss, carry), gradients = take_gradient(eqx.combine(params, static), carry, *seen)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, carry), (loss, gradients)

    def stream(params, moments):
        state = params, moments, model.rnn.init(BATCH)
        (params, moments, _), outs = jax.lax.scan(update, state, (xs, ys))
        return params, moments, outs

    stream, single = jit(stream), jit(update)
    after, moments, (losses, gradients) = stream(params, optimizer.init(params))

    # the same, one call after the other
    state = params, optimizer.init(params), model.rnn.init(BATCH)
    for k in range(4):
        state, (loss, one) = single(state, (xs[k], ys[k]))
        np.testing.assert_allclose(losses[k], loss, rtol=1e-12)
        assert_close(jax.tree.map(lambda g: g[k], gradients), one)
    assert_close(after, state[0])

    # moving weights are not frozen ones
    frozen = gradient(model, *data(steps=12))[1]
    moved = jax.tree.map(lambda g: g.sum(0), gradients)
    assert distance(moved, frozen) > 1e-3
    # and they learn
    first = losses.sum()
    for _ in range(60):
        after, moments, (losses, _) = stream(after, moments)
    assert losses.sum() < 0.8 * first


def closed_loop(rule, c, readout, into, noise, ys):
    """x_{t+1} = P z_t + noise: gradients of segments of one step, in the user's own scan."""

    def loss(cell, carry, x, y):
        carry, zs = mpj.scan(cell, carry, x[None], rule=rule)
        outputs = zs @ readout.weight.T + jnp.broadcast_to(readout.bias, (*zs.shape[:2], OUT))
        return error(outputs, y[None]), (carry, zs[0])

    def step(state, seen):
        carry, z = state
        u, y = seen
        x = z @ into.T + u
        gradients, (carry, z) = eqx.filter_grad(loss, has_aux=True)(c, carry, x, y)
        return (carry, z), (gradients, x)

    start = rule.init(c, c.init(BATCH)), c.emit(c.init(BATCH))
    _, (gradients, xs) = jax.lax.scan(step, start, (noise, ys))
    return jax.tree.map(lambda g: g.sum(0), gradients), xs


@pytest.mark.parametrize("rule, cell_name", [("eprop", "rate"), ("modprop_types", "leaky")])
def test_closed_loop(rule, cell_name):
    c, model, (noise, ys) = cell(cell_name), net(rule, cell_name), data()
    into = 0.5 * jr.normal(jr.key(9), (M, N))
    run = jit(lambda c: closed_loop(model.rnn.rule, c, model.readout, into, noise, ys))
    actual, xs = run(c)
    W, W_in, b = (np.array(a) for a in (c.weight_rec, c.weight_in, c.bias))
    V, bias = np.array(model.readout.weight), np.array(model.readout.bias)

    def signal(t, z):
        outputs = z @ V.T + bias
        return (outputs - np.array(ys)[t] + 0.3 * outputs**2) / BATCH[0] @ V

    if cell_name == "rate":
        zs, expected = oracles.rflo(W, W_in, b, float(c.alpha), np.array(xs), signal)
    else:
        W = W * (1 - np.eye(N))
        run = oracles.run_leaky(W, W_in, b, float(np.exp(-1 / 4)), np.array(xs))
        ell = np.stack([signal(t, z) for t, z in enumerate(run.z)])
        expected = oracles.leaky_causal(rule, run, ell, types=TYPES, mu=0.5)
        zs = run.z
    sent = np.concatenate([np.zeros((1, *BATCH, N)), zs[:-1]])
    np.testing.assert_allclose(xs, sent @ np.array(into).T + noise, atol=1e-12)
    actual = {key: np.asarray(getattr(actual, key)) for key in expected}
    assert_close(actual, expected, 1e-11)


@pytest.mark.parametrize("cell_name", ["leaky_taus", "adaptive", "filtered_rate", "function"])
def test_bptt_in_segments_is_truncated(cell_name):
    xs, ys = data()

    def truncated(model):
        total, state = 0.0, model.rnn.cell.init(BATCH)
        for start in range(0, T, 5):
            part = slice(start, start + 5)
            state, zs = plain_scan(model.rnn.cell, jax.lax.stop_gradient(state), xs[part])
            total = total + error(model.readout(zs), ys[part])
        return total

    expected = jit(eqx.filter_grad(truncated))(net("bptt", cell_name))
    (_, carry), actual = streamed("bptt", cell_name, 5)
    assert_close(actual, expected)
    assert carry.trace is None
    assert distance(actual, offline("bptt", cell_name)[1]) > 0.02


@pytest.mark.parametrize("cell_name", ["leaky_tau", "filtered_adaptive", "function"])
def test_checkpointed_gradient_is_exact(cell_name):
    model, (xs, ys) = net("bptt", cell_name), data()
    (loss, last), actual = jit(mpj.checkpointed_value_and_grad(segment_loss, segment=4))(
        model, cell(cell_name).init(BATCH), xs, ys
    )
    value, expected = jit(eqx.filter_value_and_grad(plain_loss))(model, xs, ys)
    np.testing.assert_allclose(loss, value, rtol=1e-12)
    assert_close(actual, expected)
    assert_close(last, plain_scan(cell(cell_name), cell(cell_name).init(BATCH), xs)[0])


def test_checkpointed_gradient_of_a_learnable_initial_state():
    xs, ys = data()
    start = tuple(0.3 * jr.normal(key, (N,)) for key in jr.split(jr.key(0)))

    def begin(start):
        return jax.tree.map(lambda s: jnp.broadcast_to(s, (*BATCH, N)), start)

    def segment(both, carry, xs, ys):
        (model, start), (first, state) = both, carry
        state = jax.tree.map(lambda a, b: jnp.where(first, a, b), begin(start), state)
        state, outputs = model(xs, state)
        return error(outputs, ys), (jnp.zeros_like(first), state)

    def plain(both):
        model, start = both
        zs = plain_scan(model.rnn.cell, begin(start), xs)[1]
        return error(model.readout(zs), ys)

    both = net("bptt", "adaptive"), start
    carry = jnp.asarray(True), cell("adaptive").init(BATCH)
    (loss, _), actual = jit(mpj.checkpointed_value_and_grad(segment, segment=4))(
        both, carry, xs, ys
    )
    value, expected = jit(eqx.filter_value_and_grad(plain))(both)
    np.testing.assert_allclose(loss, value, rtol=1e-12)
    assert_close(actual, expected)


@pytest.mark.parametrize("rule", ["rtrl", "eprop", "modprop_types", "mdgl"])
def test_a_segment_of_one_step_gives_the_inputs_their_instantaneous_credit(rule):
    # one step from a bare state has only instantaneous credit, and the same under every rule
    model, (xs, ys) = net(rule, "filtered_adaptive"), data(steps=1)
    state = jax.tree.map(
        lambda s: s + 0.2, cell("filtered_adaptive").init(BATCH), is_leaf=eqx.is_array
    )

    def bare(xs):
        return error(model(xs, state)[1], ys)

    def streaming(xs):
        return error(model(xs, model.rnn.rule.init(model.rnn.cell, state))[1], ys)

    assert_close(jit(jax.grad(streaming))(xs), jit(jax.grad(bare))(xs))


class TwoFeatures(mpj.NeuronCell):
    """A leaky neuron that shows the loss two features, and sends one."""

    def init(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size))

    def integrate(self, state, drive):
        return 0.7 * state + 0.3 * drive

    def message(self, state):
        return jnp.tanh(state)

    def emit(self, state):
        return jnp.concatenate([jnp.tanh(state), state**2], axis=-1)


def test_a_filtered_emission_of_several_features_a_neuron():
    c = mpj.Filtered(TwoFeatures(M, N, key=jr.key(0)), 0.6)  # pyright: ignore
    model = Net(mpj.RNN(c, rule=mpj.EProp()), mpj.Readout(2 * N, OUT, key=jr.key(1)))
    expected = gradient(model, *data())[1]
    actual = streamed_gradient(5)(model, *data())[1]
    assert_close(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eprop", "mdgl_types"])
def test_what_several_filters_remember_streams_exactly(name):
    """A leak of 1 sums emissions since the start, for a cost of their mean in the last step."""
    c = mpj.Filtered(cell("adaptive"), (np.linspace(0.3, 0.8, N), 1.0), scale=True)
    readout = mpj.Readout(N, OUT, key=jr.key(1))
    model = Net(mpj.RNN(c, rule=rule(name)), readout)
    xs, ys = data()
    last = jnp.zeros(T).at[-1].set(1.0)

    def segment_loss(model, carry, xs, ys):
        carry, both = model.rnn(xs, carry)
        costs = jnp.sum((both[..., N:].mean(1) / T - 0.1) ** 2, axis=-1)
        return error(model.readout(both[..., :N]), ys[0]) + 30 * costs @ ys[1], carry

    def whole(model):
        return segment_loss(model, model.rnn.cell.init(BATCH), xs, (ys, last))[0]

    def without(model):
        return error(model.readout(model.rnn(xs)[..., :N]), ys)

    expected = jit(mpj.value_and_grad(whole))(model)
    assert distance(jit(mpj.value_and_grad(without))(model)[1], expected[1]) > 1e-2
    for segment in (1, 4):
        stream = mpj.online_value_and_grad(segment_loss, segment=segment)
        (loss, _), actual = jit(stream)(model, model.rnn.init(BATCH), xs, (ys, last))
        assert_close((loss, actual), expected)
    zs = jit(lambda: mpj.scan(cell("adaptive"), cell("adaptive").init(BATCH), xs)[1])()
    _, both = mpj.scan(c, c.init(BATCH), xs)
    assert_close(both[-1, ..., N:], zs.sum(0), 1e-13)


def test_bare_states_with_integers_chain():
    c, xs = cell("refractory"), data()[0]

    def chained(c):
        state, zs = mpj.scan(c, c.init(BATCH), xs[:5])
        return jnp.sum(zs**2) + jnp.sum(mpj.scan(c, state, xs[5:])[1] ** 2)

    def whole(c):
        return jnp.sum(mpj.scan(c, c.init(BATCH), xs)[1] ** 2)

    assert_close(jit(eqx.filter_grad(chained))(c), jit(eqx.filter_grad(whole))(c))


def test_the_past_takes_no_cotangent_twice():
    """A carry is a constant on entry: its state and its trace get no gradient of their own."""
    model, (xs, ys) = net("eprop", "leaky"), data()
    carry = model.rnn.init(BATCH)

    def loss(state, trace):
        into = mpj.Carry(state, trace, carry.observed, carry.rule)
        carry_out, outputs = model(xs[:4], into)
        return error(outputs, ys[:4]) + read_state(carry_out.state)

    gradients = jit(jax.grad(loss, (0, 1)))(carry.state, carry.trace)
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", CELLS)
def test_values_do_not_depend_on_rule_carry_chunk_or_unroll(name):
    c, xs = cell(name), data()[0]
    local = not name.endswith("function")
    rules = [mpj.BPTT(), mpj.ModProp(0.5, TYPES) if local else mpj.RTRL()]

    def run():
        state = c.init(BATCH)
        for each in rules:
            yield mpj.scan(c, state, xs, rule=each, chunk=4, unroll=3)
            carry, zs = mpj.scan(c, each.init(c, state), xs, rule=each)
            yield carry.state, zs

    expected = plain_scan(c, c.init(BATCH), xs)
    for actual in jit(lambda: list(run()))():
        assert_close(actual, expected, 1e-13)


def test_weights_alone_are_compared():
    # the helpers' comparison sees a wrong leaf, and NaN
    _, gradients = offline("eprop", "leaky")
    wrong = eqx.tree_at(
        lambda g: g.rnn.cell.bias, gradients, gradients.rnn.cell.bias.at[0].add(1e-6)
    )
    broken = eqx.tree_at(lambda g: g.rnn.cell.bias, gradients, gradients.rnn.cell.bias * jnp.nan)
    for bad in (wrong, broken):
        with pytest.raises(AssertionError, match="bias"):
            assert_close(weights(bad), weights(gradients))
