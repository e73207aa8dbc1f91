"""The tables of the page on how to choose a rule: from cards, and what carries take, measured."""

import functools
import pathlib
import re
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from rule_cells import CELLS, made, serving, WORDS

import modprop_jax as mpj


PAGE = pathlib.Path(__file__).parents[1] / "usage" / "how-to-choose-a-rule.md"
INPUTS, SIZES, ROOM = 8, (32, 64, 128), 64 * 1024
BUILD: dict[str, Callable] = {
    "LeakyCell": lambda n, key: mpj.LeakyCell(INPUTS, n, tau=20.0, key=key),
    "LRUCell": lambda n, key: mpj.LRUCell(INPUTS, n, key=key),
    "GLECell": lambda n, key: mpj.GLECell(
        [INPUTS, n], tau_m=2.0, tau_r=1.0, dt=1.0, activations=jnp.tanh, key=key
    ),
    "EquilibriumCell": lambda n, key: mpj.EquilibriumCell.layered(
        [INPUTS, n], activation=jnp.tanh, key=key
    ),
}


def sized(name: str, n: int) -> mpj.AbstractRule:
    """The rule as its page writes it, its types spread over n neurons."""
    types = [0] * (n - n // 4) + [1] * (n // 4)
    match name:
        case "MDGL":
            return mpj.MDGL(types)
        case "TypeFilter":
            return mpj.TypeFilter(([0.9], [[[0.0, 0.0], [0.0, 0.0]]]), types)
        case "ModProp":
            return mpj.ModProp(0.25, types)
    return made(name)


@functools.cache
def carried(name: str, n: int) -> tuple[int, int]:
    """Bytes of the cell's parameters, and of the rule's carry for one example, in float32."""
    rule = sized(name, n)

    def make(key):
        cell = BUILD[WORDS[name]["cell"]](n, key)
        return eqx.filter(cell, eqx.is_inexact_array), rule.init(cell, cell.init((1,)), key=key)

    cell, carry = eqx.filter_eval_shape(make, jax.random.key(0))
    return _bytes(cell), _bytes(carry)


def largest(name: str) -> int:
    """The most neurons whose parameters, their gradient and the carry fit into 64 KB."""

    def fits(n):
        weights, carry = carried(name, n)
        return 2 * weights + carry <= ROOM

    high = SIZES[0]
    while fits(high):  # a pattern of thousands of neurons would take SnAp minutes
        high *= 2
    low = 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _bytes(tree) -> int:
    leaves = jax.tree.leaves(eqx.filter(tree, lambda leaf: hasattr(leaf, "dtype")))
    return sum(leaf.size * (1 if leaf.dtype == bool else 4) for leaf in leaves)


def _link(name: str) -> str:
    return f"[`{name}`](../rules/{name.lower()}.md)"


def knowledge() -> str:
    """What a synapse must know, rule by rule."""
    columns = "rule", "called", "credit that it delivers", "a synapse must know", "gradient"
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    body = [
        f"| {_link(name)} | {card.called} | {card.credit} | {card.synapse} "
        f"| {card.bias}: {card.when} |"
        for name, card in mpj.cards().items()
    ]
    return "\n".join(head + body)


def memory() -> str:
    """Measured carries, least first."""
    head = " | ".join(f"n = {n}" for n in SIZES)
    lines = [f"| rule | {head} | neurons in 64 KB |", "|---|" + "---:|" * (len(SIZES) + 1)]
    for name in sorted(mpj.cards(), key=lambda name: carried(name, SIZES[-1])[1]):
        cell = WORDS[name]["cell"]
        where = "" if cell == "LeakyCell" else f", on `{cell}`"
        found = " | ".join(f"{carried(name, n)[1]:,}" for n in SIZES)
        lines.append(f"| {_link(name)} `{_short(name)}`{where} | {found} | {largest(name)} |")
    return "\n".join(lines)


def _short(name: str) -> str:
    return re.sub(r"mpj\.|, learn.*|learn=.*(?=\))", "", WORDS[name]["rule"]).removesuffix("(")


def cells() -> str:
    """The rules that serve each cell."""
    lines = ["| cell | rules |", "|---|---|"]
    for cell in CELLS:
        rules = ", ".join(_link(name) for name in mpj.cards() if cell in serving(name))
        lines.append(f"| [`{cell}`][modprop_jax.{cell}] | {rules} |")
    return "\n".join(lines)


TABLES = {"knowledge": knowledge, "memory": memory, "cells": cells}


def filled(text: str) -> str:
    """The page with its tables made again."""
    for name, make in TABLES.items():
        around = rf"(<!-- {name} -->\n)(?:.*\n)*?(<!-- /{name} -->)"
        text = re.sub(around, lambda found: f"{found[1]}\n{make()}\n\n{found[2]}", text)
    return text


def write_tables() -> None:
    """Make the tables of the page again."""
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
