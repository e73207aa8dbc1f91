"""Online learning on endless streams: the loop, what it reports, and what survives a kill."""

import json
import re
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from folders import cut_back
from helpers import jit

import modprop_jax as mpj
from modprop_jax.experiments import compare, main, resume, trained, TrainingDiverged
from modprop_jax.experiments._compare._study import _records, _start
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._setup import seed_keys, setup
from modprop_jax.experiments._train import stream_keys
from modprop_jax.tasks import add, TASKS


TINY: dict[str, Any] = {
    "hidden_size": 4,
    "iterations": 24,
    "eval_every": 8,
    "data": {"lags": (1, 2)},
}


def config(*rules, seeds=2, **settings):
    return Config.make("add", "brief", rules, seeds, **(TINY | settings))


def lines(folder):
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in found]


def by_hand(config, label, seed):
    """Network and losses of one seed, one step after the other, by JAX's own derivative.

    For one-step truncated BPTT, whose gradient needs no rule: the state before is a constant.
    """
    weight_keys, keys = seed_keys(config)
    model = setup(config).start(weight_keys).model
    model = jax.tree.map(lambda a: a[seed] if eqx.is_array(a) else a, model)
    xs, ys = add(stream_keys(keys)[0][seed], 1, steps=24, lags=(1, 2))
    rate = config.settings.optimizer.learning_rate

    @jit
    def step(model, state, x, y):
        def loss(model):
            after = model.rnn.cell.step(state, x)
            return TASKS["add"].loss(model.readout(after)[None], y[None])[0], after

        (value, after), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -rate * g, grads)), after, value

    state, losses = model.rnn.cell.init((1,)), []
    for x, y in zip(xs, ys):
        model, state, value = step(model, state, x, y)
        losses.append(value)
    return model, np.array(losses)


@pytest.mark.slow
def test_every_step_learns_from_its_own_output():
    made = config("bptt", learning_rate=0.5)
    records = list(_records(made, "bptt", _start(made, "bptt")))
    assert [record.iteration for _, record in records] == [0, 8, 16, 24]
    for seed in range(2):
        model, losses = by_hand(made, "bptt", seed)
        for (_, record), block in zip(records[1:], losses.reshape(3, 8)):
            np.testing.assert_allclose(record.loss[seed], block.mean(), rtol=1e-10)
        found = jax.tree.map(lambda a: a[seed] if eqx.is_array(a) else a, records[-1][0].model)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(model), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.slow
def test_the_first_record_is_of_the_untrained_network():
    made = config("eprop")
    state = _start(made, "eprop")
    _, record = next(iter(_records(made, "eprop", state)))
    xs, ys = jax.vmap(lambda key: add(key, 1, steps=24, lags=(1, 2)))(
        stream_keys(seed_keys(made)[1])[0]
    )
    for seed in range(2):
        model = jax.tree.map(lambda a: a[seed] if eqx.is_array(a) else a, state.model)
        outputs = model(xs[seed, :8])
        np.testing.assert_allclose(
            record.loss[seed], TASKS["add"].loss(outputs, ys[seed, :8])[0], rtol=1e-10
        )


def test_the_first_step_of_adam_is_its_rate():
    """The optimizer's moments have the structure of the gradients, rule included."""
    made = config("eprop", optimizer="adam", iterations=1, eval_every=1, seeds=1)
    start = _start(made, "eprop")
    *_, (state, _) = _records(made, "eprop", start)
    before, after = (eqx.filter(s.model, eqx.is_array) for s in (start, state))
    moved = jax.tree.map(lambda a, b: b - a, after, before)
    steps = np.abs(np.concatenate(list(map(np.ravel, jax.tree.leaves(moved)))))
    steps = steps / made.settings.optimizer.learning_rate
    # recurrent weights wait for a rate to send
    assert ((steps < 1e-6) | (np.abs(steps - 1) < 1e-3)).all() and np.mean(steps > 0.5) > 0.3


