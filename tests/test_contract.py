"""What a user of JAX, equinox and optax may rely on, under every rule."""

import io
from typing import Any

import chex
import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import (
    assert_close,
    at_home,
    BATCH,
    begin,
    cell,
    data,
    distance,
    error,
    flat,
    gradient,
    home,
    jit,
    M,
    marked,
    meeting,
    MU_BY_TYPE,
    N,
    Net,
    net,
    offline,
    offline_loss,
    OUT,
    plain_loss,
    rule,
    segment_loss,
    serves,
    streamed_gradient,
    T,
    TYPES,
    weights,
)

import modprop_jax as mpj


def trainable(tree):
    return eqx.filter(tree, eqx.is_inexact_array)


# --- structure ---


@pytest.mark.parametrize("name", [marked(name) for name in meeting("structure")])
def test_gradients_have_the_models_structure(name):
    """Also where the rule given is not the layer's: optax needs equal trees."""
    for own in ("bptt", name):
        model = net(own, "leaky_taus" if serves(name, "leaky_taus") else home(name))
        take = mpj.value_and_grad(offline_loss, rule(name))
        _, gradients = eqx.filter_eval_shape(take, model, *data())
        chex.assert_trees_all_equal_structs(gradients, trainable(model))
        chex.assert_trees_all_equal_shapes_and_dtypes(gradients, trainable(model))
        assert gradients.rnn.rule == trainable(model.rnn.rule)


def test_the_rule_given_is_the_rule_used():
    expected = weights(offline("modprop_types", "leaky")[1])
    given = mpj.value_and_grad(offline_loss, rule("modprop_types"))
    for own in ("bptt", "eprop", "modprop_types"):
        assert_close(weights(jit(given)(net(own, "leaky"), *data())[1]), expected, what=own)
    # None: the layer's own
    own = mpj.value_and_grad(offline_loss)
    assert_close(weights(jit(own)(net("modprop_types", "leaky"), *data())[1]), expected)


def test_value_and_grad_is_equinoxs_for_layers_with_their_own_rule():
    model = net("mdgl", "leaky")
    expected = jit(eqx.filter_value_and_grad(offline_loss))(model, *data())
    assert_close(gradient(model, *data()), expected, 1e-13)


def test_has_aux_and_keyword_arguments():
    def loss(model, xs, *, ys):
        outputs = model(xs)
        return error(outputs, ys), outputs

    xs, ys = data()
    (value, outputs), gradients = jit(mpj.value_and_grad(loss, mpj.EProp(), has_aux=True))(
        net("bptt", "leaky"), xs, ys=ys
    )
    expected = offline("eprop", "leaky")
    np.testing.assert_allclose(value, expected[0], rtol=1e-13)
    assert_close(weights(gradients), weights(expected[1]))
    assert outputs.shape == (T, *BATCH, OUT)


class Deep(eqx.Module):
    """Two recurrent layers in a stack."""

    layers: list[mpj.RNN]
    readout: mpj.Readout

    def __call__(self, xs, carries=None):
        if carries is None:
            for layer in self.layers:
                xs = layer(xs)
            return self.readout(xs)
        after = []
        for layer, carry in zip(self.layers, carries, strict=True):
            carry, xs = layer(xs, carry)
            after.append(carry)
        return after, self.readout(xs)


def deep(lower, upper):
    layers = [
        mpj.RNN(cell("leaky"), rule=lower),
        mpj.RNN(mpj.RateCell(N, N, alpha=0.7, key=jr.key(12)), rule=upper),
    ]
    return Deep(layers, mpj.Readout(N, OUT, key=jr.key(7)))


