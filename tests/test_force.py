"""FORCE: the readout against ridge regression, the stream against a loop, and what it is known for.

The loops below invert the regularised correlation matrix itself; the package never does.
"""

import functools
import re
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, jit

import modprop_jax as mpj
from modprop_jax.experiments import build_rule, main, Method, METHODS, RULES
from modprop_jax.experiments._compare._study import _records, _start
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._force_network import force_network, ForceNetwork
from modprop_jax.experiments._rules import ENTRIES
from modprop_jax.experiments._setup import seed_keys, setup
from modprop_jax.experiments._storage import RunFolder
from modprop_jax.experiments._train import stream_keys
from modprop_jax.tasks import add


N, OUT, T, BATCH = 5, 2, 12, 3


def make(alpha=0.5, use_bias=True, **kwargs):
    readout = mpj.ForceReadout(N, OUT, alpha=alpha, use_bias=use_bias, key=jr.key(0), **kwargs)
    if not use_bias:
        return readout
    return eqx.tree_at(lambda r: r.bias, readout, jnp.asarray([0.3, -0.2], readout.weight.dtype))


def draws(*batch) -> Any:
    """What is read, and what is wanted of it."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(T, *batch, N)), rng.normal(size=(T, *batch, OUT))


def squared(readout, P, zs, ys):
    """½ Σ (y − y*)² over steps and outputs, a mean over the batch."""
    P, outputs = readout(zs, P)
    error = jnp.sum((outputs - ys) ** 2) / outputs[0, ..., 0].size
    return 0.5 * error, (P, outputs)


def augmented(readout, zs):
    """What it reads, and its weights, as the formulas have them."""
    if readout.bias is None:
        return zs, np.asarray(readout.weight)
    ones = np.ones((*zs.shape[:-1], 1))
    weights = np.concatenate([readout.weight, readout.bias[:, None]], 1)
    return np.concatenate([zs, ones], -1), weights


@functools.cache
def learn():
    """An SGD step of rate 1 on a block; P and the readout go on."""

    @jit
    def step(readout, P, zs, ys):
        (_, (P, _)), grads = eqx.filter_value_and_grad(squared, has_aux=True)(readout, P, zs, ys)
        optimizer = optax.sgd(1.0)
        updates, _ = optimizer.update(grads, optimizer.init(eqx.filter(readout, eqx.is_array)))
        return eqx.apply_updates(readout, updates), P

    return step


@pytest.mark.parametrize("segment", [1, 4, T])
@pytest.mark.parametrize("batch, use_bias", [((), True), ((), False), ((BATCH, 2), True)])
def test_sgd_of_rate_one_is_ridge_regression(segment, batch, use_bias):
    """Cut anywhere, the weights are those that fit all that was read, and least leave the start."""
    readout, (zs, ys) = make(use_bias=use_bias), draws(*batch)
    size = np.prod(batch, dtype=int)
    learnt, P = readout, readout.init()
    for start in range(0, T, segment):
        learnt, P = learn()(learnt, P, zs[start : start + segment], ys[start : start + segment])
    seen, weights = augmented(readout, zs)
    rows, wanted = seen.reshape(-1, seen.shape[-1]), ys.reshape(-1, OUT)
    correlation = rows.T @ rows / size + 0.5 * np.eye(rows.shape[1])
    expected = np.linalg.solve(correlation, rows.T @ wanted / size + 0.5 * weights.T).T
    assert_close(augmented(learnt, zs)[1], expected, 1e-10)
    assert_close(P, np.linalg.inv(correlation), 1e-10)
    np.testing.assert_array_equal(P, P.T)
    assert np.abs(expected - weights).max() > 0.1


@pytest.mark.parametrize("use_bias", [True, False])
def test_value_and_derivative_against_numpy(use_bias):
    """For any loss, with a past in P; of which nothing gets a gradient but weights and input."""
    readout, (zs, c) = make(use_bias=use_bias), draws(BATCH)
    seen, weights = augmented(readout, zs)
    P = np.linalg.inv(np.eye(seen.shape[-1]) + np.ones((seen.shape[-1],) * 2))

    @jit
    def run(readout, zs, P):
        def loss(args):
            P, outputs = args[0](args[1], args[2])
            return jnp.sum(outputs * c) + jnp.sum(P), (P, outputs)

        return eqx.filter_value_and_grad(loss, has_aux=True)((readout, zs, P))

    (_, (after, outputs)), (found, d_zs, d_P) = run(readout, jnp.asarray(zs), jnp.asarray(P))
    rows = seen.reshape(-1, seen.shape[-1])
    expected = np.linalg.inv(np.linalg.inv(P) + rows.T @ rows / BATCH)
    assert_close(after, expected, 1e-10)
    assert_close(outputs, seen @ weights.T, 1e-12)
    assert_close(jit(readout.read)(zs), outputs, 1e-12)
    gradient = np.einsum("tbo,tbi->oi", c, seen @ expected)
    assert_close(augmented(found, zs)[1], gradient, 1e-10)
    assert_close(d_zs, c @ np.asarray(readout.weight), 1e-12)
    assert not np.asarray(d_P).any()
    plain = np.einsum("tbo,tbi->oi", c, seen)
    assert np.abs(gradient - plain).max() > 0.5


@pytest.mark.slow
def test_forward_mode_and_vmap():
    readout, (zs, c) = make(), map(jnp.asarray, draws(BATCH))
    P = readout.init()

    @jit
    def both(readout, zs):
        def outputs(readout, zs):
            return readout(zs, P)[1]

        value, pull = jax.vjp(outputs, readout, zs)
        along = jax.tree.map(jnp.cos, (readout, zs))
        _, tangent = jax.jvp(outputs, (readout, zs), along)
        backward = jax.tree.map(lambda g, d: jnp.sum(g * d), pull(c), along)
        streams = jax.vmap(lambda z: readout(z, P), in_axes=1)(zs)
        return jnp.sum(tangent * c), sum(jax.tree.leaves(backward)), value, streams

    forward, backward, value, (Ps, alone) = both(readout, zs)
    assert_close(forward, backward, 1e-12)
    # under vmap each stream has a P of its own
    assert_close(jnp.moveaxis(alone, 1, 0), value, 1e-12)
    seen, _ = augmented(readout, np.asarray(zs))
    for P, rows in zip(Ps, np.moveaxis(seen, 1, 0)):
        assert_close(P, np.linalg.inv(rows.T @ rows + 0.5 * np.eye(N + 1)), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes(dtype):
    """P and the outputs are float32 at least."""
    exact, zs, ys = make(), *draws(BATCH)
    readout = jax.tree.map(lambda leaf: leaf.astype(dtype), exact)
    learnt, P = learn()(
        readout, readout.init(), jnp.asarray(zs, dtype), jnp.asarray(ys, jnp.float32)
    )
    assert P.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(learnt, readout)
    exact, _ = learn()(exact, exact.init(), zs, ys)
    np.testing.assert_allclose(
        np.float64(learnt.weight), exact.weight, atol=1e-5 if dtype == jnp.float32 else 0.1
    )


def test_errors(without_type_checks):
    with pytest.raises(ValueError, match="alpha must be positive and finite, but is 0"):
        make(alpha=0)
    readout, (zs, _) = make(), draws()
    with pytest.raises(ValueError, match="made for in_size=5, but its input has 4 features"):
        readout(zs[:, :4], readout.init())
    with pytest.raises(ValueError, match=r"reads 6 features.* shape \(5, 5\): start from"):
        readout(zs, readout.init()[:5, :5])


# of experiments


def config(*rules, **settings):
    tiny = {"hidden_size": 4, "batch": 2, "iterations": 30, "eval_every": 15, "orthogonal": False}
    options: dict[str, Any] = tiny | {"data": {"lags": (1, 2)}} | settings
    return Config.make("add", "brief", rules, 2, **options)


def of_seed(tree, seed):
    return jax.tree.map(lambda a: np.asarray(a)[seed] if eqx.is_array(a) else a, tree)


@pytest.mark.slow
@pytest.mark.parametrize(
    "label, alpha, segment", [("force", 1, 1), ("force:alpha=0.1,segment=3", 0.1, 3)]
)
def test_a_stream_against_numpy(label, alpha, segment):
    """Published order: outputs and error by the old weights, P by the new activity, then a step."""
    made, batch = config(label), 2
    records = list(_records(made, label, _start(made, label)))
    assert [record.iteration for _, record in records] == [0, 15, 30]
    weight_keys, keys = seed_keys(made)
    plain = setup(made).start(weight_keys).model
    draw = jit(jax.vmap(lambda key: add(key, batch, steps=30, lags=(1, 2))))
    streams = jax.tree.map(np.asarray, draw(stream_keys(keys)[0]))
    for seed in range(2):
        net = of_seed(records[0][0].model, seed)
        cell, readout = net.rnn.cell, net.readout
        # the weights that all rules start from; what is heard of the outputs comes behind
        np.testing.assert_array_equal(cell.weight_rec, plain.rnn.cell.weight_rec[seed])
        np.testing.assert_array_equal(cell.weight_in[:, :2], plain.rnn.cell.weight_in[seed])
        np.testing.assert_array_equal(readout.weight, plain.readout.weight[seed])
        xs, ys = of_seed(streams, seed)
        W = np.concatenate([readout.weight, readout.bias[:, None]], 1)
        correlation = alpha * np.eye(5)
        rates, heard, losses = np.zeros((batch, 4)), np.zeros((batch, 2)), []
        for start in range(0, 30, segment):
            credit, before = [], W
            for x, y in zip(xs[start : start + segment], ys[start : start + segment]):
                drive = rates @ cell.weight_rec.T + cell.bias
                rates = np.tanh(drive + np.concatenate([x, heard], 1) @ cell.weight_in.T)
                z = np.concatenate([rates, np.ones((batch, 1))], 1)
                logits = z @ before.T
                heard = np.tanh(logits)
                p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
                losses.append(-np.sum(y * np.log(p), 1).mean())
                correlation = correlation + z.T @ z / batch
                credit.append((p - y).T @ z / batch)
            W = before - sum(credit) @ np.linalg.inv(correlation)
        for (_, record), block in zip(records[1:], np.reshape(losses, (2, 15))):
            np.testing.assert_allclose(record.loss[seed], block.mean(), rtol=1e-10)
        after = of_seed(records[-1][0].model, seed)
        assert_close(
            np.concatenate([after.readout.weight, after.readout.bias[:, None]], 1), W, 1e-10
        )
        chex.assert_trees_all_equal(after.rnn, net.rnn)
        assert np.abs(W[:, :4] - readout.weight).max() > 0.05


def test_what_the_untrained_network_is_scored_by_is_its_own_loop():
    """Blocks before learning: as learning with weights that hardly move."""
    made = config("force:alpha=1e9")
    records = [record for _, record in _records(made, made.rules[0], _start(made, made.rules[0]))]
    np.testing.assert_allclose(records[0].loss, records[1].loss, rtol=1e-6)


@pytest.mark.slow
def test_a_stream_that_was_killed_goes_on_bit_for_bit(tmp_path):
    made = config("force")
    start = _start(made, "force")
    (_, (state, _), (whole, record)) = _records(made, "force", start)
    folder = RunFolder.create(made, tmp_path)
    folder.save_state("force", state)
    like = eqx.filter_eval_shape(lambda: _start(made, "force"))
    saved = folder.load_state("force", like, made.settings.schedule.iterations)
    assert saved is not None and int(saved[0].iteration) == 15
    ((again, same),) = _records(made, "force", saved[0])
    np.testing.assert_array_equal(record.loss, same.loss)
    chex.assert_trees_all_equal(again, whole)


def test_settings_are_its_own():
    """A step of rate 1 of plain SGD, without decay, whatever the preset says."""
    made = config("force", "eprop", l2=1e-4, optimizer="adam", feedback="random", decay=0.5)
    own = made.for_rule("force").settings.flat()
    due = {"optimizer": "sgd", "learning_rate": 1.0, "decay": 1.0, "l2": 0.0}
    assert {name: own[name] for name in due} == due and own["feedback"] == "symmetric"
    assert made.for_rule("eprop").settings == made.settings
    assert isinstance(made.rule("force:alpha=3"), mpj.ReadoutOnly)
    with pytest.raises(ValueError, match="'force:alpha=3' is a method.*none of the rules, modprop"):
        build_rule("force:alpha=3", (0, 1))
    network = jax.eval_shape(lambda: _start(made, "force").model)
    assert isinstance(network, ForceNetwork) and network.readout.alpha == 1.0


def test_a_method_may_make_any_network_of_the_common_one(monkeypatch):
    """And says how that learns; a rule beside it starts from the common one."""

    def doubled(network, key, *, factor=2.0):
        del key
        return eqx.tree_at(lambda net: net.readout.weight, network, replace_fn=lambda w: factor * w)

    method = Method("Twice.", doubled, mpj.EProp(), {"l2": 0.1}, {"factor": float})
    monkeypatch.setitem(ENTRIES, "twice", method)
    made = config("eprop", "twice", "twice:factor=-3,learning_rate=0.25")
    plain, twice, minus = (_start(made, label).model for label in made.rules)
    np.testing.assert_array_equal(twice.readout.weight, 2 * plain.readout.weight)
    np.testing.assert_array_equal(minus.readout.weight, -3 * plain.readout.weight)
    np.testing.assert_array_equal(twice.rnn.cell.weight_rec, plain.rnn.cell.weight_rec)
    assert twice.rnn.rule == mpj.EProp()
    own = [made.for_rule(label).settings for label in made.rules]
    rates = [each.optimizer.learning_rate for each in own]
    assert rates == 2 * [made.settings.optimizer.learning_rate] + [0.25]
    assert [each.objective.l2 for each in own] == [0.0, 0.1, 0.1]


@pytest.mark.slow
def test_any_neuron_cell_hears_its_outputs():
    """In the columns of weight_in behind the inputs, N(0, gain²/outputs); under a filter too."""
    size, outputs = 400, 4

    @jit
    def build(key):
        cell = mpj.LIFCell(2, size, tau=5.0, key=key)
        readout = mpj.Readout(size, outputs, use_bias=False, key=key)
        return force_network(mpj.RNN(mpj.Filtered(cell, 0.5)), readout, key, alpha=2.0, gain=3.0)

    net = build(jr.key(1))
    assert isinstance(net.rnn.cell, mpj.Filtered) and isinstance(net.rnn.cell.cell, mpj.LIFCell)
    heard = np.asarray(net.rnn.cell.cell.weight_in[:, 2:])
    assert heard.shape == (size, outputs) and net.readout.bias is None
    assert abs(heard.var() * outputs / 9 - 1) < 5 * np.sqrt(2 / heard.size)
    assert jax.eval_shape(net, jnp.ones((3, 1, 2))).shape == (3, 1, outputs)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("add --rules force", "rule 'force' learns on a stream only: give segment=1"),
        ("add --preset brief --rules force:alpha=0", r"alpha must be positive .* is 0\.0"),
        ("add --preset brief --rules force:beta=1", "unknown force option 'beta'; .*alpha, gain"),
        ("add --preset brief --rules force --cell gru", "through weight_in.* not GRUCell"),
        ("add --preset brief --rules forse", "unknown rule 'forse'; .* Did you mean 'force'"),
        ("add --rules force --network FILE.py:Mine", "'force' makes a network of its own .* FILE"),
    ],
)
def test_refusals(arguments, message, capsys):
    assert main(["compare", *arguments.split()]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_align_is_of_rules_on_one_network(capsys):
    assert main(["align", *"add --preset brief --rules eprop force".split()]) == 2
    assert "'force' trains a network of its own, but here all" in capsys.readouterr().err


def test_it_is_listed_as_a_method(capsys):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"\nmethods\n  force +FORCE: recursive least squares", listed)
    assert "force" in METHODS and "force" not in RULES


# the demonstration

PERIOD, NEURONS, STEPS = 120, 60, 20 * 120


def wanted(t):
    phase = 2 * jnp.pi * t / PERIOD
    return (jnp.sin(phase) + 0.5 * jnp.sin(2 * phase))[..., None]


def errors(force, rate, key):
    """Learns to generate two sines from nothing but its own output, then does so for 3 periods.

    Returns the share of the variance that is missed: in the last period of learning (with the
    weights of each step) and in each period after it, with the weights as they then are.
    """
    cell_key, readout_key, state_key = jr.split(key, 3)
    cell = mpj.LeakyCell(1, NEURONS, tau=10.0, activation=jnp.tanh, key=cell_key)
    cell = eqx.tree_at(lambda c: c.weight_rec, cell, 1.5 * cell.weight_rec)
    readout = mpj.ForceReadout(NEURONS, 1, key=readout_key)
    state = 0.5 * jr.normal(state_key, (NEURONS,)), jnp.zeros(1), readout.init()

    def loss(readout, state, want):
        v, heard, P = state
        v = cell.step(v, heard)
        zs = cell.emit(v)[None]
        P, (y,) = readout(zs, P) if force else (P, readout.read(zs))
        return 0.5 * jnp.sum((y - want) ** 2), (v, y, P)

    def learn(carry, t):
        readout, state = carry
        (value, state), grads = eqx.filter_value_and_grad(loss, has_aux=True)(
            readout, state, wanted(t)
        )
        return (jax.tree.map(lambda w, g: w - rate * g, readout, grads), state), value

    def generate(carry, t):
        readout, state = carry
        value, state = loss(readout, state, wanted(t))
        return (readout, state), value

    times = jnp.arange(STEPS + 3 * PERIOD, dtype=float)
    carry, learning = jax.lax.scan(learn, ((readout, state)), times[:STEPS])
    _, alone = jax.lax.scan(generate, carry, times[STEPS:])
    periods = jnp.concatenate([learning[-PERIOD:], alone]).reshape(4, PERIOD)
    return 2 * periods.mean(1) / wanted(times[:PERIOD]).var()


@pytest.mark.slow
def test_force_generates_what_gradient_descent_only_follows():
    """Four chaotic networks; SGD with the best of five rates for each."""
    keys, rates = jr.split(jr.key(0), 4), jnp.asarray([1e-3, 3e-3, 1e-2, 2e-2, 3e-2])
    force = np.asarray(jit(jax.vmap(lambda key: errors(True, 1.0, key)))(keys))
    descend = jax.vmap(lambda key: jax.vmap(lambda rate: errors(False, rate, key))(rates))
    descent = np.asarray(jit(descend)(keys))
    # while it learns, and follows the target, SGD is as good
    assert force[:, 0].max() < 0.05 and descent[..., 0].min(1).max() < 0.05
    # alone, FORCE is for three periods, and SGD at no rate
    assert force[:, 1:].max() < 0.1
    assert np.nanmin(descent[..., 1:].mean(-1), axis=1).min() > 0.2
