"""Gradients of many rules beside the one that learns; bias and variance of the random ones."""

import functools
import json
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import online
import optax
import pytest
from folders import altered, resigned
from helpers import jit
from online import assert_golden, CASES, figures

import modprop_jax as mpj
from modprop_jax.diagnostics._online import Block
from modprop_jax.experiments import main, TrainingDiverged
from modprop_jax.experiments._align._config import AlignConfig
from modprop_jax.experiments._align._study import resume_align
from modprop_jax.experiments._align_stream._config import StreamAlignConfig
from modprop_jax.experiments._align_stream._study import _check, align_stream, resume_align_stream
from modprop_jax.experiments._align_stream._summary import means, summarise
from modprop_jax.experiments._setup import seed_keys, setup
from modprop_jax.experiments._storage import RunFolder
from modprop_jax.experiments._train import stream_keys


TOL = 1e-10
LAG = 9
# by the names of their figures; the longest horizon makes the lag
RULES: dict[str, mpj.AbstractRule] = {
    "rtrl": mpj.RTRL(),
    "fbptt_T10": mpj.FutureBPTT(LAG + 1),
    "rflo": mpj.EProp(),
}
MORE: dict[str, dict[str, mpj.AbstractRule]] = {
    "a10_ce": {"fbptt_T1": mpj.FutureBPTT(1)},
    "a05_mse": {"dni": mpj.DNI(labels=2, learn=optax.sgd(0.05)), "silent": mpj.ReadoutOnly()},
}


def rules_of(case):
    return RULES | MORE[case]


def loss_of(case):
    def segment_loss(net, carry, xs, ys):
        carry, zs = net.rnn(xs, carry, context=ys)
        return online.loss(case, net.readout(zs), ys), carry

    return segment_loss


def start_of(net, key):
    """No past; DNI from the published weights."""
    carry = net.rnn.init(key=key)
    if not isinstance(net.rnn.rule, mpj.DNI):
        return carry
    first = jnp.asarray(figures("shared")["dni_A0"])
    return eqx.tree_at(lambda c: (c.trace.value.weight, c.trace.value.target), carry, (first,) * 2)


def run(case, net, xs, ys, rate, key, *, rules, learner, blocks) -> Any:
    return mpj.online_alignment(
        loss_of(case),
        net,
        xs,
        ys,
        init=start_of,
        rules=dict(rules),  # as pairs so far: jit would sort a dictionary
        learner=learner,
        optimizer=optax.sgd(rate),
        key=key,
        blocks=blocks,
    )


compare = jit(run)


@functools.cache
def golden_run(case, rate):
    """Three blocks of the golden network's 40 steps."""
    net, rate = online.network(case, mpj.BPTT()), jnp.asarray(rate)
    options = {"rules": tuple(rules_of(case).items()), "learner": "rtrl", "blocks": 3}
    return compare(case, net, *online.data(case), rate, jr.key(0), **options)


def golden_rows(case):
    """Gradients of the steps that are compared, (31, rules, P): step s = t - 9 of step t."""
    known = 40 - LAG

    def of(name):
        if name == "silent":
            return np.zeros((known, 5 * 8))
        found = figures(f"{case}/{name}")["rec_grads"].reshape(40, -1)
        # future-facing credit of step s is emitted at s + h - 1
        ahead = int(name.removeprefix("fbptt_T")) - 1 if name.startswith("fbptt") else 0
        return found[ahead : ahead + known]

    return np.stack([of(name) for name in rules_of(case)], axis=1)


def pairs_of(rows):
    """Cosines and products of norms, (steps, R, R), by NumPy."""
    norms = np.linalg.norm(rows, axis=-1)
    weight = norms[:, :, None] * norms[:, None, :]
    dots = np.einsum("trp,tsp->trs", rows, rows)
    return dots / np.where(weight > 0, weight, 1), weight


# --- online_alignment ---


