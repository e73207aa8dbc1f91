"""Classifiers: dynamic time warping against all paths, libraries on classes that tell apart."""

import sys
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from modprop_jax import baselines
from modprop_jax.baselines._dtw import distances
from modprop_jax.baselines._sequences import Sequences


CLASSIFIERS = {
    "dtw": baselines.nearest_neighbour_dtw,
    "logistic": baselines.logistic_regression,
    "convolutions": baselines.random_convolutions,
}


def of_all_paths(x, y):
    """The least cost, by every path there is."""
    cost = np.sum((x[:, None] - y[None]) ** 2, -1)
    if len(x) == 1 or len(y) == 1:
        return cost.sum()
    heads = [(x[:-1], y), (x, y[:-1]), (x[:-1], y[:-1])]
    return cost[-1, -1] + min(of_all_paths(*head) for head in heads)


def test_distances_against_all_paths():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3, 2)), rng.normal(size=(4, 4, 2))
    n, m = np.array([5, 1, 3]), np.array([4, 2, 1, 3])
    found = distances(*(Sequences(jnp.asarray(a), jnp.asarray(k)) for a, k in ((x, n), (y, m))))
    expected = np.zeros((3, 4))
    for i, j in product(range(3), range(4)):
        expected[i, j] = of_all_paths(x[: n[i], i], y[: m[j], j])
    assert_close(found, expected, 1e-12)


def bumps(*times, steps=30):
    """An example, one feature: a bump at each of these times."""
    return np.sum([np.exp(-0.3 * (np.arange(steps) - t) ** 2) for t in times], axis=0)[:, None]


def stacked(*examples):
    return np.stack(examples, axis=1)


def test_the_nearest_neighbour_is_that_of_warped_sequences():
    """One bump or two; straight, the other class is nearer."""
    train, labels = stacked(bumps(8), bumps(12, 22)), np.array([3, 7])
    test = stacked(bumps(22), bumps(8, 18))
    found = baselines.nearest_neighbour_dtw(train, labels, test)
    np.testing.assert_array_equal(found, [3, 7])
    straight = np.sum((test[:, :, None] - train[:, None]) ** 2, axis=(0, -1))
    np.testing.assert_array_equal(labels[straight.argmin(1)], [7, 3])
    traced = jax.jit(baselines.nearest_neighbour_dtw)(train, labels, test)
    np.testing.assert_array_equal(traced, [3, 7])