def test_with_rule():
    model = deep(mpj.BPTT(), mpj.RTRL())
    both = mpj.with_rule(model, mpj.EProp())
    assert [layer.rule for layer in both.layers] == [mpj.EProp(), mpj.EProp()]
    assert_close(weights_of(both), weights_of(model), 0.0)
    upper = mpj.with_rule(model, mpj.EProp(), where=lambda m: m.layers[1])
    assert [layer.rule for layer in upper.layers] == [mpj.BPTT(), mpj.EProp()]
    listed = mpj.with_rule(model, mpj.MDGL(), where=lambda m: [m.layers[0], m.layers[1]])
    assert [layer.rule for layer in listed.layers] == [mpj.MDGL(), mpj.MDGL()]
    alone = mpj.with_rule(model.layers[0], mpj.EProp())
    assert isinstance(alone, mpj.RNN) and alone.rule == mpj.EProp()
    # one layer's rule changes nothing but its own derivative and what flows through it
    swapped = jit(mpj.value_and_grad(offline_loss))(upper, *data())[1]
    direct = jit(mpj.value_and_grad(offline_loss))(deep(mpj.BPTT(), mpj.EProp()), *data())[1]
    assert_close([c for c in map(cell_of, swapped.layers)], list(map(cell_of, direct.layers)))


def cell_of(layer):
    return layer.cell


def weights_of(model):
    return [layer.cell for layer in model.layers], model.readout


# --- precision ---


def narrow_net(name, dtype):
    c = mpj.LeakyCell(M, N, tau=4.0, activation=jnp.tanh, use_bias=True, dtype=dtype, key=jr.key(1))
    return mpj.RNN(c, rule=rule(name))


def sum_of_squares(rnn, xs):
    return jnp.sum(rnn(xs) ** 2)


def streamed_squares(rnn, carry, xs, ys):
    del ys
    carry, zs = rnn(xs, carry)
    return jnp.sum(zs**2), carry


@pytest.mark.parametrize("name", ["rtrl", "mdgl_types", "modprop_types"])
def test_float32_cells_stay_float32(name):
    rnn, xs = narrow_net(name, jnp.float32), data()[0].astype(jnp.float32)
    value, gradients = jit(mpj.value_and_grad(sum_of_squares))(rnn, xs)
    stream = jit(mpj.online_value_and_grad(streamed_squares, segment=4))
    (total, carry), actual = stream(rnn, rnn.init(BATCH), xs, xs)
    assert value.dtype == total.dtype == jnp.float32
    for leaf in jax.tree.leaves((gradients, actual, carry)):
        assert leaf.dtype == jnp.float32
    assert_close(actual, gradients, 2e-5)
    # and they are the float64 ones, rounded
    wide = jax.tree.map(lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, rnn)
    exact = jit(mpj.value_and_grad(sum_of_squares))(wide, xs.astype(float))[1]
    assert 1e-9 < distance(gradients, exact) < 1e-5


@pytest.mark.parametrize(
    "narrow", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]
)
def test_narrower_inputs_are_computed_in_the_cells_precision(narrow):
    rnn = narrow_net("modprop_types", jnp.float32)
    xs = data()[0].astype(narrow)
    value, gradients = jit(mpj.value_and_grad(sum_of_squares))(rnn, xs)
    same = jit(mpj.value_and_grad(sum_of_squares))(rnn, xs.astype(jnp.float32))
    assert rnn(xs).dtype == value.dtype == jnp.float32
    assert_close((value, gradients), same, 0.0)
    # the inputs' credit comes back in the inputs' dtype
    assert jax.grad(lambda xs: sum_of_squares(rnn, xs))(xs).dtype == narrow


def test_bfloat16_cells_sum_their_gradients_in_float32():
    rnn = narrow_net("eprop", jnp.bfloat16)
    xs = data(steps=12)[0].astype(jnp.bfloat16)
    xs = jnp.concatenate([xs] * 40)

    def loss(rnn, xs, chunk=None):
        _, zs = mpj.scan(rnn.cell, rnn.cell.init(BATCH), xs, rule=rnn.rule, chunk=chunk)
        return jnp.sum(zs.astype(jnp.float32))

    take = jit(eqx.filter_grad(lambda rnn: loss(rnn, xs, chunk=1)))
    gradients = take(rnn)
    wide = jax.tree.map(lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, rnn)
    exact = jit(eqx.filter_grad(lambda rnn: loss(rnn, xs.astype(float))))(wide)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(gradients))
    # 480 additions in bfloat16 would stall at 256 times the size of an addend
    rounded = jax.tree.map(lambda a: a.astype(float), gradients)
    assert distance(rounded, exact) < 0.03


# --- transformations ---


