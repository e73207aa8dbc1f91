"""The recipes of docs/usage/published-rules.md do what the page says of them."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pages
import pytest
from helpers import assert_close, distance, jit

import modprop_jax as mpj


pytestmark = pytest.mark.slow


@functools.cache
def recipes() -> dict[str, Any]:
    """What the page defines."""
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        return pages.run(pages.ROOT / "docs" / "usage" / "published-rules.md")


def inputs(steps: int, m: int) -> Any:
    return jnp.asarray(np.random.default_rng(0).normal(size=(steps, 2, m)))


def neurons(m: int, key: int, tau: float) -> Any:
    """Leaky tanh neurons without recurrent synapses, of the page's size."""
    n = recipes()["n"]
    return mpj.LeakyCell(
        m, n, tau=tau, activation=jnp.tanh, mask=np.zeros((n, n), bool), key=jr.key(key)
    )


def test_otpe_is_exact_for_two_layers_without_reset():
    """Step by step, where instantaneous errors are not."""
    page = recipes()
    below, above, xs = neurons(3, 1, 4.0), neurons(page["n"], 2, 6.0), inputs(8, 3)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2, page["n"])))
    read = mpj.Readout(page["n"], 2, key=jr.key(3))

    def segment_loss(model, carry, xs, ws):
        _, carry = model(xs, carry)
        zs = _top(model, carry)
        return jnp.sum(ws * zs[None]), carry

    def _top(model, carry):
        return model.upper.cell.emit(carry[1].state)

    leak = float(np.exp(-1 / 6.0))
    rule = mpj.EProp()
    otpe = page["Otpe"](
        mpj.RNN(mpj.Filtered(below, (leak, 0.0)), rule=rule), mpj.RNN(above, rule=rule), read
    )
    carry = otpe.lower.init((2,)), otpe.upper.init((2,))
    _, found = jit(mpj.online_value_and_grad(segment_loss, segment=1))(otpe, carry, xs, weights)

    def offline(cells):
        zs = xs
        for cell in cells:
            zs = mpj.RNN(cell)(zs)
        return jnp.sum(weights * zs)

    want = jit(eqx.filter_grad(offline))((below, above))
    assert_close(found.lower.cell.cell.weight_in, want[0].weight_in, 1e-9)
    assert_close(found.upper.cell.weight_in, want[1].weight_in, 1e-9)

    def plain(model, carry, xs, ws):
        low, zs = model[0](xs, carry[0])
        high, zs = model[1](zs, carry[1])
        return jnp.sum(ws * zs), [low, high]

    layers = [mpj.RNN(cell, rule=rule) for cell in (below, above)]
    carry = [rnn.init((2,)) for rnn in layers]
    _, instant = jit(mpj.online_value_and_grad(plain, segment=1))(layers, carry, xs, weights)
    assert distance(instant[0].cell.weight_in, want[0].weight_in) > 0.1


def test_s_tllr_without_its_second_part_is_ottt():
    page = recipes()
    n, leak = page["n"], float(np.exp(-1 / 8.0))
    psi = lambda u: (1 + 100 * jnp.abs(u)) ** -2.0  # noqa: E731
    cell = mpj.LIFCell(
        3, n, tau=8.0, mask=np.zeros((n, n), bool), dampening=1.0, surrogate=psi, key=jr.key(1)
    )
    xs = jnp.abs(inputs(8, 3)) * 3
    signal = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2, n)))

    def loss(cell):
        return jnp.sum(signal * mpj.RNN(cell, rule=mpj.EProp())(xs))

    assert bool(mpj.RNN(cell)(xs).any())
    want = jit(eqx.filter_grad(loss))(cell).weight_in
    found = page["s_tllr"](cell, xs, signal, pre=leak, acausal=0.0)
    assert_close(found, want, 1e-9)
    assert distance(page["s_tllr"](cell, xs, signal, pre=leak), want) > 0.1


def test_etlp_tells_neurons_the_label_and_not_the_error():
    page = recipes()
    etlp, xs, ys, teacher = (page[name] for name in ("etlp", "xs", "ys", "teacher"))
    other = jax.tree.map(lambda a: 3 * a, etlp.readout)
    silent = 0 * teacher
    run = mpj.value_and_grad(page["etlp_loss"])
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        _, one = run(etlp, xs, ys, teacher)
        _, same = run(eqx.tree_at(lambda m: m.readout, etlp, other), xs, ys, teacher)
        _, none = run(etlp, xs, ys, silent)
    assert_close(same.rnn.cell.weight_in, one.rnn.cell.weight_in, 1e-6)
    assert distance(same.readout.weight, one.readout.weight) > 0.1
    assert bool((one.rnn.cell.weight_in != 0).any()) and not bool(none.rnn.cell.weight_in.any())


def test_decolle_sends_nothing_down():
    page = recipes()
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):

        def top(model, xs):
            return jnp.sum(model(xs)[1])

        _, grads = mpj.value_and_grad(top)(page["decolle"], page["xs"])
    assert not bool(grads.layers[0].cell.weight_in.any())
    assert bool(grads.layers[1].cell.weight_in.any())
