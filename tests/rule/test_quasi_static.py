"""Credit at equilibrium at every step: against loops of its equations, and in its limits."""

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
    CELLS,
    data,
    distance,
    error,
    generic,
    gradient,
    jit,
    M,
    N,
    Net,
    OUT,
    streamed_gradient,
)

import modprop_jax as mpj
from modprop_jax._radius import radius


def net(c: Any, rule: Any) -> Net:
    return Net(mpj.RNN(c, rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))


def found_on(name: str, rule: Any) -> Any:
    return gradient(net(cell(name), rule), *data())


# --- the equations ---


def by_loop(name: str, sweeps: int | None) -> tuple:
    """Gradients of W_rec, W_in, b and the inputs by a NumPy loop forward in time."""
    c: Any = cell(name)
    xs, ys = map(np.asarray, data())
    readout = net(c, mpj.BPTT()).readout
    w_out, b_out = np.asarray(readout.weight), np.asarray(readout.bias)
    inner = c.effective()
    w, w_in, b = (np.asarray(p) for p in (inner.weight_rec, inner.weight_in, inner.bias))
    rate = isinstance(c, mpj.RateCell)
    leak = np.broadcast_to(np.asarray(c.leak), N)
    sums = np.zeros((N, N)), np.zeros((N, M)), np.zeros(N)
    credits = np.zeros((len(xs), *BATCH, N))
    gates = np.zeros_like(credits)
    for k in range(BATCH[0]):
        state, traces = np.zeros(N), [np.zeros((N, N)), np.zeros((N, M)), np.zeros((N, 1))]
        for t, x in enumerate(xs[:, k]):
            sent = state if rate else np.tanh(state)
            drive = w @ sent + w_in @ x + b
            state = leak * state + (1 - leak) * (np.tanh(drive) if rate else drive)
            slope = 1 - np.tanh(drive if rate else state) ** 2
            gates[t, k] = (1 - leak) * (slope if rate else 1)
            pre = sent, x, np.ones(1)
            traces = [
                leak[:, None] * e + gates[t, k][:, None] * p[None] for e, p in zip(traces, pre)
            ]
            z = state if rate else np.tanh(state)
            y = w_out @ z + b_out
            e = w_out.T @ (y - ys[t, k] + 0.3 * y**2) / BATCH[0]
            # credit on what is sent
            loop = w.T * slope[None]
            if sweeps is None:
                a = np.linalg.solve(np.eye(N) - loop, e)
            else:
                a = sum(np.linalg.matrix_power(loop, s) @ e for s in range(sweeps + 1))
            credits[t, k] = a if rate else a * slope
            for total, trace in zip(sums, traces):
                total += (credits[t, k][:, None] * trace).reshape(total.shape)
    later = np.zeros_like(credits[0])
    of_xs = np.zeros_like(xs)
    for t in reversed(range(len(xs))):
        later = later * leak + credits[t]
        of_xs[t] = (later * gates[t]) @ w_in
    mask = np.ones((N, N), bool) if c.mask is None else np.asarray(c.mask)
    if not c.autapses:
        mask = mask & ~np.eye(N, dtype=bool)
    return np.where(mask, sums[0], 0), *sums[1:], of_xs


@pytest.mark.parametrize("sweeps", [None, 1, 3])
@pytest.mark.parametrize("name", ["leaky", "leaky_taus", "rate"])
def test_equations(name, sweeps):
    model = net(cell(name), mpj.QuasiStatic(sweeps=sweeps))
    xs, ys = data()
    found = jit(eqx.filter_grad(lambda both: error(both[0](both[1]), ys)))((model, xs))
    c = found[0].rnn.cell
    assert_close((c.weight_rec, c.weight_in, c.bias, found[1]), by_loop(name, sweeps), 1e-11)


# --- limits ---


@pytest.mark.parametrize("name", ["leaky_tau", "rate", "refractory", "filtered_leaky_taus"])
def test_no_sweep_is_eprop(name):
    none, eprop = mpj.QuasiStatic(sweeps=0), mpj.EProp()
    found, want = (found_on(name, rule) for rule in (none, eprop))
    assert_close(jax.tree.leaves(found), jax.tree.leaves(want), 1e-13)
    (_, carry), streamed = streamed_gradient(4)(net(cell(name), none), *data())
    assert_close(jax.tree.leaves(streamed), jax.tree.leaves(want[1]), 1e-12)
    # no larger either
    plain = net(cell(name), eprop).rnn.init(BATCH)
    assert [a.shape for a in jax.tree.leaves(carry)] == [a.shape for a in jax.tree.leaves(plain)]


def test_without_recurrent_weights_it_is_exact():
    c = eqx.tree_at(lambda c: c.weight_rec, cell("leaky_tau"), jnp.zeros((N, N)))
    found, exact = (gradient(net(c, r), *data())[1] for r in (mpj.QuasiStatic(), mpj.BPTT()))
    found, exact = ((g.rnn.cell.weight_in, g.rnn.cell.tau) for g in (found, exact))
    assert_close(found, exact, 1e-11)


