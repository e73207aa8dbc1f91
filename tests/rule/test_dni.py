"""Synthetic gradients: what they learn, in which order, and that nothing of it is lost."""

import functools
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
    distance,
    error,
    jit,
    M,
    N,
    Net,
    OUT,
    T,
    weights,
)

import modprop_jax as mpj


pytestmark = pytest.mark.slow


EXACT = mpj.DNI(labels=OUT, learn=optax.sgd(0.05), refresh=3)
LEARNED = mpj.DNI(
    labels=OUT,
    jacobian="learned",
    learn=optax.adam(0.01),
    learn_jacobian=optax.sgd(0.02),
    squash=jnp.tanh,
)
LOCAL = mpj.LocalDNI(labels=OUT, learn=optax.sgd(0.05), learn_jacobian=optax.sgd(0.02))
CASES = [
    (EXACT, "leaky_taus"),
    (EXACT, "adaptive"),
    (EXACT, "refractory"),
    (EXACT, "function"),
    (EXACT, "filtered_rate"),
    (LEARNED, "leaky"),
    (LOCAL, "rate"),
]
SLOW = [(EXACT, "gru"), (EXACT, "lru")]
OTHERS: dict[str, Any] = {
    "gru": lambda: mpj.GRUCell(M, N, key=jr.key(1)),
    "lru": lambda: mpj.LRUCell(M, N, r_min=0.8, max_phase=1.0, key=jr.key(3)),
}
named = pytest.mark.parametrize(
    "rule, cell_name",
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=[f"{type(r).__name__}-{c}" for r, c in CASES + SLOW],
)


def model_of(rule, dynamics):
    emitted = M if isinstance(dynamics, mpj.LRUCell) else N
    return Net(mpj.RNN(dynamics, rule=rule), mpj.Readout(emitted, OUT, key=jr.key(7)))


def made(cell_name):
    return OTHERS[cell_name]() if cell_name in OTHERS else cell(cell_name)


def segment_loss(model, carry, seen, ys):
    xs, done, mask = seen
    carry, zs = model.rnn(xs, carry, context=ys, done=done, valid=mask)
    outputs = model.readout(zs)
    if mask is not None:
        ys = jnp.where(mask[..., None], ys, 0)  # padding has labels of NaN
        outputs = jnp.where(mask[..., None], outputs, ys)
    return error(outputs, ys), carry


@functools.cache
def stream(segment):
    return jit(mpj.online_value_and_grad(segment_loss, segment=segment))


def run(rule, dynamics, xs, ys, *, segment=T, done=None, mask=None, carry=None):
    model = model_of(rule, dynamics)
    if carry is None:
        carry = model.rnn.init(xs.shape[1:-1], key=jr.key(1))
    return stream(segment)(model, carry, (xs, done, mask), ys)


@named
def test_segments_do_not_matter(rule, cell_name):
    whole, one, three = (run(rule, made(cell_name), *data(), segment=k) for k in (T, 1, 3))
    assert_close(one, whole)
    assert_close(three, whole)
    (_, carry), _ = whole
    start = model_of(rule, made(cell_name)).rnn.init(BATCH, key=jr.key(1))
    assert distance(carry.trace.value.weight, start.trace.value.weight) > 1e-3


@pytest.mark.slow
@named
def test_differs_from_bptt(rule, cell_name):
    def loss(model, xs, ys):
        return error(model(xs), ys)

    _, exact = jit(mpj.value_and_grad(loss, mpj.BPTT()))(model_of(rule, made(cell_name)), *data())
    _, ours = run(rule, made(cell_name), *data())
    assert distance(ours.rnn.cell, exact.rnn.cell) > 1e-2
    assert_close(ours.readout, exact.readout)


