"""UORO, KF-RTRL and R-KF-RTRL: the published runs, and RTRL in the mean over all noise."""

import functools
import io
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import online
import pytest
from helpers import (
    AdaptiveCell,
    assert_close,
    cell as table_cell,
    data,
    distance,
    error,
    flat,
    jit,
    M,
    N,
    Net,
    OUT,
    plain_scan,
    RefractoryCell,
    segment_loss,
)

import modprop_jax as mpj


pytestmark = pytest.mark.slow


RULES: dict[str, Any] = {"uoro": mpj.UORO, "kf": mpj.KFRTRL, "rkf": mpj.RKFRTRL}
KEY = jr.key(3)


# --- published runs, with recorded noise and initial factors ---


def published_start(name, net, batch=()):
    """A carry with the recorded initial factors; here the columns of a tangent come first."""
    shared, cell = online.figures("shared"), net.rnn.cell
    a, b = (jnp.asarray(shared[f"{name}_{k}0"]) for k in "AB")
    if name == "uoro":
        parts = b[:, :5], b[:, 5:7], b[:, 7]
        where = lambda c: (c.weight_rec, c.weight_in, c.bias)  # noqa: E731
        tangent, factor = a, eqx.tree_at(where, eqx.filter(cell, eqx.is_inexact_array), parts)
    else:
        tangent, factor = b.T, a
    carry = net.rnn.init(batch, key=KEY)
    factors = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (1, *batch, *leaf.shape)), (tangent, factor)
    )
    held = carry.trace.state
    held = held._replace(tangent=factors[0], factor=factors[1])
    return eqx.tree_at(lambda c: c.trace, carry, carry.trace._replace(state=held))


@pytest.mark.parametrize(
    "case, law", [("a10_ce", "discrete"), ("a10_ce", "gaussian"), ("a05_mse", "discrete")]
)
@pytest.mark.parametrize("name", RULES)
def test_published_runs(case, name, law):
    figures = online.figures(f"{case}/{name}_{law}")
    net = online.network(case, RULES[name](noise=figures["nu"], epsilon=0))
    steps = online.per_step(case, net, published_start(name, net))
    online.assert_golden(steps.recurrent, figures["rec_grads"])
    held = jax.tree.map(lambda leaf: leaf[-1, 0], steps.traces.state)
    uoro = name == "uoro"
    a = held.tangent if uoro else held.factor
    b = online.recurrent(held.factor) if uoro else held.tangent.T
    online.assert_golden(a, figures["A_final"])
    online.assert_golden(b, figures["B_final"])


def patterns(steps, size):
    """All ±1 noise, (T, 2^(T k), k)."""
    each = np.array(list(itertools.product((-1.0, 1.0), repeat=steps * size)))
    return np.moveaxis(each.reshape(-1, steps, size), 1, 0)


@jit
def published_steps(net, carry, steps):
    """Gradient of each step of the first case, summed over a batch that sees the same."""
    batch = jax.tree.leaves(carry.state)[0].shape[:-1]

    def body(carry, seen):
        seen = (jnp.broadcast_to(a, (1, *batch, *a.shape)) for a in seen)
        (_, carry), gradients = online.gradient_of_segment("a10_ce", net, carry, *seen)
        return carry, online.recurrent(gradients.rnn.cell)

    return jax.lax.scan(body, carry, jax.tree.map(lambda a: a[:steps], online.data("a10_ce")))[1]


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [("uoro", 5), ("kf", 2), ("rkf", 5)])
def test_published_means(name, size):
    """They are not RTRL's from zero, but its gradient from the product of initial factors."""
    want = online.figures(f"a10_ce/{name}_enum")["mean_rec_grads"]
    noise = patterns(len(want), size)
    count = noise.shape[1]
    net = online.network("a10_ce", RULES[name](noise=noise, epsilon=0))
    found = published_steps(net, published_start(name, net, (count,)), len(want))
    online.assert_golden(found / count, want, 1e-9)


@pytest.mark.parametrize("shape", [(3, 5), (3, 1, 5)])
def test_given_noise_does_not_repeat(shape):
    net = online.network("a10_ce", mpj.UORO(noise=np.ones(shape)))
    found = published_steps(net, net.rnn.init((1,), key=KEY), 5)
    assert np.isfinite(found[:3]).all() and np.isnan(found[3:]).all()


# --- the mean over all noise ---


