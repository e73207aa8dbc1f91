"""Cells to try rules on, and which of them a rule serves."""

import functools
import pathlib
import tomllib

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import modprop_jax as mpj


KEY = "key=key"
CELLS = {
    "LeakyCell": f"mpj.LeakyCell(3, 8, tau=5.0, {KEY})",
    "RateCell": f"mpj.RateCell(3, 8, alpha=0.2, {KEY})",
    "LIFCell": f"mpj.LIFCell(3, 8, tau=5.0, {KEY})",
    "ALIFCell": f"mpj.ALIFCell(3, 8, tau=5.0, tau_adaptation=50.0, beta=1.8, {KEY})",
    "GRUCell": f"mpj.GRUCell(3, 8, {KEY})",
    "LSTMCell": f"mpj.LSTMCell(3, 8, {KEY})",
    "LRUCell": f"mpj.LRUCell(3, 8, {KEY})",
    "RTUCell": f"mpj.RTUCell(3, 8, {KEY})",
    "GLECell": f"mpj.GLECell([3, 8, 2], tau_m=5.0, tau_r=1.0, dt=1.0, activations=jnp.tanh, {KEY})",
    "EquilibriumCell": f"mpj.EquilibriumCell.layered([3, 8, 2], activation=jax.nn.sigmoid, {KEY})",
    "FunctionCell": "mpj.FunctionCell(lambda p, s, x: jnp.tanh(s @ p), jnp.eye(8), jnp.zeros(8))",
}
"""How each is written, for snippets too."""
WORDS = tomllib.loads((pathlib.Path(__file__).parent / "rule_words.toml").read_text("utf-8"))
_NAMES = {"mpj": mpj, "jax": jax, "jnp": jnp, "optax": optax, "key": jax.random.key(0)}
_NAMES["types"] = [0] * 6 + [1] * 2


def made(name: str) -> mpj.AbstractRule:
    """The rule as its page writes it."""
    return eval(WORDS[name]["rule"], dict(_NAMES))


@functools.cache
def cell(name: str) -> mpj.AbstractCell:
    """The cell as pages write it."""
    return eval(CELLS[name], dict(_NAMES))


def serving(name: str) -> list[str]:
    """The cells that a rule serves, as `serves` finds them."""
    return list(CELLS) if WORDS[name]["cells"] == ["all"] else WORDS[name]["cells"]


def serves(name: str, kind: str) -> bool:
    """Whether the rule takes up the cell, and has a gradient of it."""
    rule, served, key = made(name), cell(kind), jax.random.key(0)
    if name == "SnAp":  # reads the pattern off a step, for which some cells must know their inputs
        rule = mpj.SnAp(1, inputs=3)

    def loss(cell):
        carry = rule.init(cell, cell.init((1,)), key=key)
        return jnp.sum(mpj.scan(cell, carry, jnp.ones((2, 1, 3)), rule=rule)[1])

    try:
        eqx.filter_eval_shape(eqx.filter_grad(loss), served)
    except ValueError:
        return False
    return True