@pytest.mark.parametrize("name, cell_name", [marked(*pair) for pair in at_home("one trace")])
def test_a_step_gives_back_what_it_takes(name, cell_name):
    """Model and carry, all that is static, and float32: the next step finds this one's program."""

    def step(model, carry, xs, ys):
        (_, carry), gradients = mpj.online_value_and_grad(segment_loss)(model, carry, xs, ys)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.01 * g, gradients)), carry

    model, seen = net(name, cell_name, jnp.float32), (a.astype(jnp.float32) for a in data(steps=3))
    before = eqx.filter_eval_shape(lambda model: (model, begin(model)), model)
    after = eqx.filter_eval_shape(step, *before, *seen)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert hash(jax.tree.structure(before)) == hash(jax.tree.structure(after))
    assert [*map(known, jax.tree.leaves(before))] == [*map(known, jax.tree.leaves(after))]
    arrays = [leaf for leaf in jax.tree.leaves(after) if isinstance(leaf, jax.ShapeDtypeStruct)]
    assert {a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.inexact)} == {jnp.float32.dtype}


def known(leaf):
    """All that a trace knows of it."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.shape, leaf.dtype, leaf.weak_type
    return leaf


@pytest.mark.parametrize("name", ["bptt", "mdgl_types", "modprop"])
def test_one_trace_under_jit(name):
    chex.clear_trace_counter()

    @eqx.filter_jit
    @chex.assert_max_traces(n=1)
    def step(model, xs, ys):
        gradients = mpj.value_and_grad(offline_loss)(model, xs, ys)[1]
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.01 * g, gradients))

    model = net(name, "leaky")
    for seed in range(3):
        model = step(model, *data(seed=seed))
    assert np.isfinite(flat(trainable(model))).all()


def test_one_trace_for_every_segment_of_a_stream():
    chex.clear_trace_counter()

    def step(model, carry, xs, ys):
        return eqx.filter_value_and_grad(segment_loss, has_aux=True)(model, carry, xs, ys)

    step = jit(chex.assert_max_traces(step, n=1))
    model, (xs, ys) = net("modprop_types", "leaky"), data(steps=12)
    carry: Any = model.rnn.init(BATCH)
    for k in range(3):
        (_, carry), _ = step(model, carry, xs[4 * k : 4 * k + 4], ys[4 * k : 4 * k + 4])


@pytest.mark.parametrize("name", ["bptt", "eprop", "modprop_types"])
def test_vmap_over_seeds(name, getkey):
    keys, (xs, ys) = jr.split(getkey(), 3), data()

    def make(key):
        k1, k2 = jr.split(key)
        c = mpj.LeakyCell(M, N, tau=jnp.asarray(4.0), activation=jnp.tanh, use_bias=True, key=k1)
        return Net(mpj.RNN(c, rule=rule(name)), mpj.Readout(N, OUT, key=k2))

    models = jit(eqx.filter_vmap(make))(keys)
    each = eqx.filter_vmap(mpj.value_and_grad(offline_loss), in_axes=(eqx.if_array(0), None, None))
    losses, gradients = jit(each)(models, xs, ys)
    for i, key in enumerate(keys):
        value, expected = gradient(jit(make)(key), xs, ys)
        np.testing.assert_allclose(losses[i], value, rtol=1e-12)
        assert_close(jax.tree.map(lambda g: g[i], gradients), expected)


@pytest.mark.parametrize("name, cell_name", [marked(*pair) for pair in at_home("vmap")])
def test_vmap_gives_each_example_a_gradient(name, cell_name):
    model = net(name, cell_name)
    take = mpj.value_and_grad(offline_loss)
    each = eqx.filter_vmap(take, in_axes=(None, 1, 1))
    found = eqx.filter_eval_shape(each, model, *data())
    one = eqx.filter_eval_shape(take, model, *data(()))
    assert jax.tree.structure(found) == jax.tree.structure(one)
    for many, single in zip(jax.tree.leaves(found), jax.tree.leaves(one)):
        assert (many.shape, many.dtype) == ((*BATCH, *single.shape), single.dtype)


@pytest.mark.parametrize("name, cell_name", [("modprop_types", "leaky"), ("eprop", "adaptive")])
@pytest.mark.slow
def test_vmap_over_examples(name, cell_name):
    """Per-example gradients; streamed too."""
    model, (xs, ys) = net(name, cell_name), data()
    each = eqx.filter_vmap(mpj.value_and_grad(offline_loss), in_axes=(None, 1, 1))
    _, gradients = jit(each)(model, xs, ys)
    summed = jax.tree.map(lambda g: g.sum(0), gradients)
    assert_close(summed, offline(name, cell_name)[1])
    stream = mpj.online_value_and_grad(segment_loss, segment=4)
    online = eqx.filter_vmap(lambda x, y: stream(model, model.rnn.init(), x, y)[1], in_axes=1)
    assert_close(jit(online)(xs, ys), gradients)


@pytest.mark.parametrize("name", ["modprop", "mdgl_diffuse"])
def test_optax_leaves_hyperparameters_and_constants_alone(name):
    """adamw with weight decay moves weights only, however tau and mu were given."""
    one = {
        "modprop": mpj.ModProp(np.float64(0.5)),
        "mdgl_diffuse": mpj.MDGL(np.array(TYPES), diffuse=True),
    }[name]
    by_type = mpj.ModProp(np.asarray(MU_BY_TYPE), np.array(TYPES))
    c = mpj.LeakyCell(M, N, tau=np.linspace(2.0, 8.0, N), key=jr.key(0))
    d = mpj.Filtered(mpj.LeakyCell(N, N, tau=np.float32(4.0), key=jr.key(1)), np.float64(0.5))
    layers = [mpj.RNN(c, rule=one), mpj.RNN(d, rule=by_type)]
    model = Deep(layers, mpj.Readout(N, OUT, key=jr.key(2)))
    assert not jax.tree.leaves(trainable((one, by_type)))
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    with jax.numpy_dtype_promotion("standard"):

        @eqx.filter_jit
        def step(model, moments, xs, ys):
            gradients = mpj.value_and_grad(offline_loss)(model, xs, ys)[1]
            updates, moments = optimizer.update(gradients, moments, trainable(model))
            return eqx.apply_updates(model, updates), moments

        after, moments = step(model, optimizer.init(trainable(model)), *data())
        after, moments = step(after, moments, *data())
    assert jax.tree.structure(after) == jax.tree.structure(model)
    assert [layer.rule for layer in after.layers] == [one, by_type]
    np.testing.assert_array_equal(np.asarray(after.layers[0].cell.tau), np.linspace(2.0, 8.0, N))
    assert float(after.layers[1].cell.cell.tau) == 4.0
    assert float(after.layers[1].cell.leak) == 0.5
    for old, new in zip(jax.tree.leaves(trainable(model)), jax.tree.leaves(trainable(after))):
        assert (np.asarray(old) != new).any()


def test_a_learnable_tau_is_a_leaf_and_a_constant_one_is_not():
    for tau in (4.0, np.float64(4.0), np.full(N, 4.0), jnp.asarray(4.0), jnp.full(N, 4.0)):
        leaves = jax.tree.leaves(trainable(mpj.LeakyCell(M, N, tau=tau, key=jr.key(0))))
        assert len(leaves) == (3 if isinstance(tau, jax.Array) else 2)


@pytest.mark.parametrize(
    "name, cell_name",
    [("rtrl", "function"), ("eprop", "filtered_adaptive"), ("modprop_types", "leaky_tau")],
)
@pytest.mark.slow
def test_a_saved_model_and_carry_continue_exactly(name, cell_name):
    model, (xs, ys) = net(name, cell_name), data()
    take = jit(eqx.filter_value_and_grad(segment_loss, has_aux=True))
    (_, carry), _ = take(model, model.rnn.init(BATCH), xs[:5], ys[:5])
    expected = take(model, carry, xs[5:], ys[5:])
    saved = io.BytesIO()
    eqx.tree_serialise_leaves(saved, (model, carry))
    saved.seek(0)
    blank = jax.tree.map(lambda a: jnp.zeros_like(a) if eqx.is_array(a) else a, (model, carry))
    model, carry = eqx.tree_deserialise_leaves(saved, blank)
    assert_close(take(model, carry, xs[5:], ys[5:]), expected, 0.0)


# --- derivatives of derivatives ---


def test_hessian_vector_product():
    model, (xs, ys) = net("bptt", "leaky_taus"), data(steps=5)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)

    def product(loss, wrapped):
        def slope(params):
            gradients = wrapped(loss)(eqx.combine(params, static), xs, ys)
            return flat_dot(trainable(gradients), direction)

        return jit(jax.grad(slope))(params)

    def ours(loss):
        return lambda *args: mpj.value_and_grad(loss)(*args)[1]

    expected = product(plain_loss, eqx.filter_grad)
    assert_close(product(offline_loss, ours), expected)
    assert np.abs(flat(expected)).max() > 1e-2


def flat_dot(left, right):
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), left, right)
    return sum(jax.tree.leaves(products))


@pytest.mark.parametrize("types", [None, TYPES], ids=["cell-specific", "types"])
@pytest.mark.parametrize("cell_name", ["leaky", "adaptive"])
def test_modprops_gradient_has_a_derivative_by_mu(cell_name, types):
    """mu as a jax.Array: meta-learning differentiates through the rule's gradient."""
    model, (xs, ys) = net("bptt", cell_name), data(steps=5)
    direction = trainable(offline("bptt", cell_name)[1])

    def agreement(mu):
        gradients = mpj.value_and_grad(offline_loss, mpj.ModProp(mu, types))(model, xs, ys)[1]
        return flat_dot(trainable(gradients), direction)

    slope = jit(jax.grad(agreement))(jnp.asarray(0.5))
    value = jit(agreement)
    h = 1e-4
    expected = (value(jnp.asarray(0.5 + h)) - value(jnp.asarray(0.5 - h))) / (2 * h)
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_mu_does_not_train_by_the_loss():
    learnable = mpj.RNN(cell("leaky"), rule=mpj.ModProp(jnp.asarray(0.5), TYPES))
    model = Net(learnable, net("bptt", "leaky").readout)
    _, gradients = jit(mpj.value_and_grad(offline_loss))(model, *data())
    assert float(gradients.rnn.rule.mu) == 0.0
    assert_close(weights(gradients), weights(offline("modprop_types", "leaky")[1]))


