"""The rules' cards against what the rules do: their traces, operations and gradients."""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import (
    jit,
    LABELS,
    linear_units,
    meeting,
    public_rules,
    rate,
    rule,
    RULES,
)

import modprop_jax as mpj
from modprop_jax._rule import AbstractEstimatingRule, AbstractInfluenceRule, LAST
from modprop_jax._rule.stochastic._base import AbstractStochasticRule
from modprop_jax.experiments import main, METHODS, RULES as CREDIT_RULES
from modprop_jax.experiments._rules import ENTRIES


def leaky(n: int, m: int, key: Any) -> Any:
    return mpj.LeakyCell(m, n, tau=3.0, activation=jnp.tanh, use_bias=True, key=key)


ROWS = meeting("cost")
CARDS = mpj.cards()


def card(row_name: str) -> mpj.Card:
    return rule(row_name).card


def value_of(formula: str, row_name: str, n: int, m: int) -> int:
    return eval(formula, {"__builtins__": {}}, {"n": n, "m": m, **RULES[row_name].sizes(n)})


def sketch(build: Callable[[int, int, Any], Any], n: int, m: int) -> Any:
    """A cell, its arrays by shape and dtype alone."""
    return eqx.filter_eval_shape(lambda key: build(n, m, key), jr.key(0))


def carry_of(rule: Any, cell: Any, batch: tuple[int, ...] = ()) -> Any:
    """A carry in the same way."""

    def make(cell, key):
        return rule.init(cell, cell.init(batch), key=key)

    return eqx.filter_eval_shape(make, cell, jr.key(0))


def test_every_rule_has_a_card_and_a_row():
    assert set(CARDS) == public_rules() == {type(rule(name)).__name__ for name in ROWS}
    for name, written in CARDS.items():
        assert written is getattr(mpj, name).card
        assert all(field is None or field != "" for field in written), name
    assert all(one != other for one, other in itertools.combinations(CARDS.values(), 2))


def test_names_and_places_are_each_rules_own():
    named = [(name, entry) for name, card in CARDS.items() for entry in card.names]
    labels = [entry.name for _, entry in named]
    assert len(set(labels)) == len(labels) and set(CREDIT_RULES) == set(labels)
    assert not set(labels) & set(METHODS) and set(ENTRIES) == {*labels, *METHODS}
    for places in ([card.place for card in CARDS.values()], [e.place for e in ENTRIES.values()]):
        given = [place for place in places if place != LAST]
        assert places == sorted(places) and len(set(given)) == len(given)
    for name, entry in named:
        options = {"mu": 0.5} if "mu" in entry.options else {}
        assert type(ENTRIES[entry.name].build((0, 1, 1, 0), **options)).__name__ == name


# --- cost ---


def floats(rule: Any, cell: Any) -> tuple[int, int]:
    """Numbers of trace (of each example, shared by all); other than keys, counts and flags."""

    def total(examples):
        leaves = jax.tree.leaves(carry_of(rule, cell, (examples,)).trace)
        return sum(leaf.size for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact))

    one, two = total(1), total(2)
    return two - one, 2 * one - two


@pytest.mark.parametrize("row_name", ROWS)
def test_memory(row_name):
    written = card(row_name)
    for n, m in [(4, 3), (8, 3), (8, 6)]:
        each, shared = floats(rule(row_name, n), sketch(RULES[row_name].kind, n, m))
        assert each == value_of(written.memory, row_name, n, m)
        assert shared == value_of(written.shared, row_name, n, m)


def test_memory_is_by_probe():
    one, three = (floats(mpj.UORO(probes=k), sketch(rate, 4, 3))[0] for k in (1, 3))
    assert three == 3 * one


