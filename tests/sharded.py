"""A batch sharded over eight (virtual) devices: the same gradients, one all-reduce a weight.

Run by `test_sharding.py`, in a process that has eight devices.
"""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import parts
import pytest
from helpers import jit
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import modprop_jax as mpj


TYPES = (0, 1, 1, 0, 1, 0, 0, 1)
FILTERS = np.array([0.9, 0.5 + 0.3j]), np.full((2, 2, 2), 0.02 + 0.01j)
# (rule, its cell, the mesh's axes): no trace, a presynaptic one, one a synapse
CASES = [
    (mpj.BPTT(), "leaky", AxisType.Auto),
    (mpj.BPTT(), "leaky", AxisType.Explicit),
    (mpj.ModProp("auto", TYPES), "leaky", AxisType.Auto),
    (mpj.ModProp("auto", TYPES), "leaky", AxisType.Explicit),
    (mpj.ModProp(0.3, TYPES, taps=2), "leaky, no tau to train", AxisType.Explicit),
    (mpj.MDGL(TYPES), "rate", AxisType.Explicit),
    (mpj.TypeFilter(FILTERS, TYPES, gated=False, own=[0.1, 0.0]), "leaky", AxisType.Explicit),
    (mpj.TypeFilter(np.real(FILTERS[1]), TYPES), "rate", AxisType.Explicit),
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


def test_sequences_end_under_explicit_axes():
    """Flags are sharded as their batch is; a learnt tau and the state after an end too."""
    rnn, xs, ys = _problem(mpj.EProp(), "leaky")
    done = jr.bernoulli(jr.key(3), 0.1, xs.shape[:2])

    def loss(rnn, xs, ys, done):
        carry, zs = rnn(xs, rnn.init((BATCH,)), done=done)
        return jnp.mean((zs - ys) ** 2) + jnp.sum(mpj.reset(rnn, carry, done[0]).state ** 2)

    expected = eqx.filter_jit(eqx.filter_grad(loss))(rnn, xs, ys, done)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put((xs, ys, done), NamedSharding(mesh, P(None, "batch")))
        found = eqx.filter_jit(eqx.filter_grad(loss))(rnn, *placed)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


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

        if rule.on(rnn.cell).trace is not None:
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


TINY: dict[str, Any] = {"key": jr.key(0)}
GLE: dict[str, Any] = {
    "tau_m": 4.0,
    "tau_r": 2.0,
    "dt": 0.5,
    "activations": jnp.tanh,
    "order": "sync",
    "gamma": 0.2,
}
EQUILIBRIUM: dict[str, Any] = {
    "inputs": np.arange(8) < 3,
    "outputs": np.arange(8) >= 5,
    "activation": jnp.tanh,
    "gain": 0.5,
    "rtol": 1e-13,
    "atol": 1e-13,
}


def _step(params, state, x):
    return jnp.tanh(state * params + x)


# inside of a shard_map: rules of each kind of loop and trace
MAPPED = [
    (mpj.BPTT(), mpj.FunctionCell(_step, jnp.asarray(0.5), np.zeros(3))),
    (mpj.ModProp("auto", TYPES), mpj.LeakyCell(3, 8, tau=jnp.asarray(5.0), **TINY)),
    (mpj.MDGL(TYPES, online=True), mpj.Filtered(mpj.LIFCell(3, 8, tau=5.0, **TINY), (0.8, 1.0))),
    (mpj.SnAp(2), mpj.RateCell(3, 8, alpha=0.5, **TINY)),
    (mpj.EProp(), mpj.GRUCell(3, 8, **TINY)),
    (mpj.QuasiStatic(), mpj.RateCell(3, 8, alpha=0.5, **TINY)),
    (mpj.GLE(), mpj.GLECell([3, 4, 3], **GLE, **TINY)),
    (mpj.EICredit(rtol=1e-13, atol=1e-13), mpj.EquilibriumCell(8, **EQUILIBRIUM, **TINY)),
]


def _mapped(rnn, key=None):
    """`(arrays, xs, done, mask) -> (loss, gradients)` offline, streamed, and by checkpoints."""
    _, static = eqx.partition(rnn, eqx.is_array)

    def loss(rnn, carry, xs, flags):
        done, mask = flags
        carry, zs = rnn(xs, carry, done=done, valid=mask)
        return jnp.sum(zs**2 + 0.1 * zs**3), carry

    def offline(rnn, *seen):
        state = rnn.cell.init(seen[0].shape[1:-1])
        return mpj.value_and_grad(lambda rnn, *seen: loss(rnn, state, *seen)[0])(rnn, *seen)

    def streamed(rnn, *seen):
        carry = rnn.init(seen[0].shape[1:-1], key=key)
        # of nudged neurons, each step's error moves the next
        segment = 1 if isinstance(rnn.rule, mpj.GLE) else 2
        take = mpj.online_value_and_grad(loss, segment=segment)
        (value, _), gradients = take(rnn, carry, *seen)
        return value, gradients

    def checkpointed(rnn, *seen):
        state = rnn.cell.init(seen[0].shape[1:-1])
        take = mpj.checkpointed_value_and_grad(loss, segment=2)
        (value, _), gradients = take(rnn, state, *seen)
        return value, gradients

    ways = [streamed]
    if isinstance(rnn.rule, mpj.BPTT):
        ways = [streamed, offline, checkpointed]

    def run(arrays, xs, done, mask):
        rnn = eqx.combine(arrays, static)
        return [eqx.filter(way(rnn, xs, (done, mask)), eqx.is_array) for way in ways]

    return run


def _seen():
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(5, BATCH, 3)))
    return (
        xs,
        jnp.asarray(rng.random(xs.shape[:2]) < 0.3),
        jnp.asarray(rng.random(xs.shape[:2]) < 0.8),
    )


