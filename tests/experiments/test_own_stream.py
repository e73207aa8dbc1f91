"""Networks of one's own on endless streams: several layers, online."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from folders import cut_back
from helpers import jit
from own_lab import echo, Online

import modprop_jax as mpj
from modprop_jax.experiments import compare, resume, trained
from modprop_jax.experiments._compare._study import _records, _start
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._setup import seed_keys
from modprop_jax.experiments._summary import SECONDS
from modprop_jax.experiments._train import stream_keys


SIZE: dict[str, Any] = {"iterations": 6, "eval_every": 2, "batch": 3, "segment": 2}
TYPES = {5: [1, 1, 1, 0, 0], 3: [1, 1, 0]}  # its halves


def made(*rules, **settings):
    return Config.make(echo, "small", rules, 2, Online, **(SIZE | settings))


def by_hand(config, rules, seed):
    """One segment after the other: `online_value_and_grad` over both layers, an optax step each."""
    weight_keys, keys = seed_keys(config)
    model = Online(2, 1, key=weight_keys[seed])
    model = eqx.tree_at(
        lambda m: (m.first, m.second),
        model,
        tuple(layer.under(rule) for layer, rule in zip(model.layers, rules)),
    )
    data_key, carry_key = (k[seed] for k in stream_keys(keys))
    xs, ys = echo(data_key, 3, steps=12)

    def segment_loss(model, carry, xs, ys):
        carry, outputs = model.online(xs, carry)
        each = jnp.sum((outputs - ys) ** 2, -1)
        return len(xs) * each.mean(), carry

    optimizer = optax.adam(config.settings.optimizer.learning_rate)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    online = mpj.online_value_and_grad(segment_loss, segment=2)
    carry, losses = model.init((3,), key=carry_key), []

    @jit
    def step(model, state, carry, xs, ys):
        (loss, carry), grads = online(model, carry, xs, ys)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return eqx.apply_updates(model, updates), state, carry, loss / 2

    for t in range(0, 12, 2):
        model, state, carry, loss = step(model, state, carry, xs[t : t + 2], ys[t : t + 2])
        losses.append(loss)
    return model, np.array(losses)


@pytest.mark.parametrize(
    "label, rule",
    [("eprop", lambda n: mpj.EProp()), ("modprop:mu=0.5", lambda n: mpj.ModProp(0.5, TYPES[n]))],
)
def test_two_layers_learn_as_their_own_loop_would(label, rule):
    config = made(label)
    records = list(_records(config, label, _start(config, label)))
    assert [record.iteration for _, record in records] == [0, 2, 4, 6]
    for seed in range(2):
        model, losses = by_hand(config, [rule(5), rule(3)], seed)
        blocks = losses.reshape(3, 2).mean(1)
        found = [record.loss[seed] for _, record in records[1:]]
        np.testing.assert_allclose(found, blocks, rtol=1e-10)
        last = jax.tree.map(lambda a: a[seed] if eqx.is_array(a) else a, records[-1][0].model)
        for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(model), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_killed_stream_of_ones_own_goes_on_bit_for_bit(tmp_path):
    options: dict[str, Any] = {"network": Online, "seeds": 2, "quiet": True, **SIZE}
    rules = ["eprop", "uoro"]
    whole = compare(echo, rules, out=tmp_path / "whole", **options)
    compare(echo, rules, out=tmp_path / "part", **options)
    config = made(*rules)
    records = _records(config, "uoro", _start(config, "uoro"))
    state, _ = [next(records) for _ in range(2)][-1]
    cut_back(tmp_path / "part", "uoro", state)
    again = resume(tmp_path / "part", task=echo, network=Online, quiet=True)
    timeless = [
        [{k: v for k, v in line.items() if k != SECONDS} for line in each.metrics]
        for each in (whole, again)
    ]
    assert timeless[0] == timeless[1]
    for a, b in zip(
        jax.tree.leaves(trained(tmp_path / "part", "uoro")),
        jax.tree.leaves(trained(tmp_path / "whole", "uoro")),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_task_of_ones_own_is_a_stream_for_the_packages_networks(tmp_path):
    options: dict[str, Any] = {"seeds": 1, "quiet": True, "hidden_size": 4, **SIZE}
    result = compare(echo, ["rtrl"], out=tmp_path / "run", **options)
    assert result.config.entry.stream and result.rows[0].iteration == 6
