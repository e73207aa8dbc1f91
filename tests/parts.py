"""A network whose synapses stand in a list, or in parts of one that devices and processes share."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import modprop_jax as mpj


N, M, PARTS, STEPS, BATCH = 24, 5, 8, 9, 2
TYPES = (0, 1) * (N // 2)
COUNTS = np.random.default_rng(0).integers(0, 9, N)
RECURRENT = mpj.Sparse.random(jr.key(0), (N, N), fan_in=COUNTS)
INPUTS = mpj.Sparse.random(jr.key(1), (N, M), fan_in=2)
XS, YS = jr.normal(jr.key(4), (STEPS, BATCH, M)), jr.normal(jr.key(5), (STEPS, BATCH, 2))
CASES = [
    ("leaky", mpj.BPTT(), STEPS),
    ("leaky", mpj.EProp(), 4),
    ("leaky", mpj.MDGL(), STEPS),
    ("leaky", mpj.ModProp(0.2, TYPES), 4),
    ("alif", mpj.EProp(), 4),
]
IDS = [f"{cell} {type(rule).__name__} {segment}" for cell, rule, segment in CASES]


def network(cell: str, rule: Any, parts: int | None) -> Any:
    maps: dict[str, Any] = {"recurrent": RECURRENT, "inputs": INPUTS}
    if parts:
        maps = {name: mpj.SparseRows(each, parts) for name, each in maps.items()}
    if cell == "leaky":
        made = mpj.LeakyCell(M, N, tau=4.0, use_bias=True, key=jr.key(2), **maps)
    else:
        constants = {"tau": 5.0, "tau_adaptation": 9.0, "beta": 0.3, "threshold": 0.2}
        made = mpj.ALIFCell(M, N, **constants, key=jr.key(2), **maps)
    return mpj.RNN(made, rule=rule), mpj.Readout(N, 2, key=jr.key(3))


def loss(model, carry, xs, ys):
    carry, zs = model[0](xs, carry)
    return jnp.sum((model[1](zs) - ys) ** 2), carry


def gradient(model: Any, segment: int) -> Any:
    """((loss, the carry that a stream leaves), gradients)."""
    taken = mpj.online_value_and_grad(loss, segment=segment)
    return eqx.filter_jit(taken)(model, model[0].init((BATCH,)), XS, YS)


def matrices(gradients: Any, model: Any) -> list[np.ndarray]:
    """The gradient of each weight where it is in a matrix, and of what has no list."""
    cell = eqx.combine(gradients[0].cell, model[0].cell)
    each = [cell.weight_rec.as_matrix(), cell.weight_in.as_matrix(), gradients[1].weight]
    return [np.asarray(m) for m in each + ([] if cell.bias is None else [cell.bias])]


def same(gradients: Any, model: Any, expected: Any, plain: Any) -> None:
    for have, want in zip(matrices(gradients, model), matrices(expected, plain), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-10, atol=1e-12 * np.abs(want).max())