@pytest.mark.parametrize("row_name", [name for name in ROWS if card(name).leaky is not None])
def test_memory_on_leaky_neurons(row_name):
    made, written = rule(row_name, 8), card(row_name)
    # what is cell-specific has no filter of presynaptic activity in common
    formula = written.memory if RULES[row_name].sizes(8).get("C") == 8 else written.leaky
    for m in (3, 6):
        assert floats(made, sketch(leaky, 8, m)) == (value_of(str(formula), row_name, 8, m), 0)


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of a program; nothing is compiled."""

    def is_array(leaf):
        return isinstance(leaf, jax.ShapeDtypeStruct | jax.Array)

    arrays, static = eqx.partition(arguments, is_array)

    def run(arrays):
        return eqx.filter(function(*eqx.combine(arrays, static)), eqx.is_array)

    analysis = jax.jit(run).lower(arrays).cost_analysis()
    assert analysis is not None
    return analysis["flops"]


def operations(row_name: str, n: int) -> float:
    """Of one step's gradient and trace, m = n; without what SKRTRL makes of its weights once a
    segment."""
    kind = RULES[row_name].kind
    # an LRUCell's inputs are part of its state: as many as units would be taken for a variable
    m = n + 1 if kind is linear_units else n
    made, cell = rule(row_name, n), sketch(kind, n, m)
    xs, labels = jnp.zeros((1, m)), jnp.zeros((1, LABELS))

    def loss(layer, carry, xs, labels):
        reads = isinstance(made, AbstractEstimatingRule) and made.context_size
        carry, zs = layer(xs, carry, context=labels if reads else None)
        return jnp.sum(zs**2), carry

    gradient = mpj.online_value_and_grad(loss, segment=1)
    once = flops(made.prepare, cell) if isinstance(made, mpj.SKRTRL) else 0
    layer = mpj.RNN(cell, rule=made)
    return flops(gradient, layer, carry_of(made, cell), xs, labels) - once


# The pattern of SnAp(2) takes its time at these sizes. Flops of a solve, and of a loop that ends
# when it has converged, are not counted.
NOT_COUNTED = ("snap_two_steps", "quasi_static", "ei_credit")


@pytest.mark.slow
# at these sizes cell-specific ModProp says that it streams as slowly as RTRL
@pytest.mark.filterwarnings("ignore:Cell-specific ModProp streams")
@pytest.mark.parametrize("row_name", [name for name in ROWS if name not in NOT_COUNTED])
def test_time(row_name):
    """Twice as many neurons and inputs: as many more operations as the formula says."""
    sizes = (64, 128)
    found = [operations(row_name, n) for n in sizes]
    said = [value_of(card(row_name).time, row_name, n, n) for n in sizes]
    assert found[1] / found[0] == pytest.approx(said[1] / said[0], rel=0.12)
    # h and C of a formula as well: up to a constant of a few matmuls
    assert 1.5 < found[1] / said[1] < 20


@pytest.mark.slow
@pytest.mark.parametrize("certificate, products", [(True, 7), (False, 1)])
def test_time_of_a_sketch_once_a_segment(certificate, products):
    """Six products of (n, n) matrices for the certificate, one for the network's own matrix."""
    made = mpj.SKRTRL(2, certificate=certificate)
    once = flops(made.prepare, sketch(rate, 128, 128))
    assert once == pytest.approx(2 * products * 128**3, rel=0.1)


# --- bias ---


def plain_gradient(rule: Any, cell: Any, xs: Any, ws: Any) -> Any:
    """By `jax.lax.scan` of the rule's one-step derivative: of BPTT, JAX's own."""

    def loss(cell):
        def step(state, x):
            state = rule.step(cell, state, x)
            return state, cell.emit(state)

        return small_loss(jax.lax.scan(step, cell.init(), xs)[1], ws)

    return jit(eqx.filter_grad(loss))(cell)


def small_loss(zs, ws):
    return jnp.sum(ws * (zs + 0.3 * zs**3))


