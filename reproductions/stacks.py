"""How a rule's gradient is aligned with BPTT's in stacks of 1, 2 and 4 recurrent layers.

python reproductions/stacks.py > docs/results/stacks.md
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import modprop_jax as mpj


SEEDS, DEPTHS = 5, (1, 2, 4)
# compiling is what takes time here
FAST_TO_COMPILE: Any = {
    "compiler_options": {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
}
INPUTS, UNITS, STEPS, BATCH = 4, 32, 100, 8
# four in five neurons are excitatory
TYPES = np.repeat([0, 1], [26, 6])
LEAKY = {
    "RTRL()": mpj.RTRL(),
    "EProp()": mpj.EProp(),
    "MDGL(types)": mpj.MDGL(TYPES),
    "ModProp(0.25, types)": mpj.ModProp(0.25, TYPES),
}
LRU = {"DiagonalRTRL()": mpj.DiagonalRTRL()}
RANKS = (4, 16, 32)
ONE_CELL = {
    "SnAp(1)": mpj.SnAp(1),
    "EProp()": mpj.EProp(),
    **{f"SKRTRL({rank})": mpj.SKRTRL(rank, certificate=False) for rank in RANKS},
}

INTRODUCTION = f"""# Stacks: alignment with BPTT

Output of `python reproductions/stacks.py` (2 to 3 minutes). {SEEDS} networks a row at their initial
weights, {UNITS} units a layer, T = {STEPS}, {BATCH} examples, float32. Task: {INPUTS} inputs of
white noise, and at every step the squared error of their leaky sum (leak 0.95). Cosine with BPTT's
gradient over the parameters of the recurrent layers, of all of them and of the lowest; mean ±
standard deviation over networks.

Leaky: `LeakyCell`s with τ = 10 one on the other, four in five neurons excitatory. LRU: `LRUCell`s
with a linear map and `tanh` between them; `EProp` on these is exact offline, and step by step has
the gradient of `DiagonalRTRL`.
"""
TOGETHER = f"""
## A whole stack as one cell

The leaky stacks once more, with the same weights, but each as *one* `LeakyCell` whose `mask` has a
block for each layer and one for what it hears of the layer below, a step late. A rule then carries
credit through all layers' memory, step by step: nothing is cut between layers. `SKRTRL(rank)` keeps
the influence of all neurons on each other in so many directions. Cosine with BPTT's gradient of the
same cell, of {UNITS} x depth neurons.
"""


class Stack(eqx.Module):
    """Recurrent layers, a map after each; the last one is the readout."""

    layers: list[mpj.RNN]
    maps: list[mpj.Readout | None]

    def __call__(self, xs, carries):
        after = []
        for i, (layer, linear, carry) in enumerate(zip(self.layers, self.maps, carries)):
            carry, xs = layer(xs, carry)
            after.append(carry)
            if linear is not None:
                last = i == len(self.maps) - 1
                xs = linear(xs) if last else jnp.tanh(linear(xs))
        return after, xs

    def loss(self, carry, xs, ys):
        carry, outputs = self(xs, carry)
        return jnp.sum((outputs - ys) ** 2), carry


def leaky_stack(depth: int, key: Any) -> Stack:
    """Excitatory and inhibitory neurons, chained directly."""
    *keys, last = jr.split(key, depth + 1)
    layers, features = [], INPUTS
    for key in keys:
        signs = 1 - 2 * TYPES
        cell = mpj.LeakyCell(features, UNITS, tau=10.0, use_bias=True, signs=signs, key=key)
        cell = eqx.tree_at(lambda c: c.weight_in, cell, cell.weight_in / math.sqrt(features))
        layers.append(mpj.RNN(cell))
        features = UNITS
    return Stack(layers, [None] * (depth - 1) + [mpj.Readout(UNITS, 1, key=last)])


def one_cell(depth: int, key: Any) -> Stack:
    """That stack as one cell: each layer hears the one below a step late."""
    stack = leaky_stack(depth, key)
    n = depth * UNITS
    layers: list[Any] = [layer.cell for layer in stack.layers]
    mask, weight = np.zeros((n, n), bool), jnp.zeros((n, n))
    for i, cell in enumerate(layers):
        own, below = block(i), block(i - 1)
        mask[own, own], weight = True, weight.at[own, own].set(cell.weight_rec)
        if i:
            mask[own, below], weight = True, weight.at[own, below].set(cell.weight_in)
    made = mpj.LeakyCell(INPUTS, n, tau=10.0, use_bias=True, mask=mask, key=key)
    heard = jnp.zeros((n, INPUTS)).at[block(0)].set(layers[0].weight_in)
    made = eqx.tree_at(lambda c: (c.weight_rec, c.weight_in), made, (weight, heard))
    (readout,) = stack.maps[-1:]
    assert readout is not None
    seen = jnp.zeros((1, n)).at[:, block(depth - 1)].set(readout.weight)
    wide = eqx.tree_at(lambda r: r.weight, mpj.Readout(n, 1, key=key), seen)
    return Stack([mpj.RNN(made)], [wide])


def block(layer: int) -> slice:
    """Its neurons."""
    return slice(layer * UNITS, (layer + 1) * UNITS)


def by_layer(found: list[Any], depth: int) -> list[Any]:
    """Of that one cell: what each layer would have of its own, lowest first."""
    (cell,) = found
    return [
        (
            cell.weight_rec[:, block(i), block(i)],
            cell.weight_rec[:, block(i), block(i - 1)] if i else cell.weight_in[:, block(0)],
            cell.bias[:, block(i)],
        )
        for i in range(depth)
    ]


def lru_stack(depth: int, key: Any, **options: Any) -> Stack:
    """Linear recurrent units, with a linear map and tanh between them."""
    layers, maps, features = [], [], INPUTS
    for i, key in enumerate(jr.split(key, depth)):
        one, other = jr.split(key)
        layers.append(mpj.RNN(mpj.LRUCell(features, UNITS, key=one, **options)))
        maps.append(mpj.Readout(features, UNITS if i < depth - 1 else 1, key=other))
        features = UNITS
    return Stack(layers, maps)


def data(key: Any) -> tuple[Any, Any]:
    """White noise, and the leaky sum of what each example's inputs add up to."""
    xs = jr.normal(key, (STEPS, BATCH, INPUTS))

    def leaky(total, x):
        total = 0.95 * total + 0.05 * x.sum(-1, keepdims=True)
        return total, total

    return xs, jax.lax.scan(leaky, jnp.zeros((BATCH, 1)), xs)[1]


