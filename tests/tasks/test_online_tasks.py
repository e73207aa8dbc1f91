"""Add, mimic, sine wave: labels by loops, floors by enumeration, losses of a step, presets."""

import functools
import itertools

import chex
import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from sklearn.metrics import r2_score

from modprop_jax.experiments import _schema as schema, build_network
from modprop_jax.tasks import add, ADD_FLOORS, mimic, Preset, sine_wave, squared_error, TASKS
from modprop_jax.tasks._mimic import _teacher


pytestmark = pytest.mark.slow


ADD, MIMIC, SINE = (TASKS[name] for name in ("add", "mimic", "sine_wave"))
PRESETS = [(task.name, preset) for task in (ADD, MIMIC, SINE) for preset in task.presets]
STREAMS = 2000
TEACHER = {"in_size": 3, "size": 5, "out_size": 2, "alpha": 0.3, "recurrent_scale": 0.8}


@functools.cache
def _draw(task, batch, seed=0, **options):
    """A batch in NumPy; each set of options compiles once."""
    return jax.tree.map(np.asarray, _compiled(task, batch, **options)(jr.key(seed)))


@functools.cache
def _compiled(task, batch, **options):
    return helpers.jit(lambda key: task(key, batch, **options))


def _assert_rate(hits, expected):
    """A share of independent draws, within five standard deviations."""
    hits = np.asarray(hits)
    spread = np.sqrt(expected * (1 - expected) / hits.size)
    assert abs(hits.mean() - expected) <= 5 * spread


# the second lag may be the shorter one, or 0; steps need not be a multiple of `repeat`
@pytest.mark.parametrize("lags, repeat, steps", [((2, 4), 1, 9), ((3, 0), 2, 11)])
def test_add_labels_from_inputs(lags, repeat, steps):
    xs, ys = _draw(add, STREAMS, lags=lags, repeat=repeat, steps=steps)
    assert xs.shape == ys.shape == (steps, STREAMS, 2)
    bits, labels = xs[..., 0], ys[..., 0]
    np.testing.assert_array_equal(xs[..., 1], 1 - bits)
    np.testing.assert_array_equal(ys[..., 1], 1 - labels)
    for t in range(steps):
        held = t - t % repeat
        np.testing.assert_array_equal(bits[t], bits[held])
        first, second = t - lags[0] * repeat, t - lags[1] * repeat
        known = [bits[first] if first >= 0 else None, bits[second] if second >= 0 else None]
        # what was drawn before the start can be read off the label: 1 to 4 quarters
        quarters = 4 * labels[t] - 1
        before = quarters >= 2, (3 - quarters) % 2
        for bit, read in zip(known, before):
            if bit is not None:
                np.testing.assert_array_equal(read, bit)
        expected = 0.5 + 0.5 * before[0] - 0.25 * before[1]
        np.testing.assert_array_equal(labels[t], expected)
    _assert_rate(bits[::repeat], 0.5)
    _assert_rate(bits[repeat::repeat] == bits[:-repeat:repeat], 0.5)


def test_add_begins_with_labels_of_a_past_of_its_own():
    """Nothing wraps around: no input, the last ones included, tells what came before the start."""
    xs, ys = _draw(add, STREAMS, lags=(2, 4), steps=9)
    bits, labels = xs[..., 0], ys[..., 0]
    for value in (0.25, 0.5, 0.75, 1.0):
        _assert_rate(labels[0] == value, 1 / 4)
        for bit in bits:
            _assert_rate(labels[0, bit == 1] == value, 1 / 4)
    # and that past is one: the first bit that step 0 needs is the second that step 2 does
    before = 4 * labels[[0, 2]] - 1
    np.testing.assert_array_equal(before[0] >= 2, (3 - before[1]) % 2)


def test_add_draws_labels():
    options = {"lags": (2, 4), "repeat": 2, "steps": 12}
    xs, chances = _draw(add, STREAMS, **options)
    same, ys = _draw(add, STREAMS, deterministic=False, **options)
    np.testing.assert_array_equal(xs, same)
    drawn = ys[..., 0]
    np.testing.assert_array_equal(ys[..., 1], 1 - drawn)
    np.testing.assert_array_equal(drawn[::2], drawn[1::2])  # one draw a symbol
    for chance in (0.25, 0.5, 0.75, 1.0):
        _assert_rate(drawn[::2][chances[::2, :, 0] == chance], chance)
    # given its chance, a draw is independent of the one before
    half = (chances[2::2, :, 0] == 0.5) & (drawn[:-2:2] == 1)
    _assert_rate(drawn[2::2][half], 0.5)


