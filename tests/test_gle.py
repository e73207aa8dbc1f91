"""Generalized Latent Equilibrium against the public program's figures, and its identities."""

import functools
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import jit

import modprop_jax as mpj


GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "gle.npz")
FUNCTIONS = {"tanh": jnp.tanh, "softplus": jax.nn.softplus, "linear": jax.nn.identity}
TOL = 1e-10


@functools.cache
def figures(case: str) -> dict[str, Any]:
    """The arrays of a case, without its name."""
    names = [name for name in GOLDEN.files if name.startswith(f"{case}/")]
    return {name.partition("/")[2]: GOLDEN[name] for name in names}


def layers_of(golden: dict, name: str) -> list[Any]:
    return [golden[f"{name}{l}"] for l in range(1, len(golden["phi"]) + 1)]


def hyper(golden: dict) -> dict[str, float]:
    names = "dt", "gamma", "beta", "prospective", "full_forward", "learn_tau", "ce", "lr"
    return dict(zip(names, golden["hyper"]))


def layer(case: str, **options: Any) -> mpj.RNN:
    """The network of a case, under GLE."""
    golden = figures(case)
    values = hyper(golden)
    weights = layers_of(golden, "W")
    settings: dict[str, Any] = {
        "tau_m": layers_of(golden, "tau_m"),
        "tau_r": layers_of(golden, "tau_r"),
        "dt": float(values["dt"]),
        "activations": [FUNCTIONS[name] for name in golden["phi"]],
        "gamma": float(values["gamma"]),
        "order": "sync",
        "use_bias": "b1" in golden,
        "learn_tau": bool(values["learn_tau"]),
        **options,
    }
    sizes = [weights[0].shape[1], *(len(w) for w in weights)]
    cell = mpj.GLECell(sizes, key=jr.key(0), **settings)
    cell = eqx.tree_at(weights_of, cell, list(map(jnp.asarray, weights)))
    if settings["use_bias"]:
        biases = list(map(jnp.asarray, layers_of(golden, "b")))
        cell = eqx.tree_at(biases_of, cell, biases)
    return mpj.RNN(cell, rule=mpj.GLE(prospective_errors=bool(values["prospective"])))


def weights_of(cell: Any) -> list[Any]:
    return [layer.weight for layer in cell.layers]


def biases_of(cell: Any) -> list[Any]:
    return [layer.bias for layer in cell.layers]


def assert_golden(found: Any, golden: dict, name: str, tol: float = TOL) -> None:
    """The figures of each layer, relative to their maximum; NaN fails."""
    for l, one in enumerate(found, 1):
        want = golden[f"{name}{l}"]
        assert one.shape == want.shape, f"{name}{l}"
        assert np.abs(np.asarray(one) - want).max() <= tol * np.abs(want).max(), f"{name}{l}"


def batch_loss(model, carry, xs, ys, beta=1.0):
    """½ β Σ (r - y)², summed over steps and the batch."""
    carry, zs = model(xs, carry)
    return 0.5 * beta * jnp.sum((zs - ys) ** 2), carry


def online(case: str, optimizer: Any = None, floor: float = 0.0) -> Any:
    """Step by step: gradients of the batch's mean loss, states, traces, emissions, parameters.

    `optimizer`: what the parameters learn by; time constants stay above `floor`.
    """
    golden = figures(case)
    batch = golden["x"].shape[1]
    loss = functools.partial(batch_loss, beta=float(hyper(golden)["beta"]))
    stream = mpj.online_value_and_grad(loss, segment=1)
    optimizer = optimizer or optax.set_to_zero()

    def run(model, xs, ys):
        params, static = eqx.partition(model, eqx.is_inexact_array)

        def body(carry, at):
            params, carry, memory = carry
            x, y = (a[None] for a in at)
            (_, carry), gradient = stream(eqx.combine(params, static), carry, x, y)
            gradient = jax.tree.map(lambda g: g / batch, gradient)
            updates, memory = optimizer.update(gradient, memory, params)
            params = optax.apply_updates(params, updates)
            if floor:
                taus = [jnp.maximum(layer.tau_m, floor) for layer in params.cell.layers]
                params = eqx.tree_at(taus_of, params, taus)
            seen = gradient.cell, carry.state, carry.trace.value, params.cell
            return (params, carry, memory), seen

        start = params, model.init((batch,)), optimizer.init(params)
        return jax.lax.scan(body, start, (xs, ys))[1]

    return jit(run)(layer(case), jnp.asarray(golden["x"]), jnp.asarray(golden["y"]))


def taus_of(model: Any) -> list[Any]:
    return [layer.tau_m for layer in model.cell.layers]


@pytest.mark.parametrize("case", "ABCDEF")
def test_golden_step_by_step(case):
    golden = figures(case)
    gradients, states, traces, _ = online(case)
    assert_golden([states.out], {"out1": golden["out"]}, "out")
    for name in ("u", "ub", "r"):
        assert_golden(getattr(states, name), golden, name)
    assert_golden(traces.v, golden, "v")
    assert_golden(weights_of(gradients), golden, "gW")
    assert_golden(biases_of(gradients), golden, "gb")
    if "gtau1" in golden:
        assert_golden([layer.tau_m for layer in gradients.layers], golden, "gtau")


@pytest.mark.parametrize("case, optimizer, floor", [("I", optax.sgd(1e-2), 0.0), ("K", optax.adam(1e-4), 0.1)])
def test_golden_training_in_the_stream(case, optimizer, floor):
    golden = figures(case)
    _, states, _, trained = online(case, optimizer, floor)
    for name in ("u", "ub", "r"):
        assert_golden(getattr(states, name), golden, name)
    assert_golden(weights_of(trained), golden, "Wt")
    if case == "I":
        assert_golden(biases_of(trained), golden, "bt")
    else:
        assert_golden([layer.tau_m for layer in trained.layers], golden, "taut")