def gradients(models: Stack, rule: mpj.AbstractRule, segment: int | None) -> list[Any]:
    """The recurrent layers' gradients, lowest first, of every network on data of its own."""

    def one(model, key):
        model = mpj.with_rule(model, rule)
        xs, ys = data(key)
        if segment is None:
            carry = [layer.cell.init((BATCH,)) for layer in model.layers]
            run = eqx.filter_value_and_grad(Stack.loss, has_aux=True)
        else:
            carry = [layer.init((BATCH,)) for layer in model.layers]
            run = mpj.online_value_and_grad(Stack.loss, segment=segment)
        _, found = run(model, carry, xs, ys)
        return [layer.cell for layer in found.layers]

    return eqx.filter_vmap(one)(models, jr.split(jr.key(1), SEEDS))


gradients_jit = eqx.filter_jit(gradients, **FAST_TO_COMPILE)
# where a run is long
gradients_fast = eqx.filter_jit(gradients)


def flat(trees: Any) -> np.ndarray:
    """(networks, numbers)."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(trees)]
    return np.concatenate([leaf.reshape(SEEDS, -1) for leaf in leaves], axis=1)


def cosine(found: Any, exact: Any) -> str:
    """Mean and standard deviation over networks; a dash where no credit comes."""
    a, b = flat(found), flat(exact)
    if not a.any():
        return "–"
    each = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return f"{each.mean():.3f} ± {each.std():.3f}"


def rows(name: str, make: Any, rules: dict[str, Any]) -> list[str]:
    """The table's rows of one kind of stack."""
    lines = {rule: [] for rule in rules}
    for depth in DEPTHS:
        models = eqx.filter_vmap(functools.partial(make, depth))(jr.split(jr.key(0), SEEDS))
        exact = gradients_jit(models, mpj.BPTT(), None)
        for label, rule in rules.items():
            offline, streamed = (gradients_jit(models, rule, k) for k in (None, 1))
            cells = [label, name, str(depth)]
            for found in (offline, streamed):
                cells += [cosine(found, exact), cosine(found[0], exact[0])]
            lines[label].append("| " + " | ".join(cells) + " |")
    return [line for of_rule in lines.values() for line in of_rule]


def together() -> Iterator[str]:
    """Rows of stacks that are one cell, streamed step by step."""
    for depth in DEPTHS[1:]:
        models = eqx.filter_vmap(functools.partial(one_cell, depth))(jr.split(jr.key(0), SEEDS))
        exact = by_layer(gradients_jit(models, mpj.BPTT(), None), depth)
        for label, rule in ONE_CELL.items():
            found = by_layer(gradients_fast(models, rule, 1), depth)
            cosines = cosine(found, exact), cosine(found[0], exact[0])
            yield f"| {label} | {depth} | {' | '.join(cosines)} |"


def main() -> None:
    """Print the tables as Markdown."""
    print(INTRODUCTION)
    print("| rule | stack | depth | offline: all | lowest | step by step: all | lowest |")
    print("|---|---|---|---|---|---|---|")
    kinds = [
        ("leaky", leaky_stack, LEAKY),
        ("LRU, 0 ≤ abs(λ) ≤ 1", lru_stack, LRU),
        ("LRU, abs(λ) ≥ 0.9", functools.partial(lru_stack, r_min=0.9, max_phase=0.3), LRU),
    ]
    for kind in kinds:
        print("\n".join(rows(*kind)), flush=True)
    print(TOGETHER)
    print("| rule | depth | step by step: all | lowest |\n|---|---|---|---|")
    for line in together():
        print(line, flush=True)


if __name__ == "__main__":
    main()
