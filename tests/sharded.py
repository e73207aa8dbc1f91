"""A batch sharded over eight (virtual) devices: the same gradients, one all-reduce a weight.

Run by `test_sharding.py`, in a process that has eight devices.
"""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import modprop_jax as mpj


TYPES = (0, 1, 1, 0, 1, 0, 0, 1)
# (rule, its cell, the mesh's axes): no trace, a presynaptic one, one a synapse
CASES = [
    (mpj.BPTT(), "leaky", AxisType.Auto),
    (mpj.BPTT(), "leaky", AxisType.Explicit),
    (mpj.ModProp("auto", TYPES), "leaky", AxisType.Auto),
    (mpj.ModProp("auto", TYPES), "leaky", AxisType.Explicit),
    (mpj.ModProp(0.3, TYPES, taps=2), "leaky, no tau to train", AxisType.Explicit),
    (mpj.MDGL(TYPES), "rate", AxisType.Explicit),
]
# with a trace of random numbers, or of values that the examples share
ONLINE = [
    (mpj.UORO(), AxisType.Explicit),
    (mpj.FutureBPTT(4), AxisType.Explicit),
    (mpj.KeRNL(), AxisType.Auto),
    (mpj.KeRNL(), AxisType.Explicit),
    (mpj.DNI(learn=optax.sgd(0.1)), AxisType.Auto),
]
STEPS, BATCH = 150, 16


def _loss(rnn, xs, ys):
    return jnp.mean((rnn(xs) - ys) ** 2)


def _segment_loss(rnn, carry, xs, ys):
    carry, zs = rnn(xs, carry)
    return jnp.sum((zs - ys) ** 2) / (STEPS * BATCH * 8), carry


def _problem(rule, name):
    cell = mpj.RateCell(3, 8, alpha=0.5, key=jr.key(0))
    if name == "leaky":
        cell = mpj.LeakyCell(3, 8, tau=jnp.asarray(5.0), use_bias=True, key=jr.key(0))
    elif name != "rate":
        cell = mpj.LeakyCell(3, 8, tau=5.0, use_bias=True, key=jr.key(0))
    xs, ys = jr.normal(jr.key(1), (STEPS, BATCH, 3)), jr.normal(jr.key(2), (STEPS, BATCH, 8))
    return mpj.RNN(cell, rule=rule), xs, ys


def _leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]


def _reductions(text):
    """The operands of all-reduces, by the computation in which they stand."""
    found = {}
    for block in text.split("\n\n"):
        name = block.strip().split(" ", 1)[0]
        shapes = re.findall(r"= (.*?) all-reduce(?:-start)?\(", block)
        if shapes:
            found[name] = [s for shape in shapes for s in re.findall(r"f\d+\[[\d,]*\]", shape)]
    return found


@pytest.mark.parametrize("rule, name, axis_type", CASES)
def test_sharded_batch(rule, name, axis_type):
    assert len(jax.devices()) == 8
    rnn, xs, ys = _problem(rule, name)
    want_loss, want = eqx.filter_jit(mpj.value_and_grad(_loss))(rnn, xs, ys)
    arrays, static = eqx.partition(rnn, eqx.is_array)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        arrays = jax.device_put(arrays, NamedSharding(mesh, P()))
        xs, ys = jax.device_put((xs, ys), NamedSharding(mesh, P(None, "batch")))

        def gradient(arrays, xs, ys):
            return mpj.value_and_grad(_loss)(eqx.combine(arrays, static), xs, ys)

        compiled = jax.jit(gradient).lower(arrays, xs, ys).compile()
        loss, gradients = compiled(arrays, xs, ys)
        np.testing.assert_allclose(loss, want_loss, rtol=1e-12)
        for have, need in zip(_leaves(gradients), _leaves(want), strict=True):
            np.testing.assert_allclose(have, need, rtol=1e-9, atol=1e-15)
        reductions = _reductions(compiled.as_text())
        assert list(reductions) == ["ENTRY"], "an all-reduce inside a loop"
        for weight in ("f64[8,8]", "f64[8,3]", "f64[8]"):
            assert reductions["ENTRY"].count(weight) == 1

        def stream(arrays, xs, ys):
            rnn = eqx.combine(arrays, static)
            online = mpj.online_value_and_grad(_segment_loss, segment=40)
            return online(rnn, rnn.init((BATCH,)), xs, ys)[1]

        if rule.trace(rnn.cell) is not None:
            streamed = jax.jit(stream)(arrays, xs, ys)
            for have, need in zip(_leaves(streamed), _leaves(want), strict=True):
                np.testing.assert_allclose(have, need, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("rule, axis_type", ONLINE)
def test_sharded_stream(rule, axis_type):
    """The gradients, and the traces, of the same stream on one device."""
    rnn, xs, ys = _problem(rule, "rate")
    xs, ys = xs[:30], ys[:30]
    arrays, static = eqx.partition(rnn, eqx.is_array)
    carry = rnn.init((BATCH,), key=jr.key(3))
    carried, rest = eqx.partition(carry, eqx.is_array)

    @jax.jit
    def stream(arrays, carried, xs, ys):
        online = mpj.online_value_and_grad(_segment_loss, segment=8)
        both = eqx.combine(arrays, static), eqx.combine(carried, rest)
        (_, carry), gradients = online(*both, xs, ys)
        return gradients, eqx.filter(carry, eqx.is_array)

    want = stream(arrays, carried, xs, ys)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        arrays, carried = jax.device_put((arrays, carried), NamedSharding(mesh, P()))
        xs, ys = jax.device_put((xs, ys), NamedSharding(mesh, P(None, "batch")))
        have = stream(arrays, carried, xs, ys)
    for a, b in zip(_leaves(have), _leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("rule", [mpj.MDGL(TYPES), mpj.UORO(), mpj.FutureBPTT(4, driven=True)])
def test_sharded_drive_and_states(rule, axis_type):
    """A loss on all states, by the drive of one segment and, streamed, by the cell."""
    rnn, xs, ys = _problem(rule, "rate")
    xs, ys = xs[:20], ys[:20]
    arrays, static = eqx.partition(rnn, eqx.is_array)

    @jax.jit
    def gradient(arrays, carry, xs, drive):
        rnn = eqx.combine(arrays, static)

        def loss(rnn, carry, seen):
            carry, zs, states = rnn(seen[0], carry, drive=seen[1], states=True)
            return jnp.sum(zs**2 + states**3) / BATCH, carry

        stream = mpj.online_value_and_grad(lambda *a: loss(*a[:3]), segment=8)
        by_drive = jax.grad(lambda drive: loss(rnn, carry, (xs, drive))[0])(drive)
        return by_drive, stream(rnn, carry, (xs, drive), xs)[1]

    carry = rnn.init((BATCH,), key=jr.key(3))
    want = gradient(arrays, carry, xs, ys)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        arrays, carry = jax.device_put((arrays, carry), NamedSharding(mesh, P()))
        xs, ys = jax.device_put((xs, ys), NamedSharding(mesh, P(None, "batch")))
        have = gradient(arrays, carry, xs, ys)
    for a, b in zip(_leaves(have), _leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


def test_what_examples_share_needs_auto_axes():
    rule = mpj.DNI(learn=optax.sgd(0.1))
    rnn, xs, _ = _problem(rule, "rate")
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        xs = jax.device_put(xs, NamedSharding(mesh, P(None, "batch")))
        with pytest.raises(ValueError, match="not served under Explicit"):
            rnn(xs, rnn.init((BATCH,), key=jr.key(0)))
