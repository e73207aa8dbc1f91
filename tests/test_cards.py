"""The rules' cards against what the rules do: their traces, operations and gradients."""

import inspect
import itertools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import cell as table_cell, data, distance, jit, Net, net, offline, segment_loss

import modprop_jax as mpj
from modprop_jax._rule import AbstractEstimatingRule, AbstractInfluenceRule, LAST
from modprop_jax._rule.stochastic._base import AbstractStochasticRule
from modprop_jax.experiments import main, RULES
from modprop_jax.experiments._rules import METHODS


# without a state of its own
SGD = optax.sgd(0.02)
LABELS = 2


def rate(n: int, m: int, key: Any) -> Any:
    return mpj.RateCell(m, n, alpha=0.6, key=key)


def leaky(n: int, m: int, key: Any) -> Any:
    return mpj.LeakyCell(m, n, tau=3.0, activation=jnp.tanh, use_bias=True, key=key)


def linear_units(n: int, m: int, key: Any) -> Any:
    return mpj.LRUCell(m, n, key=key)


def lagging(n: int, m: int, key: Any) -> Any:
    return mpj.GLECell([m, n], tau_m=1.0, tau_r=0.3, dt=0.1, activations=jnp.tanh, key=key)


def settling(m: int, n: int, key: Any) -> Any:
    """Of n + m units, m are clamped."""
    inputs = np.arange(n + m) < m
    options = {"inputs": inputs, "outputs": ~inputs, "activation": jnp.tanh, "key": key}
    return mpj.EquilibriumCell(n + m, **options)


def three_types(n: int) -> list[int]:
    return [i % 3 for i in range(n)]


class Row(NamedTuple):
    """A rule for n neurons, and what its formulas have beside n and m."""

    make: Callable[[int], Any]
    sizes: Callable[[int], dict[str, int]] = lambda n: {}
    cell: Callable[[int, int, Any], Any] = rate


ROWS = {
    "BPTT": Row(lambda n: mpj.BPTT()),
    "RTRL": Row(lambda n: mpj.RTRL()),
    "DiagonalRTRL": Row(lambda n: mpj.DiagonalRTRL(), cell=linear_units),
    "EProp": Row(lambda n: mpj.EProp()),
    "MDGL": Row(lambda n: mpj.MDGL()),
    "ModProp": Row(lambda n: mpj.ModProp(0.05, three_types(n)), lambda n: {"C": 3}),
    "ModProp, cell-specific": Row(lambda n: mpj.ModProp(0.05), lambda n: {"C": n}),
    "SnAp": Row(lambda n: mpj.SnAp(1), lambda n: {"r": 1}),
    "SnAp, two steps": Row(lambda n: mpj.SnAp(2), lambda n: {"r": n}),
    "UORO": Row(lambda n: mpj.UORO()),
    "KFRTRL": Row(lambda n: mpj.KFRTRL()),
    "RKFRTRL": Row(lambda n: mpj.RKFRTRL()),
    "KeRNL": Row(lambda n: mpj.KeRNL(sigma=0.1, learn=SGD)),
    "FutureBPTT": Row(lambda n: mpj.FutureBPTT(4), lambda n: {"h": 4}),
    "DNI": Row(lambda n: mpj.DNI(labels=LABELS, learn=SGD), lambda n: {"k": LABELS}),
    "LocalDNI": Row(
        lambda n: mpj.LocalDNI(labels=LABELS, learn=SGD, learn_jacobian=SGD),
        lambda n: {"k": LABELS},
    ),
    "QuasiStatic": Row(lambda n: mpj.QuasiStatic()),
    "EICredit": Row(lambda n: mpj.EICredit(), cell=settling),
    "GLE": Row(lambda n: mpj.GLE(), cell=lagging),
    "ReadoutOnly": Row(lambda n: mpj.ReadoutOnly()),
}
CARDS = mpj.cards()


def card(row_name: str) -> mpj.Card:
    return CARDS[row_name.partition(",")[0]]


def value_of(formula: str, row_name: str, n: int, m: int) -> int:
    return eval(formula, {"__builtins__": {}}, {"n": n, "m": m, **ROWS[row_name].sizes(n)})


def sketch(build: Callable[[int, int, Any], Any], n: int, m: int) -> Any:
    """A cell, its arrays by shape and dtype alone."""
    return eqx.filter_eval_shape(lambda key: build(n, m, key), jr.key(0))


def carry_of(rule: Any, cell: Any, batch: tuple[int, ...] = ()) -> Any:
    """A carry in the same way."""

    def make(cell, key):
        return rule.init(cell, cell.init(batch), key=key)

    return eqx.filter_eval_shape(make, cell, jr.key(0))


def test_every_rule_has_a_card_and_a_row():
    exported = {
        rule.__name__
        for rule in vars(mpj).values()
        if isinstance(rule, type)
        and issubclass(rule, mpj.AbstractRule)
        and not inspect.isabstract(rule)
    }
    assert set(CARDS) == exported == {name.partition(",")[0] for name in ROWS}
    for name, written in CARDS.items():
        assert written is getattr(mpj, name).card
        assert all(field is None or field != "" for field in written), name
    assert all(one != other for one, other in itertools.combinations(CARDS.values(), 2))


