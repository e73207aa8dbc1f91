"""Presynaptic filters for the membrane, and rows a synapse for the rest of a neuron.

Streamed equals offline, in which there is no trace; and where the membrane is not of that kind,
another trace serves, or the claim is refused.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flagged import DONE, flagged, MASK, padded, stream
from helpers import (
    assert_close,
    data,
    distance,
    gradient,
    jit,
    M,
    MASK as CONNECTED,
    N,
    Net,
    OUT,
    streamed_gradient,
    T,
    TYPES,
    weights,
)

import modprop_jax as mpj
from modprop_jax._credit import Credit
from modprop_jax._trace import ByMembrane, Dense, PerSynapse
from modprop_jax._tree import inexact


ALIF: dict[str, Any] = {"tau": 5.0, "tau_adaptation": 30.0, "beta": 0.7, "threshold": 0.3}
STRONG = 1.5 * jr.normal(jr.key(3), (N, N)) / N**0.5


def alif(**options: Any) -> Any:
    return mpj.ALIFCell(M, N, use_bias=True, key=jr.key(2), **(ALIF | options))


class Adapting(mpj.NeuronCell):
    """Leaky neurons with two more variables, and a start: what they emit is smooth.

    `rate` and `v0` are one value a neuron, `retained` one for all.
    """

    retained: jax.Array
    rate: jax.Array
    v0: jax.Array

    def __init__(self, **options):
        mpj.NeuronCell.__init__(self, M, N, use_bias=True, key=jr.key(4), **options)
        self.retained = jnp.asarray(0.7)
        self.rate = jnp.linspace(0.4, 0.9, N)
        self.v0 = jnp.linspace(-0.5, 0.6, N)

    uniform_leak: Any = property(lambda self: True)
    gain: Any = property(lambda self: 0.3)
    leak: Any = property(lambda self: self.retained)

    def init(self, batch_shape: Any = ()):
        v = jnp.broadcast_to(self.v0, (*batch_shape, N))
        return {"a": jnp.zeros_like(v), "b": 0.5 * v, "v": v}

    def membrane(self, state):
        return state["v"]

    def integrate(self, state, drive):
        a, b, v = state["a"], state["b"], state["v"]
        rate = jnp.broadcast_to(self.rate, v.shape)
        a_next = rate * a + jnp.tanh(v) * jnp.cos(b)
        # of the drive too, and of the membrane without a derivative
        b_next = 0.5 * jnp.sin(b + a) + 0.2 * jnp.tanh(drive)
        reset = jax.lax.stop_gradient(jnp.maximum(v, 0))
        return {"a": a_next, "b": b_next, "v": self.retained * v + 0.3 * drive - 0.2 * reset}

    def emit(self, state):
        return jnp.tanh(state["v"] - 0.8 * state["a"] + 0.5 * state["b"])


class FromBias(Adapting):
    """A start that reads what the drive reads."""

    def init(self, batch_shape: Any = ()):
        assert self.bias is not None
        v = jnp.broadcast_to(jnp.sin(self.bias) + self.v0, (*batch_shape, N))
        return {"a": jnp.zeros_like(v), "b": 0.5 * v, "v": v}


class Coupled(Adapting):
    """Its membrane hears of the adaptation, whatever it says."""

    def integrate(self, state, drive):
        after = Adapting.integrate(self, state, drive)
        return after | {"v": after["v"] - 0.1 * state["a"] * state["v"]}


class Scaled(Adapting):
    """No membrane is selected."""

    def membrane(self, state):
        return 2 * state["v"]


class Unsaid(Adapting):
    """Nor here."""

    membrane: Any = mpj.NeuronCell.membrane


class Fading(mpj.EProp):
    """A step back that is not the neuron's own."""

    def back(self, on, point, credit, direct):
        back = mpj.EProp.back(self, on, point, credit, direct)
        return back._replace(credit=jax.tree.map(lambda c: c / 2, back.credit))


EPROP = mpj.EProp()
SYNAPSES = mpj.Sparse.from_dense(STRONG, CONNECTED)
CELLS: dict[str, Any] = {
    "alif": alif,
    "alif that learns": lambda: alif(
        tau=jnp.asarray(5.0), beta=jnp.linspace(0.4, 1.0, N), threshold=mpj.Positive(0.3)
    ),
    "alif of few synapses": lambda: alif(refractory=3, mask=CONNECTED, scale_input=True),
    "alif of a list": lambda: alif(recurrent=SYNAPSES, scale_adaptation=True),
    "alif of its own threshold": lambda: alif(divide_by_adaptive=True),
    "filtered alif": lambda: mpj.Filtered(alif(), 0.7),
    "twice filtered alif": lambda: mpj.Filtered(alif(), (0.7, 1.0), scale=True),
    "filtered lif": lambda: mpj.Filtered(
        mpj.LIFCell(M, N, tau=5.0, threshold=0.3, refractory=2, key=jr.key(2)), 0.7
    ),
    "filtered leaky": lambda: mpj.Filtered(
        mpj.LeakyCell(M, N, tau=jnp.asarray(4.0), activation=jnp.tanh, key=jr.key(1)), 0.7
    ),
    "adapting": Adapting,
    "filtered adapting": lambda: mpj.Filtered(Adapting(), np.linspace(0.3, 0.8, N)),
}
CASES = [(name, EPROP) for name in CELLS]
CASES += [("alif", mpj.MDGL(TYPES)), ("adapting", mpj.MDGL())]
CASES += [("filtered adapting", mpj.MDGL(TYPES, online=True))]


@functools.cache
def cell(name: str) -> Any:
    return CELLS[name]()


