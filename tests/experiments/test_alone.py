"""Seeds that stop alone, while the others of their rule go on."""

import json
import types
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from modprop_jax.experiments import compare, main, resume, trained, TrainingDiverged
from modprop_jax.experiments._cells import with_cell
from modprop_jax.experiments._network import build_network, build_optimizer
from modprop_jax.experiments._recurrent import recurrent_radius
from modprop_jax.experiments._summary import counted, lost_seeds, summarise
from modprop_jax.experiments._train import stream_keys
from modprop_jax.tasks import Task, TASKS


POISONED_SEED, POISONED_AT = 1, 5


def poisoned(key, batch):
    """A sum of inputs, which is NaN for the second seed at iteration 5."""
    xs = jr.normal(key, (4, batch, 2))
    keys = jnp.stack([jr.split(jr.key(seed))[1] for seed in range(3)])
    bad = jr.fold_in(stream_keys(keys)[0][POISONED_SEED], POISONED_AT)
    hit = jnp.all(jr.key_data(key) == jr.key_data(bad))
    return jnp.where(hit, jnp.nan, xs), jnp.sum(xs, (0, 2))[:, None]


def clean(key, batch):
    xs = jr.normal(key, (4, batch, 2))
    return xs, jnp.sum(xs, (0, 2))[:, None]


def _compared(task, out, **more):
    options: dict[str, Any] = dict(
        seeds=3, iterations=8, eval_every=2, batch=4, hidden_size=5, learning_rate=0.05, quiet=True
    )
    return compare(task, ["eprop"], out=out, **(options | more))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return _compared(poisoned, tmp_path_factory.mktemp("alone") / "run")


def _lines(folder):
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def test_others_go_on_as_they_would_have(stopped, tmp_path):
    whole = _compared(clean, tmp_path / "clean")
    for one, other in zip(_lines(stopped.folder), _lines(whole.folder), strict=True):
        for seed in (0, 2):
            assert one["loss"][seed] == other["loss"][seed]
            assert one["accuracy"][seed] == other["accuracy"][seed]
    first, second = (trained(c.folder, "eprop") for c in (stopped, whole))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        np.testing.assert_array_equal(a[np.array([0, 2])], b[np.array([0, 2])])


def test_it_stays_as_it_was_at_its_last_evaluation(stopped, tmp_path):
    until = _compared(clean, tmp_path / "four", iterations=4)
    for a, b in zip(
        jax.tree.leaves(trained(stopped.folder, "eprop")),
        jax.tree.leaves(trained(until.folder, "eprop")),
    ):
        np.testing.assert_array_equal(a[POISONED_SEED], b[POISONED_SEED])
    loss = [line["loss"][POISONED_SEED] for line in _lines(stopped.folder)]
    assert loss[2] == loss[3] == loss[4] != loss[1]


def test_what_is_said_of_it(stopped):
    [row] = stopped.rows
    assert row.diverged is None and row.iteration == 8
    assert len(row.stopped) == 1
    assert "seed 1: NaN or infinity" in row.stopped[0] and "iteration 6" in row.stopped[0]
    said = [line.get("stopped") for line in _lines(stopped.folder)]
    assert said == [None, None, None, {"1": row.stopped[0]}, None]
    assert (
        "1 of 3 seeds stopped, and count from there on as untrained"
        in (stopped.folder / "table.md").read_text()
    )
    cosine = _lines(stopped.folder)[-1]["cosine"]
    assert cosine[1] is None and None not in (cosine[0], cosine[2])
    assert row.cosine_end == pytest.approx((cosine[0] + cosine[2]) / 2)
    # in the table with its first loss
    first, last = stopped.metrics[0]["loss"], stopped.metrics[-1]["loss"]
    assert row.loss.mean == pytest.approx(np.mean([last[0], first[1], last[2]]))


def test_a_kill_changes_nothing(stopped, tmp_path, monkeypatch):
    """Before it stopped, and after."""
    for lines in (3, 4):

        def ends(_, left=iter(range(lines))):
            if next(left, None) is None:
                raise KeyboardInterrupt

        folder = tmp_path / str(lines)
        with pytest.raises(KeyboardInterrupt):
            _compared(poisoned, folder, on_record=ends)
        assert len(_lines(folder)) == lines + 1
        found = resume(folder, task=poisoned, quiet=True)
        assert _lines(folder) == _lines(stopped.folder)
        assert found.rows[0].stopped == stopped.rows[0].stopped


