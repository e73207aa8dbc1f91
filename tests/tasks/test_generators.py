"""Trials of NumPy code and of NeuroGym as tasks: drawn once, by their seed."""

import itertools
import random
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from modprop_jax.experiments import compare
from modprop_jax.tasks import (
    Architecture,
    from_generator,
    from_neurogym,
    from_recordings,
    Optimizer,
    Preset,
    Schedule,
)


KEY = jr.key(0)
PRESET = Preset(
    network=Architecture(hidden_size=4),
    schedule=Schedule(iterations=2, eval_every=1, batch=4),
    optimizer=Optimizer(learning_rate=0.01),
)


def same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


# --- generators ---


def interval(rng):
    steps = rng.integers(4, 7)
    xs = rng.normal(size=(steps, 2))
    return xs, int(xs[-1, 0] > xs[0, 0])


def test_a_function_is_drawn_from_once_by_its_seed():
    calls = []

    def counted(rng):
        calls.append(rng)
        return interval(rng)

    task = from_generator(counted, 50)
    task.batch(KEY, 4)
    task.evaluation(KEY)
    assert len(calls) == 50
    same(task.batch(KEY, 9), from_generator(interval, 50).batch(KEY, 9))
    assert from_generator(interval, 50).digest == task.digest
    assert from_generator(interval, 50, seed=1).digest != task.digest
    rng = np.random.default_rng(0)
    by_hand = [interval(rng) for _ in range(50)]
    inputs, labels = zip(*by_hand)
    same(task.batch(KEY, 9), from_recordings([*inputs], labels, normalise=False).batch(KEY, 9))


def _numbers() -> list[int]:
    state: Any = np.random.get_state()
    return state[1].tolist()


def test_global_generators_are_seeded_and_put_back():
    def old_style():
        return np.random.normal(size=(3, 1)), random.randint(0, 1)

    before = random.getstate(), _numbers()
    one = from_generator(old_style, 40)
    assert (random.getstate(), _numbers()) == before
    np.random.normal()
    assert from_generator(old_style, 40).digest == one.digest


def test_an_iterable_is_taken_as_it_comes():
    rng = np.random.default_rng(0)
    endless = (interval(rng) for _ in itertools.count())
    task = from_generator(endless, 30, name="endless")
    assert task.name == "endless" and task.digest == from_generator(interval, 30).digest
    assert from_generator([interval(rng) for _ in range(30)], 30).readout == "every"


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "generator, message",
    [
        ([interval(np.random.default_rng(0))] * 3, "trials=40 are due, but generator gave 3"),
        (3, "generator must be an iterable of trials or a function"),
        (lambda: (np.ones((3, 1)), 0, 1), "trial 0 is"),
        (lambda: np.ones((3, 1)), "generator must give pairs"),
        (lambda: (np.ones(3), 0), "inputs must have the shape"),
        (lambda rng: (np.full((3, 1), np.nan), int(rng.integers(2))), "NaN or infinity"),
        (lambda rng: (np.ones((3, rng.integers(1, 3))), 0), "the same features"),
        (lambda rng: (np.ones((3, 1)), rng.normal(size=3)), "numbers for each step, or 3 numbers"),
    ],
)
def test_what_is_no_trial(generator, message):
    with pytest.raises(ValueError, match=message):
        from_generator(generator, 40)


# --- NeuroGym ---


class Space:
    def __init__(self, n=None):
        if n is not None:
            self.n = n


class FakeEnv:
    """The interface of `neurogym.TrialEnv`, as far as trials go."""

    def __init__(self, discrete=True, n=3):
        self.action_space, self.discrete = Space(n if discrete else None), discrete
        self.seeds = []

    @property
    def unwrapped(self):
        return self

    def seed(self, seed=None):
        self.seeds.append(seed)
        self.rng = np.random.RandomState(seed)

    def new_trial(self, **kwargs):
        steps = self.rng.randint(4, 7)
        self.ob = self.rng.normal(size=(steps, 3))
        choice = int(self.ob[:-1, 1].sum() > 0)
        self.gt = np.zeros(steps, int) if self.discrete else np.zeros((steps, 2))
        self.gt[-1] = choice + 1 if self.discrete else (choice, -choice)


