"""Experiments: the loop, `compare`, what survives a kill, and the command line."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from folders import resigned, unsigned
from helpers import jit

from modprop_jax import (
    ALIFCell,
    EICredit,
    EProp,
    Filtered,
    GLE,
    LeakyCell,
    optim,
    QuasiStatic,
    Readout,
    RNN,
    scan,
    value_and_grad,
    with_rule,
)
from modprop_jax._cell._base import dynamics
from modprop_jax.experiments import (
    build_network,
    build_optimizer,
    build_rule,
    CELLS,
    compare,
    main,
    Network,
    resume,
    train,
    trained,
    TrainingDiverged,
)
from modprop_jax.experiments._align._config import AlignConfig
from modprop_jax.experiments._align._measure import measurements
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._devices import layout
from modprop_jax.experiments._network import recurrent_weights
from modprop_jax.experiments._setup import seed_keys, setup
from modprop_jax.experiments._summary import iterations_to_criterion
from modprop_jax.experiments._train import iterate, stream_keys
from modprop_jax.tasks import cross_entropy, TASKS


TINY = {"batch": 4, "hidden_size": 8, "data": {"cue": 4, "delay": 3}}


def _data(key):
    xs = jr.bernoulli(key, shape=(5, 8, 2))
    return xs.astype(float), (xs[0, :, 0] == xs[-1, :, 1]).astype(int)


def _loss(model, xs, ys):
    return cross_entropy(model(xs), ys)


@eqx.filter_jit
def _network(key):
    k1, k2 = jr.split(key)
    return Network(RNN(LeakyCell(2, 6, tau=3.0, key=k1)), Readout(6, 2, key=k2))


def _without_times(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in x.items() if "seconds" not in k} for x in lines]


def _command(*arguments, **environment):
    code = "import sys; from modprop_jax.experiments import main; sys.exit(main())"
    precision = {"JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64))}  # pyright: ignore
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | precision | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_train_side_by_side_is_plain_adam_for_each():
    """Two seeds at once, against the same steps written out for each."""
    keys, optimizer = jr.split(jr.key(0), 2), optax.adam(1e-2)
    alone = [_network(key) for key in keys]
    start = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    found, history = train(start, _data, _loss, optimizer, key=keys, iterations=5, eval_every=3)
    assert [record.iteration for record in history] == [0, 3, 5]
    assert history[0].loss.shape == (2,) and np.isnan(history[0].seconds)

    @eqx.filter_jit
    def step(model, state, key):
        (_, _), grads = eqx.filter_value_and_grad(_loss, has_aux=True)(model, *_data(key))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return eqx.apply_updates(model, updates), state

    for seed, (key, model) in enumerate(zip(keys, alone)):
        state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        for i in range(5):
            model, state = step(model, state, jr.fold_in(jr.split(key)[0], i))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(model)):
            np.testing.assert_allclose(a[seed], b, rtol=1e-4, atol=1e-6)


def test_train_stops_at_nan_and_names_it():
    def poisoned(key):
        xs, ys = _data(key)
        bad = jr.fold_in(jr.split(jr.key(7))[0], 4)
        hit = jnp.all(jr.key_data(key) == jr.key_data(bad))
        return jnp.where(hit, jnp.asarray(jnp.nan, xs.dtype), xs), ys

    with pytest.raises(TrainingDiverged, match="rule EProp, seed 0.* iteration 5") as e:
        train(
            _network(jr.key(0)),
            poisoned,
            _loss,
            optax.sgd(1e-2),
            key=jr.key(7),
            iterations=8,
            rule=EProp(),
            eval_every=8,
        )
    assert (e.value.seed, e.value.iteration) == (0, 5)
    assert "mu" in str(e.value)


def test_dale_clips_the_step_and_only_that():
    weight = jnp.asarray([[1.0, -1.0, 0.5], [0.2, -0.3, 0.0]])
    update = jnp.asarray([[-0.5, 0.5, -0.6], [-0.3, 0.4, -1.0]])
    transform = optim.dale((1, -1, 1))
    clipped, _ = transform.update(update, transform.init(weight), weight)
    stepped = np.asarray(optax.apply_updates(weight, clipped))
    expected = np.maximum((weight + update) * np.array([[1.0, -1.0, 1.0]]), 0)
    np.testing.assert_allclose(stepped, expected * [[1, -1, 1]])
    np.testing.assert_array_equal(np.asarray(clipped)[0, :2], update[0, :2])
    with pytest.raises(ValueError, match="3 presynaptic signs"):
        transform.update(update.T, transform.init(weight), weight.T)
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        optim.dale((1, 0))
    with pytest.raises(ValueError, match="params"):
        transform.update(update, transform.init(weight))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compare(
        "delayed_xor",
        ("modprop:mu=0.5", "bptt"),
        seeds=2,
        out=tmp_path_factory.mktemp("runs") / "whole",
        quiet=True,
        iterations=40,
        eval_every=2,
        **TINY,
    )


def test_compare_trains_the_same_start_on_the_same_data(comparison):
    first = {m["rule"]: m for m in comparison.metrics if m["iteration"] == 0}
    last = {m["rule"]: m for m in comparison.metrics if m["iteration"] == 40}
    assert first["bptt"]["loss"] == first["modprop:mu=0.5"]["loss"]
    assert last["bptt"]["loss"] != last["modprop:mu=0.5"]["loss"]
    assert len(comparison.metrics) == 2 * 21
    np.testing.assert_allclose(first["bptt"]["cosine"], 1, rtol=1e-6)
    assert all(0 < cosine < 1 - 1e-6 for cosine in first["modprop:mu=0.5"]["cosine"])


def test_compare_writes_its_results(comparison):
    folder = comparison.folder
    config = json.loads((folder / "config.json").read_text())
    settings = config["settings"]
    assert settings["schedule"]["batch"] == 4 and settings["network"]["excitatory"] in (6, 7)
    assert {"jax", "modprop_jax"} <= set(config["environment"]["versions"])
    row = comparison.rows[0]
    lines = [m for m in comparison.metrics if m["rule"] == row.rule]
    assert row.loss is not None and row.seconds is not None and row.accuracy is not None
    np.testing.assert_allclose(row.loss.mean, np.mean(lines[-1]["loss"]))
    np.testing.assert_allclose(row.loss.sd, np.std(lines[-1]["loss"], ddof=1))
    table = (folder / "table.md").read_text()
    assert "| modprop:mu=0.5 |" in table and f"{row.loss.mean:.3f}" in table
    (pair,) = comparison.pairs
    last = {m["rule"]: m for m in comparison.metrics if m["iteration"] == 40}
    scores = (last[rule]["accuracy"] for rule in (pair.first, pair.second))
    np.testing.assert_allclose(pair.mean, np.subtract(*scores).mean())
    assert "| modprop:mu=0.5 − bptt |" in table and "2 seeds support" in table
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pairs"] == [dataclasses.asdict(pair)]
    assert [each["rule"] for each in summary["rows"]] == ["modprop:mu=0.5", "bptt"]
    assert summary["rows"][0]["centre"]["mean"] == row.accuracy.mean
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_trained_networks_obey_dale(comparison):
    networks = trained(comparison.folder, "bptt")
    excitatory = comparison.config.settings.network.excitatory
    cell = networks.rnn.cell
    assert isinstance(cell, LeakyCell)
    for weight in (cell.weight_rec, networks.readout.weight):
        assert weight.shape[0] == 2
        assert (weight[..., :excitatory] >= 0).all() and (weight[..., :excitatory] > 0).any()
        assert (weight[..., excitatory:] <= 0).all() and (weight[..., excitatory:] < 0).any()
    with pytest.raises(ValueError, match="unknown rule 'eprop'; possible: modprop:mu=0.5, bptt"):
        trained(comparison.folder, "eprop")


def _copy_of(comparison, folder, **changes):
    """A folder with the module's run still to be done."""
    (folder / "checkpoints").mkdir(parents=True)
    text = resigned(comparison.folder / "config.json", **changes)
    (folder / "config.json").write_text(text)
    return folder


