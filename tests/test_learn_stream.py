"""Learning a stream: against loops by hand, with targets that are known later, and going on."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close

import modprop_jax as mpj


T, M, N = 11, 3, 4
RATE = 0.3
XS = jr.normal(jr.key(5), (T, M))
YS = jnp.sin(jnp.cumsum(XS[:, :2], axis=0))


def squares(outputs, ys):
    return jnp.sum((outputs - ys) ** 2)


def network(rule: Any = mpj.EProp(), seed: int = 0) -> Any:
    one, other = jr.split(jr.key(seed))
    cell = mpj.RateCell(M, N, alpha=0.6, key=one)
    return eqx.nn.Sequential([mpj.RNN(cell, rule=rule), mpj.Readout(N, 2, key=other)])


def learn(model: Any = None, xs: Any = XS, ys: Any = YS, **options: Any) -> Any:
    model = network() if model is None else model
    settings = {"loss": squares, "optimizer": optax.sgd, "learning_rate": RATE} | options
    return mpj.learn_stream(model, xs, ys, **settings)


def by_hand(model: Any, *, delay: int = 0, segment: int = 1, done: Any = None) -> Any:
    """Step by step in Python: a learner with a carry, a copy that predicts from a bare state."""

    @eqx.filter_jit
    def step(model, carry, xs, ys, done):
        rnn, readout = model.layers

        def loss(model):
            rnn, readout = model.layers
            after, zs = rnn(xs, carry, done=done)
            return squares(readout(zs), ys), after

        (_, after), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        _, zs = rnn(xs, carry, done=done)
        return (
            eqx.apply_updates(model, jax.tree.map(lambda g: -RATE * g, grads)),
            after,
            readout(zs),
        )

    @eqx.filter_jit
    def predict(model, state, xs, done):
        rnn, readout = model.layers
        state, zs = rnn(xs, state, done=done)
        return state, readout(zs)

    rnn, _ = model.layers
    carry, state, outputs = rnn.init(), rnn.cell.init(), []
    done = jnp.zeros(T, bool) if done is None else done
    if delay:
        state, early = predict(model, state, XS[:delay], done[:delay])
        outputs.append(early)
    for first in range(0, T - delay, segment):
        last = min(first + segment, T - delay)
        now, then = slice(first + delay, last + delay), slice(first, last)
        state, ahead = predict(model, state, XS[now], done[now])
        model, carry, made = step(model, carry, XS[then], YS[then], done[then])
        outputs.append(ahead if delay else made)
    return model, jnp.concatenate(outputs)


@pytest.mark.parametrize("delay, segment", [(0, 1), (2, 1), (0, 3), (2, 3), (T + 1, 1)])
def test_it_is_the_loop_by_hand(delay, segment):
    if delay > T:
        _, outputs, carry = learn(delay=delay)
        _, expected = by_hand(network(), delay=T)
        assert len(carry.waiting[0]) == T
    else:
        model, outputs, carry = learn(delay=delay, segment=segment)
        expected_model, expected = by_hand(network(), delay=delay, segment=segment)
        assert_close(model, expected_model, 1e-10)
        assert len(carry.waiting[0]) == delay
    assert outputs.shape == YS.shape
    assert_close(outputs, expected, 1e-10)


def test_a_delay_makes_a_difference_and_no_output_knows_its_truth():
    """Changing the truth of a step changes no output until `delay` + 1 steps later, but then."""
    at = 4
    changed = YS.at[at].add(1.0)
    for delay in (0, 2):
        before, after = learn(delay=delay)[1], learn(ys=changed, delay=delay)[1]
        moved = np.flatnonzero(np.any(before != after, axis=1))
        assert moved[0] == at + 1 + delay
    assert not np.allclose(learn(delay=2)[1], learn()[1])


@pytest.mark.parametrize(
    "rule", [mpj.RTRL(), mpj.MDGL([0, 1, 0, 1]), mpj.BPTT(), mpj.ReadoutOnly()], ids=str
)
def test_a_rule_may_be_given(rule):
    model, outputs, _ = learn(rule=rule)
    expected_model, expected = by_hand(network(rule))
    assert_close(outputs, expected, 1e-10)
    assert_close(jax.tree.leaves(model), jax.tree.leaves(expected_model), 1e-10)
    assert type(model.layers[0].rule) is type(rule)
    assert not np.allclose(outputs, learn()[1])


@pytest.mark.parametrize("delay, cuts", [(0, [4, 8]), (3, [1, 5, 7]), (2, [2, 9])])
def test_calls_one_after_the_other_are_one_call_bit_for_bit(delay, cuts):
    rule = mpj.UORO()
    done = jnp.arange(T) % 4 == 3
    options = {"rule": rule, "delay": delay, "optimizer": optax.adam}
    model, outputs, carry = learn(done=done, key=jr.key(1), **options)
    part, found, made = network(), None, []
    for first, last in zip([0, *cuts], [*cuts, T]):
        now = slice(first, last)
        key = jr.key(1) if found is None else None
        part, some, found = learn(
            part, XS[now], YS[now], done=done[now], key=key, carry=found, **options
        )
        made.append(some)
    np.testing.assert_array_equal(jnp.concatenate(made), outputs)
    for one, other in zip(
        jax.tree.leaves(eqx.filter((part, found), eqx.is_array)),
        jax.tree.leaves(eqx.filter((model, carry), eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_segments_go_on_where_the_learner_stopped():
    _, outputs, _ = learn(delay=2, segment=3)
    model, first, carry = learn(xs=XS[:8], ys=YS[:8], delay=2, segment=3)
    _, second, _ = learn(model, XS[8:], YS[8:], carry=carry, delay=2, segment=3)
    np.testing.assert_array_equal(jnp.concatenate([first, second]), outputs)


def test_what_was_said_of_ends_waits_too():
    """A call that says nothing of ends goes on from one that did, and the other way."""
    done = jnp.zeros(T, bool).at[3].set(True)
    _, outputs, _ = learn(done=done, delay=2)
    model, first, carry = learn(xs=XS[:5], ys=YS[:5], done=done[:5], delay=2)
    _, second, _ = learn(model, XS[5:], YS[5:], carry=carry, delay=2)
    assert_close(jnp.concatenate([first, second]), outputs, 1e-12)
    done = jnp.zeros(T, bool).at[6].set(True)
    _, outputs, _ = learn(done=done, delay=2)
    model, first, carry = learn(xs=XS[:5], ys=YS[:5], delay=2)
    _, second, _ = learn(model, XS[5:], YS[5:], done=done[5:], carry=carry, delay=2)
    assert_close(jnp.concatenate([first, second]), outputs, 1e-12)


def test_a_reset_before_a_step_is_an_end_of_the_one_before():
    begins = jnp.arange(T) % 4 == 0
    done = mpj.as_done(begins, last=False)
    np.testing.assert_array_equal(np.flatnonzero(done), [3, 7])
    assert mpj.as_done(begins, last=True)[-1]
    assert mpj.as_done(np.ones((3, 2), bool)).shape == (3, 2)
    for delay in (0, 2):
        model, outputs, _ = learn(done=done, delay=delay)
        expected_model, expected = by_hand(network(), delay=delay, done=done)
        assert_close(outputs, expected, 1e-10)
        assert_close(model, expected_model, 1e-10)
    # at frozen weights: as sequences run apart
    rnn, readout = network().layers
    frozen = learn(done=done, learning_rate=0.0)[1]
    apart = jnp.concatenate([readout(rnn(XS[i : i + 4])) for i in range(0, T, 4)])
    assert_close(frozen, apart, 1e-12)


def test_another_rate_does_not_compile_again():
    traced = []

    def counted(outputs, ys):
        traced.append(1)
        return squares(outputs, ys)

    one = learn(loss=counted)[1]
    count = len(traced)
    assert count > 0
    other = learn(loss=counted, learning_rate=jnp.asarray(0.01))[1]
    learn(loss=counted, learning_rate=1)
    assert len(traced) == count and not np.allclose(one, other)
    # injected hyper-parameters are in the carry
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=RATE)
    options: dict[str, Any] = {
        "loss": counted,
        "optimizer": optimizer,
        "learning_rate": None,
    }
    model, _, carry = learn(**options)
    assert_close(model, learn()[0], 1e-12)
    count = len(traced)
    found = carry.opt_state.hyperparams
    found["learning_rate"] = jnp.zeros_like(found["learning_rate"])
    again = learn(model, carry=carry, **options)[0]
    assert_close(again, model, 0)
    assert len(traced) == count


def test_seeds_and_rates_side_by_side():
    keys, rates = jr.split(jr.key(3), 3), jnp.array([0.0, 0.1])

    def outputs_of(key, rate):
        cell_key, readout_key = jr.split(key)
        cell = mpj.RateCell(M, N, alpha=0.6, key=cell_key)
        readout = mpj.Readout(N, 2, key=readout_key)
        model = eqx.nn.Sequential([mpj.RNN(cell, rule=mpj.EProp()), readout])
        return learn(model, learning_rate=rate, delay=1)[1]

    found = jax.vmap(lambda rate: jax.vmap(lambda key: outputs_of(key, rate))(keys))(rates)
    assert found.shape == (2, 3, T, 2)
    for i, rate in enumerate(rates):
        for j, key in enumerate(keys):
            assert_close(found[i, j], outputs_of(key, rate), 1e-10)
    jitted = jax.jit(outputs_of)(keys[0], 0.1)
    assert_close(jitted, found[1, 0], 1e-10)


def test_without_a_recurrent_layer_it_is_least_mean_squares():
    model = eqx.nn.Sequential([mpj.Readout(M, 2, key=jr.key(0))])
    weight, bias = (np.array(a) for a in (model.layers[0].weight, model.layers[0].bias))
    expected = []
    for x, y in zip(np.asarray(XS), np.asarray(YS)):
        made = weight @ x + bias
        error = made - y
        weight, bias = weight - 0.1 * np.outer(error, x), bias - 0.1 * error
        expected.append(made)

    def half(outputs, ys):
        return squares(outputs, ys) / 2

    found, outputs, _ = learn(model, learning_rate=0.1, loss=half)
    np.testing.assert_allclose(outputs, expected, rtol=1e-10)
    np.testing.assert_allclose(found.layers[0].weight, weight, rtol=1e-10)


def test_layers_of_equinox_and_models_of_ones_own():
    keys = jr.split(jr.key(2), 4)
    cells = mpj.RateCell(M, N, key=keys[0]), mpj.RateCell(N, N, key=keys[1])
    head = eqx.nn.MLP(N, 2, 5, 1, key=keys[2])
    below, above = (mpj.RNN(cell, rule=mpj.EProp()) for cell in cells)
    tanh = eqx.nn.Lambda(jnp.tanh)
    nested = eqx.nn.Sequential([eqx.nn.Sequential([below, tanh]), above, head])

    class Own(eqx.Module):
        layers: list[mpj.RNN]
        head: eqx.nn.MLP

        def init(self, batch_shape=()):
            return [layer.init(batch_shape) for layer in self.layers]

        def __call__(self, xs, carry):
            first, zs = self.layers[0](xs, carry[0])
            second, zs = self.layers[1](jnp.tanh(zs), carry[1])
            return [first, second], jax.vmap(jax.vmap(self.head))(zs)

    xs, ys = (jnp.stack([a, -a], axis=1) for a in (XS, YS))
    for delay in (0, 2):
        _, expected, _ = learn(Own([below, above], head), xs, ys, delay=delay)
        _, outputs, _ = learn(nested, xs, ys, delay=delay)
        assert outputs.shape == ys.shape
        assert_close(outputs, expected, 1e-10)


def test_rules_that_learn_get_their_labels_and_their_traces_go_on():
    rule = mpj.DNI(labels=2, learn=optax.sgd(0.05))
    model = network(rule)

    def segment_loss(model, carry, xs, ys):
        rnn, readout = model.layers
        carry, zs = rnn(xs, carry, context=ys)
        return squares(readout(zs), ys), carry

    carry, expected = model.layers[0].init(key=jr.split(jr.key(1), 2)[0]), model
    gradient = eqx.filter_jit(mpj.online_value_and_grad(segment_loss, segment=1))
    for x, y in zip(XS, YS):
        (_, carry), grads = gradient(expected, carry, x[None], y[None])
        expected = eqx.apply_updates(expected, jax.tree.map(lambda g: -0.1 * g, grads))
    found, _, state = learn(model, learning_rate=0.1, key=jr.key(1))
    assert_close(found, expected, 1e-10)
    assert_close(jax.tree.leaves(state.carry[0].trace), jax.tree.leaves(carry.trace), 1e-10)
    delayed = learn(model, learning_rate=0.1, key=jr.key(1), delay=T - 4)[0]
    assert not np.allclose(delayed.layers[0].cell.weight_rec, found.layers[0].cell.weight_rec)


def test_narrow_parameters_stay_narrow():
    cell = mpj.RateCell(M, N, dtype=jnp.bfloat16, key=jr.key(0))
    readout = mpj.Readout(N, 2, dtype=jnp.bfloat16, key=jr.key(1))
    model = eqx.nn.Sequential([mpj.RNN(cell, rule=mpj.EProp()), readout])
    xs, ys = XS.astype(jnp.float32), YS.astype(jnp.float32)
    for delay in (0, 1):
        found, outputs, _ = learn(model, xs, ys, delay=delay, optimizer=optax.adam)
        assert outputs.dtype == jnp.float32
        leaves = zip(jax.tree.leaves(found), jax.tree.leaves(model), strict=True)
        for one, other in leaves:
            if eqx.is_inexact_array(other):
                assert one.dtype == other.dtype == jnp.bfloat16 and np.any(one != other)


def test_memory_does_not_grow_with_time_but_for_the_outputs():
    def used(steps):
        xs, ys = jnp.zeros((steps, M)), jnp.zeros((steps, 2))
        run = jax.jit(lambda xs, ys: learn(xs=xs, ys=ys)[1])
        found: Any = run.lower(xs, ys).compile().memory_analysis()
        return found.temp_size_in_bytes - ys.nbytes

    # 900 further steps: of states alone these would be 29 kB
    assert used(1000) - used(100) < 2000 + 8 * 900


def test_check_finds_what_is_not_finite():
    with pytest.raises(Exception, match="NaN or infinite"):
        jax.block_until_ready(learn(learning_rate=1e200, check=True)[1])


@pytest.mark.parametrize(
    "options, match",
    [
        ({"ys": YS[1:]}, "same number of time steps"),
        ({"xs": XS[:0], "ys": YS[:0]}, "at least one"),
        ({"done": jnp.zeros(T - 1, bool)}, r"done must be boolean of shape .* \(11,\)"),
        ({"loss": lambda outputs, ys: outputs - ys}, "loss must return a scalar"),
        ({"loss": lambda outputs, ys: (squares(outputs, ys), 1)}, "loss must return a scalar"),
        ({"optimizer": optax.sgd(0.1)}, "optimizer must be a function, of the learning rate"),
        ({"learning_rate": None}, "optimizer must be an optax transformation"),
        ({"rule": mpj.UORO()}, "draws random numbers"),
        ({"model": eqx.nn.Linear(M, 2, key=jr.key(0))}, "model must be an RNN"),
        ({"model": eqx.nn.Sequential([eqx.nn.Lambda(network())])}, "could not hand a carry"),
        ({"delay": -1}, "delay must be a whole number of at least 0"),
    ],
)
def test_errors(options, match, without_type_checks):
    with pytest.raises(ValueError, match=match):
        learn(**options)


def test_a_carry_of_something_else(without_type_checks):
    _, _, carry = learn(delay=2)
    with pytest.raises(ValueError, match="another delay than delay=1"):
        learn(carry=carry, delay=1)
    with pytest.raises(ValueError, match="another delay than delay=0"):
        learn(carry=carry)
    with pytest.raises(ValueError, match="another optimizer"):
        learn(carry=carry, delay=2, optimizer=optax.adam)
    with pytest.raises(ValueError, match="what learn_stream returned last"):
        learn(carry=carry.carry, delay=2)
    other = network(mpj.RTRL())
    with pytest.raises(ValueError, match="EProp|RTRL"):
        learn(other, carry=carry, delay=2)
