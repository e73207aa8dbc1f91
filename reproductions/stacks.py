"""How a rule's gradient is aligned with BPTT's in stacks of 1, 2 and 4 recurrent layers.

python reproductions/stacks.py > docs/results/stacks.md
"""

import functools
import math
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

INTRODUCTION = f"""# Stacks: alignment with BPTT

Output of `python reproductions/stacks.py` (1 to 2 minutes). {SEEDS} networks a row at their initial
weights, {UNITS} units a layer, T = {STEPS}, {BATCH} examples, float32. Task: {INPUTS} inputs of
white noise, and at every step the squared error of their leaky sum (leak 0.95). Cosine with BPTT's
gradient over the parameters of the recurrent layers, of all of them and of the lowest; mean ±
standard deviation over networks.

Leaky: `LeakyCell`s with τ = 10 one on the other, four in five neurons excitatory. LRU: `LRUCell`s
with a linear map and `tanh` between them; `EProp` on these is exact offline, and step by step has
the gradient of `DiagonalRTRL`.
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


def flat(trees: Any) -> np.ndarray:
    """(networks, numbers)."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(trees)]
    return np.concatenate([leaf.reshape(SEEDS, -1) for leaf in leaves], axis=1)


def cosine(found: Any, exact: Any) -> str:
    """Mean and standard deviation over networks."""
    a, b = flat(found), flat(exact)
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


def main() -> None:
    """Print the table as Markdown."""
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


if __name__ == "__main__":
    main()
