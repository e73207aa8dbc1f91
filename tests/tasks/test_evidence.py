"""Evidence accumulation: both tasks, their networks, and what an experiment makes of a preset."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, jit, plain_scan
from scipy import stats

import modprop_jax as mpj
from modprop_jax._cell._base import dynamics
from modprop_jax.experiments import build_network, build_optimizer
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._setup import setup
from modprop_jax.experiments._sparse import sparse_dale
from modprop_jax.tasks import evidence_accumulation, TASKS


pytestmark = pytest.mark.slow


TASK = TASKS["evidence_accumulation"]
SHORT = {"cues": 5, "cue": 3, "gap": 2, "delay": 4, "recall": 3}
STEPS = 5 * 5 + 4 + 3


def cell_of(network: Any) -> Any:
    return dynamics(network.rnn.cell)


def draw(batch, seed=0, **options):
    """Spikes as (T, batch, left/right/recall/noise, neuron), and labels."""
    xs, ys = jit(lambda key: evidence_accumulation(key, batch, **options))(jr.key(seed))
    return np.asarray(xs).reshape(*xs.shape[:2], 4, -1), np.asarray(ys)


def shown(xs, cues, cue, gap, **_):
    """Whether each cue is on the right, (batch, cues), from which groups fire when."""
    trial = xs[: cues * (gap + cue), :, :2].sum(3)
    trial = trial.reshape(cues, gap + cue, -1, 2)
    assert not trial[:, :gap].any()
    left, right = np.moveaxis(trial[:, gap:].sum(1) > 0, -1, 0)
    assert (left ^ right).all()
    return right.T


# --- the tasks ---


@pytest.mark.parametrize("variant", ["mdgl", "eprop"])
def test_groups_fire_in_their_time_and_the_majority_is_the_label(variant):
    # at these rates no group is silent by chance
    xs, ys = draw(40, variant=variant, rate=1.0, noise_rate=1.0, group=20, **SHORT)
    assert xs.shape == (STEPS, 40, 4, 20) and ys.shape == (40,)
    right = shown(xs, **SHORT)
    np.testing.assert_array_equal(ys, right.sum(1) >= 3)
    assert 0 < ys.sum() < 40
    fires = xs.sum((1, 3)) > 0
    assert not fires[25:, :2].any()
    np.testing.assert_array_equal(fires[:, 2], np.arange(STEPS) >= STEPS - 3)
    np.testing.assert_array_equal(fires[:, 3], np.arange(STEPS) >= (variant == "eprop"))
    # neurons and trials are drawn on their own
    assert variant == "eprop" or np.ptp(xs[-1, :, 2], axis=0).all()


def test_published_durations():
    published: dict[Any, int] = {"mdgl": 2000, "eprop": 2250}
    for variant, steps in published.items():
        xs, ys = jax.eval_shape(lambda key: evidence_accumulation(key, variant=variant), jr.key(0))
        assert xs.shape == (steps, 64, 40) and ys.shape == (64,)
        assert jnp.issubdtype(ys.dtype, jnp.integer)


@pytest.mark.parametrize("variant", ["mdgl", "eprop"])
def test_rates_of_the_groups(variant):
    """Counts over all neurons, trials and steps, within 4.5 standard deviations of theirs."""
    options = {"cues": 3, "cue": 40, "gap": 10, "delay": 20, "recall": 60}
    xs, _ = draw(64, variant=variant, **options)
    steps = len(xs) - (variant == "eprop")  # the first is cleared
    cue = xs[:150, :, :2].sum()
    for total, rate, size in (
        (cue, 0.04, 3 * 40),
        (xs[:, :, 2].sum(), 0.04, 60),
        (xs[:, :, 3].sum(), 0.01, steps),
    ):
        expected = rate * size * 64 * 10
        assert abs(total - expected) < 4.5 * np.sqrt(expected)


def test_counts_of_mdgl_are_poisson_and_those_of_eprop_are_not():
    counts = draw(64, rate=0.7, **SHORT)[0][-3:, :, 2].ravel()
    expected = stats.poisson.pmf(np.arange(5), 0.7) * counts.size
    found = np.bincount(counts.astype(int), minlength=6)
    found, expected = np.append(found[:5], found[5:].sum()), np.append(expected, 0)
    expected[-1] = counts.size - expected.sum()
    assert stats.chisquare(found, expected).pvalue > 1e-4
    spikes = draw(64, rate=0.7, variant="eprop", **SHORT)[0][-3:, :, 2]
    assert set(np.unique(spikes)) == {0, 1} and abs(spikes.mean() - 0.7) < 0.05


def test_patterns_of_mdgl_come_once_each():
    sizes = {"cues": 7, "cue": 2, "gap": 1, "delay": 0, "recall": 1, "rate": 3.0}
    right = shown(draw(64, **sizes)[0], **sizes)
    assert len({tuple(row) for row in right.tolist()}) == 64
    xs, ys = draw(150, **sizes)
    right = shown(xs, **sizes)
    assert len({tuple(row) for row in right[:128].tolist()}) == 128
    assert len({tuple(row) for row in right[128:].tolist()}) == 22
    assert ys[:128].sum() == 64
    assert (right[:128] != shown(draw(128, seed=1, **sizes)[0], **sizes)).any()


def test_trials_of_eprop_favour_a_side():
    """The number of cues on the right: a binomial of 0.3 or 0.7, each in half of the trials."""
    sizes = {"cues": 7, "cue": 1, "gap": 1, "delay": 0, "recall": 1, "rate": 1.0, "group": 1}
    right = shown(draw(4000, variant="eprop", **sizes)[0], **sizes)
    counts = np.bincount(right.sum(1), minlength=8)
    pmf = (stats.binom.pmf(range(8), 7, 0.3) + stats.binom.pmf(range(8), 7, 0.7)) / 2
    assert stats.chisquare(counts, 4000 * pmf).pvalue > 1e-4
    # no position is special
    assert stats.chisquare(right.sum(0)).pvalue > 1e-4


def test_the_key_decides_and_precision_does_not():
    (xs, ys), (again, labels), (other, _) = draw(8, **SHORT), draw(8, **SHORT), draw(8, 1, **SHORT)
    np.testing.assert_array_equal(xs, again)
    np.testing.assert_array_equal(ys, labels)
    assert (xs != other).any()
    narrow, _ = draw(8, dtype=jnp.bfloat16, **SHORT)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow.astype(float), xs)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"variant": "snap"}, 'variant must be "mdgl" or "eprop", but is .snap.'),
        ({"cues": 4}, "cues must be an odd number.* but is 4"),
        ({"recall": 0}, "recall must be a whole number of at least 1, but is 0"),
        ({"delay": -1}, "delay must be a whole number of at least 0, but is -1"),
        ({"rate": -0.1}, r"^rate must be .*0 to 100, but is -0\.1"),
        ({"variant": "eprop", "noise_rate": 1.5}, r"noise_rate must be .*from 0 to 1, but is 1\.5"),
    ],
)
def test_errors(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        evidence_accumulation(jr.key(0), 4, **options)


def test_loss_is_a_mean_over_the_steps_read_and_their_mean_decides():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 30, 2)), rng.integers(0, 2, 30)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = log_p[:, np.arange(30), labels]
    decided = logits.mean(0).argmax(-1) == labels
    assert decided.mean() != (logits.argmax(-1) == labels).mean()
    for steps, correct in ((slice(None), decided), (-1, logits[-1].argmax(-1) == labels)):
        loss, accuracy = TASK.loss(jnp.asarray(logits[steps]), jnp.asarray(labels))
        np.testing.assert_allclose(loss, -picked[steps].mean())
        np.testing.assert_allclose(accuracy, correct.mean())


# --- the networks ---


SIGNS = [np.array([1] * 81 + [-1] * 19)] * 3
SIGNS[1] = np.array(TASK.presets["published"].network.input_signs)


def signed(network: Any) -> list[Any]:
    """The weights that have presynaptic signs: recurrent, input, readout."""
    cell = cell_of(network)
    return [cell.weight_rec, cell.weight_in, network.readout.weight]


@pytest.fixture(scope="module")
def published():
    preset = TASK.presets["published"]
    return preset, jit(lambda key: build_network(TASK, preset, key))(jr.key(0))


def test_published_network(published):
    """As described: signs, synapses, who adapts; and it spikes at rates from which to learn."""
    _, network = published
    cell = cell_of(network)
    assert isinstance(network.rnn.cell, mpj.Filtered) and isinstance(cell, mpj.ALIFCell)
    for weight, sign, synapses in zip(signed(network), SIGNS, (1000, 400, 20), strict=True):
        weight = np.asarray(weight)
        assert (weight * sign >= 0).all() and (weight != 0).sum() == synapses
    assert not np.diagonal(cell.weight_rec).any()
    assert (SIGNS[1] == 1).sum() == 33 and {-1, 1} == set(SIGNS[1][:10].tolist())
    beta = np.asarray(cell.beta)
    assert sorted(np.unique(beta)) == [0, 1.8] and (beta > 0).sum() == 50
    assert abs((beta[81:] > 0).mean() - 0.5) < 0.05
    assert cell.refractory == 5 and cell.reset_gradient and network.readout.bias is None

    @jit
    def run(network, key):
        xs, ys = TASK.batch(key, 8)
        spikes = mpj.scan(cell_of(network), cell.init((8,)), xs)[1]
        return spikes.mean((0, 1)), TASK.loss(network(xs), ys)[0]

    rates, loss = run(network, jr.key(1))
    assert 0.01 < rates.mean() < 0.08 and (rates > 1e-3).mean() > 0.95 and rates.max() < 0.15
    np.testing.assert_allclose(loss, np.log(2), atol=0.03)


def test_sparse_dale_against_numpy():
    signs = np.array([1] * 30 + [-1] * 10)
    weight = np.asarray(jit(lambda key: sparse_dale(key, signs.tolist(), 0.25))(jr.key(3)))
    exists = weight != 0
    assert exists.sum() == 400 and not exists.diagonal().any()
    assert (weight * signs >= 0).all()
    balanced = exists[:, :30].any(1) & exists[:, 30:].any(1)
    assert 30 < balanced.sum() < 40
    np.testing.assert_allclose(weight.sum(1)[balanced], 0, atol=1e-14)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(weight)).max(), 1, rtol=1e-10)


def test_rewiring_keeps_a_tenth_of_the_synapses(published):
    """Under dense random gradients: as many as before, but not the same, and of the right sign."""
    preset, network = published
    optimizer = build_optimizer(preset)
    params = eqx.filter(network, eqx.is_inexact_array)

    def step(carry, key):
        params, state = carry
        leaves, structure = jax.tree.flatten(params)
        keys = jr.split(key, len(leaves))
        grads = [jr.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.tree.unflatten(structure, grads), state, params)
        before, params = signed(params), optax.apply_updates(params, updates)
        born = [jnp.where(w == 0, v, 0) for w, v in zip(before, signed(params))]
        return (params, state), [
            jnp.stack([(v != 0).sum() for v in signed(params)]),
            jnp.stack([(v != 0).sum() for v in born]),
            jnp.stack([jnp.abs(v).max() for v in born]),
        ]

    start = params, optimizer.init(params)
    (last, _), (count, born, newborn) = jit(
        lambda start: jax.lax.scan(step, start, jr.split(jr.key(0), 60))
    )(start)
    np.testing.assert_array_equal(count, [[1000, 400, 20]] * 60)
    assert (np.asarray(born).sum(0) > (200, 80, 4)).all() and newborn.max() < 1e-11
    for pair, sign in zip(zip(signed(network), signed(last)), SIGNS):
        before, after = map(np.asarray, pair)
        assert (after * sign >= 0).all() and ((after != 0) != (before != 0)).any()


# --- what an experiment makes of the other preset ---


@pytest.fixture(scope="module")
def small_eprop():
    """Setup of a small network with rate costs, one without, and a batch."""
    sizes = {"hidden_size": 6, "batch": 4, "readout_steps": 3}
    data = {"variant": "eprop", "rate": 0.3, "noise_rate": 0.2, **SHORT}
    options = {"tau": 5.0, "tau_adaptation": 20.0, "beta": 0.1, "threshold": 0.3}

    def make(**more):
        fixed = {"data": data, "cell_options": options, **sizes}
        return Config.make(TASK.name, "eprop", ["eprop"], 1, **fixed, **more)

    configs = make(rate_cost=3.0, rate_target=0.2), make(rate_cost=0.0)
    network = jit(lambda key: build_network(TASK, configs[0].settings, key))(jr.key(2))
    return [setup(config) for config in configs], network, jit(setup(configs[0]).data)(jr.key(1))


def test_rate_cost_is_in_the_gradient_and_not_in_the_loss(small_eprop):
    (costly, free), network, (xs, ys) = small_eprop
    cell = cell_of(network)

    def with_cell(cell):
        return eqx.tree_at(lambda net: net.rnn.cell.cell, network, cell)

    def cost(cell):
        rates = plain_scan(cell, cell.init((4,)), xs)[1].mean((0, 1))
        return 3.0 / 2 * jnp.sum((rates - 0.2) ** 2)

    @jit
    def gradients(cell):
        both = [
            eqx.filter_value_and_grad(lambda c: part.loss(with_cell(c), xs, ys)[0])(cell)
            for part in (costly, free)
        ]
        return *both, eqx.filter_grad(cost)(cell)

    (loss, total), (same, task), expected = gradients(cell)
    np.testing.assert_allclose(loss, same, rtol=1e-14)
    difference = jax.tree.map(lambda a, b: a - b, total, task)
    assert np.abs(expected.weight_rec).max() > 1e-3
    assert_close(difference, expected, 1e-9)


def test_outputs_are_those_of_the_last_steps_after_a_leak(small_eprop):
    _, network, (xs, _) = small_eprop
    cell = cell_of(network)
    spikes = np.asarray(jit(lambda c: mpj.scan(c, c.init((4,)), xs)[1])(cell))
    leak, trace, outputs = np.exp(-1 / 20), np.zeros((4, 6)), []
    for z in spikes:
        trace = leak * trace + (1 - leak) * z
        outputs.append(trace @ np.asarray(network.readout.weight).T)
    assert spikes.any()
    np.testing.assert_allclose(jit(lambda net: net(xs))(network), outputs[-3:], rtol=1e-10)


def test_random_feedback_stays_as_drawn(small_eprop):
    """Neither the L2 term nor a gradient moves it; adaptive feedback decays as the readout does."""
    _, network, _ = small_eprop
    assert network.readout.feedback == "random"
    optimizer = build_optimizer(TASK.presets["eprop"].replace(l2=0.1))

    @jit
    def decayed(network):
        params = eqx.filter(network, eqx.is_inexact_array)
        zero = jax.tree.map(jnp.zeros_like, params)
        with jax.numpy_dtype_promotion("standard"):
            updates: Any = optimizer.update(zero, optimizer.init(params), params)[0]
        return updates.readout

    random = decayed(network)
    assert (random.feedback_weight == 0).all() and (random.weight != 0).all()
    readout = mpj.Readout(6, 2, feedback="adaptive", use_bias=False, key=jr.key(0))
    adaptive = decayed(eqx.tree_at(lambda net: net.readout, network, readout))
    assert (adaptive.feedback_weight != 0).all() and (adaptive.weight != 0).all()
