"""`modprop-jax align`: what it measures, writes and survives."""

import json
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from folders import unsigned
from helpers import jit

import modprop_jax as mpj
from modprop_jax.experiments import align, main, resume_align, TrainingDiverged
from modprop_jax.experiments._align._config import AlignConfig
from modprop_jax.experiments._align._measure import _unit_bounds, plain
from modprop_jax.experiments._align._setup import align_setup, plain_sgd
from modprop_jax.experiments._align._summary import correlations, matched_rate
from modprop_jax.experiments._network import cell_types
from modprop_jax.experiments._setup import seed_keys
from modprop_jax.experiments._storage import RunFolder, signed
from modprop_jax.experiments._train import iterate
from modprop_jax.tasks import TASKS


TINY = {"batch": 4, "hidden_size": 8, "data": {"cue": 4, "delay": 3}, "iterations": 9}
RULES = ("eprop", "bptt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two seeds, three checkpoints, with the sweep."""
    return align(
        "delayed_xor",
        RULES,
        seeds=2,
        out=tmp_path_factory.mktemp("runs") / "whole",
        quiet=True,
        checkpoints=3,
        measure=6,
        sweep=True,
        limit=(2,),
        **TINY,
    )


def _lines(result, rule):
    return [line for line in result.metrics if line["rule"] == rule]


def _without_times(path):
    """A JSON document, or a line each, without what differs from run to run."""
    text = path.read_text()
    found = [json.loads(text)] if path.suffix == ".json" else map(json.loads, text.splitlines())
    clean = re.compile(r'"seconds_per_iteration": [^,}]*')
    return [clean.sub("", json.dumps(each)) for each in found]


# --- what it measures ---


@pytest.mark.slow
def test_measures_each_seeds_network_on_its_own_batch(whole):
    """The second seed at the start, by the public functions."""
    config, seed = whole.config, 1
    parts, (weight_keys, keys) = align_setup(config), seed_keys(config.run)
    arrays, static = eqx.partition(parts.start(weight_keys).model, eqx.is_array)
    model = eqx.combine(jax.tree.map(lambda a: a[seed], arrays), static)
    batch_key, larger_key, _, start_key = jr.split(jr.fold_in(keys[seed], 2), 4)
    task, options = TASKS["delayed_xor"], config.settings.data

    def loss(*args):
        return parts.loss(*args)[0]

    @jit
    def expected(model):
        xs, ys = task.batch(batch_key, 6, **options)
        return (
            mpj.alignment(loss, model, xs, ys, rule=mpj.EProp()),
            mpj.credit_profile(loss, model, xs, ys, rules=[mpj.EProp()]),
            mpj.hessian_top(
                loss, model, xs, ys, where=lambda m: m.rnn.cell.weight_rec, key=start_key
            ),
            loss(model, *task.batch(larger_key, 24, **options)),
        )

    angle, credit, top, train_loss = expected(model)
    first = _lines(whole, "eprop")[0]
    np.testing.assert_allclose(first["cosine"]["eprop"][seed], angle.cosine)
    np.testing.assert_allclose(first["projection"]["eprop"][seed], angle.projection)
    np.testing.assert_allclose(first["norm_ratio"]["eprop"][seed], angle.norm_ratio)
    np.testing.assert_allclose(first["curvature"][seed], top.eigenvalue)
    np.testing.assert_allclose(first["train_loss"][seed], train_loss)
    np.testing.assert_allclose(np.array(first["credit"]["ratio"]).shape, (2, 11))
    # e-prop's credit at lag 0 is exact, of every seed
    assert abs(first["credit"]["ratio"][0][0] - 1) < 1e-12 < abs(credit.ratio[0, 3] - 1)


@pytest.mark.slow
def test_the_limit_is_that_of_each_network(whole):
    """The second seed at the start, by the public function."""
    config, seed = whole.config, 1
    parts, (weight_keys, keys) = align_setup(config), seed_keys(config.run)
    arrays, static = eqx.partition(parts.start(weight_keys).model, eqx.is_array)
    model = eqx.combine(jax.tree.map(lambda a: a[seed], arrays), static)
    draws = jr.split(jr.fold_in(keys[seed], 3), 12)
    options = config.settings.data
    data = [TASKS["delayed_xor"].batch(k, 4, **options) for k in draws]
    limit = mpj.credit_limit(
        lambda *args: parts.loss(*args)[0],
        model,
        data,
        types=cell_types(config.settings.network),
        counts=[2],
        memory=[5],
        held_out=4,
    )
    first, last = _lines(whole, "eprop")[0], _lines(whole, "eprop")[-1]
    found = [first["limit"][name][seed] for name in ("2 types", "2 types, gated")]
    np.testing.assert_allclose(found, limit.held_out_cosine.ravel(), rtol=1e-6)
    assert last["limit"] != first["limit"] and "limit" not in _lines(whole, "eprop x1")[-1]
    row, table = whole.rows[0], (whole.folder / "table.md").read_text()
    assert row.limit_end["2 types"].mean == np.mean(last["limit"]["2 types"])
    assert "best filters 2 types, gated" in table
    assert (whole.folder / "limit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_rules_start_alike_and_bptt_agrees_with_itself(whole):
    starts = [_lines(whole, rule)[0] for rule in RULES]
    ends = [_lines(whole, rule)[-1] for rule in RULES]
    for name in ("cosine", "curvature", "train_loss", "matrix", "credit"):
        assert starts[0][name] == starts[1][name]
        assert ends[0][name] != ends[1][name]
    assert [line["iteration"] for line in _lines(whole, "bptt")] == [0, 5, 9]
    for line in _lines(whole, "eprop") + _lines(whole, "bptt"):
        np.testing.assert_allclose(line["cosine"]["bptt"], 1)
        np.testing.assert_allclose(line["projection"]["bptt"], 1)
        assert all(0 < cosine < 1 - 1e-6 for cosine in line["cosine"]["eprop"])
        assert max(line["curvature_residual"]) < 1e-2
    assert "credit" not in _lines(whole, "bptt")[1]


@pytest.mark.slow
def test_rows_are_of_the_last_checkpoint(whole):
    row, last = whole.rows[0], _lines(whole, "eprop")[-1]
    assert (row.rule, row.iteration, row.diverged) == ("eprop", 9, None)
    rho = np.mean(last["projection"]["eprop"])
    np.testing.assert_allclose(row.bound, 2 / (whole.config.settings.optimizer.learning_rate * rho))
    np.testing.assert_allclose(row.curvature.mean, np.mean(last["curvature"]))
    gaps = np.array(last["train_loss"]) - np.array(last["loss"])
    np.testing.assert_allclose(
        [row.loss_gap.mean, row.loss_gap.sd], [gaps.mean(), gaps.std(ddof=1)]
    )
    noisy = np.array(last["train_accuracy"]) - np.array(last["noisy_accuracy"])
    np.testing.assert_allclose(row.noisy_accuracy_gap.mean, noisy.mean())


@pytest.mark.slow
def test_sweep_trains_bptt_at_the_matched_rate(whole):
    """Factor 1 is the run itself; the other runs' rates are in their optimizer's state."""
    config = whole.config
    assert _lines(whole, "eprop x1")[-1]["loss"] == _lines(whole, "eprop")[-1]["loss"]
    assert _lines(whole, "eprop x2")[-1]["loss"] != _lines(whole, "eprop")[-1]["loss"]
    rho = np.mean([line["projection"]["eprop"] for line in _lines(whole, "eprop")])
    like = align_setup(config).start(seed_keys(config.run)[0])
    folder, base = RunFolder(whole.folder), config.settings.optimizer.learning_rate
    assert [row.factor for row in whole.sweep] == [0.5, 1.0, 2.0]
    for row in whole.sweep:
        for label, outcome, rate in (
            (f"eprop x{row.factor:g}", row.own, row.factor * base),
            (f"bptt for eprop x{row.factor:g}", row.exact, row.factor * base * rho),
        ):
            found = folder.load_state(label, like, 9)
            assert found is not None and found[0].iteration == 9
            state, _ = found
            np.testing.assert_allclose(state.opt_state.hyperparams["learning_rate"], [rate] * 2)
            np.testing.assert_allclose(outcome.rate, rate)
            np.testing.assert_allclose(
                outcome.test_loss.mean, np.mean(_lines(whole, label)[-1]["loss"])
            )
    assert matched_rate([], "eprop", 1.0) is None
    backwards = [{"rule": "eprop", "projection": {"eprop": [-0.2, 0.1]}}]
    assert matched_rate(backwards, "eprop", 1.0) is None


@pytest.mark.slow
def test_plain_sgd_is_the_gradient_the_decay_and_dale(whole):
    config = whole.config
    arrays = eqx.filter(align_setup(config).start(seed_keys(config.run)[0]).model, eqx.is_array)
    params = jax.tree.map(lambda a: a[0], arrays)
    optimizer = plain_sgd(config.settings.replace(learning_rate=0.5, l2=0.1))
    grads = jax.tree.map(jnp.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        updates: Any = optimizer.update(grads, optimizer.init(params), params)[0]
    weight, step = params.rnn.cell.weight_in, updates.rnn.cell.weight_in
    np.testing.assert_allclose(step, -0.5 * (1 + 0.1 * weight))
    np.testing.assert_allclose(updates.readout.bias, -0.5)
    weight, step = (np.asarray(tree.rnn.cell.weight_rec) for tree in (params, updates))
    signs = np.where(np.arange(8) < config.settings.network.excitatory, 1, -1)
    moved = weight - 0.5 * (1 + 0.1 * weight)
    np.testing.assert_allclose(weight + step, signs * np.maximum(signs * moved, 0), atol=1e-15)


def _config(**settings):
    options = {"optimizer": "sgd", "checkpoints": 3, "measure": 6, "noise": 0.2, "sweep": False}
    return AlignConfig.make("delayed_xor", "small", RULES, 2, **(options | TINY | settings))


def test_correlation_is_over_rules_and_seeds():
    rng = np.random.default_rng(0)
    made = rng.normal(size=(2, 4, 2))
    lines = [
        {"rule": rule, "curvature": x.tolist(), "train_loss": a.tolist(), "loss": b.tolist()}
        | {"noisy_loss": c.tolist(), "iteration": 9}
        for rule, (x, a, b, c) in zip(RULES, made)
    ]
    early = [line | {"curvature": [9.0, 9.0], "iteration": 5} for line in lines]
    x, a, b, c = np.moveaxis(made, 1, 0).reshape(4, -1)
    found: Any = correlations(_config(), early + lines)
    np.testing.assert_allclose(found["loss"], np.corrcoef(x, a - b)[0, 1])
    np.testing.assert_allclose(found["noisy_loss"], np.corrcoef(x, a - c)[0, 1])
    lines[0]["curvature"][0] = None
    found = correlations(_config(), lines)
    np.testing.assert_allclose(found["loss"], np.corrcoef(x[1:], (a - b)[1:])[0, 1])
    assert correlations(_config(), lines[:1])["loss"] is None


def test_noise_is_clipped_for_pixels_alone():
    def evaluate(task):
        return lambda key: TASKS[task].evaluation(key, **TASKS[task].presets["small"].data)

    assert _unit_bounds(evaluate("sequential_digits")) == (0.0, 1.0)
    assert _unit_bounds(evaluate("delayed_xor")) is None


def test_json_has_no_nan():
    assert plain(np.array([[1.0, np.nan], [np.inf, 2.0]])) == [[1.0, None], [None, 2.0]]
    assert plain(jnp.nan) is None and plain(jnp.asarray(3.0)) == 3.0


def test_sgd_has_a_constant_rate_of_its_own():
    preset = TASKS["delayed_xor"].presets["small"].optimizer
    sgd, adam = (_config(optimizer=name).settings.optimizer for name in ("sgd", "adam"))
    assert sgd.learning_rate == 20 * preset.learning_rate
    assert _config(learning_rate=0.1).settings.optimizer.learning_rate == 0.1
    assert sgd.decay == 1.0 < 1 / preset.decay
    assert (adam.learning_rate, adam.decay) == (preset.learning_rate, preset.decay)
    again = AlignConfig.from_dict(json.loads(json.dumps(
        _config().run.to_dict() | {"align": _config().options()}
    )))  # fmt: skip
    assert again.options() == _config().options() and again.settings == _config().settings


# --- what it writes and survives ---


@pytest.mark.slow
def test_writes_its_results(whole):
    found = json.loads((whole.folder / "align.json").read_text())
    assert found["metrics"] == whole.metrics and found["measured"] == list(RULES)
    assert found["rows"][0]["bound"] == whole.rows[0].bound
    table = (whole.folder / "table.md").read_text()
    assert table.count("| eprop |") == 1 + 3 and "Learning-rate sweep" in table
    assert f"r = {found['correlation']['loss']:.2f}" in table
    for name in ("alignment.png", "matrix.png", "credit.png", "curvature.png"):
        assert (whole.folder / name).read_bytes().startswith(b"\x89PNG")


def _copy_of(whole, folder):
    """A folder with the module's run still to be done."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text((whole.folder / "config.json").read_text())
    return folder


@pytest.mark.parametrize("writes", [2, 9])
@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(whole, tmp_path, monkeypatch, capsys, writes):
    """Ctrl-C between a line of metrics and its checkpoint: in the second of eprop, in the sweep."""
    folder, save, count = _copy_of(whole, tmp_path / "stopped"), RunFolder.save_state, []

    def save_or_stop(self, rule, state):
        count.append(rule)
        if len(count) == writes:
            raise KeyboardInterrupt
        save(self, rule, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", save_or_stop)
        assert main(["align", "--resume", str(folder)]) == 130
    assert f"modprop-jax align --resume {folder}" in capsys.readouterr().out
    assert not (folder / "align.json").exists()
    result = resume_align(folder, quiet=True)
    for name in ("metrics.jsonl", "align.json"):
        assert _without_times(folder / name) == _without_times(whole.folder / name)
    assert result.rows == whole.rows and result.sweep == whole.sweep
    assert (folder / "table.md").read_text() == (whole.folder / "table.md").read_text()


@pytest.mark.parametrize("reached", [[0, 5], []])
@pytest.mark.slow
def test_diverging_rule_is_stopped_and_the_others_go_on(
    whole, tmp_path, capsys, monkeypatch, reached
):
    def iterate_or_diverge(*arguments, label, **options):
        for state, record in iterate(*arguments, label=label, **options):
            if label == "eprop" and record.iteration not in reached:
                raise TrainingDiverged(label, 1, 6)
            yield state, record

    monkeypatch.setattr("modprop_jax.experiments._align._study.iterate", iterate_or_diverge)
    folder = _copy_of(whole, tmp_path / "diverging")
    assert main(["align", "--resume", str(folder)]) == 1
    assert "stopped: rule eprop, seed 1: NaN or infinity" in capsys.readouterr().out
    table = (folder / "table.md").read_text()
    assert (
        f"| eprop (stopped after {max(reached, default=0)}) |" in table
        and "- rule eprop, seed 1" in table
    )
    lines = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    assert [x["iteration"] for x in lines if x["rule"] == "eprop"] == reached
    assert [x["loss"] for x in lines if x["rule"] == "bptt"] == [
        x["loss"] for x in _lines(whole, "bptt")
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("align", "name either a task.*align"),
        ("align delayed_xr", "unknown task .* Did you mean 'delayed_xor'"),
        ("align delayed_xor --rules eprp", "unknown rule .* mean 'eprop'"),
        ("align delayed_xor --optimizer sgdm", "unknown optimizer .*possible: sgd, adam"),
        ("align delayed_xor --optimizer adam --sweep", "plain SGD.*--optimizer sgd"),
        ("align delayed_xor --checkpoints 1", "at least 2 .* got 1"),
        ("align delayed_xor --noise 0", "greater than 0.*noise=0.0"),
        ("align delayed_xor --limit 1", "limit must be different numbers.*from the 2.*to its 48"),
        ("align delayed_xor --limit 2 2", "limit must be different numbers"),
        (
            "align delayed_xor --cell gru --rules eprop --limit 2",
            "between neurons, but cell 'gru' has none",
        ),
        ("align add --preset brief --limit 2", "--limit is for networks that train in batches"),
        ("align delayed_xor --sweeps", "unknown option '--sweeps'.*mean '--sweep'"),
        ("align --resume nowhere", "nowhere holds no run"),
        ("align --resume nowhere --noise 1", "takes no other option, but got --noise"),
        ("compare --resume FOLDER", "a run of align.*modprop-jax align --resume"),
        ("align --resume OTHER", "a run of compare.*modprop-jax compare --resume"),
    ],
)
@pytest.mark.slow
def test_usage_errors_are_one_line(arguments, message, capsys, whole, tmp_path):
    config = unsigned(whole.folder / "config.json")
    other = {name: value for name, value in config.items() if name != "align"}
    (tmp_path / "config.json").write_text(signed(other))
    places = {"FOLDER": str(whole.folder), "OTHER": str(tmp_path)}
    assert main([places[word] if word in places else word for word in arguments.split()]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    assert captured.err.startswith("modprop-jax: ")
    assert re.search(message, captured.err)


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["align", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("--optimizer", "--sweep", "Example", "2/(ηρ)", "curvature.png", "(default: sgd)"):
        assert word in text
