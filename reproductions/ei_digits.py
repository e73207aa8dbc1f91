"""Handwritten digits by credit at equilibrium and by backpropagation, on one network.

python reproductions/ei_digits.py > docs/results/ei-digits.md
"""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import modprop_jax as mpj
from modprop_jax.experiments import build_network, build_optimizer, Network
from modprop_jax.tasks import cross_entropy, DIGITS


PRESET, SEEDS, RUNS = DIGITS.presets["small"], 5, 30
NETWORK, BATCH, ITERATIONS = PRESET.network, PRESET.schedule.batch, PRESET.schedule.iterations
N, LAYERS = NETWORK.hidden_size, NETWORK.cell_options["layers"]


def layered(network: Network, xs: Any) -> Any:
    """The network without an equilibrium: each layer a function of the one before."""
    cell: Any = network.rnn.cell
    rates, first = xs[0], 0
    for _ in range(LAYERS):
        after = first + rates.shape[-1]
        weight = cell.weight[after : after + N, first:after]
        rates = cell.activation(rates @ weight.T + cell.bias[after : after + N])
        first = after
    return network.readout(rates)


def settling(network: Network, xs: Any) -> Any:
    """The network as it is, with the derivative that its rule says."""
    return network(xs)


# how a row learns: its rule, and what is derived under it
RULES: dict[str, tuple[mpj.AbstractRule, Callable]] = {
    "backpropagation, layer by layer": (mpj.BPTT(), layered),
    "E-I credit": (mpj.EICredit(), settling),
    "E-I credit, clamped as published": (mpj.EICredit(output="clamp"), settling),
    "implicit differentiation": (mpj.BPTT(), settling),
    "E-I credit, 1 sweep": (mpj.EICredit(sweeps=1), settling),
    "E-I credit, no sweep": (mpj.EICredit(sweeps=0), settling),
    "the readout alone": (mpj.ReadoutOnly(), settling),
}


def loss(network: Network, xs: Any, labels: Any, outputs: Callable) -> Any:
    """Cross-entropy of the digits shown, and accuracy."""
    return cross_entropy(outputs(network, xs), labels)


@eqx.filter_jit
def gradient(network: Network, xs: Any, labels: Any, outputs: Callable) -> Any:
    """By the network's rule."""
    return eqx.filter_grad(loss, has_aux=True)(network, xs, labels, outputs)[0]


@eqx.filter_jit
def learn(network: Network, key: Any, rule: Any, outputs: Callable) -> Network:
    """The network after all iterations under a rule."""
    network = mpj.with_rule(network, rule)
    optimizer = build_optimizer(PRESET)
    arrays, fixed = eqx.partition(network, eqx.is_inexact_array)

    def step(before, key):
        arrays, state = before
        network = eqx.combine(arrays, fixed)
        batch = DIGITS.batch(key, BATCH, **PRESET.data)
        found = gradient(network, *batch, outputs)
        updates, state = optimizer.update(found, state, arrays)
        return (eqx.apply_updates(arrays, updates), state), None

    start = arrays, optimizer.init(arrays)
    (arrays, _), _ = jax.lax.scan(step, start, jr.split(key, ITERATIONS))
    return eqx.combine(arrays, fixed)


@eqx.filter_jit
def describe(network: Network) -> dict[str, Any]:
    """Of all test images: accuracy, sweeps of firing and credit, balance, synapses at zero."""
    xs, labels = DIGITS.evaluation(jr.key(0), **PRESET.data)
    cell: Any = network.rnn.cell
    state, _ = mpj.scan(cell, cell.init((len(labels),)), xs)

    def of_rates(rates):
        return cross_entropy(network.read(rates[None]), labels)[0]

    direct = jax.grad(of_rates)(state.rates)
    balance = mpj.ei_balance(cell, state)
    exists = cell.mask
    signs = jnp.asarray(cell.signs)
    return {
        "accuracy": loss(network, xs, labels, settling)[1],
        "firing": state.sweeps,
        "credit": mpj.EICredit().relax(cell, state, direct).sweeps,
        "clamped": mpj.EICredit(output="clamp").relax(cell, state, direct).sweeps,
        "settled": state.converged.mean(),
        "zero": jnp.mean(cell.weight == 0, where=exists),
        "against": jnp.sum(jnp.where(exists, cell.weight * signs < 0, False)),
        "set point": balance.set_point.mean(),
        "radius": balance.radius.max(),
    }