def _killed(folder, cores):
    """SIGKILL the run of a folder in its first rule."""
    metrics = folder / "metrics.jsonl"
    process = _command("compare", "--resume", folder, "--cores", cores)
    try:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    return metrics


def test_killed_and_resumed_equals_uninterrupted(comparison, tmp_path):
    """A copy of the module's run, which goes on from what is left."""
    folder = _copy_of(comparison, tmp_path / "killed")
    metrics = _killed(folder, 1)
    whole = _without_times(comparison.folder)
    assert 3 <= len(_without_times(folder)) < len(whole) / 2
    # Of a kill between two writes: a line beyond the checkpoint, and half a line.
    with open(metrics, "a") as file:
        file.write('{"rule": "bptt", "iteration": 4, "loss": [0.0, 0.0]}\n')
        file.write('{"rule": "modprop:mu=0.5", "iteration": 40, "loss": [0')
    result = resume(folder, quiet=True)
    assert _without_times(folder) == whole
    assert [row.loss for row in result.rows] == [row.loss for row in comparison.rows]
    for rule in comparison.config.rules:
        again, before = trained(folder, rule), trained(comparison.folder, rule)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(before)):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("cores, seeds", [(2, 3), (4, 2)])
def test_seeds_and_batch_spread_over_cores(cores, seeds, comparison, tmp_path):
    """Three seeds on two cores, which do not divide them; a batch over two cores for each seed.
    Killed and resumed as uninterrupted, and as the seeds of the module's run."""
    folders = [
        _copy_of(comparison, tmp_path / name, rules=["bptt"], seeds=seeds)
        for name in ("whole", "killed")
    ]
    _killed(folders[1], cores)
    assert len(_without_times(folders[1])) < 10
    for folder in folders:
        process = _command("compare", "--resume", folder, "--cores", cores)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert f"device: {cores} x" in output and "devices changed" in output
    whole, resumed = map(_without_times, folders)
    assert whole == resumed
    alone = [m for m in comparison.metrics if m["rule"] == "bptt"]
    for one, many in zip(alone, whole, strict=True):
        np.testing.assert_allclose(one["loss"], many["loss"][:2], rtol=1e-4)


