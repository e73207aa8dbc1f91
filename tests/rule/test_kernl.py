"""KeRNL: equal to the figures of golden/README.md, to a NumPy loop, and to what it has to learn."""

import functools
import io
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import online
import optax
import pytest
from helpers import (
    assert_close,
    cell as table_cell,
    data,
    distance,
    error,
    flat,
    gradient,
    jit,
    M,
    N,
    net,
    offline,
    segment_loss,
    weights,
)

import modprop_jax as mpj


def with_rule(cell_name, **options):
    return mpj.with_rule(net("eprop", cell_name), mpj.KeRNL(**options))


def learned(carry_or_trace):
    """(A, alpha) of a carry or a trace."""
    trace = getattr(carry_or_trace, "trace", carry_or_trace)
    return trace.state.learned.sensitivity, trace.state.learned.alpha


# --- figures ---


@pytest.mark.parametrize(
    "case, name", [("a10_ce", "kernl"), ("a10_ce", "kernl_frozen"), ("a05_mse", "kernl")]
)
def test_figures(case, name):
    """Of the public program: its order, no bounds; row t of the noise perturbs step t."""
    figures = online.figures(f"{case}/{name}")
    sigma, rate = figures["hyper"]
    rule = mpj.KeRNL(
        sigma=sigma,
        learn=optax.sgd(float(rate)),
        alpha=0.8,
        noise=figures["zeta"] / sigma,
        author_compat=True,
    )
    model = online.network(case, rule)
    steps = online.per_step(case, model, model.rnn.init())
    online.assert_golden(steps.recurrent, figures["rec_grads"])
    sensitivity, alpha = learned(steps.traces)
    online.assert_golden(alpha, figures["alpha"])
    online.assert_golden(sensitivity[5], figures["A_t5"])
    online.assert_golden(sensitivity[-1], figures["A_final"])
    past = jax.tree.map(lambda a: np.asarray(a)[:, 0], steps.traces.state.past)
    used = np.concatenate([np.eye(5)[None], sensitivity[:-1]])
    errors = np.einsum("tki,ti->tk", used, past.response) - past.apart
    online.assert_golden(errors, figures["noise_error"])


# --- the order of the library, against NumPy ---


class Loop(NamedTuple):
    """A cell: s' = decay s + (1 - decay) inside(h), h = W sent(s) + W_in x + b."""

    weights: tuple
    decay: np.ndarray
    sent: Any
    inside: Any
    slope: Any


class Adam:
    """`optax.adam`, for one array."""

    def __init__(self, rate):
        self.rate, self.count, self.first, self.second = rate, 0, 0.0, 0.0

    def step(self, gradient):
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        return -self.rate * first / (np.sqrt(second) + 1e-8)


class Sgd:
    """`optax.sgd`."""

    def __init__(self, rate):
        self.rate = rate

    def step(self, gradient):
        return -self.rate * gradient


