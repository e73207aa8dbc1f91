"""Credit from the next h emissions: by its definition, streamed from a tape, and its limits."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    assert_close,
    BATCH,
    cell,
    data,
    distance,
    gradient,
    jit,
    M,
    N,
    Net,
    OUT,
    plain_scan,
    segment_loss,
    streamed_gradient,
    T,
)

import modprop_jax as mpj


class Logarithmic(mpj.NeuronCell):
    """A neuron that is never at 0, where it would send infinity."""

    def init(self, batch_shape=()):
        return jnp.ones((*batch_shape, self.hidden_size))

    def integrate(self, state, drive):
        return 0.5 * state + 0.5 + 0.3 * jnp.tanh(drive)

    def emit(self, state):
        return jnp.log(state)


OWN = {
    "gru": lambda: mpj.GRUCell(M, N, key=jr.key(1)),
    "lstm": lambda: mpj.LSTMCell(M, N, key=jr.key(2)),
    "lru": lambda: mpj.LRUCell(M, N, r_min=0.8, max_phase=1.0, key=jr.key(3)),
    "log": lambda: Logarithmic(M, N, use_bias=True, key=jr.key(4)),  # pyright: ignore
    "elman": lambda: mpj.RateCell(M, N, alpha=1.0, key=jr.key(5)),
}


@functools.cache
def made(name) -> Any:
    return OWN[name]() if name in OWN else cell(name)


@functools.cache
def credit(name, batch=BATCH):
    """∂E/∂z at every step, of a loss that is linear in z: it is all that a rule sees of a loss."""
    shape = jax.eval_shape(lambda: made(name).emit(made(name).init(batch))).shape
    return jr.normal(jr.key(6), (T, *shape))


def linear_loss(c, rule, xs, credit, state=None):
    state = c.init(xs.shape[1:-1]) if state is None else state
    return jnp.vdot(credit, mpj.scan(c, state, xs, rule=rule)[1])


@jit
def offline(c, rule, xs, credit):
    return eqx.filter_grad(linear_loss)(c, rule, xs, credit)


@jit
def streamed(c, rule, xs, credit, segment: Any, flags=(None, None)):
    """The gradient, and the carry after the last step."""

    def segment_loss(c, carry, seen, credit):
        xs, (done, mask) = seen
        carry, zs = mpj.scan(c, carry, xs, rule=rule, done=done, valid=mask)
        return jnp.vdot(credit, zs), carry

    def loss(rnn, carry, seen, credit):
        return segment_loss(rnn.cell, carry, seen, credit)

    rnn = mpj.RNN(c, rule=rule)
    stream = mpj.online_value_and_grad(loss, segment=segment)
    (_, carry), gradients = stream(rnn, rnn.init(xs.shape[1:-1]), (xs, flags), credit)
    return gradients.cell, carry


@jit
def by_definition(c, horizon: int, xs, credit):
    """For each emission, JAX's derivative over a window of h steps from a state without history."""
    filtered = isinstance(c, mpj.Filtered)
    start = c.init(xs.shape[1:-1])
    if filtered:
        # what the emission's memory does is not the window's

        def remembered(zs):
            return jax.lax.scan(lambda m, z: (c.parts()[1].filter(m, z),) * 2, start[1], zs)[1]

        (credit,) = jax.vjp(remembered, plain_scan(c.cell, start[0], xs)[1])[1](credit)
        start = start[0]

    def total(c):
        c = (c.cell if filtered else c).effective()

        def step(state, x):
            return c.step(state, x), state

        _, before = jax.lax.stop_gradient(jax.lax.scan(step, start, xs))

        def window(u):
            first = jnp.maximum(u - horizon + 1, 0)
            state = jax.tree.map(lambda s: s[first], before)
            for age in range(horizon - 1, -1, -1):
                message = c.message(state)
                if age == horizon - 1:
                    # sent before the window: also what it does with the parameters is history
                    message = jax.lax.stop_gradient(message)
                after = c.integrate(state, c.drive(message, xs[u - age]))
                state = jax.tree.map(lambda a, b: jnp.where(u >= age, a, b), after, state)
            return jnp.vdot(credit[u], c.emit(state))

        return jax.vmap(window)(jnp.arange(len(xs))).sum()

    return eqx.filter_grad(total)(c)


DEFINED = ["leaky_taus", "adaptive", "refractory", "filtered_adaptive", "gru", "lstm", "lru"]


