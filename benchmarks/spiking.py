"""Rules on adaptive spiking neurons at the size of the published evidence accumulation.

python benchmarks/spiking.py [--steps 2000] [--runs 5] [--no-reset-gradient] [--no-leaky-readout]

ALIF neurons under a leaky readout, squared error at every step, float32. Each run of a program is
followed by one of plain `jax.value_and_grad` of `jax.lax.scan` over the same cell; the ratio is of
these two. Memory is XLA's count of temporaries. By default credit passes through the reset, which
makes membranes differ: e-prop then streams with three rows a synapse, without it with two, and one
where the readout sees spikes as they are.
"""

import dataclasses
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import tyro
from harness import compile_gradient, Model, offline, plain, streamed, timed

import modprop_jax as mpj


@dataclasses.dataclass(frozen=True)
class Size:
    """Neurons, inputs, steps, trials, and runs of each program; what credit passes through, and
    whether the readout filters spikes."""

    neurons: int = 100
    inputs: int = 40
    steps: int = 2000
    batch: int = 64
    runs: int = 5
    reset_gradient: bool = True
    leaky_readout: bool = True


def main(size: Size) -> None:
    print("| gradient | time, of plain | seconds | temporaries, MB | loss as plain's |")
    print("| --- | --- | --- | --- | --- |")
    model, xs, ys = problem(size)
    yardstick = compile_gradient(plain, model, xs, ys)
    loss = yardstick.run()[0]
    seconds = [timed(yardstick.run)[0] for _ in range(size.runs)]
    megabytes = (yardstick.temporary or 0) / 1e6
    print(f"| plain | 1.00 | {statistics.median(seconds):.2f} | {megabytes:.1f} | |")
    for name, rule, segment in PROGRAMS:
        if isinstance(rule, mpj.MDGL) and rule.online and not size.leaky_readout:
            continue  # it is about that readout
        gradient = offline(rule) if segment is None else streamed(rule, segment)
        program = compile_gradient(gradient, model, xs, ys)
        off = abs(float(program.run()[0] / loss - 1))
        pairs = [(timed(program.run)[0], timed(yardstick.run)[0]) for _ in range(size.runs)]
        ratio = statistics.median(own / other for own, other in pairs)
        own = statistics.median(own for own, _ in pairs)
        megabytes = (program.temporary or 0) / 1e6
        print(f"| {name} | {ratio:.2f} | {own:.2f} | {megabytes:.1f} | {off:.0e} |", flush=True)


TYPES = tuple(int(i >= 81) for i in range(100))
PROGRAMS: list[tuple[str, Any, int | None]] = [
    ("BPTT", mpj.BPTT(), None),
    ("EProp", mpj.EProp(), None),
    ("MDGL(types)", mpj.MDGL(TYPES), None),
    ("ModProp(mu, types)", mpj.ModProp(0.25, TYPES), None),
    ("EProp, step by step", mpj.EProp(), 1),
    ("EProp, segments of 50", mpj.EProp(), 50),
    ("EProp, segments of 200", mpj.EProp(), 200),
    ("MDGL(types, online), segments of 50", mpj.MDGL(TYPES, online=True), 50),
]


def problem(size: Size) -> tuple[Model, jax.Array, jax.Array]:
    keys = jr.split(jr.key(0), 4)
    cell = mpj.ALIFCell(
        size.inputs,
        size.neurons,
        tau=20.0,
        tau_adaptation=2000.0,
        beta=1.8,
        threshold=0.3,
        refractory=5,
        scale_input=True,
        scale_adaptation=True,
        reset_gradient=size.reset_gradient,
        key=keys[0],
    )
    rnn = mpj.RNN(mpj.Filtered(cell, 0.95, scale=True) if size.leaky_readout else cell)
    model = Model(rnn, mpj.Readout(size.neurons, 2, key=keys[1]))
    shape = (size.steps, size.batch, size.inputs)
    xs = jr.bernoulli(keys[2], 0.04, shape).astype(jnp.float32) * 5
    return model, xs, jr.normal(keys[3], (*shape[:2], 2))


if __name__ == "__main__":
    main(tyro.cli(Size, description=__doc__))
