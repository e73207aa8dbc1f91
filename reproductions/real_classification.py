"""Rows of `real_sequences.py` for sequences with a label each: a watch, speakers, motions."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import modprop_jax as mpj
from modprop_jax import baselines, tasks


UNITS = 64
RATES = 1e-3, 3e-3, 1e-2
# of the network that chooses a rate, which is not reported
TUNING_SEED = 100


def halves(n: int) -> list[int]:
    """Two arbitrary types of neurons."""
    return [int(2 * i < n) for i in range(n)]


RULES: dict[str, Callable[[int], mpj.AbstractRule]] = {
    "BPTT": lambda n: mpj.BPTT(),
    "e-prop": lambda n: mpj.EProp(),
    "readout only": lambda n: mpj.ReadoutOnly(),
    "ModProp, two types": lambda n: mpj.ModProp("auto", halves(n)),
    "MDGL, two types": lambda n: mpj.MDGL(halves(n)),
    "SnAp-1": lambda n: mpj.SnAp(1),
    "ModProp, each pair of cells": lambda n: mpj.ModProp("auto"),
    "KF-RTRL": lambda n: mpj.KFRTRL(),
    "UORO": lambda n: mpj.UORO(),
}


class Sequences(NamedTuple):
    """(T, N, features) and labels (N,); what comes after the first `count` is padding."""

    xs: Any
    ys: Any
    count: Any

    @classmethod
    def padded(cls, found: tuple[Any, Any], room: int) -> "Sequences":
        """To so many."""
        xs, ys = map(np.asarray, found)
        more = room - len(ys)
        return cls(
            np.pad(xs, ((0, 0), (0, more), (0, 0))), np.pad(ys, (0, more)), np.array(len(ys))
        )


class Setting(NamedTuple):
    """A set: what splits it, into how many folds, and how long is trained."""

    split: Callable[..., tuple[Any, Any]]
    folds: int
    alpha: float
    classes: int
    iterations: int
    batch: int
    rules: tuple[str, ...]

    def parts(self, fold: int) -> dict[str, Sequences]:
        """All splits, of one shape whatever the fold, so that a rule is compiled once."""
        learnt, scored = self.room(("fit", "train")), self.room(("validation", "test"))
        sizes = {"fit": learnt, "train": learnt, "validation": scored, "test": scored}
        return {name: Sequences.padded(self.of(name, fold), sizes[name]) for name in sizes}

    def of(self, name: str, fold: int) -> tuple[Any, Any]:
        """A split of a fold."""
        return self.split(name, fold=fold) if self.folds > 1 else self.split(name)

    def room(self, names: tuple[str, ...]) -> int:
        """Sequences of the largest of these splits."""
        return max(len(self.of(name, fold)[1]) for name in names for fold in range(self.folds))


FIVE = "mean", "sd", "least", "most", "last"
BASELINES: dict[str, Callable[..., Any]] = {
    "logistic regression, means and sds": baselines.logistic_regression,
    "logistic regression, five statistics": functools.partial(
        baselines.logistic_regression, statistics=FIVE
    ),
    "random convolutions": baselines.random_convolutions,
}
FEW = "BPTT", "ModProp, two types", "e-prop", "readout only"
SETTINGS = {
    "watch": Setting(
        functools.partial(tasks.watch_split, every=4), 5, 0.1, 7, 400, 64, tuple(RULES)
    ),
    "japanese_vowels": Setting(tasks.japanese_vowels_split, 1, 0.3, 9, 1500, 32, FEW),
    "basic_motions": Setting(tasks.basic_motions_split, 1, 0.1, 4, 500, 32, FEW),
}


class Network(eqx.Module):
    """Leaky tanh neurons, and a readout of the last step."""

    rnn: mpj.RNN
    readout: mpj.Readout

    def __call__(self, xs: Any, key: Any) -> Any:
        """Logits (N, classes); the key is for rules that draw."""
        return self.readout(self.rnn(xs, self.rnn.init(xs.shape[1:-1], key=key))[1][-1])


def loss(model: Network, xs: Any, ys: Any, key: Any) -> Any:
    """Cross-entropy, in nats."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(xs, key), ys))