def test_names_and_places_are_each_rules_own():
    named = [(name, entry) for name, card in CARDS.items() for entry in card.names]
    labels = [entry.name for _, entry in named]
    assert len(set(labels)) == len(labels) and set(RULES) == {*labels, *METHODS}
    assert not set(labels) & set(METHODS)
    for places in ([card.place for card in CARDS.values()], [e.place for e in RULES.values()]):
        given = [place for place in places if place != LAST]
        assert places == sorted(places) and len(set(given)) == len(given)
    for name, entry in named:
        options = {"mu": 0.5} if "mu" in entry.options else {}
        assert type(RULES[entry.name].build((0, 1, 1, 0), **options)).__name__ == name


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
    row, written = ROWS[row_name], card(row_name)
    for n, m in [(4, 3), (8, 3), (8, 6)]:
        each, shared = floats(row.make(n), sketch(row.cell, n, m))
        assert each == value_of(written.memory, row_name, n, m)
        assert shared == value_of(written.shared, row_name, n, m)


def test_memory_is_by_probe():
    one, three = (floats(mpj.UORO(probes=k), sketch(rate, 4, 3))[0] for k in (1, 3))
    assert three == 3 * one


@pytest.mark.parametrize("row_name", [name for name in ROWS if card(name).leaky is not None])
def test_memory_on_leaky_neurons(row_name):
    rule, written = ROWS[row_name].make(8), card(row_name)
    # what is cell-specific has no filter of presynaptic activity in common
    formula = written.memory if row_name == "ModProp, cell-specific" else written.leaky
    for m in (3, 6):
        assert floats(rule, sketch(leaky, 8, m)) == (value_of(str(formula), row_name, 8, m), 0)


def operations(row_name: str, n: int) -> float:
    """Floating-point operations of one step's gradient and trace, m = n; nothing is compiled."""
    row = ROWS[row_name]
    # an LRUCell's inputs are part of its state: as many as units would be taken for a variable
    m = n + 1 if row.cell is linear_units else n
    rule, cell = row.make(n), sketch(row.cell, n, m)
    xs, labels = jnp.zeros((1, m)), jnp.zeros((1, LABELS))

    def loss(layer, carry, xs, labels):
        context = labels if isinstance(rule, AbstractEstimatingRule) else None
        carry, zs = layer(xs, carry, context=context)
        return jnp.sum(zs**2), carry

    def is_array(leaf):
        return isinstance(leaf, jax.ShapeDtypeStruct)

    gradient = mpj.online_value_and_grad(loss, segment=1)
    arrays, static = eqx.partition((cell, carry_of(rule, cell)), is_array)

    def run(arrays, xs, labels):
        cell, carry = eqx.combine(arrays, static)
        return eqx.filter(gradient(mpj.RNN(cell, rule=rule), carry, xs, labels), eqx.is_array)

    analysis = jax.jit(run).lower(arrays, xs, labels).cost_analysis()
    assert analysis is not None
    return analysis["flops"]


# The pattern of SnAp(2) takes its time at these sizes. Flops of a solve, and of a loop that ends
# when it has converged, are not counted.
NOT_COUNTED = ("SnAp, two steps", "QuasiStatic", "EICredit")


@pytest.mark.slow
@pytest.mark.parametrize("row_name", [name for name in ROWS if name not in NOT_COUNTED])
def test_time(row_name):
    """Twice as many neurons and inputs: as many more operations as the formula says."""
    sizes = (64, 128)
    found = [operations(row_name, n) for n in sizes]
    said = [value_of(card(row_name).time, row_name, n, n) for n in sizes]
    assert found[1] / found[0] == pytest.approx(said[1] / said[0], rel=0.12)
    # h and C of a formula as well: up to a constant of a few matmuls
    assert 1.5 < found[1] / said[1] < 20


# --- bias ---


@jit
def online(model, carry, xs, ys):
    """The cell's gradient, one step at a time."""
    stream = mpj.online_value_and_grad(segment_loss, segment=1)
    return stream(model, carry, xs, ys)[1].rnn.cell


def on_the_table(rule: Any) -> Any:
    return Net(mpj.RNN(table_cell("rate"), rule=rule), net("bptt", "rate").readout)


OFFLINE = {"EProp": "eprop", "MDGL": "mdgl", "ModProp": "modprop", "FutureBPTT": "future_bptt"}
STREAMED = {
    "SnAp": mpj.SnAp(1),
    "KeRNL": mpj.KeRNL(sigma=0.1, learn=SGD),
    "QuasiStatic": mpj.QuasiStatic(),
    "DNI": mpj.DNI(learn=SGD),
    "LocalDNI": mpj.LocalDNI(learn=SGD, learn_jacobian=SGD),
    "ReadoutOnly": mpj.ReadoutOnly(),
}