class SendingCell(mpj.NeuronCell):
    """A leaky neuron that sends tanh(slope v) and emits tanh(v)."""

    slope: jax.Array

    def __init__(self, *args, **kwargs):
        mpj.NeuronCell.__init__(self, *args, **kwargs)
        self.slope = jnp.linspace(0.6, 1.4, self.hidden_size)

    def init(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size))

    def integrate(self, state, drive):
        return 0.7 * state + 0.3 * drive

    def emit(self, state):
        return jnp.tanh(state)

    def message(self, state):
        return jnp.tanh(jnp.broadcast_to(self.slope, state.shape) * state)


SETTLING = {
    "leaky": lambda: mpj.LeakyCell(
        M, N, tau=np.linspace(1.0, 3.0, N), activation=jnp.tanh, use_bias=True, key=jr.key(1)
    ),
    "rate": lambda: mpj.RateCell(M, N, alpha=0.6, key=jr.key(4)),
    # pyright takes it for a plain dataclass
    "sending": lambda: SendingCell(M, N, use_bias=True, key=jr.key(2)),  # pyright: ignore
}


@pytest.fixture(scope="module", params=SETTLING)
def settled(request):
    """A cell, its settled state under an input, the input, and BPTT's gradient of a late loss."""
    c = generic(SETTLING[request.param](), 0.7)
    xs = jnp.broadcast_to(data()[0][:1], (300, *BATCH, M))
    state = jit(lambda: mpj.scan(c, c.init(BATCH), xs)[0])()
    return c, state, xs


@jit
def late_gradient(c: Any, state: Any, xs: Any, rule: Any) -> Any:
    def loss(c):
        return error(mpj.scan(c, state, xs, rule=rule)[1][-1, ..., :OUT], data()[1][0])

    return eqx.filter_grad(loss)(c)


@pytest.mark.slow
def test_stationary_limit_of_bptt(settled):
    """A settled network, constant input, one loss after a long time: all credit is there."""
    c, state, xs = settled
    exact = late_gradient(c, state, xs, mpj.BPTT())
    assert_close(late_gradient(c, state, xs, mpj.QuasiStatic()), exact, 1e-9)
    short = [late_gradient(c, state, xs, mpj.QuasiStatic(sweeps=s)) for s in (0, 1, 3)]
    away = [distance(g.weight_rec, exact.weight_rec) for g in short]
    assert away[0] > away[1] > away[2] > 1e-3


@pytest.mark.slow
def test_stationary_limit_is_the_equilibrium_cell():
    """The same network as a map that relaxes, its credit by retrograde signalling."""
    c = generic(SETTLING["leaky"](), 0.7)
    xs = jnp.broadcast_to(data()[0][:1], (300, *BATCH, M))
    found = late_gradient(
        c, jit(lambda: mpj.scan(c, c.init(BATCH), xs)[0])(), xs, mpj.QuasiStatic()
    )
    both: Any = mpj.EquilibriumCell(
        M + N,
        inputs=np.arange(M + N) < M,
        outputs=np.arange(M + N) >= M,
        activation=jnp.tanh,
        rtol=0.0,
        atol=0.0,
        key=jr.key(0),
    )
    rec = jnp.where(jnp.eye(N, dtype=bool), 0, c.weight_rec)
    weight = jnp.zeros((M + N, M + N)).at[M:].set(jnp.concatenate([c.weight_in, rec], 1))
    bias = jnp.zeros(M + N).at[M:].set(c.bias)
    both = eqx.tree_at(lambda c: (c.weight, c.bias), both, (weight, bias))

    def loss(both):
        rule = mpj.EICredit(rtol=0.0, atol=0.0)
        zs = mpj.scan(both, both.init(BATCH), xs[:1], rule=rule)[1]
        return error(zs[0, ..., M : M + OUT], data()[1][0])

    relaxed = jit(eqx.filter_grad(loss))(both)
    off = ~np.eye(N, dtype=bool)
    assert_close(found.weight_rec[off], relaxed.weight[M:, M:][off], 1e-9)
    assert_close((found.weight_in, found.bias), (relaxed.weight[M:, :M], relaxed.bias[M:]), 1e-9)


# --- streams ---

