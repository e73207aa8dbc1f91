"""Idioms of equinox: parts of a model, tied weights, ensembles; and rules that reach them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    assert_close,
    BATCH,
    data,
    distance,
    error,
    jit,
    M,
    MASK,
    N,
    net,
    offline_loss,
    segment_loss,
    TYPES,
)

import modprop_jax as mpj


pytestmark = pytest.mark.slow


# of a kind each: what they ask of a cell before it has its weights
ARGUMENTS = {
    "eprop": mpj.EProp(),
    "mdgl": mpj.MDGL(TYPES),
    "modprop": mpj.ModProp(0.5, TYPES),
    "snap": mpj.SnAp(2),
}


def parts(model):
    """The input weights and the readout train; recurrent weights, time constant and bias do not."""
    spec = jax.tree.map(lambda _: False, model)
    where = lambda m: (m.rnn.cell.weight_in, m.readout.weight)  # noqa: E731
    return eqx.partition(model, eqx.tree_at(where, spec, (True, True)))


def of_parts(gradients):
    return gradients.rnn.cell.weight_in, gradients.readout.weight


# --- a rule as an argument ---


def test_frozen_parts_under_any_rule_given_as_an_argument():
    """Their weights come when the loss puts the parts together, whichever of them comes first."""
    model, (xs, ys) = net("bptt", "leaky_tau"), data()
    free, frozen = parts(model)

    def either(order):
        return lambda free, xs, ys: offline_loss(eqx.combine(*(free, frozen)[::order]), xs, ys)

    @jit
    def run(free, model, xs, ys):
        found = [mpj.value_and_grad(either(1), r)(free, xs, ys) for r in ARGUMENTS.values()]
        reverse = mpj.value_and_grad(either(-1), ARGUMENTS["mdgl"])(free, xs, ys)
        whole = [mpj.value_and_grad(offline_loss, r)(model, xs, ys) for r in ARGUMENTS.values()]
        models = [mpj.with_rule(model, rule) for rule in ARGUMENTS.values()]
        return found, reverse, whole, [mpj.value_and_grad(offline_loss)(m, xs, ys) for m in models]

    found, reverse, whole, expected = run(free, model, xs, ys)
    for name, part, all_of_it, own in zip(ARGUMENTS, found, whole, expected, strict=True):
        assert_close(part[0], own[0], 1e-12, name)
        assert_close(of_parts(part[1]), of_parts(own[1]), 1e-12, name)
        assert len(jax.tree.leaves(part[1])) == 2
        assert_close(jax.tree.leaves(all_of_it), jax.tree.leaves(own), 1e-12, name)
    assert_close(reverse, found[1], 1e-12)
    assert min(distance(of_parts(a[1]), of_parts(found[0][1])) for a in found[1:]) > 1e-3


def test_frozen_parts_are_streamed():
    model, (xs, ys) = net("bptt", "leaky_tau"), data()

    def gradients(rule, xs, ys):
        under = mpj.with_rule(model, rule)
        free, frozen = parts(under)

        def loss(free, carry, xs, ys):
            return segment_loss(eqx.combine(free, frozen), carry, xs, ys)

        segment = "auto" if isinstance(rule, mpj.EProp) else 4
        stream = mpj.online_value_and_grad(loss, segment=segment)
        streamed = stream(free, under.rnn.init(BATCH), xs, ys)[1]
        return of_parts(streamed), of_parts(mpj.value_and_grad(offline_loss)(under, xs, ys)[1])

    rules = [rule for name, rule in ARGUMENTS.items() if name != "snap"]
    for streamed, offline in jit(lambda *s: [gradients(rule, *s) for rule in rules])(xs, ys):
        assert_close(streamed, offline)


class Tied(eqx.Module):
    nets: eqx.nn.Shared

    def __call__(self, xs):
        lower, upper = self.nets()
        return upper(lower(xs))


@pytest.mark.parametrize("what", ["cell", "weights"])
def test_tied_layers_under_any_rule_given_as_an_argument(what):
    """The gradient of what two layers share is the sum of both."""
    names = ("mdgl", "modprop") if what == "cell" else ("eprop", "snap")

    def make(key):
        return mpj.RNN(mpj.LeakyCell(N, N, tau=4.0, activation=jnp.tanh, key=key))

    def shared(layer):
        return layer.cell if what == "cell" else layer.cell.weight_rec

    lower, upper = map(make, jr.split(jr.key(0)))
    tied = Tied(eqx.nn.Shared((lower, upper), lambda p: shared(p[1]), lambda p: shared(p[0])))
    upper = eqx.tree_at(shared, upper, shared(lower))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(7, *BATCH, N)))

    @jit
    def run(tied, layers, xs):
        def losses(rule):
            together = mpj.value_and_grad(lambda m: error(m(xs), xs), rule)(tied)[1]
            apart = mpj.value_and_grad(lambda p: error(p[1](p[0](xs)), xs), rule)(layers)[1]
            return together, apart

        return [losses(ARGUMENTS[name]) for name in names]

    for name, (found, (one, other)) in zip(names, run(tied, (lower, upper), xs), strict=True):
        expected = jax.tree.map(jnp.add, shared(one), shared(other))
        assert_close(shared(found.nets.pytree[0]), expected, 1e-12, name)


# what stands for the weights of a model, or of a part of it
STANDING_IN = {
    "none": lambda model: jax.tree.map(lambda _: None, model),
    "booleans": lambda model: jax.tree.map(lambda _: False, model),
    "shapes": lambda model: jax.eval_shape(lambda: model),
    "a part": lambda model: parts(model)[0],
    "the rest": lambda model: parts(model)[1],
}


@pytest.mark.parametrize("kind", STANDING_IN)
def test_with_rule_swaps_the_rule_alone(kind):
    model = net("bptt", "leaky_tau")
    for rule in ARGUMENTS.values():
        found = mpj.with_rule(STANDING_IN[kind](model), rule)
        assert found.rnn.rule == rule
        expected = STANDING_IN[kind](mpj.with_rule(model, rule))
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for leaf, same in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert leaf is same or leaf == same


def test_a_rule_set_inside_of_the_loss_stays():
    """On a layer that the loss makes, or gives another rule; one that it closes over has it too."""
    model, (xs, ys) = net("bptt", "leaky"), data()

    def mixed(m, xs, ys):
        assert m.rnn.rule == mpj.EProp()
        own = mpj.with_rule(m, mpj.BPTT())
        made = eqx.tree_at(lambda m: m.rnn, m, mpj.RNN(m.rnn.cell, rule=mpj.MDGL()))
        assert (own.rnn.rule, made.rnn.rule) == (mpj.BPTT(), mpj.MDGL())
        return sum(offline_loss(each, xs, ys) for each in (m, own, made))

    @jit
    def run(model, xs, ys):
        rules = (mpj.EProp(), mpj.BPTT(), mpj.MDGL())
        each = [mpj.value_and_grad(offline_loss, rule)(model, xs, ys)[1] for rule in rules]
        return mpj.value_and_grad(mixed, mpj.EProp())(model, xs, ys)[1], each

    found, each = run(model, xs, ys)
    assert model.rnn.rule == mpj.BPTT()
    assert_close(found, jax.tree.map(lambda *g: sum(g), *each), 1e-12)


def test_a_compiled_loss_knows_the_rule_that_is_imposed():
    """A trace that JAX keeps of one rule is none of another."""
    model, (xs, ys) = net("bptt", "leaky"), data()
    traces: list[int] = []
    compiled = eqx.filter_jit(lambda m, xs, ys: (traces.append(1), offline_loss(m, xs, ys))[1])
    found = [
        mpj.value_and_grad(compiled, rule())(model, xs, ys)[1] for rule in (mpj.BPTT, mpj.EProp) * 2
    ]
    assert len(traces) == 2
    assert_close(found[2:], found[:2], 0.0)
    assert distance(found[0], found[1]) > 0.01


# --- ensembles ---

MEMBERS = 3
MASKS = np.random.default_rng(3).random((MEMBERS, N, N)) < 0.5


def member(key, tau, mask: Any = None):
    return mpj.LeakyCell(M, N, tau=tau, activation=jnp.tanh, mask=mask, key=key)


def ensemble(masks: Any = None, mask: Any = None) -> Any:
    """With a time constant that trains, and one mask of all members or one of each."""
    keys, taus = jr.split(jr.key(0), MEMBERS), jnp.linspace(2.0, 8.0, MEMBERS)
    if masks is None:
        cells = eqx.filter_vmap(lambda key, tau: member(key, tau, mask))(keys, taus)
    else:
        cells = eqx.filter_vmap(member)(keys, taus, jnp.asarray(masks))
    return mpj.RNN(cells)


def one_of(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def loss_of_one(rnn, xs):
    return jnp.sum(jnp.sin(3.0 * rnn(xs)))


def loss_of_all(rnns, xs):
    return jnp.sum(eqx.filter_vmap(lambda rnn: loss_of_one(rnn, xs))(rnns))


def gradients(rnns, xs, names):
    """Of all members together, and one by one."""

    def run(rnns, xs):
        return [
            (
                mpj.value_and_grad(loss_of_all, ARGUMENTS[name])(rnns, xs)[1],
                [
                    mpj.value_and_grad(loss_of_one, ARGUMENTS[name])(one_of(rnns, i), xs)[1]
                    for i in range(MEMBERS)
                ],
            )
            for name in names
        ]

    for (together, apart), name in zip(jit(run)(rnns, xs), names, strict=True):
        for i, alone in enumerate(apart):
            assert_close(one_of(together, i), alone, 1e-12, name)
        yield together.cell


@pytest.mark.parametrize("kind", ["all", "one mask", "a mask each"])
def test_an_ensemble_is_its_members(kind):
    xs, _ = data()
    masks = {"all": {}, "one mask": {"mask": MASK}, "a mask each": {"masks": MASKS}}[kind]
    rnns = ensemble(**masks)
    names = {"all": ["mdgl"], "one mask": ["modprop", "snap"], "a mask each": ["eprop"]}[kind]
    if kind == "a mask each":
        with pytest.raises(ValueError, match="a constant mask, the same for all members"):
            mpj.value_and_grad(loss_of_all, ARGUMENTS["snap"])(rnns, xs)
    missing = ~np.broadcast_to(rnns.cell.mask if masks else ~np.eye(N, dtype=bool), MASKS.shape)
    for found in gradients(rnns, xs, names):
        assert not np.asarray(found.weight_rec)[missing].any() and np.asarray(found.tau).all()


@pytest.mark.parametrize(
    "rule", [mpj.ModProp(0.5, TYPES), pytest.param(mpj.ModProp(0.5), marks=pytest.mark.slow)]
)
def test_the_stability_of_an_ensemble_is_that_of_each_member(rule):
    rnns, (xs, _) = ensemble(), data()
    found = mpj.spectral_radius(rule, rnns.cell)
    for i in range(MEMBERS):
        expected = mpj.spectral_radius(rule, one_of(rnns.cell, i))
        np.testing.assert_allclose(found[i], expected, rtol=1e-12)
        taps = mpj.filter_taps(rule, rnns.cell, 4)
        assert_close(one_of(taps, i), mpj.filter_taps(rule, one_of(rnns.cell, i), 4), 1e-12)
    assert found.shape == (MEMBERS,) and float(found.max()) < 1
    rule.check(rnns.cell)
    # one member alone
    weight = rnns.cell.weight_rec.at[1].set(2 + jnp.abs(rnns.cell.weight_rec[1]))
    wild = eqx.tree_at(lambda r: r.cell.weight_rec, rnns, weight)
    radius = float(mpj.spectral_radius(rule, wild.cell)[1])
    for call in (
        lambda: mpj.value_and_grad(loss_of_all, rule)(wild, xs),
        lambda: mpj.with_rule(wild, rule),
    ):
        with pytest.raises(ValueError, match=f"radius {radius:.4f} > 1.*mu=0.* is safe") as raised:
            call()
    safe = float(str(raised.value).split("mu=")[1].split(" ")[0])
    assert 0.99 < mpj.spectral_radius(mpj.ModProp(safe, rule.types), wild.cell).max() <= 1


def test_an_ensemble_is_no_cell():
    rnns, (xs, _) = ensemble(), data()
    with pytest.raises(ValueError, match=r"one LeakyCell, but weight_rec has the shape .3, 6, 6."):
        rnns(xs)
    gated = eqx.filter_vmap(lambda key: mpj.GRUCell(M, N, key=key))(jr.split(jr.key(0), MEMBERS))
    with pytest.raises(ValueError, match="one GRUCell, but weight_hh has the shape"):
        mpj.RNN(gated)(xs)


def test_layers_that_are_scanned_over():
    """`lax.scan` over a stack of layers of one size equals them one after the other."""
    cells = eqx.filter_vmap(
        lambda key: mpj.LeakyCell(N, N, tau=4.0, activation=jnp.tanh, mask=MASK, key=key)
    )(jr.split(jr.key(0), MEMBERS))
    stack, xs = mpj.RNN(cells), jnp.asarray(np.random.default_rng(0).normal(size=(5, *BATCH, N)))
    arrays, static = eqx.partition(stack, eqx.is_array)

    def scanned(arrays, xs):
        body = lambda xs, each: (eqx.combine(each, static)(xs), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(body, xs, arrays)[0] ** 3)

    def unrolled(arrays, xs):
        for i in range(MEMBERS):
            xs = eqx.combine(one_of(arrays, i), static)(xs)
        return jnp.sum(xs**3)

    def run(arrays, xs):
        rules = [mpj.ModProp(0.5, TYPES), mpj.SnAp(2)]
        return [[mpj.value_and_grad(f, r)(arrays, xs) for r in rules] for f in (scanned, unrolled)]

    found, expected = jit(run)(arrays, xs)
    assert_close(found, expected, 1e-12)