def test_add_floors_and_information_by_enumeration():
    """The best constant of each group that cannot be told apart, by search; four cases each."""
    cases = list(itertools.product((0, 1), repeat=2))
    labels = np.array([[0.5, 0.25], [1.0, 0.75]])
    grid = np.linspace(1e-6, 1 - 1e-6, 200_001)
    evaluate = helpers.jit(ADD.loss)
    assert ADD.floors == ADD_FLOORS
    information = []
    for name, known in (("no dependency", 0), ("first lag", 1), ("both lags", 2)):
        best = {}
        for group in itertools.product((0, 1), repeat=known):
            members = [labels[case] for case in cases if case[:known] == group]
            costs = -np.mean(members) * np.log(grid) - (1 - np.mean(members)) * np.log1p(-grid)
            best[group] = costs.min(), grid[costs.argmin()]
        floor = np.mean([cost for cost, _ in best.values()])
        np.testing.assert_allclose(ADD_FLOORS[name], floor, atol=2e-6)
        p = np.array([best[case[:known]][1] for case in cases])
        outputs = np.log(np.stack([p, 1 - p], -1))[:, None]
        ys = np.stack([labels.ravel(), 1 - labels.ravel()], -1)[:, None]
        loss, score = evaluate(jnp.asarray(outputs + 3), jnp.asarray(ys))
        np.testing.assert_allclose(loss, floor, atol=2e-6)
        information.append(float(score))
    # the values that the papers' figures mark
    np.testing.assert_allclose(list(ADD_FLOORS.values()), [0.6616, 0.5192, 0.4545], atol=5e-5)
    np.testing.assert_allclose(information, [0, 0.6876, 1], atol=1e-4)


def test_a_step_costs_its_plain_cross_entropy():
    """Each step on its own, as a stream takes it: descended is softmax − label, whatever T."""
    rng = np.random.default_rng(0)
    logits, p = rng.normal(size=(4, 3, 2)), rng.uniform(size=(4, 3))
    ys = np.stack([p, 1 - p], -1)
    slope_of = helpers.jit(jax.value_and_grad(lambda *a: ADD.loss(*a)[0]))
    of_steps = [slope_of(jnp.asarray(z[None]), jnp.asarray(y[None])) for z, y in zip(logits, ys)]
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    by_hand = -np.sum(ys * np.log(softmax), -1).mean(1)
    np.testing.assert_allclose([loss for loss, _ in of_steps], by_hand, rtol=1e-12)
    slopes = np.concatenate([slope for _, slope in of_steps])
    np.testing.assert_allclose(3 * slopes, softmax - ys, rtol=1e-9, atol=1e-12)
    whole, _ = slope_of(jnp.asarray(logits), jnp.asarray(ys))
    np.testing.assert_allclose(whole, by_hand.mean(), rtol=1e-12)


def test_mimic_against_numpy():
    """The teacher's equations as a loop; new inputs, the same teacher."""

    @helpers.jit
    def draw(key):
        net = _teacher(jr.key(4), 3, 5, 2, TEACHER["alpha"], TEACHER["recurrent_scale"])
        return mimic(key, 2, steps=7, repeat=3, teacher=4, **TEACHER), net

    seen = []
    for seed in (0, 1):
        (xs, ys), (cell, readout) = jax.tree.map(np.float64, draw(jr.key(seed)))
        assert xs.shape == (7, 2, 3) and ys.shape == (7, 2, 2)
        rates = np.zeros((2, 5))
        for t, (x, y) in enumerate(zip(xs, ys)):
            np.testing.assert_array_equal(x, xs[t - t % 3])
            drive = rates @ cell.weight_rec.T + x @ cell.weight_in.T + cell.bias
            rates = 0.7 * rates + 0.3 * np.tanh(drive)
            expected = rates @ readout.weight.T + readout.bias
            np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)
        seen.append(xs)
    assert (seen[0] != seen[1]).any()


