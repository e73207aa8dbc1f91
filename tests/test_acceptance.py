"""Two published training runs, end to end: task, network, e-prop, optimizer, five losses.

Each follows a public program of Bellec et al., Nature Communications 11 (2020), draw by draw: its
losses are in golden/README.md.
"""

import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from helpers import jit, Net

import modprop_jax as mpj


FIGURES = np.load(pathlib.Path(__file__).parent / "golden" / "eprop_mdgl_snap.npz")
N = 100


def single(array):
    """In float64, but drawn as the programs draw: in float32."""
    return np.asarray(array, np.float32).astype(float)


def network(cell, draws):
    """The weights drawn, with random feedback; `draws` are [pre, post], but B is [n, out]."""
    w_in, w_rec, w_out, b = (single(draw).T for draw in draws)
    np.fill_diagonal(w_rec, 0)
    readout = mpj.Readout(N, len(w_out), feedback="random", use_bias=False, key=jr.key(0))
    return eqx.tree_at(
        lambda m: (
            m.rnn.cell.cell.weight_in,
            m.rnn.cell.cell.weight_rec,
            m.readout.weight,
            m.readout.feedback_weight,
        ),
        Net(mpj.RNN(cell), readout),
        (jnp.asarray(w_in), jnp.asarray(w_rec), jnp.asarray(w_out), jnp.asarray(b)),
    )


def losses(model: Any, optimizer, trials, error, strength):
    """The loss before each update, without the rate cost that is also minimised."""

    def loss(model, xs, ys):
        zs = model.rnn(xs)
        counts = zs[-1, :, N:]
        value = error(model.readout(zs[..., :N]), ys)
        return value + mpj.rate_cost(counts, len(xs), target=0.01, strength=strength), value

    gradient = mpj.value_and_grad(loss, mpj.EProp(), has_aux=True)

    @jit
    def iteration(model, state, xs, ys):
        (_, value), gradients = gradient(model, xs, ys)
        with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
            updates, state = optimizer.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value

    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    values = []
    for xs, ys in trials:
        model, state, value = iteration(model, state, jnp.asarray(xs), jnp.asarray(ys))
        values.append(float(value))
    return values


def assert_published(found, name):
    """By the authors' program, in float32, and by NEST, in float64."""
    np.testing.assert_allclose(found, FIGURES[f"nest/{name}_loss_tf"], rtol=1e-6)
    np.testing.assert_allclose(found, FIGURES[f"nest/{name}_loss_nest"], rtol=1e-8)


def test_pattern_generation():
    steps, draw = 1000, np.random.RandomState(1)
    weights = [draw.randn(N, N) / 10, draw.randn(N, N) / 10, draw.randn(N, 1) / 10]
    weights.append(draw.randn(N, 1) / 10)
    xs = (draw.rand(steps, N) < 0.05).astype(float)
    xs[0] = 0
    amplitudes, phases = draw.uniform(0.5, 2, 4), draw.uniform(0, 2 * np.pi, 4)
    target = np.zeros(steps)
    for amplitude, phase, period in zip(amplitudes, phases, (1000, 500, 333, 200)):
        turns = np.linspace(0, 2 * np.pi * (steps // period), steps)
        target += amplitude * np.sin(turns + phase)
    target -= target[0]
    target /= np.abs(target).max()

    cell = mpj.spiking_preset(
        "bellec_lif",
        N,
        N,
        tau=30.0,
        threshold=0.03,
        leak=(np.exp(-1 / 30), 1.0),
        key=jr.key(0),
    )
    found = losses(
        network(cell, weights),
        optax.sgd(1e-4),
        [(xs[:, None], single(target)[:, None, None])] * 5,
        lambda outputs, ys: 0.5 * jnp.sum((outputs - ys) ** 2),
        300.0,
    )
    assert_published(found, "patgen")


def evidence_trial(draw):
    """Seven cues at the left or right, a delay, a recall: (inputs, which side had more)."""
    index = draw.choice([0, 1], 1)[0]
    sides = np.array([0.3, 0.7], np.float32)
    cues = draw.choice([0, 1], 7, p=(sides[index], sides[1 - index]))
    rates = np.zeros((1, 2250, 40))
    rates[..., 30:] = 0.01
    rates[:, -150:, 20:30] = 0.04
    for k, cue in enumerate(cues):
        rates[:, 150 * k + 50 : 150 * (k + 1), 10 * cue : 10 * (cue + 1)] = 0.04
    spikes = (rates > draw.rand(*rates.shape)).astype(float)
    spikes[:, 0] = 0
    return spikes.swapaxes(0, 1), np.array([int(cues.sum() > 3)])


def test_evidence_accumulation():
    draw = np.random.RandomState(1)
    bound = np.sqrt(3 / ((N + 2) / 2))
    weights = [draw.randn(40, N) / np.sqrt(40), draw.randn(N, N) / 10]
    weights += [draw.uniform(-bound, bound, (N, 2)), draw.randn(N, 2)]
    trials = [evidence_trial(draw) for _ in range(5)]

    leak, leak_adaptation = np.exp(-1 / 20), np.exp(-1 / 2000)
    cell = mpj.spiking_preset(
        "bellec_elig_alif",
        40,
        N,
        tau=20.0,
        tau_adaptation=2000.0,
        # half of the neurons adapt
        beta=1.7 * (1 - leak_adaptation) / (1 - leak) * (np.arange(N) >= N / 2),
        threshold=0.6,
        refractory=5,
        leak=(leak, 1.0),
        key=jr.key(0),
    )

    def recall_error(outputs, labels):
        each = optax.softmax_cross_entropy_with_integer_labels(
            outputs[-150:], jnp.broadcast_to(labels, (150, 1))
        )
        return jnp.mean(each)

    # the moments' bias is corrected in the step size, so that it scales epsilon as well
    adam = optax.inject_hyperparams(optax.adam)(
        5e-3, eps=lambda count: 1e-8 / jnp.sqrt(1 - 0.999 ** (count + 1))
    )
    found = losses(network(cell, weights), adam, trials, recall_error, 2.0)
    assert_published(found, "evacc")