class Sloped(mpj.NeuronCell):
    """A leaky neuron whose emission alone reads a parameter."""

    slope: jax.Array

    def __init__(self, in_size, hidden_size, **kwargs):
        mpj.NeuronCell.__init__(self, in_size, hidden_size, **kwargs)
        self.slope = jnp.linspace(1.5, 0.5, hidden_size)

    def init(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size))

    def integrate(self, state, drive):
        return 0.6 * state + drive

    def emit(self, state):
        return jnp.tanh(jnp.broadcast_to(self.slope, state.shape) * state)

    def message(self, state):
        return jnp.tanh(state)


def constant_adaptive():
    cell: Any = AdaptiveCell(2, 2, use_bias=True, key=jr.key(6))
    constants = lambda c: (c.strength, c.rho, c.slope)  # noqa: E731
    return eqx.tree_at(constants, cell, (0.3, 0.7, 1.2))


MASK = np.array([[1, 1], [0, 1]], bool)

SMALL: dict[str, Any] = {
    "rate": lambda: mpj.RateCell(2, 2, alpha=0.6, mask=MASK, key=jr.key(4)),
    "leaky": lambda: mpj.LeakyCell(2, 2, tau=3.0, activation=jnp.tanh, key=jr.key(1)),
    "leaky_tau": lambda: mpj.LeakyCell(
        2, 2, tau=jnp.array([2.0, 5.0]), activation=jnp.tanh, autapses=True, key=jr.key(2)
    ),
    "adaptive": lambda: AdaptiveCell(2, 2, use_bias=True, autapses=True, key=jr.key(6)),
    "constant_adaptive": constant_adaptive,
    "refractory": lambda: RefractoryCell(2, 2, autapses=True, key=jr.key(9)),  # pyright: ignore
    "gru": lambda: mpj.GRUCell(2, 2, key=jr.key(5)),
    "filtered_twice": lambda: mpj.Filtered(SMALL["leaky"](), (0.7, 1.0)),
    "filtered_sloped": lambda: mpj.Filtered(Sloped(2, 2, key=jr.key(7)), 0.5),
}


def small_inputs(steps=3, seed=0):
    rng = np.random.default_rng(seed)
    return 1.5 * rng.normal(size=(steps, 2)), rng.normal(size=(steps, 1))


def small_loss(zs, ws):
    return jnp.sum(ws * (zs + 0.3 * zs**3))


def in_segments(segment):
    """Summed gradient of a cell, `(cell, rule, carry, xs, ws)`, in segments of this many steps."""

    def loss(model, carry, xs, ws):
        cell, rule = model
        carry, zs = mpj.scan(cell, carry, xs, rule=rule)
        return small_loss(zs, ws), carry

    stream = mpj.online_value_and_grad(loss, segment=segment)
    return lambda cell, rule, carry, xs, ws: stream((cell, rule), carry, xs, ws)[1][0]


@functools.cache
def segments(segment):
    return jit(in_segments(segment))


@jit
@eqx.filter_grad
def of_one_example(cell, xs, ws):
    return small_loss(plain_scan(cell, cell.init(), xs)[1], ws)


def exact(cell, xs, ws):
    """RTRL's gradient of one example, by JAX's own derivative."""
    return of_one_example(cell, jnp.asarray(xs), jnp.asarray(ws))


def in_the_mean(name, cell, draws, segment, xs, ws, **options):
    """The gradient averaged over all ±1 noise, from zero traces."""
    noise = patterns(len(xs), draws)
    count = noise.shape[1]
    rule = RULES[name](noise=noise, **options)
    xs, ws = (np.repeat(a[:, None], count, 1) for a in (xs, ws))
    carry = rule.init(cell, cell.init((count,)), key=KEY)
    return segments(segment)(cell, rule, carry, jnp.asarray(xs), jnp.asarray(ws / count))


CASES = [
    # rule, cell, random numbers a step, segment
    ("uoro", "rate", 2, 3),
    ("uoro", "leaky", 2, 3),
    ("uoro", "leaky_tau", 2, 3),
    ("uoro", "adaptive", 4, 3),
    ("uoro", "refractory", 2, 3),
    ("uoro", "gru", 2, 3),
    ("uoro", "filtered_twice", 2, 2),
    ("uoro", "filtered_sloped", 4, 1),
    ("kf", "rate", 2, 3),
    ("kf", "leaky", 2, 3),
    ("kf", "constant_adaptive", 2, 3),
    ("kf", "filtered_twice", 2, 1),
    ("rkf", "rate", 2, 3),
    ("rkf", "leaky", 2, 3),
    ("rkf", "constant_adaptive", 2, 3),
    ("rkf", "filtered_twice", 2, 1),
]


