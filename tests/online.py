"""The golden network of the online family, and its gradients step by step.

Gradients and weights of the recurrent layer are in the layout of the figures, (n, m) =
[W_rec | W_in | b], those of the readout (n_out, n + 1) = [W_out | b_out]; see golden/README.md.
"""

import functools
import pathlib
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from helpers import jit, Net

import modprop_jax as mpj


CASES = ("a10_ce", "a05_mse")
ALPHA = {"a10_ce": 1.0, "a05_mse": 0.5}
# step size of the published training runs, on all parameters
RATE = 0.05


@functools.cache
def figures(group: str) -> dict[str, np.ndarray]:
    """The figures under `group/`, such as "a10_ce/rtrl"."""
    path = pathlib.Path(__file__).parent / "golden" / "online_family.npz"
    with np.load(path) as file:
        return {k.removeprefix(f"{group}/"): file[k] for k in file if k.startswith(f"{group}/")}


def data(case: str) -> tuple[jax.Array, jax.Array]:
    """Inputs and targets, (T, n_in) and (T, n_out)."""
    shared = figures("shared")
    return jnp.asarray(shared["X"]), jnp.asarray(shared["Y_" + case.split("_")[1]])


def loss(case: str, outputs: jax.Array, ys: jax.Array) -> jax.Array:
    """Summed over time: cross-entropy with soft labels, or half of squared errors."""
    if case.endswith("ce"):
        return optax.softmax_cross_entropy(outputs, ys).sum()
    return 0.5 * jnp.sum((outputs - ys) ** 2)


def network(
    case: str, rule: mpj.AbstractRule, feedback: Literal["symmetric", "random"] = "symmetric"
) -> Any:
    """RateCell and Readout with the published weights; "random": error comes back by W_FB."""
    shared = {k: jnp.asarray(v) for k, v in figures("shared").items()}
    (n, m), k = shared["W_in"].shape, len(shared["b_out"])
    net = Net(
        mpj.RNN(mpj.RateCell(m, n, alpha=ALPHA[case], key=jr.key(0)), rule=rule),
        mpj.Readout(n, k, feedback=feedback, key=jr.key(0)),
    )
    net = eqx.tree_at(weights, net, weights_of(shared))
    if feedback == "symmetric":
        return net
    return eqx.tree_at(lambda net: net.readout.feedback_weight, net, shared["W_FB"])


def weights(net: Any) -> tuple:
    """W_rec, W_in, b_rec, W_out, b_out."""
    cell, readout = net.rnn.cell, net.readout
    return cell.weight_rec, cell.weight_in, cell.bias, readout.weight, readout.bias


def weights_of(arrays: dict[str, Any]) -> tuple:
    """The same, by the names of the figures."""
    return tuple(arrays[k] for k in ("W_rec", "W_in", "b_rec", "W_out", "b_out"))


def recurrent(cell: Any) -> jax.Array:
    """[W_rec | W_in | b] of a cell, or of anything shaped as one; leading axes are kept."""
    return side_by_side(cell.weight_rec, cell.weight_in, cell.bias)


def side_by_side(*arrays: Any) -> jax.Array:
    """Weights next to each other; the last is a bias."""
    *matrices, bias = arrays
    return jnp.concatenate([*matrices, bias[..., None]], axis=-1)


def gradient_of_segment(case: str, net: Any, carry: Any, xs: jax.Array, ys: jax.Array) -> Any:
    """((loss, carry), gradients) of steps from a carry; rules that read labels get them."""

    def segment_loss(net, carry, xs, ys):
        carry, zs = net.rnn(xs, carry, context=ys)
        return loss(case, net.readout(zs), ys), carry

    return mpj.online_value_and_grad(segment_loss, segment=len(xs))(net, carry, xs, ys)


of_segment = jit(gradient_of_segment)


class Steps(NamedTuple):
    """What came of each step, leading axis T (or one entry a segment); traces are those after."""

    losses: jax.Array
    recurrent: jax.Array
    readout: jax.Array
    traces: Any


@jit
def per_step(case: str, net: Any, carry: Any, segment: int = 1) -> Steps:
    """Gradients at fixed weights, one segment after the other from this carry.

    The carry is `net.rnn.init()` (or with `key=`), its trace replaced where the figures start from
    values of their own.
    """

    def body(carry, seen):
        (value, carry), gradients = gradient_of_segment(case, net, carry, *seen)
        cell, readout = gradients.rnn.cell, gradients.readout
        found = recurrent(cell), side_by_side(readout.weight, readout.bias)
        return carry, Steps(value, *found, carry.trace)

    in_segments = jax.tree.map(lambda a: a.reshape(-1, segment, *a.shape[1:]), data(case))
    return jax.lax.scan(body, carry, in_segments)[1]


@jit
def train(case: str, net: Any, carry: Any) -> tuple[jax.Array, Any]:
    """Losses, and the net after a step of plain gradient descent at every step of time."""
    params, static = eqx.partition(net, eqx.is_inexact_array)

    def body(state, seen):
        params, carry = state
        found = gradient_of_segment(case, eqx.combine(params, static), carry, *seen)
        (value, carry), gradients = found
        return (jax.tree.map(lambda p, g: p - RATE * g, params, gradients), carry), value

    one_by_one = jax.tree.map(lambda a: a[:, None], data(case))
    (params, _), losses = jax.lax.scan(body, (params, carry), one_by_one)
    return losses, eqx.combine(params, static)


def assert_golden(actual: Any, expected: np.ndarray, tol: float = 1e-10) -> None:
    """Within tol of the figures' maximum; written so that NaN fails."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    off = np.abs(actual - expected).max()
    assert off <= tol * np.abs(expected).max(), f"off by {off:.1e}"
