"""Equal to the figures of the authors' public program; see golden/README.md."""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import jit, Net, plain_scan

import modprop_jax as mpj


FIGURES = np.load(pathlib.Path(__file__).parents[1] / "golden" / "modprop.npz")
TOL = 1e-10

CASES = [
    *[("A", rule) for rule in ("bptt", "eprop", "mdgl", "modprop", "modprop_types")],
    *[("B", rule) for rule in ("bptt", "eprop", "mdgl", "modprop", "modprop_taps20")],
]


@functools.cache
def golden(case):
    return {key[2:]: FIGURES[key] for key in FIGURES if key.startswith(case)}


def published_rule(name, figures):
    mu = float(figures["mu"])
    return {
        "bptt": mpj.BPTT(),
        "rtrl": mpj.RTRL(),
        "eprop": mpj.EProp(),
        "mdgl": mpj.MDGL(),
        "modprop": mpj.ModProp(mu),
        "modprop_types": mpj.ModProp(mu, figures["types"]),
        "modprop_taps20": mpj.ModProp(mu, taps=20),
    }[name]


def published_net(figures, rule):
    n = len(figures["W_rec"])
    tau = -1 / np.log(figures["eta"])
    cell = mpj.LeakyCell(2, n, tau=tau, key=jax.random.key(0))
    net = Net(mpj.RNN(cell, rule=rule), mpj.Readout(n, 2, key=jax.random.key(0)))
    return eqx.tree_at(
        lambda m: (
            m.rnn.cell.weight_rec,
            m.rnn.cell.weight_in,
            m.readout.weight,
            m.readout.bias,
        ),
        net,
        tuple(jnp.asarray(figures[key]) for key in ("W_rec", "W_in", "W_out", "b_out")),
    )


def cross_entropy(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def last_step_loss(net, xs, targets):
    logits = net(xs)[-1]
    return cross_entropy(logits, targets), logits


def assert_golden(actual, expected, what):
    off = np.abs(np.asarray(actual) - expected).max()
    assert off <= TOL * np.abs(expected).max(), f"{what} is off by {off:.1e}"


def assert_golden_gradients(gradients, figures, rule):
    cell, readout = gradients.rnn.cell, gradients.readout
    assert_golden(cell.weight_rec, figures[f"{rule}.dW_rec"], "dW_rec")
    assert_golden(cell.weight_in, figures[f"{rule}.dW_in"], "dW_in")
    assert_golden(readout.weight, figures[f"{rule}.dW_out"], "dW_out")
    assert_golden(readout.bias, figures[f"{rule}.db_out"], "db_out")


@pytest.mark.parametrize("case, name", CASES)
def test_gradients_logits_and_loss(case, name):
    figures = golden(case)
    rule = published_rule(name, figures)
    xs, targets = jnp.asarray(figures["inputs"]), jnp.asarray(figures["targets"])
    # the layer's own rule is another one: the gradient is that of the rule given
    net = published_net(figures, mpj.EProp() if name == "bptt" else mpj.BPTT())
    gradient = eqx.filter_jit(mpj.value_and_grad(last_step_loss, rule, has_aux=True))
    (loss, logits), gradients = gradient(net, xs, targets)
    assert_golden(loss, figures["loss"], "loss")
    assert_golden(logits, figures["logits"], "logits")
    assert_golden_gradients(gradients, figures, name)


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize("case, name", CASES)
def test_gradients_do_not_depend_on_the_chunk(case, name, chunk):
    figures = golden(case)
    rule = published_rule(name, figures)
    xs, targets = jnp.asarray(figures["inputs"]), jnp.asarray(figures["targets"])
    net = published_net(figures, rule)

    def loss(net):
        cell = net.rnn.cell
        _, zs = mpj.scan(cell, cell.init(xs.shape[1:-1]), xs, rule=rule, chunk=chunk)
        return cross_entropy(net.readout(zs[-1]), targets)

    assert_golden_gradients(jit(eqx.filter_grad(loss))(net), figures, name)


@pytest.mark.parametrize("case, name", [("A", "rtrl"), *[(c, r) for c, r in CASES if r != "bptt"]])
def test_streamed_gradients(case, name):
    figures = golden(case)
    rule = published_rule(name, figures)
    xs, targets = jnp.asarray(figures["inputs"]), jnp.asarray(figures["targets"])
    net = published_net(figures, rule)
    weight = jnp.zeros(len(xs)).at[-1].set(1.0)

    def segment_loss(net, carry, xs, weight):
        carry, logits = net(xs, carry)
        return sum_of_losses(logits, weight), carry

    def sum_of_losses(logits, weight):
        everywhere = jnp.broadcast_to(targets, logits.shape[:2])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, everywhere)
        return jnp.sum(weight * losses.mean(1))

    stream = jit(mpj.online_value_and_grad(segment_loss, segment=8))
    (loss, _), gradients = stream(net, net.rnn.init(xs.shape[1:-1]), xs, weight)
    assert_golden(loss, figures["loss"], "loss")
    # RTRL is BPTT evaluated in the other order
    assert_golden_gradients(gradients, figures, "bptt" if name == "rtrl" else name)


@pytest.mark.parametrize("case", "AB")
def test_membranes_and_rates(case):
    figures = golden(case)
    cell = published_net(figures, mpj.BPTT()).rnn.cell
    xs = jnp.asarray(figures["inputs"])
    start = cell.init(xs.shape[1:-1])

    def run():
        def step(v, x):
            v = cell.step(v, x)
            return v, v

        return mpj.scan(cell, start, xs), jax.lax.scan(step, start, xs)[1]

    (last, zs), vs = eqx.filter_jit(run)()
    assert_golden(vs, figures["v"], "v")
    assert_golden(last, figures["v"][-1], "the last v")
    assert_golden(zs, figures["z"], "z")
    assert_golden(plain_scan(cell, start, xs)[1], figures["z"], "z of the cell's own step")


def test_missing_synapses_need_no_mask():
    # case B has three zeros off the diagonal; they are weights like any other, and get gradient
    figures = golden("B")
    missing = (figures["W_rec"] == 0) & ~np.eye(20, dtype=bool)
    assert missing.sum() == 3
    for name in ("bptt", "eprop", "mdgl", "modprop"):
        assert (figures[f"{name}.dW_rec"][missing] != 0).any()


def test_type_specific_differs_from_cell_specific_as_published():
    # so the two gradients compared with above are those of two rules
    figures = golden("A")
    specific, typed = (
        np.concatenate([figures[f"{rule}.{key}"].ravel() for key in ("dW_rec", "dW_in")])
        for rule in ("modprop", "modprop_types")
    )
    assert 0.03 < np.linalg.norm(typed - specific) / np.linalg.norm(specific) < 0.17


def test_type_means_of_the_rule_are_the_published_ones():
    figures = golden("A")
    net = published_net(figures, mpj.BPTT())
    rule = published_rule("modprop_types", figures)
    index = figures["types"]
    kappa = np.asarray(rule.filter(net.rnn.cell).kappa.as_matrix())[index[:, None], index[None, :]]
    gain = (1 - figures["eta"]) * figures["mu"]
    assert_golden(kappa / gain, figures["Wab"], "type means")