# --- readout and diagnostics ---


def test_readout_has_the_dtype_asked_for_and_a_silent_leaf_aligns():
    """A float32 net in x64 mode; the fixed feedback's zero gradient gives no NaN."""
    readout = mpj.Readout(N, OUT, feedback="random", dtype=jnp.float32, key=jr.key(0))
    model = Net(narrow_net("bptt", jnp.float32), readout)
    xs = data()[0].astype(jnp.float32)

    def loss(model, xs):
        return jnp.sum(model(xs) ** 2)

    found = jit(lambda m, xs: mpj.alignment(loss, m, xs, rule=mpj.EProp()))(model, xs)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(found))
    assert float(found.leaf_norm_ratio.readout.feedback_weight) == 1.0


@pytest.mark.parametrize("name, cell_name", [("bptt", "leaky"), ("eprop", "filtered_adaptive")])
def test_random_feedback_is_the_rule_with_another_matrix(name, cell_name):
    """Credit by B, weights by the true error: e-prop with B in place of the readout's weight."""
    xs, ys = data()
    random = mpj.Readout(N, OUT, feedback="random", key=jr.key(7))
    model = eqx.tree_at(lambda m: m.readout, net(name, cell_name), random)
    B = random.feedback_weight
    assert B is not None

    def substituted(model):
        zs = model.rnn(xs)
        outputs = model.readout(jax.lax.stop_gradient(zs))
        errors = jax.lax.stop_gradient(jax.grad(lambda o: error(o, ys))(outputs))
        return error(outputs, ys) + jnp.sum(errors * (zs @ B.T))

    _, actual = gradient(model, xs, ys)
    expected = jit(eqx.filter_grad(substituted))(model)
    assert_close(weights(actual), weights(expected))
    assert (np.asarray(actual.readout.feedback_weight) == 0).all()
    # the readout's own gradient and the value are those of symmetric feedback
    symmetric = eqx.tree_at(lambda r: r.weight, mpj.Readout(N, OUT, key=jr.key(7)), random.weight)
    value, plain = gradient(eqx.tree_at(lambda m: m.readout, model, symmetric), xs, ys)
    assert_close(actual.readout.weight, plain.readout.weight)
    assert distance(weights(actual)[0], weights(plain)[0]) > 0.05
    np.testing.assert_allclose(value, offline_loss(model, xs, ys), rtol=1e-12)