class Wrapped:
    """As a wrapper of gymnasium: it has nothing of the environment but by `unwrapped`."""

    def __init__(self, env):
        self.unwrapped = env


@pytest.mark.parametrize("wrap", [lambda env: env, Wrapped])
def test_trials_of_an_environment(wrap):
    env = FakeEnv()
    task = from_neurogym(wrap(env), 60, seed=5)
    assert env.seeds == [5]
    assert (task.out_size, task.readout, task.in_size(PRESET)) == (3, "every", 3)
    xs, (labels, there) = task.batch(KEY, 8)
    twin = FakeEnv()
    twin.seed(5)
    trials = {}
    for _ in range(60):
        twin.new_trial()
        trials[twin.ob.tobytes()] = twin.gt
    for i in range(8):
        steps = int(there[:, i].sum())
        gt = trials[np.ascontiguousarray(xs[:steps, i]).tobytes()]
        np.testing.assert_array_equal(labels[:steps, i], gt)
        assert not np.asarray(xs[steps:, i]).any() and not np.asarray(labels[steps:, i]).any()


def test_accuracy_is_of_answers_and_the_loss_of_all_steps():
    labels = jnp.array([[0, 0], [0, 2], [1, 0]])
    there = jnp.array([[True, True], [True, True], [True, False]])
    logits = 5 * jax.nn.one_hot(jnp.array([[0, 1], [0, 2], [2, 0]]), 3)
    task, every = (from_neurogym(FakeEnv(), 60, fixation=each) for each in (0, None))
    loss, score = task.loss(logits, (labels, there))
    log_p = np.asarray(jax.nn.log_softmax(logits))
    each = np.take_along_axis(log_p, np.asarray(labels)[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, -each[np.asarray(there)].mean(), rtol=1e-12)
    assert float(score) == 1 / 2  # of two answers one is right
    assert float(every.loss(logits, (labels, there))[1]) == 3 / 5


def test_values_that_are_due():
    task = from_neurogym(FakeEnv(discrete=False), 40)
    assert (task.out_size, task.score) == (2, "R²")
    assert task.batch(KEY, 4)[1][0].shape == (6, 4, 2)


class WithoutTruth(FakeEnv):
    def new_trial(self, **kwargs):
        FakeEnv.new_trial(self)
        del self.gt


class Fixating(FakeEnv):
    def new_trial(self, **kwargs):
        FakeEnv.new_trial(self)
        self.gt[:] = 0
        self.gt[0] = 1


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "env, options, message",
    [
        (object(), {}, "interface of a neurogym.TrialEnv, but .* has no new_trial"),
        (WithoutTruth(), {}, "no ground truth"),
        (FakeEnv(), {"dt": 20}, "options dt are of neurogym.make"),
        (FakeEnv(), {"fixation": -1}, "fixation must be a whole number"),
        (FakeEnv(n=2), {}, "classes=2 are 0 to 1, but targets hold 2"),
    ],
)
def test_what_is_no_environment(env, options, message):
    with pytest.raises(ValueError, match=message):
        from_neurogym(env, 30, **options)


def test_an_environment_is_compared(tmp_path):
    task = from_neurogym(FakeEnv(), 40, preset=PRESET)
    result = compare(task, ["eprop"], seeds=1, out=tmp_path / "run", quiet=True)
    assert result.rows[0].accuracy is not None


@pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's, of a field that it misses
def test_neurogym_itself():
    pytest.importorskip("neurogym", exc_type=ImportError)
    task = from_neurogym("PerceptualDecisionMaking-v0", 60, dt=100)
    xs, (labels, there) = task.batch(KEY, 5)
    assert xs.shape[2] == task.in_size(PRESET) and task.out_size >= 3
    assert np.asarray((labels != 0) & there).any(0).all()  # an answer is due in each trial
    again = from_neurogym("PerceptualDecisionMaking-v0", 60, dt=100)
    assert again.digest == task.digest
    with pytest.raises(ValueError, match="neurogym.make says"):
        from_neurogym("NoSuchTask-v0")


@pytest.mark.usefixtures("without_type_checks")
def test_a_name_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "neurogym", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[neurogym\]" torch'):
        from_neurogym("PerceptualDecisionMaking-v0")
