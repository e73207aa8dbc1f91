"""Every small trace is the dense influence matrix, seen through any credit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, BATCH, cell, data, inner, jit, N, rule, T, TYPES

import modprop_jax as mpj
from modprop_jax._trace import Dense, PerSynapse, Presynaptic
from modprop_jax._trace._base import no_credit
from modprop_jax._trace._response import met
from modprop_jax._tree import with_fields


def forced(rule_name, trace):
    """The rule of the table, made to carry its past in another trace."""
    made = rule(rule_name)
    cls = type(made)

    def on(self, cell, in_size=None, *, streams=True):
        program = cls.on(self, cell, in_size, streams=streams)
        return with_fields(program, trace=trace) if streams else program

    forced = object.__new__(type("Forced", (cls,), {"on": on}))
    for field in dataclasses.fields(made):
        object.__setattr__(forced, field.name, getattr(made, field.name))
    return forced


def responses(rule, c, credits):
    """What the trace makes of each credit after two segments, of four steps and of one."""
    xs = data()[0]
    carry = rule.init(c, c.init(BATCH))
    for part in (xs[:4], xs[4:5], xs[5:7]):
        carry, _ = mpj.scan(c, carry, part, rule=rule)
    on = rule.on(c)
    return [on.trace.contract(on, carry.trace, credit) for credit in credits]


def random_credits(rule, c, count=3):
    on = rule.on(c)
    state, _ = on.emission.split(c.init(BATCH))
    zero, rng = no_credit(on, state, BATCH), np.random.default_rng(2)
    return [
        jax.tree.map(lambda z: jnp.asarray(rng.normal(size=z.shape)), zero) for _ in range(count)
    ]


# (rule, cell, the trace that serves them)
FAST = [
    ("eprop", "leaky", Presynaptic()),
    ("eprop", "adaptive", PerSynapse(filter_is_local=True)),
    ("eprop", "filtered_adaptive", PerSynapse(filter_is_local=True)),
    ("mdgl_types", "adaptive", PerSynapse(filter_is_local=False)),
    ("mdgl_diffuse", "filtered_adaptive", PerSynapse(filter_is_local=False)),
    ("modprop", "leaky", PerSynapse(filter_is_local=False)),
    ("modprop_types", "leaky", Presynaptic(TYPES)),
    ("modprop_mu_by_type", "leaky_tau", Presynaptic(TYPES)),
    ("modprop_types", "leaky_taus", PerSynapse(filter_is_local=False)),
    ("modprop_types", "filtered_adaptive", PerSynapse(filter_is_local=False)),
    ("modprop_auto_types", "leaky", Presynaptic(TYPES)),
    ("modprop_auto", "leaky", PerSynapse(filter_is_local=False)),
]


@pytest.mark.slow
@pytest.mark.parametrize("rule_name, cell_name, trace", FAST, ids=lambda p: str(p).split("(")[0])
def test_the_fast_trace_equals_the_dense_one(rule_name, cell_name, trace):
    c, made = cell(cell_name), rule(rule_name)
    assert made.on(c).trace == trace, "the table names the trace that serves"
    credits = random_credits(made, c)
    fast = jit(lambda c: responses(made, c, credits))(c)
    dense = jit(lambda c: responses(forced(rule_name, Dense()), c, credits))(c)
    for have, want in zip(fast, dense, strict=True):
        assert_close(have, want, 1e-11)


@pytest.mark.parametrize(
    "rule_name, cell_name", [("eprop", "leaky_tau"), ("mdgl", "leaky"), ("modprop_types", "leaky")]
)
def test_presynaptic_channels_equal_eligibility_traces(rule_name, cell_name):
    c, made = cell(cell_name), rule(rule_name)
    credits = random_credits(made, c)
    each = PerSynapse(filter_is_local=rule_name == "eprop")
    fast = jit(lambda c: responses(made, c, credits))(c)
    slow = jit(lambda c: responses(forced(rule_name, each), c, credits))(c)
    for have, want in zip(fast, slow, strict=True):
        assert_close(have, want, 1e-11)


def floats(tree):
    return sum(a.size for a in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "rule_name, cell_name, expected",
    [
        # per example, with m = 3 inputs and n = 6 neurons: n + m + 1 (bias) presynaptic values
        ("eprop", "leaky", 10),
        # ... in C + C^2 = 12 channels
        ("modprop_types", "leaky", 12 * 10),
        ("modprop_auto_types", "leaky", 12 * 10),
        # ... in a window of S = 3 steps, and what is older
        ("modprop_taps", "leaky", (3 + 1) * 10),
        # ... for each of n neurons
        ("eprop", "rate", 6 * 10),
        # ... of two variables, with three parameters of their own besides
        ("eprop", "adaptive", 2 * 6 * (10 + 3)),
        # ... and once more for each of C = 3 modulators
        ("modprop_types", "adaptive", (2 + 3) * 6 * (10 + 3)),
        # the dense matrix: two variables x n neurons x all parameters
        ("rtrl", "adaptive", 2 * 6 * (6 * 10 + 1 + 6 + 6)),
    ],
)
def test_size_of_a_trace(rule_name, cell_name, expected):
    c = cell(cell_name)
    trace = rule(rule_name).init(c, c.init(BATCH)).trace
    assert floats(trace) == BATCH[0] * expected


def test_a_new_trace_is_the_past_of_nothing():
    for rule_name, cell_name, _ in FAST:
        c = cell(cell_name)
        carry = rule(rule_name).init(c, c.init(BATCH))
        assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(carry.trace))
        assert jax.tree.structure(carry.state) == jax.tree.structure(c.init(BATCH))


def test_the_oracle_sees_more_than_a_local_trace():
    """The dense trace of exact transport is not that of e-prop: the comparison has teeth."""
    c = inner("adaptive")
    credits = random_credits(rule("rtrl"), c)
    exact = jit(lambda c: responses(rule("rtrl"), c, credits))(c)
    local = jit(lambda c: responses(forced("eprop", Dense()), c, credits))(c)
    gap = [
        float(jnp.linalg.norm(e.weight_rec - l.weight_rec) / jnp.linalg.norm(e.weight_rec))
        for e, l in zip(exact, local, strict=True)
    ]
    assert min(gap) > 0.05
    assert T > 7 and N == 6


@pytest.mark.parametrize("rows", [0, 1, 3, 9])
def test_credit_meets_few_and_many_rows_alike(rows):
    rng = np.random.default_rng(rows)
    credit, m = rng.normal(size=(rows, 2, 4, 1)), rng.normal(size=(rows, 2, 4, 5))
    expected = np.einsum("rbj,rbji->ji", credit[..., 0], m)
    assert_close(met(jnp.asarray(credit), jnp.asarray(m)), expected)
