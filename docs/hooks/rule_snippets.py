"""How a rule is written, as a program and as a command."""

from rule_cells import CELLS, made, WORDS

import modprop_jax as mpj
from modprop_jax._rule import AbstractEstimatingRule


def command(name: str) -> str:
    """A comparison that has the rule."""
    named, cell = mpj.cards()[name].names[0], WORDS[name]["cell"]
    task = "add --preset brief" if named.online else "sequential_digits"
    task = {"GLECell": "mnist1d --cell gle", "EquilibriumCell": "digits"}.get(cell, task)
    other = "eprop" if named.name == "bptt" else "bptt"
    beside = "rtrl" if named.online else other
    where = " --cell lru" if cell == "LRUCell" else ""
    return f"modprop-jax compare {task}{where} --rules {named.name} {beside}"


def snippet(name: str) -> str:
    """A program that takes a gradient by the rule: offline, and on a stream."""
    rule, cell = WORDS[name]["rule"], CELLS[WORDS[name]["cell"]]
    keyed, estimates = made(name).needs_key, isinstance(made(name), AbstractEstimatingRule)
    lines = ["import jax", "import jax.numpy as jnp"]
    lines += ["import optax"] * ("optax" in rule)
    lines += ["", "import modprop_jax as mpj", "", "key = jax.random.key(0)"]
    lines += ["types = [0] * 6 + [1] * 2  # of each neuron"] * ("types" in rule)
    lines += [f"cell = {cell}", f"rnn = mpj.RNN(cell, rule={rule})"]
    lines += ["xs = jnp.ones((20, 4, 3))  # steps, batch, inputs"]
    if not (keyed or estimates):
        lines += ["", "", OFFLINE]
    key = ", key=key" if keyed else ""
    return "\n".join([*lines, "", "", STREAMED.replace("KEY", key)])


OFFLINE = """def loss(rnn, xs):
    return jnp.mean(rnn(xs) ** 2)


value, grads = mpj.value_and_grad(loss)(rnn, xs)"""
STREAMED = """def segment_loss(rnn, carry, xs, ys):
    carry, zs = rnn(xs, carry)
    return jnp.mean((zs - ys) ** 2), carry


carry, ys = rnn.init((4,)KEY), jnp.zeros((20, 1, 1))
online = mpj.online_value_and_grad(segment_loss, segment=5)
(value, carry), grads = online(rnn, carry, xs, ys)"""
