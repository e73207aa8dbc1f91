"""Equal to the figures of the public program of the online family; see golden/README.md."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import online
import optax
import pytest
from helpers import jit
from online import assert_golden, CASES, figures

import modprop_jax as mpj


TOL = 1e-12

RULES = {"rtrl": mpj.RTRL(), "rflo": mpj.EProp()}


def steps_of(case, rule, feedback: Any = "symmetric", segment=1):
    net = online.network(case, rule, feedback)
    return online.per_step(case, net, net.rnn.init(), segment)


def assert_losses(losses, case, expected):
    """The published value of the squared error is the mean over n_out = 2 outputs."""
    assert_golden(losses, expected if case.endswith("ce") else 2 * expected, TOL)


@pytest.mark.parametrize("case", CASES)
def test_activity_and_errors(case):
    fwd, net = figures(f"{case}/fwd"), online.network(case, mpj.BPTT())
    xs, ys = online.data(case)

    def run(net):
        zs = net.rnn(xs)
        outputs = net.readout(zs)
        return zs, outputs, jax.grad(lambda o: online.loss(case, o, ys))(outputs)

    for found, name in zip(jit(run)(net), ("a", "z", "error")):
        assert_golden(found, fwd[name], TOL)


@pytest.mark.parametrize("feedback, suffix", [("symmetric", ""), ("random", "_fb")])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("case", CASES)
def test_gradients_step_by_step(case, name, feedback, suffix):
    golden, fwd = figures(f"{case}/{name}{suffix}"), figures(f"{case}/fwd")
    found = steps_of(case, RULES[name], feedback)
    assert_golden(found.recurrent, golden["rec_grads"], TOL)
    assert_golden(found.readout, fwd["out_grads"], TOL)
    assert_losses(found.losses, case, fwd["loss_"])


@pytest.mark.parametrize("case", CASES)
def test_traces(case):
    influence = online.recurrent(steps_of(case, mpj.RTRL()).traces)
    # the figures have parameter (i, j) in column j n + i
    n = influence.shape[1]
    influence = jnp.swapaxes(influence, -1, -2).reshape(len(influence), n, -1)
    golden = figures(f"{case}/rtrl")
    assert_golden(influence[3], golden["M_t3"], TOL)
    assert_golden(influence[-1], golden["M_final"], TOL)
    _, eligibility = steps_of(case, mpj.EProp()).traces
    names = "weight_rec", "weight_in", "bias"
    (last,) = online.side_by_side(*(eligibility[name] for name in names))[-1]
    assert_golden(last, figures(f"{case}/rflo")["B_final"], TOL)


@pytest.mark.parametrize("case", CASES)
def test_the_sum_of_all_steps_is_bptts(case):
    net = online.network(case, mpj.BPTT())
    _, gradients = online.of_segment(case, net, net.rnn.init(), *online.data(case))
    assert_golden(
        online.recurrent(gradients.rnn.cell), figures(f"{case}/bptt")["full_grad_sum"], TOL
    )


BLOCKS = [("a10_ce", 1), ("a10_ce", 10), ("a10_ce", 40), ("a05_mse", 10)]


@pytest.mark.slow
@pytest.mark.parametrize("case, block", BLOCKS)
def test_bptt_in_blocks(case, block):
    """What the program emits at the end of a block is the gradient of a segment of BPTT."""
    golden = figures(f"{case}/ebptt_T{block}")["rec_grads"]
    found = steps_of(case, mpj.BPTT(), segment=block).recurrent
    emitted = np.zeros_like(golden)
    emitted[block - 1 :: block] = found
    assert_golden(emitted, golden, TOL)


HORIZONS = [("a10_ce", 1), ("a10_ce", 10), ("a10_ce", 40), ("a05_mse", 10)]


@pytest.mark.parametrize("case, horizon", HORIZONS)
def test_future_bptt_step_by_step(case, horizon):
    """Credit on the drive of step s is what the program emits at s + h - 1."""
    golden = figures(f"{case}/fbptt_T{horizon}")["rec_grads"]
    net, (xs, ys) = online.network(case, mpj.FutureBPTT(horizon)), online.data(case)
    # one more input a neuron, with weight 1 and always 0: its gradient is the credit on the drive
    into = jnp.concatenate([net.rnn.cell.weight_in, jnp.eye(5)], axis=1)
    net = eqx.tree_at(lambda net: net.rnn.cell.weight_in, net, into)

    def total(drive):
        return online.loss(case, net.readout(net.rnn(jnp.concatenate([xs, drive], axis=1))), ys)

    credit = np.asarray(jit(jax.grad(total))(jnp.zeros((len(xs), 5))))
    sent = np.concatenate([np.zeros((1, 5)), figures(f"{case}/fwd")["a"][:-1]])
    received = np.concatenate([sent, xs, np.ones((len(xs), 1))], axis=1)
    emitted = np.einsum("ti,tj->tij", credit, received)[: len(xs) - horizon + 1]
    assert not golden[: horizon - 1].any()
    assert_golden(emitted, golden[horizon - 1 :], TOL)


@pytest.mark.parametrize("case, horizon", HORIZONS)
def test_future_bptt_in_total(case, horizon):
    """The program never emits the credit of the last h - 1 steps, which is BPTT's on them."""
    golden = figures(f"{case}/fbptt_T{horizon}")["rec_grads"].sum(0)
    xs, ys = online.data(case)
    past = len(xs) - horizon + 1
    if horizon > 1:
        state = figures(f"{case}/fwd")["a"][past - 1] if past else np.zeros(5)
        net = online.network(case, mpj.BPTT())
        carry = eqx.tree_at(lambda carry: carry.state, net.rnn.init(), jnp.asarray(state))
        trailing = online.of_segment(case, net, carry, xs[past:], ys[past:])
        golden = golden + online.recurrent(trailing[1].rnn.cell)
    for segment in (1, 8):
        found = steps_of(case, mpj.FutureBPTT(horizon), segment=segment)
        assert_golden(found.recurrent.sum(0), golden, TOL)
    net = online.network(case, mpj.FutureBPTT(horizon))
    offline = online.of_segment(case, net, net.rnn.init(), xs, ys)
    assert_golden(online.recurrent(offline[1].rnn.cell), golden, TOL)