def small(cell: Any, steps: int) -> tuple:
    """The cell, inputs, and weights of its emissions in a loss."""
    rng = np.random.default_rng(2)
    out = len(cell.emit(cell.init()))
    xs, ws = rng.normal(size=(steps, cell.in_size)), rng.normal(size=(steps, out))
    return cell, jnp.asarray(xs), jnp.asarray(ws)


def test_bias_is_what_the_table_shows():
    """`test_differ` holds each row to BPTT."""
    for name in RULES:
        assert (card(name).bias == "exact") == ("exact" not in RULES[name].opts_out)


def draws(rule: Any, problem: tuple, count: int) -> np.ndarray:
    """The gradient under each of so many keys, (count, parameters)."""
    cell, xs, ws = problem

    def one(key):
        def loss(cell):
            carry = rule.init(cell, cell.init(), key=key)
            return small_loss(mpj.scan(cell, carry, xs, rule=rule)[1], ws)

        return as_row(eqx.filter_grad(loss)(cell))

    return np.asarray(jit(jax.vmap(one))(jr.split(jr.key(1), count)))


def as_row(gradient: Any) -> Any:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


@pytest.fixture(scope="module")
def two_neurons() -> tuple:
    """A network, and its gradients by BPTT and by e-prop."""
    cell: Any = mpj.RateCell(2, 2, alpha=0.6, key=jr.key(4))
    cell = eqx.tree_at(lambda c: c.weight_rec, cell, 2.0 * cell.weight_rec)
    problem = small(cell, 4)
    return problem, *(as_row(plain_gradient(r, *problem)) for r in (mpj.BPTT(), mpj.EProp()))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROWS if card(name).stochastic])
def test_mean_of_stochastic_rules(name, two_neurons):
    problem, exact, local = two_neurons
    found = draws(rule(name, 2), problem, 4000)
    spread = found.std(axis=0, ddof=1)
    assert (spread > 1e-9).all()

    def off(expected):
        """In standard errors of the mean."""
        return np.max(np.abs(found.mean(axis=0) - expected) * np.sqrt(len(found)) / spread)

    if card(name).bias == "unbiased":
        # enough draws to tell RTRL's gradient from e-prop's
        assert off(exact) < 5 and off(local) > 8
    else:
        assert off(exact) > 8


# --- the other axes ---


@pytest.mark.parametrize("row_name", ROWS)
def test_axes(row_name):
    made, written = rule(row_name, 4), card(row_name)
    carry = carry_of(made, sketch(RULES[row_name].kind, 4, 3))
    # who draws keeps a key; a gradient without one is a function of carry and data
    keys = [leaf for leaf in jax.tree.leaves(carry.trace) if leaf.dtype == jnp.uint32]
    assert written.stochastic == bool(keys)
    if isinstance(made, AbstractStochasticRule):
        assert written.bias == "unbiased"
    # what a rule learns, it learns by an optax transformation, and a batch shares it
    learns = [v for v in vars(made).values() if isinstance(v, optax.GradientTransformation)]
    assert written.learned == bool(learns) == (written.shared != "0")
    if isinstance(made, AbstractInfluenceRule):
        assert written.facing == "past"
    elif isinstance(made, AbstractEstimatingRule) or carry.trace is None:
        assert written.facing == "future"
    elif not jax.tree.leaves(carry.trace):
        assert written.facing == "neither"
    else:
        # a trace, and a reverse form of its own
        assert written.facing == ("future" if isinstance(made, mpj.FutureBPTT) else "both")


# --- the taxonomy ---


def test_the_taxonomy_has_what_cards_say(capsys):
    assert main(["list", "--taxonomy"]) == 0
    text = capsys.readouterr().out
    assert text == mpj.taxonomy() + "\n"
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {11}
    for name, written in CARDS.items():
        (row,) = (line for line in table if line.startswith(f"| `{name}`: {written.called} |"))
        for field in (written.facing, written.bias, written.when, written.synapse):
            assert field in row
        for formula in (written.memory, written.time, written.leaky, written.shared):
            assert formula is None or formula == "0" or f"`{formula}`" in row