@pytest.mark.parametrize("case", CASES)
def test_block_by_block_as_the_published_gradients(case):
    """At fixed weights, with the credit of future-facing BPTT at the step that it is of."""
    _, found = golden_run(case, 0.0)
    rows, losses = golden_rows(case), figures(f"{case}/fwd")["loss_"][LAG:]
    losses = losses if case.endswith("ce") else 2 * losses  # published as a mean over 2 outputs
    each, weight = pairs_of(rows)
    assert found.names == tuple(rules_of(case))
    np.testing.assert_array_equal(found.steps, [10, 10, 11])
    for block, part in enumerate((slice(0, 10), slice(10, 20), slice(20, 31))):
        total = weight[part].sum(0)
        weighted = (each * weight)[part].sum(0) / np.where(total > 0, total, 1)
        np.testing.assert_allclose(found.cosine[block], each[part].mean(0), atol=TOL)
        np.testing.assert_allclose(found.weighted[block], weighted, atol=TOL)
        np.testing.assert_allclose(found.weight[block], weight[part].mean(0), rtol=TOL, atol=0)
        norms = np.linalg.norm(rows[part], axis=-1).mean(0)
        np.testing.assert_allclose(found.norm[block], norms, rtol=TOL, atol=0)
        np.testing.assert_allclose(found.loss[block], losses[part].mean(), rtol=TOL)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_blocks_average_to_the_whole(case):
    _, found = golden_run(case, 0.0)
    each, weight = pairs_of(golden_rows(case))
    whole = np.average(found.cosine, axis=0, weights=found.steps)
    np.testing.assert_allclose(whole, each.mean(0), atol=TOL)
    share = np.asarray(found.weight) * np.asarray(found.steps)[:, None, None]
    total = weight.sum(0)
    weighted = (share * found.weighted).sum(0) / np.where(total > 0, total, 1)
    np.testing.assert_allclose(weighted, (each * weight).sum(0) / np.where(total > 0, total, 1))


def test_a_rule_without_gradient_agrees_with_none():
    _, found = golden_run("a05_mse", 0.0)
    silent = found.names.index("silent")
    for name in ("cosine", "weighted", "weight"):
        assert not np.asarray(getattr(found, name))[:, silent].any()
    assert not np.asarray(found.norm)[:, silent].any() and (found.norm[:, :silent] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_only_the_learner_trains(beside):
    """As published of RTRL alone: whether it is among the rules, or beside others."""
    golden, case = figures("a10_ce/train_rtrl"), "a10_ce"
    if beside:
        net, rate = online.network(case, mpj.EProp()), jnp.asarray(online.RATE)
        options = {"rules": (("rflo", mpj.EProp()),), "learner": mpj.RTRL(), "blocks": 2}
        net, found = compare(case, net, *online.data(case), rate, jr.key(0), **options)
        assert found.names == ("rflo",) and found.steps.tolist() == [20, 20]
        first = 0
    else:
        net, found = golden_run(case, online.RATE)
        first = LAG
    assert isinstance(net.rnn.rule, mpj.RTRL)
    for have, want in zip(online.weights(net), online.weights_of(golden), strict=True):
        assert_golden(have, want, 1e-12)
    losses = np.average(found.loss, weights=found.steps)
    np.testing.assert_allclose(losses, golden["loss"][first:].mean(), rtol=1e-12)


@pytest.mark.slow
def test_networks_side_by_side_are_each_as_alone():
    """Under vmap, with rules that draw numbers, one of them learning."""
    case, keys, rate = "a05_mse", jr.split(jr.key(3)), jnp.asarray(0.02)
    xs, ys = (a[:16] for a in online.data(case))
    rules = ("kf", mpj.KFRTRL()), ("ahead", mpj.FutureBPTT(3)), ("uoro", mpj.UORO())
    options = {"rules": rules, "learner": "kf", "blocks": 2}

    def of(scale, key):
        net = online.network(case, mpj.BPTT())
        net = eqx.tree_at(lambda n: n.rnn.cell.weight_rec, net, replace_fn=lambda w: scale * w)
        net, found = run(case, net, xs, ys, rate, key, **options)
        return net.rnn.cell, found

    scales = jnp.array([1.0, 0.7])
    together = jit(eqx.filter_vmap(of))(scales, keys)
    alone = jit(of)
    for seed, (scale, key) in enumerate(zip(scales, keys)):
        found = alone(scale, key)
        pairs = zip(jax.tree.leaves(eqx.filter(together, eqx.is_array)), jax.tree.leaves(found))
        for many, one in pairs:
            np.testing.assert_allclose(many[seed], one, rtol=1e-10, atol=1e-12)
    assert np.abs(together[1].cosine[0] - together[1].cosine[1]).max() > 1e-2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rules": ()}, "rules is empty"),
        ({"learner": "rtl"}, "learner 'rtl' is none of the rules \\(rtrl, ahead\\)"),
        ({"blocks": 37}, "40 steps, too few for 37 blocks after a lag of 4 steps"),
        ({"blocks": 0}, "blocks must be a whole number of at least 1, but is 0"),
        (
            {"rules": (("rtrl", mpj.RTRL()), ("ahead", mpj.FutureBPTT(50)))},
            "too few for 2 blocks after a lag of 49 steps",
        ),
    ],
)
def test_errors_of_online_alignment(options, message):
    net = online.network("a10_ce", mpj.BPTT())
    rules = ("rtrl", mpj.RTRL()), ("ahead", mpj.FutureBPTT(5))
    options = {"rules": rules, "learner": "rtrl", "blocks": 2} | options
    with pytest.raises(ValueError, match=message):
        compare("a10_ce", net, *online.data("a10_ce"), jnp.asarray(0.1), jr.key(0), **options)