def loop(kind, alpha, optimizers, zeta, xs, qs, fresh, keep):
    """Gradients (T, n, m), A and alpha after each step; zeta (steps of the example, batch, n).

    `qs`: credit on the states. `fresh`, `keep`: (T, batch).
    """
    (T, batch, _), n = xs.shape, len(kind.weights[0])
    W, W_in, b = kind.weights
    decay = np.broadcast_to(kind.decay, (n,))
    A, alpha = np.eye(n), np.array(alpha)
    lowest = np.minimum(alpha, 0.01)
    of_A, of_alpha = optimizers
    s, twin, Gamma, Omega = np.zeros((4, batch, n))
    P = np.zeros((batch, n, n + xs.shape[2] + 1))
    count = np.zeros(batch, int)
    found = []

    def drive(s, x):
        return W @ kind.sent(s) + W_in @ x + b

    for t in range(T):
        k, errors = np.maximum(0, 1 - alpha), []
        for e in range(batch):
            if fresh[t, e]:
                s[e] = twin[e] = Gamma[e] = Omega[e] = 0
                P[e] = 0
            if not keep[t, e]:
                continue
            noise = zeta[count[e], e]
            count[e] += 1
            h = drive(s[e], xs[t, e])
            pre = np.concatenate([kind.sent(s[e]), xs[t, e], [1]])
            P[e] = k[:, None] * P[e] + np.outer((1 - decay) * kind.slope(h), pre)
            inside = kind.inside(drive(twin[e], xs[t, e]))
            twin[e] = decay * twin[e] + (1 - decay) * inside + noise
            s[e] = decay * s[e] + (1 - decay) * kind.inside(h)
            Gamma[e] = k * Gamma[e] - Omega[e]
            Omega[e] = k * Omega[e] + noise
            errors.append((e, A @ Omega[e] - (twin[e] - s[e])))
        if errors:
            step_A = of_A.step(np.mean([np.outer(eps, Omega[e]) for e, eps in errors], 0))
            step_alpha = of_alpha.step(np.mean([(eps @ A) * Gamma[e] for e, eps in errors], 0))
            A, alpha = A + step_A, np.clip(alpha + step_alpha, lowest, 1)
        g = sum((qs[t, e] @ A)[:, None] * P[e] for e in range(batch) if keep[t, e])
        found.append((np.broadcast_to(g, P.shape[1:]), A, alpha))
    return tuple(map(np.stack, zip(*found)))


STEPS, SIGMA = 40, 0.2


def rate_case():
    """alpha = 0.6, learned by SGD, fast enough for alpha to meet both bounds."""
    cell = table_cell("rate")
    W, W_in, b = (np.asarray(a) for a in (cell.weight_rec, cell.weight_in, cell.bias))
    kind = Loop((W, W_in, b), np.asarray(0.4), lambda s: s, np.tanh, lambda h: 1 - np.tanh(h) ** 2)
    rule = {"learn": optax.sgd(3.0), "alpha": 1.0}
    return cell, rule, kind, np.ones(N), (Sgd(3.0), Sgd(3.0))


def leaky_case():
    """A mask and a leak a neuron, learned by Adam from these leaks."""
    like = table_cell("leaky_taus")
    tau = np.linspace(2.0, 8.0, N)
    cell = mpj.LeakyCell(
        M, N, tau=tau, activation=jnp.tanh, use_bias=True, mask=like.mask, key=jr.key(0)
    )
    where = lambda c: (c.weight_rec, c.weight_in, c.bias)  # noqa: E731
    cell = eqx.tree_at(where, cell, where(like))
    W, W_in, b = (np.asarray(a) for a in where(cell.effective()))
    decay = np.exp(-1 / tau)
    kind = Loop((W, W_in, b), decay, np.tanh, lambda h: h, np.ones_like)
    rule = {"learn": optax.adam(0.03)}
    return cell, rule, kind, 1 - decay, (Adam(0.03), Adam(0.03))


CASES = {"rate": rate_case, "leaky": leaky_case}


def flags(kind):
    """done, mask (T, 2): none, or sequences that end, padding, and a step of padding only."""
    done, mask = np.zeros((STEPS, 2), bool), np.ones((STEPS, 2), bool)
    if kind == "flags":
        done[[9, 21], [0, 1]] = True
        mask[10:14, 0] = mask[12:20, 1] = False
    return done, mask


@jit
def step_by_step(rule, cell, xs, qs, done, mask):
    """What `loop` returns, of one step a segment."""

    def body(carry, at):
        x, q, *flags = jax.tree.map(lambda a: a[None], at)

        @eqx.filter_grad(has_aux=True)
        def gradient(cell):
            done, mask = flags or (None, None)
            after, zs = mpj.scan(cell, carry, x, rule=rule, done=done, valid=mask)
            # the credit is on the states, whatever the cell makes of them
            state = jnp.arctanh(zs) if isinstance(cell, mpj.LeakyCell) else zs
            return jnp.sum(q * state), after

        gradients, carry = gradient(cell)
        return carry, (online.recurrent(gradients), *learned(carry))

    at = (xs, qs) if done is None else (xs, qs, done, mask)
    return jax.lax.scan(body, rule.init(cell, cell.init((2,))), at)[1]