@pytest.mark.parametrize("name, cell_name, draws, segment", CASES)
def test_mean_over_all_noise_is_rtrl(name, cell_name, draws, segment):
    cell, (xs, ws) = SMALL[cell_name](), small_inputs()
    found = in_the_mean(name, cell, draws, segment, xs, ws)
    assert_close(found, exact(cell, xs, ws), 1e-9)


def silent_at_first():
    xs, ws = small_inputs()
    return np.array([[0], [1], [1]]) * xs, ws


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_silence_before_the_first_input(name):
    """Zero influence stays zero, and what begins after it is unbiased."""
    cell, (xs, ws) = SMALL["leaky"](), silent_at_first()
    want = exact(cell, xs, ws)
    assert_close(in_the_mean(name, cell, 2, 3, xs, ws), want, 1e-9)
    silent = in_the_mean(name, cell, 2, 3, 0 * xs, ws)
    assert_close(silent, jax.tree.map(jnp.zeros_like, want))


def test_the_floor_is_what_makes_zero_factors_safe():
    found = in_the_mean("uoro", SMALL["leaky"](), 2, 3, *small_inputs(), epsilon=0)
    assert np.isnan(flat(found)).any()


# --- draws ---


@functools.cache
def one_a_key(name, law, probes):
    """(keys,) -> (keys, parameters) of the leaky cell's gradient, each of one example."""
    cell, (xs, ws) = SMALL["leaky"](), small_inputs()
    rule = RULES[name](noise=law, probes=probes)

    def one(key):
        carry = rule.init(cell, cell.init(), key=key)
        found = in_segments(3)(cell, rule, carry, jnp.asarray(xs), jnp.asarray(ws))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])

    return jit(jax.vmap(one))


@pytest.mark.slow
@pytest.mark.parametrize("law", ["rademacher", "normal"])
@pytest.mark.parametrize("name", RULES)
def test_draws_scatter_around_rtrl(name, law):
    found = one_a_key(name, law, 1)(jr.split(KEY, 4000))
    want = flat(exact(SMALL["leaky"](), *small_inputs()))
    spread = np.std(found, axis=0)
    free = want != 0  # the diagonal is masked
    assert (spread[free] > 0.02 * np.abs(want).max()).all() and (spread[~free] == 0).all()
    z = (np.mean(found, axis=0) - want)[free] / (spread[free] / np.sqrt(len(found)))
    assert np.abs(z).max() < 4
    np.testing.assert_array_equal(found, one_a_key(name, law, 1)(jr.split(KEY, 4000)))


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_variance_falls_as_the_number_of_probes(name):
    keys = jr.split(jr.key(8), 4000)
    one, four = (np.var(one_a_key(name, "rademacher", p)(keys), axis=0).sum() for p in (1, 4))
    assert 3.4 < one / four < 4.7


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_probes_are_averaged(name):
    cell, (xs, ws) = SMALL["leaky"](), map(jnp.asarray, small_inputs())
    pair, single = RULES[name](probes=2), RULES[name]()
    carry = pair.init(cell, cell.init(), key=KEY)
    alone = single.init(cell, cell.init(), key=KEY)

    def probe(i):
        trace = jax.tree.map(lambda leaf: leaf[i : i + 1], carry.trace)
        return eqx.tree_at(lambda c: c.trace, alone, trace)

    each = [segments(3)(cell, single, probe(i), xs, ws) for i in range(2)]
    assert distance(*each) > 1e-2
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *each)
    assert_close(segments(3)(cell, pair, carry, xs, ws), mean, 1e-12)


# --- streams ---


def model(name, cell_name, **options):
    return Net(
        mpj.RNN(table_cell(cell_name), rule=RULES[name](**options)),
        mpj.Readout(N, OUT, key=jr.key(7)),
    )


@functools.cache
def stream(segment):
    return jit(mpj.online_value_and_grad(segment_loss, segment=segment))


STREAMS = [("uoro", "function"), ("kf", "rate"), ("rkf", "leaky")]


def same_inputs():
    """Both examples are alike but for their noise."""
    return (jnp.broadcast_to(a[:, :1], a.shape) for a in data(steps=7))