@pytest.mark.slow
def test_learns_the_exact_credit_where_it_is_linear():
    """Without recurrence and under squared errors, credit is linear in rate and label."""
    dynamics = mpj.RateCell(M, N, alpha=1.0, key=jr.key(2))
    dynamics = eqx.tree_at(lambda c: c.weight_rec, dynamics, jnp.zeros((N, N)))
    rule = mpj.DNI(labels=OUT, learn=optax.sgd(0.2))
    model = model_of(rule, dynamics)

    def loss(model, carry, xs, ys):
        carry, zs = model.rnn(xs, carry, context=ys)
        return 0.5 * jnp.sum((model.readout(zs) - ys) ** 2), carry

    xs, ys = data((), 4000)
    learning = jit(mpj.online_value_and_grad(loss, segment=500))
    before = model.rnn.init((), key=jr.key(1))
    (_, after), _ = learning(model, before, xs, ys)

    def exact_loss(model, xs, ys):
        return 0.5 * jnp.sum((model(xs) - ys) ** 2)

    xs, ys = data((), T, seed=1)
    _, exact = mpj.value_and_grad(exact_loss, mpj.BPTT())(model, xs, ys)
    gradient = jit(mpj.online_value_and_grad(loss, segment=T))
    errors = []
    for carry in (before, after):
        _, found = gradient(model, carry, xs, ys)
        # input weights: those of the recurrence get no gradient of their own from W_rec = 0
        errors.append(distance(found.rnn.cell.weight_in, exact.rnn.cell.weight_in))
    assert errors[0] > 0.5 and errors[1] < 1e-2


@pytest.mark.slow
def test_a_batch_learns_from_the_mean():
    """NumPy, two examples: one step of A from the mean of both."""
    dynamics, (xs, ys) = cell("rate"), data()
    model = model_of(mpj.DNI(labels=OUT, learn=optax.sgd(0.1)), dynamics)
    start = model.rnn.init(BATCH, key=jr.key(1))
    (_, carry), _ = run(model.rnn.rule, dynamics, xs[:1], ys[:1], segment=1)
    weight = np.asarray(start.trace.value.weight)
    rates = np.asarray(mpj.scan(dynamics, dynamics.init(BATCH), xs[:1])[1][0])
    jacobian = jax.vmap(jax.jacobian(dynamics.step))(jnp.zeros((*BATCH, N)), xs[0])
    gradient = np.zeros_like(weight)
    for b in range(BATCH[0]):
        earlier = np.concatenate([np.zeros(N), ys[0, b], [1]])
        later = np.concatenate([rates[b], ys[0, b], [1]])
        target = (weight @ later) @ np.asarray(jacobian[b])
        gradient += np.outer(weight @ earlier - target, earlier) / BATCH[0]
    assert_close(carry.trace.value.weight, jnp.asarray(weight - 0.1 * gradient))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [EXACT, LOCAL], ids=["dni", "local"])
def test_sequences_that_end_inside_a_segment(rule):
    """One after the other in a stream, as two streams of which the second takes up what the
    first has learnt; and padding leaves no mark."""
    dynamics, (xs, ys) = cell("rate"), data(())
    done = jnp.arange(T) == 4
    together = run(rule, dynamics, xs, ys, done=done, segment=3)

    (_, middle), first = run(rule, dynamics, xs[:5], ys[:5], segment=5)
    fresh = model_of(rule, dynamics).rnn.init((), key=jr.key(3))
    learnt = eqx.tree_at(lambda c: c.trace.value[:5], fresh, middle.trace.value[:5])
    (_, last), second = run(rule, dynamics, xs[5:], ys[5:], segment=6, carry=learnt)
    (_, carry), gradients = together
    assert_close(carry, last)
    assert_close(weights(gradients), weights(jax.tree.map(jnp.add, first, second)))

    mask = jnp.arange(T + 2) != 3
    mask = mask & (jnp.arange(T + 2) != 9)
    wide = jnp.zeros(T + 2, bool).at[jnp.array([5])].set(True)  # step 4 is now the sixth
    padded = [jnp.full((T + 2, a.shape[-1]), np.nan).at[mask].set(a) for a in (xs, ys)]
    padded[1] = jnp.nan_to_num(padded[1])
    (_, carry), gradients = run(rule, dynamics, *padded, done=wide, mask=mask, segment=4)
    assert_close(carry, last)
    assert_close(weights(gradients), weights(together[1]))