ON_THE_TABLE = [name for name in CARDS if CARDS[name].bias == "biased" and name != "GLE"]


@pytest.mark.parametrize("name", ON_THE_TABLE)
def test_biased_rules_are_not_exact(name):
    exact = offline("bptt", "rate")[1].rnn.cell
    if name in OFFLINE:
        found = offline(OFFLINE[name], "rate")[1].rnn.cell
    else:
        model, (xs, ys) = on_the_table(STREAMED[name]), data()
        found = online(model, model.rnn.init(xs.shape[1:-1], key=jr.key(0)), xs, ys)
    assert 1e-3 < distance(found, exact) < 10


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


def test_gle_is_not_exact():
    cell, xs, ws = small(lagging(4, 3, jr.key(0)), 5)

    def loss(cell):
        return small_loss(mpj.scan(cell, cell.init(), jnp.asarray(xs), rule=mpj.GLE())[1], ws)

    exact = plain_gradient(mpj.BPTT(), cell, xs, ws)
    assert 1e-3 < distance(jit(eqx.filter_grad(loss))(cell), exact) < 10


@pytest.mark.slow
def test_exact_rules_are_exact():
    exact = offline("bptt", "rate")[1].rnn.cell
    model, (xs, ys) = on_the_table(mpj.RTRL()), data()
    assert distance(online(model, model.rnn.init(xs.shape[1:-1]), xs, ys), exact) < 1e-12
    # as its card says, segments cut the past of BPTT
    model = on_the_table(mpj.BPTT())
    assert distance(online(model, model.rnn.init(xs.shape[1:-1]), xs, ys), exact) > 1e-3

    problem = cell, xs, ws = small(linear_units(4, 3, jr.key(0)), 5)
    layer = mpj.RNN(cell, rule=mpj.DiagonalRTRL())

    def segment(layer, carry, xs, ws):
        carry, zs = layer(xs, carry)
        return small_loss(zs, ws), carry

    found = jit(mpj.online_value_and_grad(segment, segment=1))(layer, layer.init(), xs, ws)[1]
    assert distance(found.cell, plain_gradient(mpj.BPTT(), *problem)) < 1e-12
    # EICredit, of another kind of cell, is in test_ei_credit.py
    checked = {"BPTT", "RTRL", "DiagonalRTRL", "EICredit"}
    assert {name for name in CARDS if CARDS[name].bias == "exact"} == checked


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
@pytest.mark.parametrize("name", [name for name in CARDS if CARDS[name].stochastic])
def test_mean_of_stochastic_rules(name, two_neurons):
    problem, exact, local = two_neurons
    found = draws(ROWS[name].make(2), problem, 4000)
    spread = found.std(axis=0, ddof=1)
    assert (spread > 1e-9).all()

    def off(expected):
        """In standard errors of the mean."""
        return np.max(np.abs(found.mean(axis=0) - expected) * np.sqrt(len(found)) / spread)

    if CARDS[name].bias == "unbiased":
        # enough draws to tell RTRL's gradient from e-prop's
        assert off(exact) < 5 and off(local) > 8
    else:
        assert off(exact) > 8


# --- the other axes ---


@pytest.mark.parametrize("row_name", ROWS)
def test_axes(row_name):
    rule, written = ROWS[row_name].make(4), card(row_name)
    carry = carry_of(rule, sketch(ROWS[row_name].cell, 4, 3))
    # who draws keeps a key; a gradient without one is a function of carry and data
    keys = [leaf for leaf in jax.tree.leaves(carry.trace) if leaf.dtype == jnp.uint32]
    assert written.stochastic == bool(keys)
    if isinstance(rule, AbstractStochasticRule):
        assert written.bias == "unbiased"
    # what a rule learns, it learns by an optax transformation, and a batch shares it
    learns = [v for v in vars(rule).values() if isinstance(v, optax.GradientTransformation)]
    assert written.learned == bool(learns) == (written.shared != "0")
    if isinstance(rule, AbstractInfluenceRule):
        assert written.facing == "past"
    elif isinstance(rule, AbstractEstimatingRule) or carry.trace is None:
        assert written.facing == "future"
    elif not jax.tree.leaves(carry.trace):
        assert written.facing == "neither"
    else:
        # a trace, and a reverse form of its own
        assert written.facing == ("future" if isinstance(rule, mpj.FutureBPTT) else "both")


# --- the document ---


def test_the_document_is_the_commands_output(capsys):
    assert main(["list", "--taxonomy"]) == 0
    text = capsys.readouterr().out
    path = pathlib.Path(__file__).parents[1] / "docs" / "taxonomy.md"
    assert text == path.read_text(encoding="utf-8"), (
        "make it again: modprop-jax list --taxonomy > docs/taxonomy.md"
    )
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {11}
    for name, written in CARDS.items():
        (row,) = (line for line in table if line.startswith(f"| `{name}` |"))
        for field in (written.facing, written.bias, written.when, written.synapse):
            assert field in row
        for formula in (written.memory, written.time, written.leaky, written.shared):
            assert formula is None or formula == "0" or f"`{formula}`" in row
