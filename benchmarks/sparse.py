"""A network of the size of a fly's brain that learns at every step.

python benchmarks/sparse.py [--neurons 127978 --fan-in 20] [--kind rate] [--rule eprop]

In-degrees are log-normal, all weights train, an optimizer step (SGD) follows every segment. Beside
each time stands SciPy's product of the same matrix (CSR) and one vector, which is what a step costs
that only runs. One program a process: memory is XLA's count of what the program holds (arguments
and temporaries), and the most that the process has held.
"""

import dataclasses
import resource
import time
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import scipy.sparse
import tyro
from harness import Model

import modprop_jax as mpj


INPUTS, OUTPUTS, STEPS = 16, 2, 40


@dataclasses.dataclass(frozen=True)
class Network:
    """Neurons and their mean in-degree; what they are, what they learn by, and how often."""

    neurons: int = 127_978
    fan_in: float = 20.0
    most: int = 2_077
    kind: Literal["rate", "spiking"] = "rate"
    rule: Literal["eprop", "modprop2", "modprop8"] = "eprop"
    segment: int = 1
    runs: int = 7


def rule_of(name: str, neurons: int) -> mpj.AbstractRule:
    """e-prop, or ModProp with so many types of neurons in turn."""
    if name == "eprop":
        return mpj.EProp()
    return mpj.ModProp(0.2, np.arange(neurons) % int(name.removeprefix("modprop")))


def made(of: Network) -> Model:
    """The network."""
    n = of.neurons
    draw = np.random.default_rng(0).lognormal(np.log(of.fan_in) - 0.5, 1.0, n)
    counts = np.clip(np.round(draw), 1, min(of.most, n - 1)).astype(int)
    maps: dict[str, Any] = {
        "recurrent": mpj.Sparse.random(jr.key(0), (n, n), fan_in=counts),
        "inputs": mpj.Sparse.random(jr.key(1), (n, INPUTS), fan_in=1),
    }
    if of.kind == "rate":
        cell = mpj.LeakyCell(INPUTS, n, tau=10.0, key=jr.key(2), **maps)
    else:
        cell = mpj.LIFCell(INPUTS, n, tau=10.0, threshold=0.6, key=jr.key(2), **maps)
    return Model(mpj.RNN(cell, rule=rule_of(of.rule, n)), mpj.Readout(n, OUTPUTS, key=jr.key(3)))


def main(of: Network) -> None:
    """Time one program."""
    model, optimizer = made(of), optax.sgd(1e-4)
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    # indices are arguments of the program: as constants it would hold them twice
    indices, static = eqx.partition(rest, eqx.is_array)

    def loss(model, carry, xs, ys):
        carry, zs = model.rnn(xs, carry)
        return jnp.mean((model.readout(zs) - ys) ** 2), carry

    take = eqx.filter_value_and_grad(loss, has_aux=True)

    def run(params, carry, indices, xs, ys):
        def step(held, seen):
            params, state, carry = held
            model = eqx.combine(params, indices, static)
            (value, carry), gradients = take(model, carry, *seen)
            updates, state = optimizer.update(gradients, state, params)
            return (eqx.apply_updates(params, updates), state, carry), value

        return jax.lax.scan(step, (params, optimizer.init(params), carry), (xs, ys))

    lead = STEPS // of.segment, of.segment
    xs, ys = (jr.normal(jr.key(k), (*lead, size)) for k, size in ((5, INPUTS), (6, OUTPUTS)))
    given = params, model.rnn.init(), indices, xs, ys
    compiled = jax.jit(run).lower(*given).compile()

    cell: Any = model.rnn.cell
    synapses = cell.recurrent
    matrix = scipy.sparse.csr_matrix(
        (np.asarray(synapses.weight), (np.asarray(synapses.post), np.asarray(synapses.pre))),
        synapses.shape,
    )
    vector = np.random.default_rng(1).normal(size=of.neurons).astype(np.float32)

    def product():
        for _ in range(STEPS):
            _ = matrix @ vector

    def timed(call):
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start) / STEPS

    mine, floor = [], []
    for _ in range(of.runs):
        mine.append(timed(lambda: jax.block_until_ready(compiled(*given))))
        floor.append(timed(product))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    memory: Any = compiled.memory_analysis()
    working = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e6
    print(
        f"| {of.kind} | {of.rule} | {of.neurons:,} | {synapses.weight.size:,} | {of.segment} | "
        f"{min(mine):.2f} ({np.median(mine):.2f}) | {min(floor):.2f} | {working:.1f} | {held:.0f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Network, description=__doc__))