STREAMED = ["leaky_tau", "leaky_taus", "rate", "refractory", "filtered_leaky", "filtered_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMED)
def test_streamed_is_offline(name):
    assert name in CELLS
    model = net(cell(name), mpj.QuasiStatic())
    offline = gradient(model, *data())
    for segment in (1, 4) if name == "leaky_tau" else (4,):
        (loss, _), streamed = streamed_gradient(segment)(model, *data())
        assert_close((loss, streamed), offline, 1e-11)


def test_it_is_a_rule_of_its_own():
    own = found_on("leaky", mpj.QuasiStatic())[1].rnn.cell
    series = found_on("leaky", mpj.QuasiStatic(sweeps=1))[1].rnn.cell
    for rule in (mpj.EProp(), mpj.MDGL(), mpj.BPTT(), mpj.ModProp(0.5)):
        other = found_on("leaky", rule)[1].rnn.cell
        assert distance(own, other) > 1e-2 and distance(series, other) > 1e-2
    assert distance(own, series) > 1e-2


# --- slow and fast inputs ---


def correlated(rng: Any, steps: int, features: int, tau: float) -> np.ndarray:
    """Ornstein-Uhlenbeck noise of variance 1 with this correlation time in steps."""
    keep = np.exp(-1 / tau)
    noise, value = rng.normal(size=(steps, features)), rng.normal(size=features)
    values = []
    for draw in noise:
        value = keep * value + np.sqrt(1 - keep**2) * draw
        values.append(value)
    return np.array(values)


@pytest.mark.slow
def test_slow_inputs_are_its_regime():
    """Cosine to BPTT, mean of four networks: the solution is best if inputs outlast neurons."""
    n, tau, rules = 20, 5.0, [mpj.EProp(), mpj.QuasiStatic(sweeps=1), mpj.QuasiStatic()]
    rules = [mpj.BPTT(), *rules]

    @jit
    def cosines(key, xs, ys):
        c = mpj.LeakyCell(2, n, tau=tau, activation=jnp.tanh, autapses=True, key=key)
        w = 0.9 * c.weight_rec / radius(c.weight_rec)
        w_out = jr.normal(key, (2, n)) / np.sqrt(n)

        def loss(w, rule):
            zs = mpj.scan(eqx.tree_at(lambda c: c.weight_rec, c, w), c.init(), xs, rule=rule)[1]
            return jnp.sum((zs @ w_out.T - ys) ** 2)

        exact, *others = (jax.grad(loss)(w, rule) for rule in rules)
        return [jnp.vdot(g, exact) / jnp.linalg.norm(g) / jnp.linalg.norm(exact) for g in others]

    def mean(of_tau):
        rng, found = np.random.default_rng(0), []
        for seed in range(4):
            xs, ys = (jnp.asarray(correlated(rng, 400, 2, of_tau * tau)) for _ in range(2))
            found.append(cosines(jr.key(seed), xs, ys))
        return np.mean(found, axis=0)

    eprop, one, solution = mean(10.0)
    assert eprop < 0.95 < one < solution and solution > 0.99
    assert mean(0.3)[-1] < 0.97


# --- guards ---


def linear(weight: float) -> Any:
    """One neuron that drives itself."""
    c = mpj.RateCell(1, 1, alpha=0.5, activation=lambda a: 1.0 * a, use_bias=False, key=jr.key(0))
    return eqx.tree_at(lambda c: c.weight_rec, c, jnp.full((1, 1), weight))


@pytest.mark.slow
def test_near_singular_steps():
    """Credit is amplified by 1 / (1 - weight); what is sent on, under a ridge ε, by 1 / (2 √ε)."""
    xs = jnp.ones((3, 1))

    def gradient_under(weight, rule):
        def loss(c):
            return jnp.sum(mpj.scan(c, c.init(), xs, rule=rule)[1])

        return float(jit(eqx.filter_grad(loss))(linear(weight)).weight_in[0, 0])

    for weight in (0.9, 1.1):
        amplified = gradient_under(weight, mpj.QuasiStatic()) / gradient_under(weight, mpj.EProp())
        assert amplified == pytest.approx(1 / (1 - weight), rel=1e-10)
    ridge = mpj.QuasiStatic(ridge=0.01)
    for weight in (0.5, 0.9, 1.0):
        bounded = gradient_under(weight, ridge) / gradient_under(weight, mpj.EProp())
        sent = (1 - weight) / ((1 - weight) ** 2 + 0.01)
        assert bounded == pytest.approx(1 + weight * sent, rel=1e-10) and sent <= 1 / (2 * 0.1)
    series = gradient_under(1.0, mpj.QuasiStatic(sweeps=4))
    assert series / gradient_under(1.0, mpj.EProp()) == pytest.approx(5)

    c = linear(1.0)
    checked = mpj.value_and_grad(
        lambda c: jnp.sum(mpj.scan(c, c.init(), xs, rule=mpj.QuasiStatic())[1]), check=True
    )
    with pytest.raises(Exception, match="gradient is NaN or infinite"):
        jax.block_until_ready(jit(checked)(c))


def test_what_it_does_not_serve():
    rule = mpj.QuasiStatic()
    with pytest.raises(ValueError, match="one float variable, but AdaptiveCell has 2"):
        net(cell("adaptive"), rule).rnn.init()
    with pytest.raises(ValueError, match="QuasiStatic needs a NeuronCell"):
        net(cell("function"), rule).rnn.init()
    for sweeps in (-1, True):
        with pytest.raises(
            ValueError, match=f"sweeps must be a whole .* at least 0, but is {sweeps}"
        ):
            mpj.QuasiStatic(sweeps=sweeps)
    with pytest.raises(ValueError, match=r"ridge must be 0 or more, and finite, but is -1\.0"):
        mpj.QuasiStatic(ridge=-1.0)
    with pytest.raises(ValueError, match=r"for the solution.* got ridge=0\.1 and sweeps=2"):
        mpj.QuasiStatic(ridge=0.1, sweeps=2)