@functools.cache
def both(name, which):
    """(found by the library, by NumPy)."""
    cell, options, kind, alpha, optimizers = CASES[name]()
    rng = np.random.default_rng(1)
    xs, qs = rng.normal(size=(STEPS, 2, M)), rng.normal(size=(STEPS, 2, N))
    noise = rng.normal(size=(STEPS, 2, N))
    done, mask = flags(which)
    fresh = np.concatenate([np.zeros((1, 2), bool), done[:-1]])
    gradients, *rest = loop(kind, alpha, optimizers, SIGMA * noise, xs, qs, fresh, mask)
    all_of = eqx.tree_at(lambda c: c.weight_rec, cell, jnp.ones((N, N))).effective()
    gradients[..., :N] *= np.asarray(all_of.weight_rec)
    rule = mpj.KeRNL(sigma=SIGMA, noise=noise, **options)
    given = (None, None) if which == "plain" else (jnp.asarray(done), jnp.asarray(mask))
    have = step_by_step(rule, cell, jnp.asarray(xs), jnp.asarray(qs), *given)
    return have, (gradients, *rest)


@pytest.mark.slow
@pytest.mark.parametrize("name, which", [("rate", "plain"), ("rate", "flags"), ("leaky", "flags")])
def test_numpy_loop(name, which):
    have, want = both(name, which)
    for found, expected in zip(have, want, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_loop_is_generic():
    """What the comparison above would not see otherwise: A far from I, alpha at its bounds."""
    _, (gradients, A, alpha) = both("rate", "plain")
    assert distance(A[-1], np.eye(N)) > 0.1
    assert (alpha[1:] == 1).any() and (alpha == 0.01).any()
    assert distance(both("rate", "flags")[1][0], gradients) > 0.1


# --- limits ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rate", "leaky", "leaks"])
def test_eprop_before_learning(name):
    """A = I and alpha = 1 - leak, kept: e-prop, here offline from a bare state."""
    cell = leaky_case()[0] if name == "leaks" else table_cell(name)
    model = eqx.tree_at(lambda m: m.rnn.cell, net("eprop", "rate"), cell)
    noise = np.random.default_rng(0).normal(size=(11, N))
    kept = mpj.with_rule(model, mpj.KeRNL(learn=optax.set_to_zero(), noise=noise))
    loss, gradients = gradient(kept, *data())
    want_loss, want = gradient(model, *data())
    assert_close((loss, weights(gradients)), (want_loss, weights(want)), 1e-12)


@jit
def long_after(rule, cell, first):
    """(A, alpha) after 600 steps without input, A from `first`."""
    carry = rule.init(cell, cell.init((8,)), key=jr.key(1))
    carry = eqx.tree_at(lambda c: learned(c)[0], carry, first)
    return learned(mpj.scan(cell, carry, jnp.zeros((600, 8, 1)), rule=rule)[0])


def of_themselves(alpha, own):
    """A linear network whose neurons drive only themselves."""
    cell = mpj.RateCell(1, 3, alpha=alpha, activation=lambda h: h, key=jr.key(0))
    return eqx.tree_at(lambda c: c.weight_rec, cell, jnp.diag(jnp.asarray(own)))


@pytest.mark.slow
def test_learns_time_scales():
    """Where one time-scale a neuron is the truth, it is learned to all digits, and A = I."""
    rule = mpj.KeRNL(sigma=0.1, learn=optax.sgd(5.0), alpha=0.8)
    cell = of_themselves(0.5, [0.5, 0.0, -0.8])
    A, alpha = long_after(rule, cell, jr.normal(jr.key(2), (3, 3)))
    np.testing.assert_allclose(A, np.eye(3), atol=1e-8)
    np.testing.assert_allclose(alpha, [0.25, 0.5, 0.9], atol=1e-8)


def test_response_at_once():
    """Without any memory a neuron still moves itself; the public order does not see it."""
    cell, first = of_themselves(1.0, [0.0, 0.0, 0.0]), jr.normal(jr.key(2), (3, 3))
    options: Any = {"sigma": 0.1, "learn": optax.sgd(5.0)}
    A, _ = long_after(mpj.KeRNL(**options), cell, first)
    np.testing.assert_allclose(A, np.eye(3), atol=1e-8)
    A, _ = long_after(mpj.KeRNL(**options, author_compat=True), cell, first)
    np.testing.assert_allclose(A, np.zeros((3, 3)), atol=1e-8)


# --- streaming ---

LEARN = optax.adam(0.05)
DONE = np.zeros((11, 2), bool)
MASK = np.ones((11, 2), bool)
DONE[[3, 8], [0, 1]] = True
MASK[4:6, 0] = MASK[5:8, 1] = False


def flagged_loss(model, carry, xs, ys):
    xs, done, mask = xs
    carry, zs = model.rnn(xs, carry, done=done, valid=mask)
    return error(jnp.where(mask[..., None], model.readout(zs), 0), ys), carry


@functools.cache
def stream(segment, flagged=False):
    online_gradient = mpj.online_value_and_grad(
        flagged_loss if flagged else segment_loss, segment=segment
    )

    def run(model, carry, xs, ys):
        xs = (xs, jnp.asarray(DONE), jnp.asarray(MASK)) if flagged else xs
        return online_gradient(model, carry, xs, ys)

    return jit(run)


@functools.cache
def streamed(segment, flagged=False, seed=0):
    model = with_rule("rate", learn=LEARN)
    carry = model.rnn.init((2,), key=jr.key(seed))
    (loss, carry), gradients = stream(segment, flagged)(model, carry, *data())
    return loss, gradients, carry


@pytest.mark.slow
@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.parametrize("segment", [1, 3])
def test_segments(segment, flagged):
    assert_close(streamed(segment, flagged), streamed(11, flagged), 1e-10)


@pytest.mark.slow
def test_differs():
    _, gradients, carry = streamed(11)
    for rule in ("eprop", "bptt"):
        assert distance(weights(gradients), weights(offline(rule, "rate")[1])) > 1e-2
    _, others, another = streamed(11, seed=1)
    assert distance(others, gradients) > 1e-3
    assert distance(learned(another), learned(carry)) > 1e-3
    _, shorter, _ = streamed(11, True)
    assert distance(shorter, gradients) > 1e-2


@pytest.mark.slow
def test_examples_have_own_noise():
    model = with_rule("rate", learn=LEARN)
    carry = model.rnn.init((2,), key=jr.key(0))
    alike = jnp.broadcast_to(data()[0][:, :1], data()[0].shape)
    past = jit(lambda c: model.rnn(alike, c)[0])(carry).trace.state.past
    assert (
        distance(past.eligibility["weight_rec"][0, 0], past.eligibility["weight_rec"][0, 1]) < 1e-12
    )
    assert distance(past.apart[0, 0], past.apart[0, 1]) > 0.1


def test_an_end_forgets_the_past_alone():
    _, _, carry = streamed(11)
    rnn, before = with_rule("rate", learn=LEARN).rnn, carry.trace
    after = rnn.rule.on(rnn.cell).trace.forget(jnp.asarray([True, False]), before)
    for new, old in zip(jax.tree.leaves(after.state.past), jax.tree.leaves(before.state.past)):
        assert not np.any(new[:, 0]) and np.any(old[:, 0])
        np.testing.assert_array_equal(new[:, 1], old[:, 1])
    kept = lambda trace: (trace.state.learned, trace.state.draws)  # noqa: E731
    assert_close(kept(after), kept(before), 0.0)


@pytest.mark.slow
def test_resumes_bit_for_bit():
    model, (xs, ys) = with_rule("rate", learn=LEARN), data(steps=12)
    start = model.rnn.init((2,), key=jr.key(3))
    run = stream(3)
    (_, straight), _ = run(model, start, xs[:6], ys[:6])
    (_, want), wanted = run(model, straight, xs[6:], ys[6:])
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, straight)
    file.seek(0)
    again = eqx.tree_deserialise_leaves(file, model.rnn.init((2,), key=jr.key(0)))
    (_, have), found = run(model, again, xs[6:], ys[6:])
    for a, b in zip(jax.tree.leaves((have, found)), jax.tree.leaves((want, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_single_precision():
    """Its dtype goes through the trace and the optimizer, and the figures are double's."""
    single = lambda tree: jax.tree.map(  # noqa: E731
        lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, tree
    )
    noise = np.random.default_rng(0).normal(size=(11, N))
    model = with_rule("rate", learn=LEARN, noise=noise)
    found = []
    for model, xs, ys in ((model, *data()), (single(model), *single(data()))):
        (_, carry), gradients = stream(3)(model, model.rnn.init((2,)), xs, ys)
        found.append((weights(gradients), learned(carry)))
    double, narrow = found
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("float32")}
    assert distance(narrow, double) < 1e-3


# --- errors ---


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"alpha": 1.5}, "alpha must be in"),
        ({"learn": 0.1}, "optax transformation"),
        ({"noise": "uniform"}, "noise must be one of"),
        ({"noise": np.ones(5)}, "noise must be one of"),
    ],
)
def test_options(options, words, without_type_checks):
    with pytest.raises(ValueError, match=words):
        mpj.KeRNL(**options)