def test_cores_can_not_be_counted_anew(capsys, monkeypatch):
    assert main(["compare", "delayed_xor", "--cores", "2"]) == 2
    assert "cores=2 came too late" in capsys.readouterr().err
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    assert main(["compare", "delayed_xor", "--cores", "2"]) == 2
    assert "says it too" in capsys.readouterr().err
    assert main(["align", "delayed_xor", "--cores", "0"]) == 2
    assert "cores must be a whole number of at least 1" in capsys.readouterr().err


def test_seeds_first_then_trials():
    cases = [(5, 32, 2), (5, 32, 1), (1, 32, 2), (1, 33, 2), (3, 32, 4), (2, 32, 4), (5, 32, 64)]
    shapes = [(2, 1), (1, 1), (1, 2), (1, 1), (3, 1), (2, 2), (5, 8)]
    assert [layout(*case) for case in cases] == shapes
    assert layout(3, 32, 4, all_devices=True) == (2, 2)
    assert layout(3, 5, 4, all_devices=True) == (1, 1)


def test_diverging_rule_is_stopped_and_the_others_go_on(comparison, tmp_path, capsys, monkeypatch):
    def iterate_or_diverge(*arguments, label, **options):
        for state, record in iterate(*arguments, label=label, **options):
            if label != "bptt" and record.iteration > 5:
                raise TrainingDiverged(label, 1, 6)
            yield state, record

    monkeypatch.setattr("modprop_jax.experiments._compare._study.iterate", iterate_or_diverge)
    folder = _copy_of(comparison, tmp_path / "diverging")
    assert main(["compare", "--resume", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "stopped: rule modprop:mu=0.5, seed 1: NaN or infinity" in printed
    assert "iteration 6" in printed and "smaller learning rate" in printed
    assert "iteration 6" in (folder / "table.md").read_text()
    lines = _without_times(folder)
    assert lines[-1] == _without_times(comparison.folder)[-1]
    assert [m["iteration"] for m in lines if m["rule"] != "bptt"] == [0, 2, 4]


@pytest.mark.slow
def test_a_rule_that_becomes_unstable_is_stopped_and_measured_mu_goes_on(tmp_path, capsys):
    """Excitatory weights that grow: mu=.75 is stable at first, and the loop sees when it ends."""
    result = compare(
        "delayed_xor", ["modprop_cell:mu=0.75", "modprop:mu=auto"], seeds=2, out=tmp_path / "grows",
        iterations=60, eval_every=4, learning_rate=0.03, l2=0.0, **TINY,
    )  # fmt: skip
    given, measured = result.rows
    assert given.diverged is None and given.iteration == 60
    [why] = given.stopped  # the other seed stays stable
    at = next(line["iteration"] for line in result.metrics if "stopped" in line)
    assert 0 < at < 60 and f"iteration {at}: ModProp is unstable" in why
    assert "is safe" in why and 'mu="auto"' in why
    assert "stopped: rule modprop_cell:mu=0.75, seed" in capsys.readouterr().out
    assert (measured.iteration, measured.diverged) == (60, None)
    lines, stopped = [line for line in result.metrics if "radius" in line], set()
    for line in lines:
        stopped |= {int(seed) for seed in line.get("stopped", {})}
        running = [value for seed, value in enumerate(line["radius"]) if seed not in stopped]
        assert running and (np.array(running) <= 1 + 1e-5).all()
    assert len(lines) == given.iteration // 4 + 1


def test_a_rule_that_is_unstable_from_the_start_is_named(tmp_path):
    [row] = compare(
        "delayed_xor", ["modprop:mu=9"], seeds=1, out=tmp_path / "once", iterations=4, quiet=True,
        **TINY,
    ).rows  # fmt: skip
    assert row.diverged and "iteration 0: ModProp is unstable" in row.diverged


def _make(task, cell, **more):
    return Config.make(task, "small", ["bptt"], 1, cell=cell, **more)


@pytest.mark.parametrize("name", CELLS)
def test_another_cell_in_a_tasks_network(name):
    """It is built, keeps the time constant, and keeps Dale's law where it has one."""
    config = _make("delayed_xor", name, **TINY)
    network = jax.eval_shape(
        lambda key: build_network(config.entry, config.settings, key), jr.key(0)
    )
    cell: Any = dynamics(network.rnn.cell)
    assert isinstance(cell, CELLS[name].cell)
    recurrent = recurrent_weights(config.settings.network)(network)
    units = 8 if name != "equilibrium" else 2 + 2 * 8
    assert recurrent and all(units in leaf.shape for leaf in recurrent)
    if CELLS[name].synapses == "neurons":
        assert cell.signs == (1,) * 6 + (-1,) * 2 and recurrent == (cell.weight_rec,)
    else:
        assert config.settings.network.excitatory is None
    if name in ("leaky", "lif", "alif"):
        np.testing.assert_allclose(float(cell.tau), 20)
    if name == "rate":
        np.testing.assert_allclose(1 - float(cell.alpha), np.exp(-1 / 20))
    if name == "gle":
        assert {float(layer.tau_m) for layer in cell.layers} == {20.0}
    assert isinstance(network.rnn.cell, Filtered) == (name in ("lif", "alif"))


@pytest.mark.parametrize(
    "task, cell", [("delayed_xor", "lif"), ("delayed_xor", "alif"), ("pattern_generation", "alif")]
)
def test_a_spiking_network_of_another_task_spikes_and_learns(task, cell):
    config = _make(task, cell)
    parts = setup(config)

    @jit
    def measure(key):
        network = build_network(config.entry, config.settings, key)
        xs, ys = parts.data(key)
        inner = dynamics(network.rnn.cell)
        spikes = scan(inner, inner.init(xs.shape[1:-1]), xs)[1]
        gradient = eqx.filter_grad(parts.loss, has_aux=True)(network, xs, ys)[0]
        learns: Any = dynamics(gradient.rnn.cell)
        return spikes.mean((0, 1)), learns.weight_rec

    rates, gradient = measure(jr.key(0))
    assert 0.005 < rates.mean() < 0.2 and (rates > 0).mean() > 0.4
    assert (np.abs(gradient).max(1) > 0).mean() > 0.3


def test_a_network_that_settles_learns_as_by_backpropagation():
    """Exact credit takes another way to the same gradient; Dale's law holds for all units."""
    config = Config.make("digits", "small", None, 1, hidden_size=12, batch=8)
    assert config.rules == ("ei_credit", "ei_credit:sweeps=0", "bptt")
    optimizer = build_optimizer(config.settings)

    def gradient(network, batch, rule):
        def loss(network):
            return cross_entropy(network(batch[0]), batch[1])[0]

        return eqx.filter_grad(loss)(with_rule(network, rule)).rnn.cell.weight

    @jit
    def measure(key):
        network = build_network(config.entry, config.settings, key)
        batch = config.entry.batch(key, 8, **config.settings.data)
        found = [gradient(network, batch, config.rule(label)) for label in config.rules]
        arrays = eqx.filter(network, eqx.is_inexact_array)
        steps = jax.tree.map(lambda a: -jnp.ones_like(a), arrays)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(steps, optimizer.init(arrays), arrays)
        return found, network.rnn.cell, eqx.apply_updates(network, updates).rnn.cell.weight

    (exact, none, same), cell, stepped = measure(jr.key(0))
    np.testing.assert_allclose(exact, same, atol=1e-6)
    assert np.abs(none - same).max() > 1e-3
    signs, layered = np.array([cell.signs], float), np.asarray(cell.mask)
    assert signs.size == 128 + 2 * 12 and layered.sum() == 128 * 12 + 12 * 12
    for weight in (cell.weight, stepped):
        assert (weight * signs >= 0).all()
    # a step up by 0.01: excitatory synapses grow, inhibitory ones shrink to nothing at most
    expected = np.where(signs > 0, cell.weight + 0.01, np.minimum(cell.weight + 0.01, 0))
    np.testing.assert_allclose(stepped[layered], expected[layered], atol=1e-6)


def test_a_network_that_does_not_settle_has_no_figures():
    """Also where nothing is derived, as in an evaluation: four sweeps are needed here."""
    preset = TASKS["digits"].presets["small"].replace(hidden_size=12, excitatory=8)

    @jit
    def outputs(max_steps, key):
        """Offline, and online from a bare state and from a carry."""
        options = {**preset.network.cell_options, "max_steps": max_steps}
        network = build_network(TASKS["digits"], preset.replace(cell_options=options), key)
        xs = TASKS["digits"].batch(key, 2, paired=True)[0]
        starts = network.rnn.cell.init((2,)), network.init((2,))
        return [network(xs), *(network.online(xs, start)[1] for start in starts)]

    assert np.isfinite(outputs(4, jr.key(0))).all()
    assert np.isnan(outputs(2, jr.key(0))).all()


@pytest.mark.slow
def test_networks_without_recurrent_weights_learn_by_prospective_errors(tmp_path):
    result = compare(
        "mnist1d", None, cell="gle", seeds=1, out=tmp_path / "gle", quiet=True, iterations=2,
        eval_every=2, hidden_size=6, batch=4, data={"steps": 24},
    )  # fmt: skip
    assert result.config.rules == ("gle", "gle_instantaneous", "bptt")
    first, last = ({m["rule"]: m for m in result.metrics if m["iteration"] == i} for i in (0, 2))
    assert first["gle"]["loss"] == first["gle_instantaneous"]["loss"] == first["bptt"]["loss"]
    assert len({m["loss"][0] for m in last.values()}) == 3
    np.testing.assert_allclose(last["bptt"]["cosine"], 1, rtol=1e-6)
    assert last["gle"]["cosine"][0] < 1 - 1e-4
    assert last["gle_instantaneous"]["cosine"][0] < 1 - 1e-4


@pytest.mark.slow
def test_prospective_errors_learn_from_a_stream(tmp_path):
    """At a tiny rate, weights hardly move: eight steps are one by the offline gradient."""
    settings: dict[str, Any] = {"iterations": 8, "eval_every": 8, "hidden_size": 4, "batch": 2}
    settings |= {"optimizer": "sgd", "learning_rate": 1e-6}
    result = compare(
        "lag_line", None, cell="gle", segment=1, seeds=1, out=tmp_path / "stream", quiet=True,
        **settings,
    )  # fmt: skip
    assert result.config.rules == ("gle", "gle_instantaneous")
    weight_keys, keys = seed_keys(result.config)
    parts = setup(result.config)
    start = _first(parts.start(weight_keys).model)
    xs, ys = parts.data(stream_keys(keys)[0][0])

    @jit
    def expected(network, xs, ys, rule):
        def loss(network):
            return result.config.entry.loss(network(xs), ys)[0]

        return value_and_grad(loss, rule)(network)[1]

    moved = []
    for label in result.config.rules:
        after = _weights(_first(trained(result.folder, label)))
        gradient = _weights(expected(start, xs, ys, result.config.rule(label)))
        moved.append([a - b for a, b in zip(after, _weights(start), strict=True)])
        for found, wanted in zip(moved[-1], gradient, strict=True):
            scale = 8e-6 * np.abs(wanted).max()
            np.testing.assert_allclose(found, -8e-6 * wanted, rtol=0, atol=1e-3 * scale)
    assert np.abs(moved[0][0] - moved[1][0]).max() > 0.01 * np.abs(moved[1][0]).max() > 0


def _first(networks):
    """Of the seeds."""
    return jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, networks)


def _weights(network):
    return [*(layer.weight for layer in network.rnn.cell.layers), network.readout.weight]


def test_from_alif_to_lif_only_the_adaptation_goes():
    before = TASKS["evidence_accumulation"].presets["small"]
    after = _make("evidence_accumulation", "lif").settings
    gone = {"tau_adaptation", "adaptive", "beta", "scale_adaptation"}
    kept, all_of_them = after.network.cell_options, before.network.cell_options
    assert set(all_of_them) - set(kept) == gone
    assert kept.items() <= all_of_them.items()
    assert after.replace(cell="alif", cell_options=all_of_them) == before


@pytest.mark.slow
def test_align_profiles_the_credit_of_neurons_only():
    options = {"optimizer": "adam", "checkpoints": 2, "measure": 2, "noise": 0.1, "sweep": False}
    config = AlignConfig.make("delayed_xor", "small", ["eprop"], 1, cell="gru", **options, **TINY)
    start = setup(config.run).start(seed_keys(config.run)[0])
    assert measurements(config).profile(start.model, seed_keys(config.run)[1]) == {}


@pytest.mark.slow
def test_cell_and_feedback_from_the_command_line(tmp_path, capsys):
    """Random feedback stays as it is; everything else is trained, and read back."""
    out, n = tmp_path / "spiking", 6
    options = f"--preset small --seeds 1 --iterations 2 --eval-every 1 --hidden-size {n} --batch 2"
    task = ["pattern_generation", "--cell", "alif", "--feedback", "random", "--rules", "eprop"]
    assert main(["compare", *task, *options.split(), "--out", str(out)]) == 0
    assert "eprop" in capsys.readouterr().out
    network = trained(out, "eprop")
    cell = network.rnn.cell
    assert isinstance(cell, Filtered) and isinstance(cell.cell, ALIFCell)
    config = Config.from_dict(unsigned(out / "config.json"))
    assert (config.settings.network.cell, config.settings.network.feedback) == ("alif", "random")
    start = setup(config).start(seed_keys(config)[0]).model
    np.testing.assert_array_equal(network.readout.feedback_weight, start.readout.feedback_weight)
    assert (network.readout.weight != start.readout.weight).any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"density": 0.1, "excitatory": None}, "density=0.1 is of .* Dale's law"),
        ({"cell": "gru", "excitatory": 5}, "cell 'gru' has no Dale's law"),
        ({"input_signs": (1, -1, 1)}, "input_signs must have one sign for each of the 2 inputs"),
        ({"feedback": "backwards"}, "feedback must be"),
        ({"cell": "equilibrium"}, "input units obey Dale's law as all others do"),
        ({"cell": "lru", "excitatory": None, "orthogonal": True}, "which orthogonal=True is for"),
        ({"cell": "lru", "excitatory": None, "input_signs": (1, 1)}, "which input_signs=.1, 1. is"),
    ],
)
def test_impossible_settings(options, message, without_type_checks):
    preset = TASKS["delayed_xor"].presets["small"].replace(**options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda key: build_network(TASKS["delayed_xor"], preset, key), jr.key(0))


