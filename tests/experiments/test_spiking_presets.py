"""Scalings of public programs, and the rate cost, against e-prop's equations in NumPy."""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, jit, Net

import modprop_jax as mpj


# as in the table of conventions: (s_in, s_a, u in units of the adaptive threshold, reset gradient)
ALPHA, RHO, KAPPA, DAMPENING = np.exp(-1 / 5), np.exp(-1 / 12), 0.7, 0.4
ROWS = {
    "bellec_lif": (1 - ALPHA, 0.0, False, False),
    "bellec_alif": (1 - ALPHA, 1 - RHO, True, False),
    "bellec_elig_alif": (1.0, 1.0, False, False),
    "mdgl": (1 - ALPHA, 1 - RHO, False, True),
}
STEPS, TARGET, STRENGTH = 21, 0.1, 5.0


def constants(name):
    """(v_th, β): about as many spikes in every convention."""
    s_in, s_a, _, _ = ROWS[name]
    threshold = 1.5 * s_in
    return threshold, threshold * (0.3 / s_a if s_a else 0) * np.linspace(0.2, 1.0, 6)


@functools.cache
def preset_net(name):
    threshold, beta = constants(name)
    options: dict[str, Any] = {} if name == "bellec_lif" else {"tau_adaptation": 12.0, "beta": beta}
    cell = mpj.spiking_preset(
        name,
        3,
        6,
        tau=5.0,
        threshold=threshold,
        dampening=DAMPENING,
        refractory=2,
        autapses=True,
        leak=(KAPPA, 1.0),
        key=jr.key(3),
        **options,
    )
    model: Any = Net(mpj.RNN(cell), mpj.Readout(6, 2, use_bias=False, key=jr.key(4)))
    # inputs excite: neurons spike
    return eqx.tree_at(lambda m: m.rnn.cell.cell.weight_in, model, replace_fn=jnp.abs)


def rated_data():
    rng = np.random.default_rng(2)
    return 0.8 * rng.random((STEPS, 2, 3)), rng.normal(size=(STEPS, 2, 2))


def by_hand(name):
    """Spikes, loss and e-prop gradients: eligibility vectors carried forward, one a synapse."""
    model, (xs, ys) = preset_net(name), rated_data()
    cell = model.rnn.cell.cell
    w_rec, w_in, w_out = map(np.asarray, (cell.weight_rec, cell.weight_in, model.readout.weight))
    (s_in, s_a, adaptive, reset), (threshold, beta) = ROWS[name], constants(name)
    v, b, z, blocked, z_filtered, counts = np.zeros((6, 2, 6))
    of_v, of_b, e, e_filtered, e_sum = np.zeros((5, 2, 6, 9))
    loss, d_recurrent, d_out, spikes = 0.0, np.zeros((6, 9)), np.zeros((2, 6)), []
    for x, y in zip(xs, ys):
        pre = np.concatenate([z, x], axis=-1)[:, None]
        of_v = ALPHA * of_v - reset * threshold * e + s_in * pre
        of_b = RHO * of_b + s_a * e
        v = ALPHA * v + s_in * (z @ w_rec.T + x @ w_in.T) - threshold * z
        b = RHO * b + s_a * z
        a = threshold + beta * b
        u = (v - a) / (a if adaptive else threshold)
        slope = DAMPENING * np.maximum(0, 1 - abs(u)) * (blocked == 0)
        z = (u > 0) * (blocked == 0) * 1.0
        # n_ref = 2 blocks one step
        blocked = z
        dz_dv = slope / (a if adaptive else threshold)
        dz_db = -beta * slope * (v / a**2 if adaptive else 1 / threshold)
        e = dz_dv[..., None] * of_v + dz_db[..., None] * of_b
        z_filtered = KAPPA * z_filtered + (1 - KAPPA) * z
        e_filtered = KAPPA * e_filtered + (1 - KAPPA) * e
        e_sum, counts = e_sum + e, counts + z
        off = z_filtered @ w_out.T - y
        loss += 0.5 * (off**2).sum() / 2
        d_recurrent += ((off @ w_out)[..., None] * e_filtered).sum(0) / 2
        d_out += off.T @ z_filtered / 2
        spikes.append(z)
    apart = counts.mean(0) / STEPS - TARGET
    loss += STRENGTH / 2 * (apart**2).sum()
    # the rate's learning signal meets the trace that no filter has seen
    d_recurrent += STRENGTH * apart[:, None] * e_sum.sum(0) / (2 * STEPS)
    return np.stack(spikes), loss, (d_recurrent[:, :6], d_recurrent[:, 6:], d_out)


def rated_gradients(name, rule, segment):
    """The cost of the rates is added where the sequence ends."""
    model, (xs, ys) = mpj.with_rule(preset_net(name), rule), map(jnp.asarray, rated_data())

    def segment_loss(model, carry, xs, seen):
        ys, ends = seen
        carry, zs = model.rnn(xs, carry)
        cost = mpj.rate_cost(zs[-1, :, 6:], STEPS, target=TARGET, strength=STRENGTH)
        error = 0.5 * jnp.sum((model.readout(zs[..., :6]) - ys) ** 2) / 2
        return error + ends[-1] * cost, carry

    stream = mpj.online_value_and_grad(segment_loss, segment=segment)
    ends = jnp.zeros(STEPS).at[-1].set(1)
    (loss, _), found = jit(stream)(model, model.rnn.init((2,)), xs, (ys, ends))
    cell = found.rnn.cell.cell
    return loss, (cell.weight_rec, cell.weight_in, found.readout.weight)


@pytest.mark.parametrize(
    "name, segment", [(name, STEPS) for name in ROWS] + [("bellec_alif", 1), ("bellec_alif", 7)]
)
def test_presets_and_the_rate_cost_by_hand(name, segment):
    spikes, loss, expected = by_hand(name)
    assert 10 < spikes.sum() < 120
    cell = preset_net(name).rnn.cell
    xs = jnp.asarray(rated_data()[0])
    zs = mpj.scan(cell, cell.init((2,)), xs)[1]
    np.testing.assert_array_equal(zs[..., 6:], spikes.cumsum(0))
    found_loss, found = rated_gradients(name, mpj.EProp(), segment)
    np.testing.assert_allclose(found_loss, loss, rtol=1e-12)
    for have, want in zip(found, expected):
        assert_close(np.asarray(have), want, 1e-11)


def test_the_rate_cost_streams_under_mdgl():
    """It differs from e-prop: the rate's credit also goes one synapse further."""
    rule = mpj.MDGL((0, 1, 0, 2, 1, 0))
    loss, whole = rated_gradients("mdgl", rule, STEPS)
    local = by_hand("mdgl")[2][0]
    assert np.abs(whole[0] - local).max() > 1e-2 * np.abs(local).max()
    streamed_loss, streamed = rated_gradients("mdgl", rule, 7)
    np.testing.assert_allclose(streamed_loss, loss, rtol=1e-12)
    assert_close(streamed, whole, 1e-9)


@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_preset():
    with pytest.raises(ValueError, match='name must be "bellec_lif", .* but is .lsnn.'):
        mpj.spiking_preset("lsnn", 3, 6, tau=5.0, leak=0.5, key=jr.key(0))  # pyright: ignore


def test_no_steps_to_count():
    with pytest.raises(ValueError, match="at least 1, but is 0"):
        mpj.rate_cost(jnp.zeros((2, 6)), 0, target=0.1)
