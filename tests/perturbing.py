"""The golden networks of perturbation, in the layout of the figures: `[W_rec | W_in | b]`."""

import pathlib
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import modprop_jax as mpj


GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "perturbation.npz")
CASES = ("tiny", "small", "elman")


def golden(case: str, name: str) -> np.ndarray:
    return GOLDEN[f"{case}/{name}"]


def rate_cell(case: str) -> Any:
    """The network of a case."""
    weight = golden(case, "W")
    n, m = len(weight), golden(case, "xs").shape[1]
    alpha = float(golden(case, "alpha"))
    cell = mpj.RateCell(m, n, alpha=alpha, autapses=True, use_bias=True, key=jr.key(0))
    parts = weight[:, :n], weight[:, n : n + m], weight[:, -1]
    return eqx.tree_at(
        lambda c: (c.weight_rec, c.weight_in, c.bias), cell, tuple(map(jnp.asarray, parts))
    )


def side_by_side(cell: Any) -> np.ndarray:
    parts = cell.weight_rec, cell.weight_in, cell.bias[..., None]
    return np.concatenate(list(map(np.asarray, parts)), axis=-1)