def test_a_readout_of_dales_law_needs_as_many_neurons():
    preset = TASKS["digits"].presets["small"].replace(hidden_size=9, excitatory=6)
    with pytest.raises(ValueError, match="10 outputs need as many neurons, but hidden_size is 9"):
        jax.eval_shape(lambda key: build_network(TASKS["digits"], preset, key), jr.key(0))


def test_iterations_to_criterion():
    at, good = range(0, 70, 10), [1.0, 0.5, 1.0, 1.0, 1.0, 0.9, 1.0]
    assert iterations_to_criterion(at, good, 1.0, 3) == 20
    assert iterations_to_criterion(at, good, 1.0, 4) is None
    assert iterations_to_criterion(at, good, 0.9, 4) == 20


def test_rules_by_name():
    types = (0, 1, 1)
    assert float(build_rule("modprop:mu=0.5", types, mu=0.1).mu) == 0.5
    assert build_rule("quasi_static:ridge=0.1", types) == QuasiStatic(ridge=0.1)
    assert build_rule("gle_instantaneous", types) == GLE(prospective_errors=False)
    clamped = EICredit(output="clamp", sweeps=2)
    assert build_rule("ei_credit_clamp:sweeps=2", types) == clamped
    assert float(build_rule("modprop", types, mu=0.1).mu) == 0.1
    assert build_rule("modprop", types, mu=0.1).types == types
    assert build_rule("modprop_cell", types, mu=0.1).types is None
    assert build_rule("mdgl_diffuse", types, mu=0.1).diffuse
    assert build_rule("modprop:mu=auto", types, mu=0.1).mu is None
    assert build_rule("modprop_cell", types, mu="auto").mu is None
    assert build_rule("modprop:mu=0.5,taps=20", types).taps == 20