@pytest.mark.parametrize("horizon", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("name", DEFINED)
def test_offline_by_definition(name, horizon):
    c, xs = made(name), data()[0]
    found = offline(c, mpj.FutureBPTT(horizon), xs, credit(name))
    assert_close(found, by_definition(c, horizon, xs, credit(name)), 1e-12)


STREAMED = ["adaptive", "refractory", "gru", "lru", "log"]


@pytest.mark.slow
@pytest.mark.parametrize("segment", [1, 3])
@pytest.mark.parametrize("name", STREAMED)
def test_streamed_equals_offline(name, segment):
    for horizon in (1, 4):
        c, xs, rule = made(name), data()[0], mpj.FutureBPTT(horizon)
        found, _ = streamed(c, rule, xs, credit(name), segment)
        assert_close(found, offline(c, rule, xs, credit(name)), 1e-12, f"horizon={horizon} ")


@pytest.mark.slow
@pytest.mark.parametrize("segment", [1, 4])
def test_a_tape_longer_than_the_past(segment):
    c, xs, rule = made("adaptive"), data()[0], mpj.FutureBPTT(T + 3)
    found, _ = streamed(c, rule, xs, credit("adaptive"), segment)
    assert_close(found, offline(c, mpj.BPTT(), xs, credit("adaptive")), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adaptive", "filtered_rate", "gru"])
def test_with_a_horizon_of_the_whole_sequence_it_is_bptt(name):
    c, xs = made(name), data()[0]
    exact = offline(c, mpj.BPTT(), xs, credit(name))
    assert_close(offline(c, mpj.FutureBPTT(T), xs, credit(name)), exact, 1e-12)
    assert distance(offline(c, mpj.FutureBPTT(T - 1), xs, credit(name)), exact) > 1e-6


@pytest.mark.slow
def test_credit_on_a_bare_initial_state():
    """Of the first h - 1 emissions, which are as far from it as from the first step, and one."""
    c, xs, state = made("rate"), data()[0], 0.2 * jr.normal(jr.key(0), (*BATCH, N))

    def of(rule, steps=T):
        take = jit(jax.grad(lambda s: linear_loss(c, rule, xs[:steps], given[:steps], s)))
        return take(state)

    given = credit("rate")
    assert_close(of(mpj.FutureBPTT(T + 1)), of(mpj.BPTT()), 1e-12)
    assert_close(of(mpj.FutureBPTT(5)), of(mpj.BPTT(), 4), 1e-12)
    assert not np.asarray(of(mpj.FutureBPTT(1))).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rate", "leaky_taus", "gru"])
def test_with_a_horizon_of_one_it_is_bptt_in_segments_of_one(name):
    c, xs = made(name), data()[0]
    found = offline(c, mpj.FutureBPTT(1), xs, credit(name))
    expected, _ = streamed(c, mpj.BPTT(), xs, credit(name), 1)
    assert_close(found, expected, 1e-12)
    eprop = offline(c, mpj.EProp(), xs, credit(name))
    assert distance(found, eprop) > 1e-2, "a leak is more than one step"


def test_with_a_horizon_of_one_it_is_eprop_where_no_state_stays():
    c, xs = made("elman"), data()[0]
    found = offline(c, mpj.FutureBPTT(1), xs, credit("elman"))
    assert_close(found, offline(c, mpj.EProp(), xs, credit("elman")), 1e-12)


# two examples of two sequences each, with pauses inside; 0 is padding
ORDER = np.array([[1, 1, 0, 1, 0, 0, 1, 1, 2, 0, 2], [0, 3, 3, 0, 3, 4, 4, 0, 4, 0, 0]])
MASK = ORDER.T > 0
LAST = [(7, 0), (10, 0), (4, 1), (8, 1)]
DONE = np.zeros_like(MASK)
DONE[tuple(zip(*LAST))] = True


PAUSED = [("leaky", 2), ("log", 3)]
PAUSED += [pytest.param(*pair, marks=pytest.mark.slow) for pair in (("leaky", 1), ("gru", 3))]


@pytest.mark.slow
@pytest.mark.parametrize("name, horizon", PAUSED)
def test_sequences_that_end_and_pause(name, horizon):
    """As apart, without pauses: padding takes no place on the tape, and h counts steps."""
    c, xs, rule = made(name), data()[0], mpj.FutureBPTT(horizon)
    pieces = [(ORDER[b] == i, b) for b, i in ((0, 1), (0, 2), (1, 3), (1, 4))]

    def apart(a):
        # no credit comes from the end of the shorter ones
        short = [np.asarray(a[where, b]) for where, b in pieces]
        return np.stack([np.pad(s, ((0, 5 - len(s)), (0, 0))) for s in short], 1)

    masked = jnp.where(MASK[..., None], credit(name), 0)
    expected = offline(c, rule, jnp.asarray(apart(xs)), jnp.asarray(apart(masked)))
    padded = jnp.where(MASK[..., None], xs, jnp.nan)
    flags = jnp.asarray(DONE), jnp.asarray(MASK)

    @jit
    def whole(c):
        def loss(c):
            done, mask = flags
            zs = mpj.scan(c, c.init(BATCH), padded, rule=rule, done=done, valid=mask)[1]
            return jnp.vdot(credit(name), zs)

        return eqx.filter_grad(loss)(c)

    assert_close(whole(c), expected, 1e-12)
    fresh = rule.init(c, c.init(BATCH))
    for segment in (1, 3):
        found, carry = streamed(c, rule, padded, credit(name), segment, flags)
        assert_close(found, expected, 1e-12, f"segment={segment} ")
        for have, want in zip(jax.tree.leaves(carry), jax.tree.leaves(fresh), strict=True):
            np.testing.assert_array_equal(have, want)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 3])