# --- gradient_spread ---

SPREAD_CASE, SPREAD_STEPS = "a05_mse", 6


def no_past(net, key):
    return net.rnn.init(key=key)


def spread(rule, key, draws) -> Any:
    net = online.network(SPREAD_CASE, mpj.BPTT())
    xs, ys = (a[:SPREAD_STEPS] for a in online.data(SPREAD_CASE))
    return mpj.gradient_spread(
        loss_of(SPREAD_CASE), net, xs, ys, init=no_past, rule=rule, key=key, draws=draws
    )


@functools.cache
def spreads(name):
    """Of 8 keys, 1000 draws each."""
    rule = {"uoro": mpj.UORO(), "uoro4": mpj.UORO(probes=4), "rflo": mpj.EProp()}[name]
    found = jit(jax.vmap(lambda key: spread(rule, key, 1000)))(jr.split(jr.key(5), 8))
    return jax.tree.map(np.asarray, found)


@pytest.mark.slow
def test_spread_is_that_of_the_draws():
    """Five draws, one by one: draw i has the key i + 1 of `split(key, draws + 1)`."""
    key, draws = jr.key(4), 5
    found = jit(lambda key: spread(mpj.UORO(), key, draws))(key)
    xs, ys = (a[:SPREAD_STEPS] for a in online.data(SPREAD_CASE))

    def gradient(rule, key):
        net = online.network(SPREAD_CASE, rule)
        _, grads = online.of_segment(SPREAD_CASE, net, no_past(net, key), xs, ys)
        return np.asarray(online.recurrent(grads.rnn.cell)).ravel()

    exact = figures(f"{SPREAD_CASE}/rtrl")["rec_grads"][:SPREAD_STEPS].sum(0).ravel()
    each = np.stack([gradient(mpj.UORO(), k) for k in jr.split(key, draws + 1)[1:]])
    mean, scale = each.mean(0), np.linalg.norm(exact)
    variance = each.var(0, ddof=1).sum() / scale**2
    np.testing.assert_allclose(found.bias, np.linalg.norm(mean - exact) / scale)
    np.testing.assert_allclose(found.variance, variance)
    np.testing.assert_allclose(found.bias_error, np.sqrt(variance / draws))
    cosines = each @ exact / np.linalg.norm(each, axis=1) / scale
    np.testing.assert_allclose(found.cosine, cosines.mean())
    np.testing.assert_allclose(found.mean_cosine, mean @ exact / np.linalg.norm(mean) / scale)