def test_the_radius_of_the_recurrent_weights_is_recorded(stopped):
    """By seed, from the weights that a cell computes with; beside `numpy.linalg.eigvals`."""
    lines = _lines(stopped.folder)
    ends: list[tuple[Any, Any]] = [("start", lines[0]), ("end", lines[-1])]
    for at, line in ends:
        weights = np.asarray(trained(stopped.folder, "eprop", at=at).rnn.cell.weight_rec)
        weights = weights * (1 - np.eye(5))  # no autapses
        expected = [np.abs(np.linalg.eigvals(each)).max() for each in weights]
        np.testing.assert_allclose(line["recurrent_radius"], expected, rtol=1e-5)
    [row] = stopped.rows
    assert row.radius_end == pytest.approx(np.mean(lines[-1]["recurrent_radius"]))
    said = f"eprop {row.radius_start:.2f} → {row.radius_end:.2f}."
    assert said in (stopped.folder / "table.md").read_text("utf-8")


def test_where_there_is_no_matrix_there_is_no_radius():
    task = TASKS["sequential_digits"]
    for cell in ("gru", "leaky"):
        preset = with_cell(task.presets["small"], cell).replace(hidden_size=4, excitatory=None)
        network = build_network(task, preset, jr.key(0))
        seeds = jax.tree.map(lambda a: jnp.stack([a, a]) if eqx.is_array(a) else a, network)
        found = recurrent_radius(seeds)
        assert (found is None) == (cell == "gru") and (found is None or found.shape == (2,))


def test_where_none_is_left_the_rule_stops(tmp_path):
    [row] = _compared(poisoned, tmp_path / "last", seeds=1, first_seed=POISONED_SEED).rows
    assert row.stopped == () and row.diverged and "seed 0" in row.diverged and row.iteration == 4


@pytest.mark.slow
def test_a_rule_that_becomes_unstable_stops_alone(tmp_path, capsys):
    """Excitatory weights grow, of each network in its own time."""
    tiny: dict[str, Any] = dict(hidden_size=6, excitatory=5, batch=4, data={"cue": 3, "delay": 2})
    result = compare(
        "delayed_xor", ["modprop_cell:mu=0.75"], seeds=3, out=tmp_path / "grows", iterations=48,
        eval_every=4, learning_rate=0.03, l2=0.0, **tiny,
    )  # fmt: skip
    alone = [line for line in result.metrics if "stopped" in line]
    assert alone and all("ModProp is unstable" in w for m in alone for w in m["stopped"].values())
    out = capsys.readouterr().out
    for line in alone:
        for why in line["stopped"].values():
            assert f"iteration {line['iteration']}" in why and f"stopped: {why}" in out


def test_what_is_unstable_from_the_start_learns_nothing(tmp_path):
    """Nor is it said to stop again, where the other goes on."""
    result = compare(
        "delayed_xor", ["modprop_cell:mu=0.55"], seeds=6, out=tmp_path / "start", iterations=2,
        eval_every=1, learning_rate=1e-6, hidden_size=10, excitatory=8, batch=4, quiet=True,
        data={"cue": 4, "delay": 6},
    )  # fmt: skip
    first, *later = result.metrics
    at_once = set(first["stopped"])
    assert at_once == {str(s) for s, radius in enumerate(first["radius"]) if radius > 1}
    assert 0 < len(at_once) < 6 and not any("stopped" in line for line in later)
    for line in later:
        changed = {str(s) for s in range(6) if line["radius"][s] != first["radius"][s]}
        assert changed == {*map(str, range(6))} - at_once
    assert len(result.rows[0].stopped) == len(at_once)