@pytest.mark.parametrize("rule", [EXACT, LOCAL], ids=["dni", "local"])
def test_padding_may_hold_anything(rule):
    """Where one example pauses, what the other learns from is not touched."""
    mask = jnp.ones((T, *BATCH), bool).at[3:6, 1].set(False)
    model = model_of(rule, cell("rate"))
    carry = model.rnn.init(BATCH, key=jr.key(1))

    @jit
    def learn(model, carry, labels):
        def loss(model, carry, seen, labels):
            xs, mask = seen
            carry, zs = model.rnn(xs, carry, context=labels, valid=mask)
            return error(model.readout(zs), jnp.zeros((len(xs), *BATCH, OUT))), carry

        return mpj.online_value_and_grad(loss, segment=T)(model, carry, (xs, mask), labels)

    xs, ys = data()
    found, expected = (
        learn(model, carry, jnp.where(mask[..., None], ys, pad)) for pad in (jnp.nan, 7.0)
    )
    assert_close(found, expected, tol=0)


@pytest.mark.slow
def test_a_segment_that_no_loss_reads_still_counts():
    model = model_of(EXACT, cell("rate"))
    xs, ys = data()

    def silent(model, carry, xs, ys):
        carry, _ = model.rnn(xs, carry, context=ys)
        return jnp.zeros(()), carry

    carry = model.rnn.init(BATCH, key=jr.key(1))
    (loss, after), _ = mpj.online_value_and_grad(silent, segment=4)(model, carry, xs, ys)
    _, zs = mpj.scan(cell("rate"), cell("rate").init(BATCH), xs)
    assert loss == 0
    assert_close(after.trace.value.state, zs[-1])
    assert after.trace.value.step == T


@pytest.mark.slow
def test_stacks_stream_each_layer_by_its_own_rule():
    class Stack(eqx.Module):
        lower: mpj.RNN
        upper: mpj.RNN
        readout: mpj.Readout

    lower = mpj.RateCell(M, 4, key=jr.key(1))
    upper = mpj.RateCell(4, N, key=jr.key(2))
    readout = mpj.Readout(N, OUT, key=jr.key(3))

    def loss(model, carry, xs, ys):
        down, up = carry
        down, zs = model.lower(xs, down, context=ys)
        up, zs = model.upper(zs, up, context=ys)
        return error(model.readout(zs), ys), (down, up)

    def both(rules, segment):
        model = Stack(mpj.RNN(lower, rule=rules[0]), mpj.RNN(upper, rule=rules[1]), readout)
        carry = tuple(
            rnn.init(BATCH, key=jr.key(i)) for i, rnn in enumerate((model.lower, model.upper))
        )
        stream = mpj.online_value_and_grad(loss, segment=segment)
        (_, after), gradients = jit(stream)(model, carry, *data())
        cells = gradients.lower.cell, gradients.upper.cell
        return after, cells

    carry, gradients = both((EXACT, LOCAL), 1)
    again, same = both((EXACT, LOCAL), 4)
    assert_close((carry, gradients), (again, same))
    _, alone = both((mpj.EProp(), LOCAL), 1)
    assert_close(gradients[1], alone[1])
    assert distance(gradients[0], alone[0]) > 1e-2


@pytest.mark.slow
def test_interrupted_and_continued(tmp_path):
    xs, ys = data()
    (_, half), _ = run(LEARNED, cell("leaky"), xs[:6], ys[:6], segment=6)
    eqx.tree_serialise_leaves(tmp_path / "carry.eqx", half)
    like = model_of(LEARNED, cell("leaky")).rnn.init(BATCH, key=jr.key(9))
    read = eqx.tree_deserialise_leaves(tmp_path / "carry.eqx", like)
    straight = run(LEARNED, cell("leaky"), xs[6:], ys[6:], segment=5, carry=half)
    again = run(LEARNED, cell("leaky"), xs[6:], ys[6:], segment=5, carry=read)
    assert_close(again, straight, tol=0)


def test_local_dni_is_dni_with_a_learnt_jacobian():
    plain = mpj.DNI(
        labels=OUT,
        jacobian="learned",
        learn=optax.sgd(0.05),
        learn_jacobian=optax.sgd(0.02),
        squash=jnp.tanh,
    )
    start = model_of(LOCAL, cell("rate")).rnn.init(BATCH, key=jr.key(1))
    same = eqx.tree_at(
        lambda c: c.trace, model_of(plain, cell("rate")).rnn.init(BATCH, key=jr.key(2)), start.trace
    )
    (_, local), ours = run(LOCAL, cell("rate"), *data(), carry=start)
    (_, other), theirs = run(plain, cell("rate"), *data(), carry=same)
    assert_close(weights(ours), weights(theirs))
    assert_close(local.trace, other.trace)