@pytest.mark.slow
def test_uoro_varies_without_bias_and_rflo_is_biased_without_variance():
    """Over eight keys: the squared error of an unbiased mean is `bias_error`² on average."""
    uoro, rflo = spreads("uoro"), spreads("rflo")
    assert (uoro.bias < 4 * uoro.bias_error).all() and (uoro.variance > 1).all()
    assert (uoro.mean_cosine > 4 * uoro.cosine).all()
    ratio = (uoro.bias / uoro.bias_error) ** 2
    chance = ratio.std(ddof=1) / np.sqrt(8)
    assert chance < 0.25 and abs(ratio.mean() - 1) < 3 * chance
    # a bias as large as RFLO's would have been seen
    assert (rflo.bias > 4 * uoro.bias_error).all() and (rflo.variance < 1e-25).all()
    np.testing.assert_allclose(rflo.cosine, rflo.mean_cosine)


@pytest.mark.slow
def test_four_probes_have_a_quarter_of_the_variance():
    """Within four standard errors, those that eight independent keys show."""
    one, four = spreads("uoro").variance, spreads("uoro4").variance
    ratio = four.mean() / one.mean()
    error = ratio * np.hypot(*(v.std(ddof=1) / np.sqrt(8) / v.mean() for v in (one, four)))
    assert error < 0.02 and abs(ratio - 0.25) < 4 * error


def test_one_draw_has_no_spread():
    with pytest.raises(ValueError, match="draws must be a whole number of at least 2, but is 1"):
        spread(mpj.UORO(), jr.key(0), 1)


# --- `modprop-jax align` on a stream ---

LABELS = ("rtrl", "future_bptt:horizon=3", "kf_rtrl", "eprop")
TINY: dict[str, Any] = {"hidden_size": 4, "iterations": 50}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two seeds, 24 blocks of two steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return align_stream("add", LABELS, seeds=2, out=out, quiet=True, **TINY)


def _without_times(path):
    return re.sub(r'"seconds_per_iteration": [^,}]*', "", path.read_text())


def _copy_of(whole, folder, **changes):
    """A folder with the module's run still to be done."""
    file = whole.folder / "config.json"
    settings = altered(file, **changes)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(resigned(file, "align_stream", settings=settings))
    return folder


@pytest.mark.slow
def test_a_run_is_online_alignment_of_each_seed(whole):
    config, seed = whole.config, 1
    parts, (weight_keys, keys) = setup(config.run), seed_keys(config.run)
    data_keys, carry_keys = stream_keys(keys)
    arrays, static = eqx.partition(parts.start(weight_keys).model, eqx.is_array)
    net = eqx.combine(jax.tree.map(lambda a: a[seed], arrays), static)
    xs, ys = parts.data(data_keys[seed])

    def segment_loss(net, carry, xs, ys):
        carry, zs = net.rnn(xs, carry)
        return len(xs) * config.run.entry.loss(net.readout(zs), ys)[0], carry

    @jit
    def expected_of(net, xs, ys, key):
        return mpj.online_alignment(
            segment_loss, net, xs, ys,
            init=lambda net, key: net.rnn.init((1,), key=key),
            rules={label: config.run.rule(label) for label in LABELS},
            learner="rtrl", optimizer=parts.optimizer, key=key, blocks=24,
        )[1]  # fmt: skip

    expected: Any = expected_of(net, xs, ys, carry_keys[seed])
    for name in ("cosine", "weighted", "weight", "norm", "loss"):
        found = np.array([line[name] for line in whole.metrics])[:, seed]
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-9, atol=1e-12)
    assert [line["iteration"] for line in whole.metrics] == list(range(4, 51, 2))