@pytest.mark.slow
@pytest.mark.parametrize("name, cell_name", STREAMS)
def test_streamed_is_offline_at_the_same_key(name, cell_name):
    net, (xs, ys) = model(name, cell_name, probes=2), same_inputs()
    carry = net.rnn.init((2,), key=KEY)
    (loss, last), want = stream(7)(net, carry, xs, ys)
    for segment in (1, 3):
        (value, after), found = stream(segment)(net, carry, xs, ys)
        assert_close((value, found), (loss, want), 1e-10)
        assert_close(after, last, 1e-10)

    held = last.trace.state
    assert (np.asarray(held.step) == 7).all()
    for leaf in jax.tree.leaves((held.tangent, held.factor)):
        assert distance(leaf[:, 0], leaf[:, 1]) > 1e-2
        assert distance(leaf[0], leaf[1]) > 1e-2
    _, other = stream(7)(net, net.rnn.init((2,), key=jr.key(4)), xs, ys)
    assert distance(other.rnn.cell, want.rnn.cell) > 1e-2
    assert_close(other.readout, want.readout)


@pytest.mark.slow
@pytest.mark.parametrize("name, cell_name", STREAMS)
def test_a_saved_carry_goes_on_bit_for_bit(name, cell_name):
    net, (xs, ys) = model(name, cell_name, probes=2), same_inputs()
    (_, carry), _ = stream(3)(net, net.rnn.init((2,), key=KEY), xs, ys)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, carry)
    file.seek(0)
    again = eqx.tree_deserialise_leaves(file, net.rnn.init((2,), key=jr.key(9)))
    want, found = (stream(3)(net, start, xs, ys) for start in (carry, again))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_float32():
    """The same signs at the same key, and the figures of double precision but for rounding."""

    def narrow(tree):
        return jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, tree)

    net, (xs, ys) = model("kf", "rate", probes=2), same_inputs()
    _, want = stream(7)(net, net.rnn.init((2,), key=KEY), xs, ys)
    net, xs, ys = narrow((net, xs, ys))
    (_, carry), found = stream(7)(net, net.rnn.init((2,), key=KEY), xs, ys)
    for leaf in jax.tree.leaves((carry.trace.state.tangent, carry.trace.state.factor, found)):
        assert leaf.dtype == jnp.float32
    assert distance(found, want) < 1e-4


# two examples of two sequences each, of four steps; 0 is padding
ORDER = np.array([[1, 1, 1, 1, 0, 0, 2, 2, 2, 2, 0], [0, 3, 3, 3, 3, 4, 4, 4, 4, 0, 0]])
KEEP = jnp.asarray((ORDER > 0).T)
DONE = jnp.asarray(((ORDER > 0) & (np.diff(ORDER, append=0) != 0)).T)


def flagged_loss(model, carry, xs, ys):
    xs, done, mask = xs
    carry, zs = model.rnn(xs, carry, done=done, valid=mask)
    outputs = jnp.where(mask[..., None], model.readout(zs), ys)
    return error(outputs - ys, jnp.zeros_like(ys)), carry


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, cell_name, segment",
    [
        ("uoro", "leaky", 11),
        ("uoro", "filtered_adaptive", 1),
        ("kf", "filtered_rate", 1),
        ("rkf", "rate", 3),
    ],
)
def test_sequences_that_end_and_pause(name, cell_name, segment):
    """As if run apart, where each takes the rows of noise that it gets side by side."""
    xs, ys = data()
    rng = np.random.default_rng(2)
    # the emission of the adaptive cell has parameters of its own
    size = 2 if name == "kf" else 3 * N if cell_name == "filtered_adaptive" else N
    noise = rng.normal(size=(8, 2, size))
    run = jit(mpj.online_value_and_grad(flagged_loss, segment=segment))
    net = model(name, cell_name, noise=noise)
    padded = jnp.where(KEEP[..., None], xs, jnp.nan)
    start = net.rnn.init((2,), key=KEY)
    (loss, carry), found = run(net, start, (padded, DONE, KEEP), ys)

    pieces = [(ORDER[b] == i, b) for b, i in ((0, 1), (0, 2), (1, 3), (1, 4))]
    xs, ys = (jnp.stack([a[where, b] for where, b in pieces], 1) for a in (xs, ys))
    noise = np.stack([noise[first : first + 4, b] for b in range(2) for first in (0, 4)], 1)
    apart = model(name, cell_name, noise=noise)
    on, off = jnp.ones((4, 4), bool), jnp.zeros((4, 4), bool)
    (value, _), want = run(apart, apart.rnn.init((4,), key=KEY), (xs, off, on), ys)
    assert_close(loss, value)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(want))

    # both examples end before the last step: the estimate is forgotten, and the draws go on
    held, fresh = carry.trace.state, start.trace.state
    assert_close((held.tangent, held.factor), (fresh.tangent, fresh.factor))
    assert_close(carry.trace.memory, start.trace.memory)
    assert (np.asarray(held.step) == 8).all()
    keys = jr.wrap_key_data(fresh.key).ravel()
    for _ in range(8):
        keys = jax.vmap(jr.split)(keys)[:, 0]
    np.testing.assert_array_equal(held.key, jr.key_data(keys)[None])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, cell_name, size",
    [
        ("uoro", "rate", N + N * (N + M + 1)),
        ("uoro", "adaptive", 2 * N + N * (N + M + 1) + 2 * N + 1),
        ("uoro", "filtered_rate", 2 * N + N * (N + M + 1)),
        ("kf", "rate", N * N + (N + M + 1)),
        ("kf", "filtered_rate", 2 * N * N + (N + M + 1)),
        ("rkf", "rate", N * (N + M + 1) + N),
    ],
)
def test_memory(name, cell_name, size):
    """Numbers of one probe and example: the two factors, two words of key, one count."""
    carry = model(name, cell_name, probes=3).rnn.init((2,), key=KEY)
    leaves = jax.tree.leaves(carry.trace)
    assert all(leaf.shape[:2] == (3, 2) for leaf in leaves)
    assert sum(leaf.size for leaf in leaves) == 3 * 2 * (size + 3)