@pytest.mark.slow
def test_mimic_teacher_has_the_published_statistics():
    xs, _ = _draw(mimic, STREAMS, steps=1, teacher=4, **TEACHER)
    assert set(np.unique(xs)) == {0, 1}
    _assert_rate(xs, 0.5)
    size = 150
    make = helpers.jit(lambda key: _teacher(key, 40, size, 90, 1.0, 0.8))
    cell, readout = jax.tree.map(np.asarray, make(jr.key(0)))
    # random orthogonal, and not always the same rotation
    np.testing.assert_allclose(cell.weight_rec @ cell.weight_rec.T, 0.64 * np.eye(size), atol=2e-6)
    assert np.abs(cell.weight_rec - make(jr.key(1))[0].weight_rec).max() > 0.1
    parts = (cell.weight_in, 1 / 40), (readout.weight, 1 / size)
    for weight, variance in (*parts, (cell.bias, 0.01), (readout.bias, 0.01)):
        normed = weight.ravel() / np.sqrt(variance)
        assert abs(normed.mean()) < 5 / np.sqrt(normed.size)
        assert abs(normed.var() - 1) < 5 * np.sqrt(2 / normed.size)


def test_the_error_of_a_step_descends_the_plain_error():
    """Published figures are ½ mean over outputs, but what is descended is z − y."""
    rng = np.random.default_rng(0)
    outputs, ys = rng.normal(size=(2, 6, 3, 4))
    slope_of = helpers.jit(jax.value_and_grad(MIMIC.loss, has_aux=True))
    (loss, score), _ = slope_of(jnp.asarray(outputs), jnp.asarray(ys))
    published = 0.5 * np.mean((outputs - ys) ** 2)
    np.testing.assert_allclose(loss / 4, published, rtol=1e-12)
    expected = r2_score(ys.reshape(-1, 4), outputs.reshape(-1, 4), multioutput="variance_weighted")
    np.testing.assert_allclose(score, expected, rtol=1e-12)
    one = jnp.asarray(outputs[:1, :1]), jnp.asarray(ys[:1, :1])
    np.testing.assert_allclose(slope_of(*one)[1], one[0] - one[1], rtol=1e-12)
    np.testing.assert_allclose(squared_error(*one)[0], MIMIC.loss(*one)[0], rtol=1e-12)
    assert SINE.loss is MIMIC.loss


@pytest.mark.parametrize("switching", ["random", "regular"])
def test_sine_wave_against_numpy(switching):
    """Switches and periods read off the inputs; the labels as a loop over them."""
    steps, periods = 40, (3, 7.5)
    options = {"p_transition": 0.15, "periods": periods, "amplitude": 0.4}
    xs, ys = _draw(sine_wave, 400, steps=steps, switching=switching, **options)
    assert xs.shape == ys.shape == (steps, 400, 2)
    switched = np.diff(xs[..., 1], axis=0) != 0
    if switching == "random":
        _assert_rate(switched, 0.15)
        _assert_rate(switched[1:][switched[:-1]], 0.15)
    else:  # every 1 / 0.15 steps, rounded
        every = np.arange(1, steps) % 7 == 0
        np.testing.assert_array_equal(switched, np.repeat(every[:, None], 400, 1))
    drawn = []
    for stream in range(400):
        on, since, period = False, 0, 1.0
        for t in range(steps):
            since += 1
            if t > 0 and switched[t - 1, stream]:
                on, since = not on, 0
                if on:
                    period = min(periods, key=lambda p: abs(p - np.exp(-xs[t, stream, 0])))
                    drawn.append(period)
            x = (-np.log(period), 1) if on else (0, 0)
            angle = 2 * np.pi * since / period
            y = (0.4 * np.cos(angle), 0.4 * np.sin(angle)) if on else (0, 0)
            np.testing.assert_allclose(xs[t, stream], x, rtol=1e-12)
            np.testing.assert_allclose(ys[t, stream], y, atol=1e-12)
    _assert_rate(np.array(drawn) == 3, 0.5)