def test_compartments_against_numpy():
    dynamics, (xs, ys) = cell("rate"), data(())
    rule = mpj.LocalDNI(labels=OUT, learn=optax.sgd(0.0), learn_jacobian=optax.sgd(0.0))
    model = model_of(rule, dynamics)
    carry = model.rnn.init((), key=jr.key(1))
    seen = mpj.compartments(
        model.rnn, carry, xs, lambda zs: error(model.readout(zs), ys), context=ys
    )
    a, b, c = np.split(np.asarray(carry.trace.value.weight), [N, N + OUT], axis=1)
    rec, into, bias = map(np.asarray, (dynamics.weight_rec, dynamics.weight_in, dynamics.bias))
    rate = np.asarray(seen.rate)
    before = np.concatenate([np.zeros((1, N)), rate[:-1]])
    soma = before @ rec.T + np.asarray(xs) @ into.T + bias
    np.testing.assert_allclose(seen.soma, soma, atol=1e-12)
    credit = rate @ a.T + np.asarray(ys) @ b.T + c.T
    np.testing.assert_allclose(seen.credit, credit, atol=1e-12)
    np.testing.assert_allclose(seen.prediction, before @ rec.T, atol=1e-12)
    brought = np.tanh(credit) @ rec
    taught = np.asarray(seen.error)[:-1] + brought[1:]
    np.testing.assert_allclose(seen.teaching[1:], taught, atol=1e-12)
    np.testing.assert_allclose(seen.teaching[0], brought[0], atol=1e-12)

    (_, after), _ = run(LOCAL, dynamics, xs, ys)
    learning = model_of(LOCAL, dynamics)
    start = learning.rnn.init((), key=jr.key(1))
    moved = mpj.compartments(
        learning.rnn, start, xs, lambda zs: error(learning.readout(zs), ys), context=ys
    )
    features = np.concatenate([rate[-1], ys[-1], [1]])
    np.testing.assert_allclose(moved.credit[-1], after.trace.value.weight @ features, atol=1e-12)


def test_refusals():
    dynamics, (xs, ys) = cell("rate"), data()
    sgd = optax.sgd(0.1)
    carry = EXACT.init(dynamics, dynamics.init(BATCH), key=jr.key(0))
    with pytest.raises(ValueError, match="make its carry with a key"):
        EXACT.init(dynamics, dynamics.init(BATCH))
    with pytest.raises(ValueError, match="needs a carry, but got a bare state"):
        mpj.scan(dynamics, dynamics.init(BATCH), xs, rule=EXACT, context=ys)
    with pytest.raises(ValueError, match="context=None came"):
        mpj.scan(dynamics, carry, xs, rule=EXACT)
    with pytest.raises(ValueError, match=r"= \(11, 2, 2\)"):
        mpj.scan(dynamics, carry, xs, rule=EXACT, context=xs)
    after, _ = mpj.scan(dynamics, carry, xs, rule=EXACT, context=ys)
    with pytest.raises(ValueError, match="goes on with the error"):
        mpj.scan(dynamics, after, xs, rule=EXACT, context=ys)
    with pytest.raises(ValueError, match="one number a neuron"):
        LOCAL.init(cell("adaptive"), cell("adaptive").init(BATCH), key=jr.key(0))
    with pytest.raises(ValueError, match="needs a NeuronCell"):
        LOCAL.init(cell("function"), cell("function").init(BATCH), key=jr.key(0))
    with pytest.raises(ValueError, match='"learned" needs an optax transformation'):
        mpj.DNI(learn=sgd, jacobian="learned")
    with pytest.raises(ValueError, match="refresh must be a whole number of at least 1"):
        mpj.LocalDNI(learn=sgd, learn_jacobian=sgd, refresh=0)
    with pytest.raises(
        ValueError, match="compartments needs a layer under LocalDNI, .* rule of rnn is DNI"
    ):
        mpj.compartments(mpj.RNN(dynamics, rule=EXACT), carry, xs, jnp.sum, context=ys)