def model(c: Any, rule: Any) -> Any:
    features = jax.eval_shape(lambda: c.emit(c.init())).shape[-1]
    return Net(mpj.RNN(c, rule=rule), mpj.Readout(features, OUT, key=jr.key(7)))


@pytest.mark.parametrize("name, rule", CASES)
def test_streamed_is_offline(name, rule):
    made = model(cell(name), rule)
    assert rule.on(cell(name)).trace == ByMembrane()
    _, expected = gradient(made, *data())
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected.rnn.cell))
    for segment in (1, 7, T):
        assert_close(streamed_gradient(segment)(made, *data())[1], expected, 1e-10)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_batch(batch):
    made = model(cell("filtered alif"), EPROP)
    _, expected = gradient(made, *data(batch))
    assert_close(streamed_gradient(4)(made, *data(batch))[1], expected, 1e-10)


@pytest.mark.parametrize("segment", [1, 7])
@pytest.mark.parametrize("name", ["alif of few synapses", "filtered adapting"])
def test_sequences_that_end_and_pause(name, segment):
    made, (xs, ys) = model(cell(name), EPROP), padded()
    _, expected = flagged(made, xs, ys, DONE, MASK)
    carry = made.rnn.init(xs.shape[1:-1])
    (_, carry), found = stream(segment)(made, carry, (xs, DONE, MASK), ys)
    assert_close(found, expected, 1e-10)


class Forced(mpj.EProp):
    """e-prop with a trace of one's choice."""

    by: Any = eqx.field(static=True)

    def trace(self, on):
        return self.by


@pytest.mark.parametrize("name", ["alif that learns", "filtered alif", "adapting"])
def test_it_is_the_influence_matrix(name):
    """Seen through any credit, as are the rows of all variables."""
    c, xs = cell(name), data()[0]
    inner, emission = c.parts()
    state, rng = inner.init((2,)), np.random.default_rng(2)
    zero = Credit(inexact(state), (), emission.silent(inner.emit(state)))
    credit = jax.tree.map(lambda z: jnp.asarray(rng.normal(size=z.shape)), zero)

    def response(trace):
        rule = Forced(trace)
        carry = rule.init(c, c.init((2,)))
        for part in (xs[:4], xs[4:5], xs[5:8]):
            carry, _ = mpj.scan(c, carry, part, rule=rule)
        return trace.contract(rule.on(c), carry.trace, credit)

    traces = ByMembrane(), PerSynapse(filter_is_local=True), Dense()
    found, rows, dense = jit(lambda: [response(trace) for trace in traces])()
    assert_close(found, rows, 1e-11)
    assert_close(found, dense, 1e-11)


@pytest.mark.parametrize(
    "name, rows", [("alif", 1), ("filtered alif", 2), ("twice filtered alif", 3)]
)
def test_a_synapse_keeps_no_row_of_the_membrane(name, rows):
    c = cell(name)
    carry = EPROP.init(c, c.init((2,)))
    synapses = N * N + N * M + N
    # and what each synapse's sender sent
    assert sum(leaf.size for leaf in jax.tree.leaves(carry.trace)) == 2 * (
        rows * synapses + N + M + 1
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numbers_stay_as_wide(dtype):
    c = alif(dtype=dtype)
    made = Net(mpj.RNN(c, rule=EPROP), mpj.Readout(N, OUT, dtype=jnp.float32, key=jr.key(7)))
    xs, ys = (a.astype(jnp.float32) for a in data())
    _, expected = gradient(made, xs, ys)
    (_, carry), found = streamed_gradient(4)(made, xs, ys)
    assert_close(found, expected, 1e-5 if dtype == jnp.float32 else 0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves(carry.trace)} == {jnp.dtype(jnp.float32)}


OTHERS: dict[str, Any] = {
    "credit through the reset": lambda: alif(reset_gradient=True),
    "leaks of their own": lambda: alif(tau=np.linspace(4.0, 6.0, N)),
    "leaks that are learnt apart": lambda: alif(tau=jnp.linspace(4.0, 6.0, N)),
    "a start of weights": FromBias,
    "a membrane that is made": Scaled,
    "a membrane that is not said": Unsaid,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_neurons_keep_a_row_of_each_variable(name):
    c = OTHERS[name]()
    assert EPROP.on(c).trace == PerSynapse(filter_is_local=True)
    _, expected = gradient(model(c, EPROP), *data())
    assert_close(streamed_gradient(4)(model(c, EPROP), *data())[1], expected, 1e-10)


def test_so_does_a_rule_with_another_step_back():
    made = model(cell("alif"), Fading())
    assert Fading().on(cell("alif")).trace == PerSynapse(filter_is_local=True)
    _, expected = gradient(made, *data())
    assert (
        distance(weights(gradient(model(cell("alif"), EPROP), *data())[1]), weights(expected))
        > 0.01
    )
    assert_close(streamed_gradient(4)(made, *data())[1], expected, 1e-10)


def test_a_map_without_a_parameter_a_synapse_is_refused_as_before():
    pieces = jr.normal(jr.key(0), (N, 2)), jr.normal(jr.key(1), (N, 2))
    c = alif(recurrent=mpj.LowRank(*pieces))
    with pytest.raises(ValueError, match="a trace for each synapse"):
        EPROP.init(c, c.init((2,)))


def test_a_wrong_claim_is_refused():
    make: Any = Coupled
    for rule in (EPROP, mpj.MDGL()):
        with pytest.raises(ValueError, match="Coupled.uniform_leak is True.*leave uniform_leak"):
            rule.init(make(), make().init((2,)))