TRAINED = [
    ("rtrl", mpj.RTRL(), "symmetric"),
    ("rflo_fb", mpj.EProp(), "random"),
    ("only_out", mpj.ReadoutOnly(), "symmetric"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, rule, feedback", TRAINED, ids=[name for name, *_ in TRAINED])
def test_training_at_every_step(name, rule, feedback):
    case = "a10_ce"
    golden, net = figures(f"{case}/train_{name}"), online.network(case, rule, feedback)
    losses, after = online.train(case, net, net.rnn.init())
    assert_golden(losses, golden["loss"], TOL)
    for found, expected in zip(online.weights(after), online.weights_of(golden), strict=True):
        assert_golden(found, expected, TOL)


def predicting(name, local=False):
    """DNI as published, by the name of its figures."""
    learn = optax.sgd({"dni_frozenA": 0.0}.get(name, 0.05))
    options: dict[str, Any] = {"labels": 2, "learn": learn}
    if name == "dni_fix1":
        options["refresh"] = 1
    if name in ("dni", "dni_frozenA", "dni_fix1"):
        return mpj.DNI(**options)
    options["learn_jacobian"] = optax.sgd(0.01)
    if local:
        return mpj.LocalDNI(**options)
    if name == "dnib":
        options["squash"] = jnp.tanh
    return mpj.DNI(jacobian="learned", **options)


def predicting_net(case, name, local=False):
    rule = predicting(name, local)
    net = online.network(case, rule, "random" if name == "dnib" else "symmetric")
    carry, first = net.rnn.init(key=jr.key(0)), jnp.asarray(figures("shared")["dni_A0"])
    at = lambda c: (c.trace.value.weight, c.trace.value.target)  # noqa: E731
    return net, eqx.tree_at(at, carry, (first, first))


PREDICTING = [
    *[(case, name, False) for case in CASES for name in ("dni", "dni_J", "dnib")],
    ("a10_ce", "dni_frozenA", False),
    ("a10_ce", "dni_fix1", False),
    ("a10_ce", "dnib", True),
    ("a05_mse", "dnib", True),
]


@pytest.mark.parametrize("case, name, local", PREDICTING)
def test_synthetic_gradients_step_by_step(case, name, local):
    golden = figures(f"{case}/{name}")
    found = online.per_step(case, *predicting_net(case, name, local))
    assert_golden(found.recurrent, golden["rec_grads"], TOL)
    trace = found.traces.value
    assert_golden(trace.weight[-1], golden["A_final"], TOL)
    if "J_final" in golden:
        assert_golden(trace.jacobian[-1], golden["J_final"], TOL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dni", "dnib"])
def test_training_with_synthetic_gradients(name):
    golden = figures(f"a10_ce/train_{name}")
    losses, net = online.train("a10_ce", *predicting_net("a10_ce", name))
    assert_golden(losses, golden["loss"], TOL)
    for found, expected in zip(online.weights(net), online.weights_of(golden)):
        assert_golden(found, expected, TOL)