@pytest.mark.slow
def test_a_segment_is_one_step_with_the_sum_of_its_gradients():
    """At a tiny rate, weights hardly move: three steps of one, or one of three."""
    tiny = {"learning_rate": 1e-6, "iterations": 12, "eval_every": 6}
    made = config("rtrl", "rtrl:segment=3", **tiny)
    moved = []
    for label in made.rules:
        start = _start(made, label)
        *_, (state, record) = _records(made, label, start)
        assert record.iteration == 12 and state.iteration == 12
        moved.append(
            jax.tree.map(
                lambda a, b: a - b, *(eqx.filter(s.model, eqx.is_array) for s in (state, start))
            )
        )
    for a, b in zip(*map(jax.tree.leaves, moved)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-9)
        assert np.abs(a).max() > 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("label", ["uoro", "dni:rate=0.05", "kernl"])
def test_a_stream_that_was_killed_goes_on_bit_for_bit(tmp_path, label):
    settings: dict[str, Any] = {"seeds": 2, "preset": "brief", "quiet": True, **TINY}
    whole = compare("add", ["eprop", label], out=tmp_path / "whole", **settings)
    compare("add", ["eprop", label], out=tmp_path / "part", **settings)
    folder = tmp_path / "part"
    # as a kill after the second evaluation leaves it
    made = config("eprop", label)
    records = _records(made, label, _start(made, label))
    state, _ = [next(records) for _ in range(2)][-1]
    cut_back(folder, label, state)
    again = resume(folder, quiet=True)
    assert lines(folder) == lines(tmp_path / "whole")
    assert again.rows[1].loss == whole.rows[1].loss
    for a, b in zip(
        jax.tree.leaves(trained(folder, label)),
        jax.tree.leaves(trained(tmp_path / "whole", label)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_table_averages_the_last_tenth(tmp_path):
    settings: dict[str, Any] = TINY | {"iterations": 40, "eval_every": 2}
    found = compare(
        "add", ["eprop"], seeds=2, preset="brief", quiet=True, out=tmp_path / "run", **settings
    )
    ending = [line["loss"] for line in lines(tmp_path / "run") if line["iteration"] > 36]
    assert len(ending) == 2 and found.rows[0].loss is not None
    assert found.rows[0].loss.mean == pytest.approx(np.mean(ending), rel=1e-12)
    table = (tmp_path / "run" / "table.md").read_text()
    assert "means over the last tenth of the stream" in table


@pytest.mark.slow
def test_a_stream_stops_at_nan():
    sizes: dict[str, Any] = {"hidden_size": 4, "iterations": 8, "eval_every": 8}
    made = Config.make("mimic", "brief", ["eprop"], 1, learning_rate=1e30, **sizes)
    with pytest.raises(TrainingDiverged, match="eprop, seed .* iteration"):
        list(_records(made, "eprop", _start(made, "eprop")))


@pytest.mark.slow
def test_rules_bring_their_own_feedback():
    made = config("local_dni", "eprop")
    local, plain = (_start(made, label).model.readout for label in made.rules)
    assert local.feedback == "random" and plain.feedback == "symmetric"
    np.testing.assert_array_equal(local.weight, plain.weight)
    # N(0, 1/n), of four neurons here, times the preset's scale of 4
    assert 1.4 < np.std(local.feedback_weight) < 2.6
    assert isinstance(made.rule("local_dni"), mpj.LocalDNI)
    rule = made.rule("dni:rate=0.1,refresh=7")
    assert isinstance(rule, mpj.DNI) and (rule.labels, rule.refresh) == (2, 7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["add", "--rules", "uoro"], "rule 'uoro' learns on a stream only: give segment=1"),
        (["add", "--rules", "bptt:segment=5"], "has a segment on a stream only"),
        (["delayed_xor", "--segment", "1"], "has trials that end"),
        # every step is read, but the loss is a sum over them
        (["flip_flop", "--segment", "1"], "has trials that end"),
        (["add", "--preset", "brief", "--rules", "bptt:segment=7"], "every 7 time steps"),
        (["add", "--preset", "brief", "--segment", "0"], "segment must be greater than 0"),
        (["add", "--preset", "brief", "--rules", "dni:speed=1"], "unknown dni option 'speed'"),
    ],
)
def test_refusals(arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_default_rules_are_the_online_family():
    made = Config.make("add", "brief", None, 1)
    assert {"rtrl", "uoro", "dni", "future_bptt", "readout_only"} <= set(made.rules)
    assert made.rules != Config.make("add", "small", None, 1).rules
