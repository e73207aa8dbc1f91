"""Networks of lists of synapses: what is built, what learns, and what large ones never make."""

import dataclasses
import functools
import json
import math
import re
from typing import Any

import jax
import numpy as np
import pytest
from folders import cut_back

from modprop_jax import Sparse
from modprop_jax.experiments import compare, resume, trained
from modprop_jax.experiments._compare._study import _records, _start
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._setup import seed_keys, setup
from modprop_jax.experiments._stream import _advance, Streaming
from modprop_jax.tasks import TASKS


TASK = TASKS["connectome"]
WIRING = {"fan_in": 6.0, "sensory": 0.2, "motor": 5}
TINY: dict[str, Any] = {"hidden_size": 60, "iterations": 4, "eval_every": 2, "wiring": WIRING}


def config(*rules, preset="small", seeds=2, **settings):
    return Config.make("connectome", preset, rules, seeds, **(TINY | settings))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["small", "small_spiking"])
def test_inputs_reach_sensory_neurons_and_outputs_come_from_motor_ones(preset):
    made = config("modprop", preset=preset)
    state = _start(made, "modprop")
    cell, readout = state.model.rnn.cell, state.model.readout
    recurrent, inputs = cell.weight_rec, cell.weight_in
    assert isinstance(recurrent, Sparse) and recurrent.shape == (60, 60)
    degrees = np.bincount(recurrent.post[0], minlength=60)
    assert degrees.min() >= 1 and abs(degrees.mean() - 6) < 2 and degrees.std() > 2
    np.testing.assert_array_equal(np.sort(inputs.post[0]), np.arange(12))
    seen = np.asarray(readout.weight[0] != 0).any(0)
    np.testing.assert_array_equal(np.flatnonzero(seen), np.arange(12, 17))
    # one wiring, weights by seed
    for lists in (recurrent, inputs):
        np.testing.assert_array_equal(*lists.pre)
        assert (lists.weight[0] != lists.weight[1]).all()
    *_, (after, _) = _records(made, "modprop", state)
    np.testing.assert_array_equal(after.model.readout.weight == 0, readout.weight == 0)
    assert (after.model.readout.weight != readout.weight).any()


def moved(made, label):
    """Which recurrent synapses of the first seed move within a run."""
    start = _start(made, label)
    *_, (state, _) = _records(made, label, start)
    before, after = (s.model.rnn.cell.weight_rec for s in (start, state))
    return np.asarray(before.weight != after.weight)[0]


@pytest.mark.slow
def test_credit_by_types_reaches_all_neurons():
    made = config("modprop", "eprop", "readout_only")
    share = [moved(made, label).mean() for label in made.rules]
    assert share[0] > 0.5 and share[0] >= share[1] > 0 == share[2]


def largest_of_the_loop(made, label):
    """Entries of the largest array in the program of an evaluation's block."""
    state, parts = _start(made, label), setup(made.for_rule(label))
    schedule, (_, keys) = made.settings.schedule, seed_keys(made)
    segment, block = schedule.segment, schedule.eval_every * schedule.segment
    loop: Any = _advance
    data: Any = parts.data
    xs, ys = jax.vmap(functools.partial(data, steps=block))(keys)
    text = loop.lower(
        state,
        xs=xs,
        ys=ys,
        loss=made.entry.loss,
        update=parts.optimizer.update,
        streaming=Streaming(segment, segment, block, block),
        count=schedule.eval_every,
        mesh=None,
    ).as_text()
    sizes = re.findall(r"tensor<([0-9x]+)x[a-z]", text)
    return max(math.prod(map(int, size.split("x"))) for size in sizes)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["modprop", "mdgl", "eprop"])
def test_the_loop_builds_nothing_dense(label):
    n = 1500
    sizes: dict[str, Any] = {"hidden_size": n, "excitatory": 1200, "batch": 1, "seeds": 1}
    made = config(label, **sizes)
    assert largest_of_the_loop(made, label) < n**2 / 10
    if label == "eprop":
        dense = dataclasses.replace(made, settings=made.settings.replace(wiring=None))
        assert largest_of_the_loop(dense, label) == n**2


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, trials",
    [("small", 210), pytest.param("small_spiking", 450, marks=pytest.mark.long)],
)
def test_learnt_beats_fixed(preset, trials, tmp_path):
    """Part of the trials; credit that goes back by a synapse, where few neurons see an error."""
    options: dict[str, Any] = {"seeds": 1, "iterations": trials, "quiet": True}
    result = compare("connectome", ["mdgl", "readout_only"], preset=preset, out=tmp_path, **options)
    learnt, fixed = (row.accuracy.mean for row in result.rows if row.accuracy is not None)
    assert learnt > fixed + 0.1 and fixed < 0.65


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    options: dict[str, Any] = {"seeds": 2, "quiet": True, **TINY}
    compare("connectome", ["modprop"], out=tmp_path / "whole", **options)
    compare("connectome", ["modprop"], out=tmp_path / "part", **options)
    made = config("modprop")
    records = _records(made, "modprop", _start(made, "modprop"))
    state, _ = [next(records) for _ in range(2)][-1]
    cut_back(tmp_path / "part", "modprop", state)
    resume(tmp_path / "part", quiet=True)

    def lines(folder):
        found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in line.items() if "seconds" not in k} for line in found]

    assert lines(tmp_path / "part") == lines(tmp_path / "whole")
    for a, b in zip(
        *(jax.tree.leaves(trained(tmp_path / name, "modprop")) for name in ("part", "whole")),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("preset", TASK.presets)
def test_presets_fit_the_task(preset):
    """Also the large ones, whose synapses take seconds to draw: here of fewer neurons."""
    settings = TASK.presets[preset]
    smaller = {"hidden_size": 60, "wiring": {**(settings.network.wiring or {}), **WIRING}}
    made = Config.make("connectome", preset, None, None, **smaller)
    assert made.seeds == settings.seeds and "readout_only" in made.rules
    TASK.check()


WRONG = {
    "unknown wiring option 'fanin'": {"wiring": {"fanin": 3.0}},
    "wiring needs fan_in": {"wiring": {"motor": 3}},
    "in \\[1, 59\\], from one synapse": {"wiring": {"fan_in": 60.0}},
    "12 sensory and 50 motor neurons": {"wiring": WIRING | {"motor": 50}},
    "sensory must be in \\(0, 1\\]": {"wiring": WIRING | {"sensory": 0.0}},
    "no matrices that orthogonal=True": {"orthogonal": True},
    "cell 'gru' has no weight_rec": {"cell": "gru"},
}


@pytest.mark.parametrize("message", WRONG)
def test_refusals(message):
    with pytest.raises(ValueError, match=message):
        config("eprop", **WRONG[message])


def test_force_needs_a_matrix():
    with pytest.raises(ValueError, match="FORCE feeds outputs back through further columns"):
        config("force")