def _in_shard_map(run):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split = P(None, "batch")
    specs: Any = {"in_specs": (P(), split, split, split), "out_specs": P()}

    def summed(*args):
        return [(jax.lax.psum(value, "batch"), gradients) for value, gradients in run(*args)]

    return jit(jax.shard_map(summed, mesh=mesh, **specs))


@pytest.mark.parametrize("rule, cell", MAPPED)
def test_inside_of_shard_map(rule, cell):
    """Weights that all devices share get the gradient of the whole batch."""
    rnn = mpj.RNN(cell, rule=rule)
    run, arrays = _mapped(rnn), eqx.filter(rnn, eqx.is_array)
    want = jit(run)(arrays, *_seen())
    have = _in_shard_map(run)(arrays, *_seen())
    for a, b in zip(_leaves(have), _leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("rule", [mpj.RTRL(), mpj.DNI(learn=optax.sgd(0.1))])
def test_each_device_for_itself(rule):
    """Weights that differ in type have a gradient on each device, that of its own examples."""
    rnn = mpj.RNN(mpj.RateCell(3, 8, alpha=0.5, key=jr.key(0)), rule=rule)
    run, arrays = _mapped(rnn, jr.key(1)), eqx.filter(rnn, eqx.is_array)
    seen = _seen()
    parts = [jit(run)(arrays, *(a[:, i : i + 2] for a in seen)) for i in range(0, BATCH, 2)]

    def own(arrays, *seen):
        arrays = jax.tree.map(lambda a: jax.lax.pcast(a, "batch", to="varying"), arrays)
        found = run(arrays, *seen)
        return [(value, jax.lax.psum(gradients, "batch")) for value, gradients in found]

    want = [sum(each) for each in zip(*map(_leaves, parts))]
    for a, b in zip(_leaves(_in_shard_map(own)(arrays, *seen)), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


def test_a_carry_of_random_numbers_inside_of_shard_map():
    """Made outside, it has the draws of the whole batch."""
    rnn = mpj.RNN(mpj.RateCell(3, 8, alpha=0.5, key=jr.key(0)), rule=mpj.UORO())
    arrays, static = eqx.partition(rnn, eqx.is_array)
    carry, rest = eqx.partition(rnn.init((BATCH,), key=jr.key(3)), eqx.is_array)

    def stream(arrays, carry, xs):
        online = mpj.online_value_and_grad(_squares, segment=2)
        return online(eqx.combine(arrays, static), eqx.combine(carry, rest), xs, None)[1]

    want = jax.jit(stream)(arrays, carry, _seen()[0])
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split = jax.tree.map(lambda a: P("batch") if a.shape[0] == BATCH else P(None, "batch"), carry)
    specs: Any = {"in_specs": (P(), split, P(None, "batch")), "out_specs": P()}
    have = jax.jit(jax.shard_map(stream, mesh=mesh, **specs))(arrays, carry, _seen()[0])
    for a, b in zip(_leaves(have), _leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


def _squares(rnn, carry, xs, _):
    carry, zs = rnn(xs, carry)
    return jnp.sum(zs**2), carry


@pytest.mark.parametrize("rule", [mpj.KeRNL(), mpj.DNI(learn=optax.sgd(0.1))])
def test_what_examples_share_inside_of_shard_map(rule):
    rnn = mpj.RNN(mpj.RateCell(3, 8, alpha=0.5, key=jr.key(0)), rule=rule)
    run, arrays = _mapped(rnn, jr.key(1)), eqx.filter(rnn, eqx.is_array)
    with pytest.raises(ValueError, match=f"{type(rule).__name__} learns from all examples.*Auto"):
        _in_shard_map(run)(arrays, *_seen())


def test_what_examples_share_needs_auto_axes():
    rule = mpj.DNI(learn=optax.sgd(0.1))
    rnn, xs, _ = _problem(rule, "rate")
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        xs = jax.device_put(xs, NamedSharding(mesh, P(None, "batch")))
        with pytest.raises(ValueError, match="not served under Explicit"):
            rnn(xs, rnn.init((BATCH,), key=jr.key(0)))


@pytest.mark.parametrize("cell, rule, segment", parts.CASES, ids=parts.IDS)
def test_neurons_over_devices(cell, rule, segment):
    """Gradients and carries are those of one device; a device holds its part of the synapses, of
    their gradient and of their traces, and receives one number a neuron."""
    plain, model = (parts.network(cell, rule, count) for count in (None, parts.PARTS))
    (want, _), expected = parts.gradient(plain, segment)
    mesh = jax.make_mesh((8,), ("neurons",), axis_types=(AxisType.Auto,))
    placed = mpj.over_neurons(model, mesh, model)
    (value, carry), gradients = parts.gradient(placed, segment)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    parts.same(gradients, model, expected, plain)
    (_, single), _ = parts.gradient(model, segment)
    for have, need in zip(_leaves(carry), _leaves(single), strict=True):
        np.testing.assert_allclose(have, need, rtol=1e-10, atol=1e-12)
    weight = gradients[0].cell.weight_rec.weight
    assert {shard.data.shape for shard in weight.addressable_shards} == {(1, weight.shape[1])}