def times(network: Network) -> dict[str, float]:
    """Microseconds an example of a gradient, medians of runs that take turns."""
    batch = DIGITS.batch(jr.key(1), BATCH, **PRESET.data)
    networks = {name: mpj.with_rule(network, rule) for name, (rule, _) in RULES.items()}
    found: dict[str, list[float]] = {name: [] for name in RULES}
    for _ in range(1 + RUNS):
        for name, (_, outputs) in RULES.items():
            began = time.perf_counter()
            jax.block_until_ready(gradient(networks[name], *batch, outputs))
            found[name].append(1e6 * (time.perf_counter() - began) / BATCH)
    # the first compiled
    return {name: float(np.median(each[1:])) for name, each in found.items()}


def spread(values: Any) -> str:
    """Smallest to largest, or the one that all are."""
    low, high = int(np.min(values)), int(np.max(values))
    return str(low) if low == high else f"{low}-{high}"


def main() -> None:
    """Train, measure and print."""
    keys = [jr.split(jr.key(seed)) for seed in range(SEEDS)]
    starts = [build_network(DIGITS, PRESET, key) for key, _ in keys]
    final = {
        name: [learn(start, key, *way) for start, (_, key) in zip(starts, keys)]
        for name, way in RULES.items()
    }
    found = {name: [describe(each) for each in networks] for name, networks in final.items()}
    before, after = describe(starts[0]), found["E-I credit"]
    print(INTRODUCTION)
    print("| credit | test accuracy in %, seed by seed | mean | µs an example |")
    print("|---|---|---|---|")
    cost = times(final["E-I credit"][0])
    for name, seeds in found.items():
        each = [100 * float(seed["accuracy"]) for seed in seeds]
        shown = " ".join(f"{value:.1f}" for value in each)
        print(f"| {name} | {shown} | {np.mean(each):.1f} | {cost[name]:.1f} |")
    print(
        f"\nTime: a gradient of {BATCH} images, median of {RUNS} that take turns in one "
        "process.\nSweeps an image, all test images:\n"
    )
    print("| network | firing | credit | credit, clamped | settled |")
    print("|---|---|---|---|---|")
    for name, seeds in (("at the start", [before]), ("trained by E-I credit", after)):
        sweeps = (
            spread([seed[which] for seed in seeds]) for which in ("firing", "credit", "clamped")
        )
        settled = 100 * np.mean([seed["settled"] for seed in seeds])
        print(f"| {name} | {' | '.join(sweeps)} | {settled:.0f} % |")
    zero = 100 * np.mean([seed["zero"] for seed in after])
    against = sum(int(seed["against"]) for seed in after)
    print(
        f"\nDale's law: after training by E-I credit {against} synapses have the wrong sign, and "
        f"{zero:.0f} % are at zero.\nThe mean slope of the neurons, as a share of the steepest, "
        f"goes from {before['set point']:.2f} to "
        f"{np.mean([seed['set point'] for seed in after]):.2f}."
    )


INTRODUCTION = f"""# Digits at equilibrium, by E-I credit and by backpropagation

Output of `python reproductions/ei_digits.py` (six minutes): the preset "small" of the task
`digits`. 8 × 8 pixels, each an excitatory and an inhibitory afferent, {LAYERS} layers of \
{NETWORK.excitatory} excitatory and {N - (NETWORK.excitatory or 0)}
inhibitory sigmoid neurons, and a linear readout of the last. Dale's law holds for all presynaptic
units from start to end, by `optim.dale` behind Adam at {PRESET.optimizer.learning_rate}. \
{ITERATIONS} batches of {BATCH}, float32,
{SEEDS} seeds; all rows begin with the same weights and see the same batches.

The first row differentiates a function of its own, the layers one after the other, by plain JAX;
all others are derivatives of one network of {DIGITS.in_size(PRESET) + LAYERS * N} units at \
equilibrium.
"""


if __name__ == "__main__":
    main()