def test_symmetric_feedback_is_a_plain_linear_layer(getkey):
    readout, zs = mpj.Readout(N, OUT, key=getkey()), jr.normal(getkey(), (T, *BATCH, N))
    readout = eqx.tree_at(lambda r: r.bias, readout, jr.normal(getkey(), (OUT,)))

    def linear(readout, zs):
        return zs @ readout.weight.T + jnp.broadcast_to(readout.bias, (*zs.shape[:-1], OUT))

    def loss(apply):
        return jit(jax.value_and_grad(lambda both: jnp.sum(apply(*both) ** 3)))((readout, zs))

    assert_close(loss(lambda r, z: r(z)), loss(linear))
    bare = mpj.Readout(N, OUT, use_bias=False, key=getkey())
    assert bare.bias is None and bare.feedback_weight is None
    np.testing.assert_allclose(bare(zs[0, 0]), bare.weight @ zs[0, 0], rtol=1e-12)


def test_alignment_with_itself_and_with_bptt():
    model, (xs, ys) = net("bptt", "leaky"), data()
    alone = jit(lambda m: mpj.alignment(offline_loss, m, xs, ys, rule=mpj.BPTT()))(model)
    for leaf in (alone.cosine, alone.norm_ratio, alone.sign_agreement):
        np.testing.assert_allclose(leaf, 1.0, rtol=1e-12)
    found = jit(lambda m: mpj.alignment(offline_loss, m, xs, ys, rule=mpj.EProp()))(model)
    g, r = (flat(offline(name, "leaky")[1]) for name in ("eprop", "bptt"))
    np.testing.assert_allclose(found.cosine, g @ r / np.linalg.norm(g) / np.linalg.norm(r))
    np.testing.assert_allclose(found.norm_ratio, np.linalg.norm(g) / np.linalg.norm(r))
    np.testing.assert_allclose(found.sign_agreement, np.mean(np.sign(g) == np.sign(r)))
    bias, exact = (np.asarray(offline(n, "leaky")[1].rnn.cell.bias) for n in ("eprop", "bptt"))
    np.testing.assert_allclose(
        found.leaf_cosine.rnn.cell.bias,
        bias @ exact / np.linalg.norm(bias) / np.linalg.norm(exact),
    )
    chex.assert_trees_all_equal_structs(found.leaf_cosine, trainable(model))