def test_credit_on_a_state_that_padding_has_carried_over_a_segment(horizon):
    """It is direct credit on the step that made the state, h steps back from there."""
    c, xs, rule = made("adaptive"), data(steps=8)[0], mpj.FutureBPTT(horizon)
    mask = jnp.asarray(np.arange(8)[:, None] < np.array([5, 7]))

    def read(state):
        return sum(jnp.sum((0.7 + i) * leaf**2) for i, leaf in enumerate(state))

    def whole(c):
        return read(mpj.scan(c, c.init(BATCH), xs, rule=rule, valid=mask)[0])

    def chained(c):
        carry = rule.init(c, c.init(BATCH))
        for part in (slice(0, 5), slice(5, 8)):
            carry, _ = mpj.scan(c, carry, xs[part], rule=rule, valid=mask[part])
        return read(carry.state)

    assert_close(jit(eqx.filter_grad(chained))(c), jit(eqx.filter_grad(whole))(c), 1e-12)


@pytest.mark.slow
def test_leading_batch_axes_and_vmap():
    model = Net(mpj.RNN(made("gru"), rule=mpj.FutureBPTT(3)), mpj.Readout(N, OUT, key=jr.key(7)))
    xs, ys = data((2, 3))
    rows = xs.reshape(T, 6, M), ys.reshape(T, 6, OUT)
    expected = gradient(model, *rows)[1]
    assert_close(gradient(model, xs, ys)[1], expected)
    for segment in (1, 4):
        assert_close(streamed_gradient(segment)(model, xs, ys)[1], expected)
        stream = mpj.online_value_and_grad(segment_loss, segment=segment)

        def one(xs, ys, stream=stream):
            return eqx.filter(stream(model, model.rnn.init(), xs, ys)[1], eqx.is_array)

        each = jit(jax.vmap(one, in_axes=1))(*rows)
        assert_close(jax.tree.map(lambda g: g.sum(0), each), expected)


def test_the_tape_holds_h_steps():
    c = made("adaptive")
    leaves = jax.tree.leaves(mpj.FutureBPTT(4).init(c, c.init(BATCH)).trace)
    # two variables of n neurons, m inputs, and whether there is a step
    assert [leaf.shape for leaf in leaves] == [(4, *BATCH, N)] * 2 + [(4, *BATCH, M), (4, *BATCH)]


@pytest.mark.slow
def test_segments_may_be_chosen_by_memory():
    c, xs, rule = made("leaky"), data()[0], mpj.FutureBPTT(4)
    found, _ = streamed(c, rule, xs, credit("leaky"), "auto")
    assert_close(found, offline(c, rule, xs, credit("leaky")), 1e-12)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("horizon", [0, -1, 2.5, True, None])
def test_a_horizon_that_is_no_number_of_steps(horizon):
    with pytest.raises(
        ValueError, match=f"horizon must be a whole number of at least 1, but is {horizon}"
    ):
        mpj.FutureBPTT(horizon)


@pytest.mark.slow
def test_what_it_does_not_serve():
    c, rule = made("filtered_adaptive"), mpj.FutureBPTT(3)
    with pytest.raises(ValueError, match=r"last 3 steps.*Filtered.*learn offline"):
        rule.init(c, c.init(BATCH))
    function = cell("function")
    with pytest.raises(ValueError, match="needs a cell whose units.*is a FunctionCell"):
        mpj.scan(function, function.init(BATCH), data()[0], rule=rule)
    three = rule.init(made("leaky"), made("leaky").init(BATCH))
    with pytest.raises(ValueError, match="for another cell or other options"):
        mpj.scan(made("leaky"), three, data()[0], rule=mpj.FutureBPTT(4))