@pytest.mark.slow
def test_writes_its_results(whole):
    found = json.loads((whole.folder / "alignment.json").read_text())
    assert found["metrics"] == whole.metrics and found["rules"] == list(LABELS)
    cosine = found["cosine"]
    np.testing.assert_allclose(np.diag(cosine), 1)
    np.testing.assert_allclose(whole.rows[2].cosine.mean, cosine[0][2])
    table = (whole.folder / "table.md").read_text()
    row = next(row for row in whole.rows if row.rule == "eprop")
    assert f"| eprop | {row.cosine.text(2)} | {row.weighted.text(2)} |" in table
    assert f"{cosine[0][3]:.2f} [{found['weighted'][0][3]:.2f}]" in table
    for name in ("matrix.png", "curves.png"):
        assert (whole.folder / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(whole, tmp_path, monkeypatch, capsys):
    """Ctrl-C between a line of metrics and its checkpoint, in the sixth block."""
    folder, save, count = _copy_of(whole, tmp_path / "stopped"), RunFolder.save_state, []

    def save_or_stop(self, rule, state):
        count.append(rule)
        if len(count) == 6:
            raise KeyboardInterrupt
        save(self, rule, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", save_or_stop)
        assert main(["align", "--resume", str(folder)]) == 130
    assert f"modprop-jax align --resume {folder}" in capsys.readouterr().out
    assert not (folder / "alignment.json").exists()
    assert (folder / "metrics.jsonl").read_text().count("\n") == 6
    result = resume_align_stream(folder, quiet=True)
    for name in ("metrics.jsonl", "alignment.json", "table.md"):
        assert _without_times(folder / name) == _without_times(whole.folder / name)
    assert result.rows == whole.rows
    checkpoint = "checkpoints/rtrl.eqx"
    arrays = [each.read_bytes().partition(b"\n")[2] for each in
              (folder / checkpoint, whole.folder / checkpoint)]  # fmt: skip
    assert arrays[0] == arrays[1]


@pytest.mark.slow
def test_divergence_stops_the_run(whole, tmp_path, capsys):
    folder = _copy_of(whole, tmp_path / "diverging", l2=1e300)
    assert main(["align", "--resume", str(folder)]) == 1
    assert "stopped: rule rtrl, seed 0: NaN or infinity" in capsys.readouterr().out
    table = (folder / "table.md").read_text()
    assert "| eprop | – | – | – |" in table and "- rule rtrl, seed 0" in table
    assert json.loads((folder / "alignment.json").read_text())["cosine"] is None


def _config(**options):
    return StreamAlignConfig.make("add", "brief", LABELS, 2, **(TINY | options))


def _block(seeds, rules) -> Any:
    pairs: Any = np.ones((seeds, rules, rules))
    return Block(pairs[0, 0], pairs, pairs, pairs, pairs[0], pairs[:, 0, 0])


@pytest.mark.parametrize(
    "where, message",
    [
        (("weight", (1, 2)), "rule kf_rtrl, seed 1: NaN .* at iteration 8"),
        # the learner's weights break all rules
        (("weight", (0,)), "rule rtrl, seed 0"),
        (("loss", (1,)), "rule rtrl, seed 1"),
    ],
)
def test_the_rule_that_broke_is_named(where, message):
    (name, index), block = where, _block(2, len(LABELS))
    broken = np.array(getattr(block, name))
    broken[index] = np.nan
    sound = np.array([0, 0])
    _check(_config(), block, sound, None, 8)
    with pytest.raises(TrainingDiverged, match=message):
        _check(_config(), block._replace(**{name: broken}), sound, None, 8)
    with pytest.raises(TrainingDiverged, match="rule rtrl, seed 1"):
        _check(_config(), block, np.array([0, 1]), None, 8)


def test_tables_leave_out_the_first_sixth():
    """Means over steps, by NumPy; what the first 4 of 24 blocks hold does not matter."""
    rng, config = np.random.default_rng(0), _config()
    steps = rng.integers(1, 5, 24)
    made = {name: rng.random((24, 2, 4, 4)) for name in ("cosine", "weighted", "weight")}
    made["norm"] = rng.random((24, 2, 4))
    lines = [
        {"steps": int(steps[b])} | {name: values[b].tolist() for name, values in made.items()}
        for b in range(24)
    ]
    for name in made:
        lines[3][name] = (1e9 * made[name][3]).tolist()
    found: Any = means(config, lines)
    late = steps[4:, None, None, None] * made["weight"][4:]
    weighted = (late * made["weighted"][4:]).sum(0) / late.sum(0)
    np.testing.assert_allclose(found.weighted, weighted)
    cosine = (steps[4:, None, None, None] * made["cosine"][4:]).sum(0) / steps[4:].sum()
    np.testing.assert_allclose(found.cosine, cosine)
    row: Any = summarise(config, lines)[3]
    norms = (steps[4:, None, None] * made["norm"][4:]).sum(0)
    np.testing.assert_allclose(row.norm.mean, (norms[:, 3] / norms[:, 0]).mean())
    np.testing.assert_allclose(row.cosine.sd, cosine[:, 0, 3].std(ddof=1))
    assert means(config, lines[:4]) is None and summarise(config, [])[0].cosine is None


def test_configuration_on_a_stream():
    config = StreamAlignConfig.make("add", "brief", None, 2)
    assert config.learner == "rtrl" and "readout_only" not in config.run.rules
    assert {"rtrl", "future_bptt", "uoro", "dni", "eprop"} <= set(config.run.rules)
    assert _config(learner="uoro").run.rules == ("uoro", *LABELS)
    data = config.run.to_dict() | {"align": config.options()}
    again = StreamAlignConfig.from_dict(json.loads(json.dumps(data)))
    assert again.run.rules == config.run.rules and again.options() == config.options()
    with pytest.raises(ValueError, match="learns online: follow it with align_stream"):
        AlignConfig.make("add", "brief", LABELS, 1)
    with pytest.raises(ValueError, match="trains in batches: follow it with align"):
        StreamAlignConfig.make("add", "small", ("rtrl",), 1)


@pytest.mark.parametrize(
    "rules, options, expected",
    [
        (None, {"cell": "gle"}, ("gle", "gle_instantaneous")),
        (None, {"cell": "equilibrium"}, ("ei_credit", "ei_credit:sweeps=0")),
        (("eprop", "uoro"), {}, ("eprop", "uoro")),
    ],
)
def test_without_rtrl_the_first_rule_learns(rules, options, expected):
    """And the rules are those that serve the cell."""
    config = StreamAlignConfig.make("add", "brief", rules, 1, hidden_size=4, **options)
    assert config.run.rules == expected and config.learner == expected[0]


@pytest.mark.slow
def test_neurons_with_two_time_constants_from_the_command_line(tmp_path):
    options = "--preset brief --cell gle --seeds 1 --hidden-size 4 --iterations 30"
    assert main(["align", "add", *options.split(), "--out", str(tmp_path / "gle")]) == 0
    found = json.loads((tmp_path / "gle" / "alignment.json").read_text())
    assert found["learner"] == "gle" and found["rules"] == ["gle", "gle_instantaneous"]
    cosine = np.array(found["cosine"])
    np.testing.assert_allclose(np.diag(cosine), 1)
    np.testing.assert_allclose(cosine, cosine.T)
    assert abs(cosine[0, 1]) < 1 - 1e-4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("add --preset brief --optimizer adam", "--optimizer is for .* in batches.*'brief'"),
        ("add --preset brief --sweep", "--sweep is for networks that train in batches"),
        ("add --preset brief --learner rtlr", "unknown rule 'rtlr'.*Did you mean 'rtrl'"),
        ("add --preset brief --rules eprop:segment=2", "every segment must be 1.*of the rules"),
        ("add --preset brief --rules force", "rule 'force' trains a network of its own"),
        ("add --preset brief --iterations 20", "20 steps, too few for 24 blocks .* 9 steps"),
        ("add --learner rtrl", "--learner is for streams, but preset 'small'"),
        ("--resume FOLDER --learner rtrl", "takes no other option, but got --learner"),
    ],
)
def test_usage_errors_are_one_line(arguments, message, capsys):
    assert main(["align", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    assert re.search(message, captured.err)


def test_folders_of_another_command(tmp_path):
    """Each says how it goes on."""
    config = _config()
    kind: dict[str, Any] = {"kind": "align_stream", "align": config.options()}
    stream = RunFolder.create(config.run, tmp_path / "stream", **kind)
    with pytest.raises(ValueError, match="holds a run of align_stream.*modprop-jax align --resume"):
        resume_align(stream.path)
    plain = RunFolder.create(config.run, tmp_path / "plain")
    with pytest.raises(ValueError, match="holds a run of compare.*modprop-jax compare --resume"):
        resume_align_stream(plain.path)


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["align", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("--learner NAME", "(default: rtrl,", "--feedback", "align add --preset brief"):
        assert word in text