@eqx.filter_jit
def trained(
    rule: Any, setting: Setting, key: Any, rate: Any, learnt: Sequences, scored: Sequences
) -> Any:
    """Accuracy and cross-entropy of what was not learnt from, after all iterations."""
    weights, drawing = jr.split(key)
    keys = jr.split(weights)
    features = learnt.xs.shape[-1]
    cell = mpj.RateCell(features, UNITS, alpha=setting.alpha, key=keys[0])
    model = Network(mpj.RNN(cell, rule=rule), mpj.Readout(UNITS, setting.classes, key=keys[1]))
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    optimizer = optax.adam(rate)

    def iteration(state, key):
        arrays, moments = state
        which = jr.randint(key, (setting.batch,), 0, learnt.count)
        gradients = mpj.value_and_grad(loss)(
            eqx.combine(arrays, static), learnt.xs[:, which], learnt.ys[which], jr.fold_in(key, 1)
        )[1]
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(arrays, updates), moments), None

    start = arrays, optimizer.init(arrays)
    arrays = jax.lax.scan(iteration, start, jr.split(drawing, setting.iterations))[0][0]
    learnt_model: Any = eqx.combine(arrays, static)
    logits = learnt_model(scored.xs, drawing)
    there = jnp.arange(len(scored.ys)) < scored.count
    each = optax.softmax_cross_entropy_with_integer_labels(logits, scored.ys)
    right = jnp.argmax(logits, -1) == scored.ys
    return jnp.sum(right & there) / scored.count, jnp.sum(each * there) / scored.count


def row_of(name: str, setting: Setting, fold: int, rule: str, seeds: int) -> dict[str, Any]:
    """The rate by the people (or series) that are neither learnt from nor tested, then the test."""
    parts = parts_of(name, fold)
    made = RULES[rule](UNITS)

    def score(seed, rate, learnt, scored):
        run = trained(made, setting, jr.key(seed), jnp.float32(rate), parts[learnt], parts[scored])
        return tuple(float(value) for value in run)

    tried = [score(TUNING_SEED, rate, "fit", "validation") for rate in RATES]
    # the accuracy, and between equals the loss; one that diverged has none
    best = max(range(len(RATES)), key=lambda i: (tried[i][0], -np.nan_to_num(tried[i][1], nan=1e9)))
    began = time.perf_counter()
    found = [score(seed, RATES[best], "train", "test") for seed in range(seeds)]
    each = (time.perf_counter() - began) / seeds / setting.iterations
    return {
        "accuracy": [accuracy for accuracy, _ in found],
        "loss": [value for _, value in found],
        "rate": RATES[best],
        "tried": [accuracy for accuracy, _ in tried],
        "iterations": setting.iterations,
        "ms": 1e3 * each,
    }


@functools.cache
def parts_of(name: str, fold: int) -> dict[str, Sequences]:
    """On the device."""
    return jax.tree.map(jnp.asarray, SETTINGS[name].parts(fold))


def baseline(name: str, fold: int, label: str) -> dict[str, Any]:
    """A classifier that learns no network."""
    classify = BASELINES[label]
    parts = parts_of(name, fold)
    (xs, ys), (new, truth) = (
        (np.asarray(p.xs)[:, : int(p.count)], np.asarray(p.ys)[: int(p.count)])
        for p in (parts["train"], parts["test"])
    )
    return {"accuracy": [float(np.mean(np.asarray(classify(xs, ys, new)) == truth))], "rate": None}


def classification_rows(
    name: str, rules: list[str] | None, seeds: int
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What the table of a set is made of: a key, and what computes the row."""
    setting = SETTINGS[name]
    folds = range(setting.folds)
    for rule, fold in itertools.product(setting.rules, folds):
        if not rules or rule in rules:
            work = functools.partial(row_of, name, setting, fold, rule, seeds)
            yield f"{name}/{fold}/{rule}", work
    # those of the other sets are in the page of baselines
    for label, fold in itertools.product(BASELINES if name == "watch" else (), folds):
        if not rules or label in rules:
            yield f"{name}/{fold}/{label}", functools.partial(baseline, name, fold, label)