def test_a_rule_may_have_a_learning_rate_and_feedback_of_its_own(tmp_path):
    rules = "bptt", "bptt:learning_rate=0.02", "modprop:mu=0.5,feedback=random"
    options = TINY | {"iterations": 2, "eval_every": 2, "learning_rate": 0.01}
    result = compare("delayed_xor", rules, seeds=1, out=tmp_path / "run", quiet=True, **options)
    config = Config.from_dict(unsigned(tmp_path / "run" / "config.json"))
    assert config.rules == tuple(rules)
    own = [config.for_rule(label).settings for label in rules]
    assert [each.optimizer.learning_rate for each in own] == [0.01, 0.02, 0.01]
    assert [each.network.feedback for each in own] == ["symmetric", "symmetric", "random"]
    rule: Any = config.rule(rules[2])
    assert float(rule.mu) == 0.5
    slow, fast, random = (trained(tmp_path / "run", label) for label in rules)
    start = setup(config).start(seed_keys(config)[0]).model
    weight_in = [net.rnn.cell.weight_in - start.rnn.cell.weight_in for net in (slow, fast)]
    # Adam's first steps are as long as the learning rate
    np.testing.assert_allclose(np.abs(weight_in[1]).max(), 2 * np.abs(weight_in[0]).max(), rtol=0.1)
    assert slow.readout.feedback_weight is None and random.readout.feedback_weight is not None
    assert [row.rule for row in result.rows] == list(rules)
    with pytest.raises(ValueError, match="the rule alone is 'modprop:mu=0.5'"):
        build_rule(rules[2], (0, 1))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("compair", "unknown command 'compair'; .*Did you mean 'compare'"),
        ("compare delayed_xr", "unknown task .* Did you mean 'delayed_xor'"),
        ("compare delayed_xor --rules modprp", "unknown rule .*, force, .* mean 'modprop'"),
        ("compare delayed_xor --rules modprop:nu=1", "unknown modprop option 'nu'"),
        ("compare delayed_xor --rules modprop:mu=x", "needs a number or \"auto\", but got 'x'"),
        ("compare delayed_xor --rules modprop:taps=x", "taps needs a number, but got 'x'"),
        ("compare delayed_xor --rules modprop:mu=auto,taps=3", "taps must be a number of steps"),
        ("compare delayed_xor --rules bptt bptt", "'bptt' is given twice"),
        (
            "compare delayed_xor --rules bptt:learning_rate=0",
            "learning_rate must be greater than 0",
        ),
        ("compare delayed_xor --rules bptt:optimizer=lion", "unknown optimizer 'lion'"),
        ("compare delayed_xor --rules bptt:feedback=none", 'feedback must be "symmetric"'),
        ("compare delayed_xor --rules bptt:l2=1,l2=2", "l2 is given twice"),
        ("compare add --segment 1 --rules force:learning_rate=2", "learning_rate is what force is"),
        ("align delayed_xor --rules bptt:learning_rate=1", "align trains all rules alike"),
        ("compare delayed_xor --cell alf", "unknown cell 'alf'; .* Did you mean 'alif'"),
        ("compare delayed_xor --cell gru --rules eprop mdgl", "MDGL needs a NeuronCell"),
        ("compare delayed_xor --rules diagonal_rtrl", "DiagonalRTRL needs units that send nothing"),
        ("compare delayed_xor --preset big", "'big'; possible: small, published"),
        ("compare delayed_xor --seed 3", "unknown option '--seed'.*mean '--seeds'"),
        ("compare delayed_xor --seeds 0", "seeds must be greater than 0"),
        ("compare", "name either a task"),
        ("compare --resume nowhere", "nowhere holds no run"),
        ("compare --resume nowhere --mu 1", "takes no other option, but got --mu"),
    ],
)
def test_usage_errors_are_one_line(arguments, message, capsys):
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    assert captured.err.startswith("modprop-jax: ")
    assert re.search(message, captured.err)


def test_command_line_from_a_shell():
    started = {
        "list": _command("list"),
        "help": _command("compare", "--help"),
        "wrong": _command("compare", "delayed_xor", "--rulez", "bptt"),
    }
    output = {name: process.communicate() for name, process in started.items()}
    codes = {name: process.returncode for name, process in started.items()}
    assert codes == {"list": 0, "help": 0, "wrong": 2}
    for name in ("delayed_xor", "evidence_accumulation", "leaky", "alif", "modprop", "rtrl"):
        assert f"\n  {name} " in output["list"][0]
    for word in ("--rules", "--resume", "Example", "(default: small)"):
        assert word in output["help"][0]
    assert "Did you mean '--rules'" in output["wrong"][1]
    assert "Traceback" not in output["wrong"][1]