def classes(statistic: str, seed: int) -> Any:
    """Noise of twelve steps at most, in which one statistic says which of three classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 60)
    lengths = rng.integers(9, 13, 60)
    xs = rng.normal(size=(12, 60, 2))
    if statistic == "mean":
        xs += 4 * labels[:, None]
    elif statistic == "sd":
        xs *= 6.0 ** labels[:, None]
    else:
        xs[lengths - 1, np.arange(60)] += 20 * labels[:, None]
    xs[np.arange(12)[:, None] >= lengths[None]] = np.nan  # behind the end: not to be read
    return xs, labels, lengths


@pytest.mark.parametrize("statistic, other", [("mean", "sd"), ("sd", "mean"), ("last", "first")])
def test_a_statistic_tells_classes_apart(statistic, other):
    train, labels, train_lengths = classes(statistic, 0)
    test, truth, test_lengths = classes(statistic, 1)

    def accuracy(*statistics):
        options: dict[str, Any] = dict(train_lengths=train_lengths, test_lengths=test_lengths)
        found = baselines.logistic_regression(train, labels, test, statistics=statistics, **options)
        return np.mean(found == truth)

    assert accuracy(statistic) > 0.9 and accuracy(statistic, other) > 0.9
    assert accuracy(other) < 0.75


@pytest.mark.parametrize("name", ["dtw", pytest.param("convolutions", marks=pytest.mark.slow)])
def test_sequences_end_where_their_lengths_say(name):
    """With NaN behind the ends; classes differ by their mean."""
    if name == "convolutions":
        pytest.importorskip("aeon")
    train, labels, train_lengths = classes("mean", 0)
    test, truth, test_lengths = classes("mean", 1)
    lengths = dict(train_lengths=train_lengths, test_lengths=test_lengths)
    assert np.mean(CLASSIFIERS[name](train, labels, test, **lengths) == truth) > 0.9
    with pytest.raises(ValueError, match="train must be finite"):
        CLASSIFIERS[name](train, labels, test, test_lengths=test_lengths)


@pytest.mark.slow  # numba compiles for a minute
def test_convolutions_know_order():
    """Ramps up or down in noise: all statistics but order are the same."""
    pytest.importorskip("aeon")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    ramp = np.linspace(-1, 1, 30)[:, None] * (2 * labels - 1)
    xs = (ramp + 0.5 * rng.normal(size=ramp.shape))[..., None]
    given = xs[:, :40], labels[:40], xs[:, 40:]
    found = baselines.random_convolutions(*given, kernels=840)
    assert np.mean(found == labels[40:]) > 0.9
    np.testing.assert_array_equal(found, baselines.random_convolutions(*given, kernels=840))
    assert np.mean(baselines.logistic_regression(*given) == labels[40:]) < 0.8


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "aeon.classification.convolution_based", None)
    train, labels, lengths = classes("mean", 0)
    with pytest.raises(ImportError, match=r"needs the package aeon.*\[baselines\]"):
        baselines.random_convolutions(
            train, labels, train, train_lengths=lengths, test_lengths=lengths
        )


XS, LABELS = np.random.default_rng(0).normal(size=(9, 4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
@pytest.mark.parametrize(
    "given, message",
    [
        (dict(train=XS[..., 0]), r"train must be an array \(T, examples, features\), but has the"),
        (dict(train=XS.astype(int)), "train must be an array of floats"),
        (dict(test=XS[..., :1]), "same features, but train has 2 and test 1"),
        (dict(labels=LABELS[:3]), r"labels must hold integers of shape \(4,\), but is int64 of"),
        (dict(labels=LABELS + 0.5), r"labels must hold integers of shape \(4,\), but is float64"),
        (dict(test_lengths=np.array([9, 9, 9])), r"test_lengths must hold integers of shape \(4,"),
        (
            dict(test_lengths=np.array([9, 9, 9, 10])),
            "test_lengths must be in 1 ... 9, but holds 10",
        ),
        (dict(train_lengths=np.array([0, 9, 9, 9])), "train_lengths must be in .* but holds 0"),
        (dict(train=np.where(XS > 1, np.nan, XS)), "train must be finite"),
    ],
)
def test_errors(name, given, message):
    arguments: dict[str, Any] = dict(train=XS, labels=LABELS, test=XS) | given
    with pytest.raises(ValueError, match=message):
        CLASSIFIERS[name](**arguments)


def test_errors_of_libraries():
    with pytest.raises(ValueError, match="labels must name two classes or more, but are all 1"):
        baselines.logistic_regression(XS, np.ones(4, int), XS)
    with pytest.raises(ValueError, match='an entry of statistics must be "first", .*but is .mode'):
        baselines.logistic_regression(XS, LABELS, XS, statistics=["mode"])
    with pytest.raises(ValueError, match="statistics must be a list of names, but is 'mean'"):
        baselines.logistic_regression(XS, LABELS, XS, statistics="mean")
    with pytest.raises(ValueError, match="kernels must be a whole number of at least 84"):
        baselines.random_convolutions(XS, LABELS, XS, kernels=10)
    with pytest.raises(ValueError, match="train must have 9 steps or more.* but has 8"):
        baselines.random_convolutions(XS[:8], LABELS, XS[:8])
    with pytest.raises(ValueError, match="train is traced, .*: call it outside of jit"):
        jax.jit(baselines.logistic_regression)(XS, LABELS, XS)
