"""Programs export for accelerators that are not here: no callbacks, static shapes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import modprop_jax as mpj


TYPES = (0, 1, 1, 0)


def _cell(name):
    if name == "rate":
        return mpj.RateCell(2, 4, alpha=0.5, key=jr.key(0))
    if name == "prospective":
        taus = {"tau_m": 1.0, "tau_r": 0.3, "learn_tau": True}
        options = {"dt": 0.1, "activations": jnp.tanh, "order": "sync", **taus}
        return mpj.GLECell([2, 3, 4], key=jr.key(0), **options)
    return mpj.LeakyCell(2, 4, tau=5.0, key=jr.key(0))


def _loss(rnn, carry, xs, ys):
    carry, zs = rnn(xs, carry)
    return jnp.mean((zs - ys) ** 2), carry


@pytest.mark.parametrize(
    "name, rule",
    [
        ("leaky", mpj.BPTT()),
        ("leaky", mpj.RTRL()),
        ("leaky", mpj.ModProp(0.25, TYPES)),
        ("leaky", mpj.ModProp("auto", TYPES)),
        ("leaky", mpj.ModProp(0.25, TYPES, taps=2)),
        ("rate", mpj.EProp()),
        ("rate", mpj.FutureBPTT(3)),
        ("rate", mpj.UORO(probes=2)),
        ("rate", mpj.KFRTRL()),
        ("rate", mpj.KeRNL()),
        ("rate", mpj.DNI(learn=optax.adam(0.1))),
        ("prospective", mpj.GLE()),
    ],
    ids=[
        "no-trace",
        "dense",
        "presynaptic",
        "measured",
        "window",
        "per-synapse",
        "tape",
        "rank-one",
        "kronecker",
        "kernel",
        "synthetic",
        "errors",
    ],
)
@pytest.mark.slow
def test_streaming_gradient_exports_for_every_platform(name, rule):
    rnn = mpj.RNN(_cell(name), rule=rule)
    carry = rnn.init((3,), key=jr.key(2))
    xs, ys = jr.normal(jr.key(1), (7, 3, 2)), jnp.zeros((7, 3, 4))
    arrays, static = eqx.partition((rnn, carry, xs, ys), eqx.is_array)

    @jax.jit
    def gradient(arrays):
        (loss, _), gradients = mpj.online_value_and_grad(_loss, segment=3)(
            *eqx.combine(arrays, static)
        )
        return loss, jax.tree.leaves(gradients)

    exported = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(arrays)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    loss, gradients = exported.call(arrays)
    want_loss, want = gradient(arrays)
    assert jnp.array_equal(loss, want_loss)
    assert all(jnp.allclose(a, b, rtol=1e-12) for a, b in zip(gradients, want, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, rule", [("leaky", mpj.ModProp(0.25, TYPES)), ("prospective", mpj.GLE())]
)
def test_streaming_memory_does_not_depend_on_the_length(name, rule):
    rnn = mpj.RNN(_cell(name), rule=rule)

    def temporaries(steps):
        carry = rnn.init((3,))
        xs, ys = jnp.zeros((steps, 3, 2)), jnp.zeros((steps, 3, 4))
        arrays, static = eqx.partition((rnn, carry, xs, ys), eqx.is_array)

        def gradient(arrays):
            _, gradients = mpj.online_value_and_grad(_loss, segment=10)(
                *eqx.combine(arrays, static)
            )
            return jax.tree.leaves(gradients)

        compiled = jax.jit(gradient).lower(arrays).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    # fewer blocks of segments are summed without what rounding took: less memory, and as exact
    assert temporaries(1_000) <= temporaries(50_000) == temporaries(200_000)


def _loops(rule, platform):
    """Sequential loops of an offline gradient, as it is exported."""
    cell = mpj.LeakyCell(2, 4, tau=5.0, key=jr.key(0))

    def loss(cell, xs):
        return jnp.sum(mpj.scan(cell, cell.init((3,)), xs, rule=rule, chunk=50)[1] ** 2)

    arrays, static = eqx.partition(cell, eqx.is_array)
    gradient = jax.jit(jax.grad(lambda arrays, xs: loss(eqx.combine(arrays, static), xs)))
    exported = jax.export.export(gradient, platforms=(platform,))(arrays, jnp.zeros((50, 3, 2)))
    return exported.mlir_module().count("stablehlo.while")


def test_local_credit_of_one_leak_needs_no_loop_back_in_time_on_an_accelerator():
    typed = mpj.ModProp(0.25, (0, 0, 1, 1))
    assert _loops(mpj.EProp(), "cuda") == _loops(typed, "cuda") == 1
    assert _loops(mpj.EProp(), "cpu") == _loops(typed, "cpu") == _loops(mpj.BPTT(), "cuda") == 2