@pytest.mark.parametrize(
    "task, options",
    [
        (add, {"lags": [2, 4]}),
        (mimic, {"in_size": 3, "size": 4, "out_size": 2}),
        (sine_wave, {"p_transition": 0.3, "periods": [3, 7]}),
    ],
)
def test_key_and_dtype(task, options):
    @helpers.jit
    def draw(key):
        options_ = {"steps": 12} | options
        return task(key, 5, **options_), task(key, 5, dtype=jnp.bfloat16, **options_)

    (wide, narrow), (again, _), (other, _) = draw(jr.key(3)), draw(jr.key(3)), draw(jr.key(4))
    chex.assert_trees_all_equal(wide, again)
    for a, b, other_key in zip(wide, narrow, other):
        assert a.dtype == jnp.result_type(float) and b.dtype == jnp.bfloat16
        assert not np.array_equal(a, other_key)
        # the same draws in every precision
        np.testing.assert_allclose(a, b.astype(a.dtype), atol=0.03)
        # streams differ from one another
        assert len(np.unique(np.moveaxis(a, 1, 0).reshape(5, -1), axis=0)) > 1


def test_teachers_and_seeds_of_evaluation():
    """A teacher is its number's, not the key's: training and evaluation share it."""
    options = {"steps": 3, "in_size": 3, "size": 4, "out_size": 2}
    draws = [_draw(mimic, 5, 3, teacher=teacher, **options) for teacher in (0, 1)]
    np.testing.assert_array_equal(draws[0][0], draws[1][0])
    assert (draws[0][1] != draws[1][1]).all()
    for task in (ADD, MIMIC, SINE):
        data = {**task.presets["small"].data, "steps": 4}

        @helpers.jit
        def both(key, task=task, data=data):
            return task.evaluation(key, **data), task.batch(key, 64, **data)

        chex.assert_trees_all_equal(*both(jr.key(5)))


@pytest.mark.parametrize(
    "task, options, message",
    [
        (add, {"steps": 0}, "steps must be a whole number of at least 1, but is 0"),
        (add, {"repeat": 0}, "repeat must be a whole number of at least 1, but is 0"),
        (add, {"lags": (5, 5)}, r"lags must be two different numbers .* but is \(5, 5\)"),
        (add, {"lags": (-1, 5)}, "entry of lags must be a whole number of at least 0, but is -1"),
        (add, {"lags": (1, 2, 3)}, r"lags must be two different numbers .* but is \(1, 2, 3\)"),
        (mimic, {"steps": 0}, "steps must be a whole number of at least 1, but is 0"),
        (mimic, {"out_size": 0}, "out_size must be a whole number of at least 1, but is 0"),
        (mimic, {"alpha": 1.5}, "alpha must be in"),
        (sine_wave, {"steps": 0}, "steps must be a whole number of at least 1, but is 0"),
        (sine_wave, {"p_transition": 0.0}, r"p_transition must be in \(0, 1\], but is 0\.0"),
        (sine_wave, {"p_transition": 2.0}, r"p_transition must be in \(0, 1\], but is 2\.0"),
        (sine_wave, {"periods": ()}, r"periods must be .* at least one, but is \(\)"),
        (sine_wave, {"periods": (4, 0)}, "entry of periods must be positive and finite, but is 0"),
        (sine_wave, {"switching": "never"}, "switching .*'never'"),
    ],
)
def test_errors(task, options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        task(jr.key(0), **options)


@pytest.mark.slow
@pytest.mark.parametrize("name, preset", PRESETS)
def test_every_preset_fits_its_task(name, preset):
    task, settings = TASKS[name], TASKS[name].presets[preset]
    # as a run's config.json keeps it
    kept = schema.from_text(Preset, schema.as_text(settings))

    def outline(key):
        network = build_network(task, kept, key)
        xs, ys = task.batch(key, kept.schedule.batch, **kept.data)
        held, labels = task.evaluation(key, **kept.data)
        one_step = network(xs[:1]), ys[:1]
        return xs, ys, task.loss(*one_step), task.loss(network(held), labels)

    xs, ys, *losses = jax.eval_shape(outline, jr.key(0))
    sizes = (settings.data["steps"], settings.schedule.batch)
    assert xs.shape == (*sizes, task.in_size(settings)) and ys.shape == (*sizes, task.out_size)
    assert [value.shape for pair in losses for value in pair] == [()] * 4
    # one α of network, teacher and preset
    alpha = settings.network.cell_options.get("alpha", 1.0)
    assert settings.data.get("alpha", alpha) == alpha and settings.network.orthogonal
    online = settings.schedule.segment == 1 and settings.schedule.batch == 1
    assert online == (settings.optimizer.optimizer == "sgd") == (preset != "small")