# --- errors ---


@pytest.mark.parametrize(
    "options, message",
    [
        ({"noise": "uniform"}, r"noise must be one of \['normal', 'rademacher'\].*'uniform'"),
        ({"noise": np.ones(3)}, r"noise must be .* array \(T, k\).* is array\(\[1\., 1\., 1\."),
        ({"noise": np.ones((3, 0))}, r"noise must be .* is array\(\[\], shape=\(3, 0\)"),
        ({"noise": np.ones((3, 2), complex)}, r"noise must be .* is array\(\[\[1\.\+0\.j"),
        ({"noise": np.ones((3, 2)), "probes": 2}, "probes=2: leave it at 1"),
        ({"probes": 0}, "probes must be a whole number of at least 1, but is 0"),
        ({"probes": True}, "probes must be a whole number of at least 1, but is True"),
        ({"epsilon": -1.0}, r"epsilon must be 0 or more, and finite, but is -1\.0"),
        ({"epsilon": float("nan")}, "epsilon must be 0 or more, and finite, but is nan"),
        ({"epsilon": jnp.asarray(1e-3)}, "epsilon is a constant, .* a jax.Array came"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("cls", RULES.values())
def test_options(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


def test_noise_is_not_traced():
    with pytest.raises(ValueError, match="traced array came: make the rule outside"):
        jax.jit(lambda noise: mpj.UORO(noise=noise))(jnp.ones((3, 2)))


@pytest.mark.parametrize("name", RULES)
def test_noise_of_another_shape(name):
    c = table_cell("rate")
    with pytest.raises(ValueError, match=r"random numbers a step for this RateCell, but .* hold 3"):
        RULES[name](noise=np.ones((4, 3))).init(c, c.init(), key=KEY)
    k = 2 if name == "kf" else N
    with pytest.raises(ValueError, match=r"of a batch \(5,\), but the state's batch is \(2,\)"):
        RULES[name](noise=np.ones((4, 5, k))).init(c, c.init((2,)), key=KEY)


@pytest.mark.parametrize("name", RULES)
def test_keys(name):
    net, (xs, _) = model(name, "rate"), data()
    with pytest.raises(ValueError, match=r"make its carry with a key, rule.init\(cell"):
        net.rnn.init((2,))
    with pytest.raises(ValueError, match="needs a carry, but got a bare state"):
        net.rnn(xs)
    # raw keys, and those of another kind, are taken too, and all make the same kind of trace
    made = [net.rnn.init((2,), key=key) for key in (KEY, jr.PRNGKey(0), jr.key(0, impl="rbg"))]
    data_of = [np.asarray(carry.trace.state.key) for carry in made]
    assert all(a.shape == (1, 2, 2) and a.dtype == np.uint32 for a in data_of)
    assert len(np.unique(np.concatenate(data_of).reshape(-1, 2), axis=0)) == 6


@pytest.mark.parametrize("name", ["kf", "rkf"])
@pytest.mark.parametrize(
    "cell_name, message",
    [
        ("function", "needs a NeuronCell.* is a FunctionCell"),
        ("leaky_tau", "but tau of this LeakyCell trains too: use UORO or RTRL"),
        ("filtered_adaptive", "but strength, rho, slope of this AdaptiveCell trains too"),
    ],
)
def test_cells_that_are_not_served(name, cell_name, message):
    c = table_cell(cell_name)
    with pytest.raises(ValueError, match=message):
        RULES[name]().init(c, c.init(), key=KEY)