def test_untrained_is_what_a_stopped_seed_counts_as():
    """By hand, with a rule beside it that has nothing to do with it."""
    metrics = [
        {"rule": "a", "iteration": 0, "loss": [1.0, 2.0], "accuracy": [0.5, 0.4]},
        {"rule": "a", "iteration": 1, "loss": [0.5, 0.6], "accuracy": [0.8, 0.9]},
        {
            **{"rule": "a", "iteration": 2, "loss": [0.3, 0.6], "accuracy": [0.9, 0.9]},
            "stopped": {"1": "why"},
        },
        {"rule": "a", "iteration": 3, "loss": [0.2, 0.6], "accuracy": [1.0, 0.9]},
        {"rule": "b", "iteration": 0, "loss": [1.0, 2.0], "accuracy": [0.5, 0.4]},
    ]
    found = counted(metrics)
    assert [line["loss"] for line in found] == [
        [1.0, 2.0], [0.5, 0.6], [0.3, 2.0], [0.2, 2.0], [1.0, 2.0]
    ]  # fmt: skip
    assert [line["accuracy"] for line in found[:4]] == [
        [0.5, 0.4], [0.8, 0.9], [0.9, 0.4], [1.0, 0.4]
    ]  # fmt: skip
    assert metrics[3]["accuracy"] == [1.0, 0.9]


def test_what_was_learnt_and_lost_is_counted():
    """Of three seeds one keeps it, one falls back all the way, one never had it."""
    scores = [[0.5, 0.5, 0.5], [1.0, 1.0, 0.6], [1.0, 1.0, 0.6], [0.99, 0.6, 0.6]]
    metrics = [
        {
            **{"rule": "eprop", "iteration": i, "loss": [1.0] * 3, "accuracy": row},
            "seconds_per_iteration": None,
        }
        for i, row in enumerate(scores)
    ]
    settings = types.SimpleNamespace(
        objective=types.SimpleNamespace(criterion=0.95, patience=2),
        schedule=types.SimpleNamespace(iterations=3, segment=None),
    )
    config: Any = types.SimpleNamespace(rules=("eprop",), seeds=3, settings=settings)
    [row] = summarise(config, metrics, {})
    assert row.collapsed == 1
    assert lost_seeds(config, [row]) == [
        "eprop: 1 of 3 seeds met the criterion and lost at least half of it again."
    ]


# --- clipping ---


def test_a_gradient_is_scaled_down_to_the_clip():
    """Plain descent without decay, L2 or Dale's law: the step is the rate times the gradient."""
    task: Task = TASKS["sequential_digits"]
    preset = task.presets["small"].replace(
        optimizer="sgd", learning_rate=0.1, l2=0.0, hidden_size=4, excitatory=None, decay=1.0
    )
    model = build_network(task, preset, jr.key(0))
    gradients = jax.tree.map(jnp.ones_like, jax.tree.map(jnp.asarray, _parameters(model)))
    norm = float(optax.tree.norm(gradients))
    for clip, scale in ((None, 1.0), (2 * norm, 1.0), (norm / 4, 0.25)):
        optimizer = build_optimizer(preset.replace(clip=clip))
        params = _parameters(model)
        with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
            updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_allclose(leaf, -0.1 * scale, rtol=1e-6)


def _parameters(model):
    return eqx.filter(model, eqx.is_inexact_array)


@pytest.mark.parametrize("clip", [0, -1.0, float("nan"), float("inf")])
def test_what_is_no_clip(clip, capsys):
    with pytest.raises(ValueError, match="clip must be greater than 0"):
        compare("delayed_xor", ["eprop"], clip=clip)
    assert main(["compare", "delayed_xor", "--clip", str(clip)]) == 2
    assert "clip must be greater than 0" in capsys.readouterr().err


def test_train_stops_with_its_first_seed():
    """It has no folder that could tell of seeds that stopped."""
    import modprop_jax as mpj
    from modprop_jax.experiments import Network, train

    def make(key):
        first, second = jr.split(key)
        cell = mpj.LeakyCell(2, 3, tau=3.0, key=first)
        return Network(mpj.RNN(cell), mpj.Readout(3, 1, key=second))

    def loss(net, xs, ys):
        value = jnp.mean((net(xs) - ys) ** 2)
        return value, -value

    keys = jnp.stack([jr.split(jr.key(seed))[1] for seed in range(2)])
    with pytest.raises(TrainingDiverged, match="seed 1.*iteration 6"):
        train(
            eqx.filter_vmap(make)(keys), lambda key: poisoned(key, 4), loss, optax.sgd(1e-2),
            key=keys, iterations=8, eval_every=4,
        )  # fmt: skip