@pytest.mark.parametrize(
    "cell, words",
    [
        (lambda: table_cell("filtered_rate"), "Filtered"),
        (lambda: table_cell("adaptive"), "one float variable"),
        (lambda: table_cell("refractory"), "one float variable"),
        (lambda: table_cell("leaky_tau"), "tau .* trains too"),
        (lambda: table_cell("function"), "needs a NeuronCell"),
        (lambda: mpj.GRUCell(M, N, key=jr.key(0)), "needs a NeuronCell"),
    ],
)
def test_cells(cell, words):
    with pytest.raises(ValueError, match=words):
        mpj.KeRNL().init(cell(), cell().init((2,)), key=jr.key(0))


def test_starts():
    cell, xs = table_cell("rate"), data()[0]
    with pytest.raises(ValueError, match="draws random numbers: make its carry with a key"):
        mpj.KeRNL().init(cell, cell.init((2,)))
    with pytest.raises(ValueError, match="got a bare state"):
        mpj.scan(cell, cell.init((2,)), xs, rule=mpj.KeRNL())
    with pytest.raises(ValueError, match="needs 6 random numbers"):
        mpj.scan(cell, cell.init((2,)), xs, rule=mpj.KeRNL(noise=np.ones((4, 5))))
    for_three = mpj.KeRNL(noise=np.ones((11, 3, N)))
    with pytest.raises(ValueError, match="batch"):
        for_three.init(cell, cell.init((2,)))
    with pytest.raises(ValueError, match="batch"):
        jax.eval_shape(jax.grad(lambda c: bare_loss(c, for_three, xs)), cell.weight_rec)
    carry = mpj.KeRNL().init(cell, cell.init((2,)), key=jr.key(0))
    with pytest.raises(ValueError, match="does not fit rule=EProp"):
        mpj.scan(cell, carry, xs, rule=mpj.EProp())


def bare_loss(weight, rule, xs):
    cell = eqx.tree_at(lambda c: c.weight_rec, table_cell("rate"), weight)
    return mpj.scan(cell, cell.init((2,)), xs, rule=rule)[1].sum()


def test_noise_ends_in_nan():
    """Given noise is not used twice."""
    rule = mpj.KeRNL(noise=np.random.default_rng(0).normal(size=(3, N)))
    cell = table_cell("rate")
    run = jit(lambda carry, xs: mpj.scan(cell, carry, xs, rule=rule)[0])
    carry = run(rule.init(cell, cell.init((2,))), data(steps=3)[0])
    assert np.all(np.isfinite(flat(learned(carry))))
    carry = run(carry, data(steps=1)[0])
    assert np.all(np.isnan(flat(learned(carry))))