def test_alignment_of_two_approximate_rules_and_of_no_gradient():
    model, (xs, ys) = net("bptt", "leaky"), data()
    same = {"rule": mpj.ModProp(0.0), "reference": mpj.EProp()}
    found = jit(lambda m: mpj.alignment(offline_loss, m, xs, ys, **same))(model)
    np.testing.assert_allclose([found.cosine, found.norm_ratio], 1.0, rtol=1e-12)

    def flat_loss(model):
        return 0.0 * jnp.sum(model(xs))

    nothing = jit(lambda m: mpj.alignment(flat_loss, m, rule=mpj.EProp()))(model)
    assert float(nothing.cosine) == 0.0


# --- any way of cutting a sequence ---


SHAPES = [((2,), 11), ((), 8), ((3, 2), 12)]


@hypothesis.settings(max_examples=5, deadline=None, derandomize=True)
@hypothesis.given(
    pair=st.sampled_from(
        [("eprop", "filtered_adaptive"), ("modprop_types", "leaky"), ("mdgl", "rate")]
    ),
    shape=st.sampled_from(SHAPES),
    draw=st.data(),
)
@pytest.mark.slow
def test_any_segment_size_gives_the_same_gradient(pair, shape, draw):
    batch, steps = shape
    segment = draw.draw(st.integers(1, steps + 2), label="segment")
    model, (xs, ys) = net(*pair), data(batch, steps)
    expected = gradient(model, xs, ys)
    (loss, _), actual = streamed_gradient(segment)(model, xs, ys)
    assert_close(actual, expected[1])
    np.testing.assert_allclose(loss, expected[0], rtol=1e-12)
