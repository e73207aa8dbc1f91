"""Rules on adaptive spiking neurons at the size of the published evidence accumulation.

python benchmarks/spiking.py [--steps 2000] [--runs 5]

ALIF neurons under a leaky readout, squared error at every step, float32. Each run of a program is
followed by one of plain `jax.value_and_grad` of `jax.lax.scan` over the same cell; the ratio is of
these two. Memory is XLA's count of temporaries.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import tyro

import modprop_jax as mpj


@dataclasses.dataclass(frozen=True)
class Size:
    """Neurons, inputs, steps, trials, and runs of each program."""

    neurons: int = 100
    inputs: int = 40
    steps: int = 2000
    batch: int = 64
    runs: int = 5


class Model(eqx.Module):
    rnn: mpj.RNN
    readout: mpj.Readout


def main(size: Size) -> None:
    print("| gradient | time, of plain | seconds | temporaries, MB | loss as plain's |")
    print("| --- | --- | --- | --- | --- |")
    model, xs, ys = problem(size)
    yardstick, plain_megabytes = compiled(plain, model, xs, ys)
    loss = yardstick(model, xs, ys)[0]
    seconds = [timed(yardstick, model, xs, ys) for _ in range(size.runs)]
    print(f"| plain | 1.00 | {statistics.median(seconds):.2f} | {plain_megabytes:.1f} | |")
    for name, rule, segment in PROGRAMS:
        gradient = offline(rule) if segment is None else streamed(rule, segment)
        run, megabytes = compiled(gradient, model, xs, ys)
        off = abs(float(run(model, xs, ys)[0] / loss - 1))
        pairs = [
            (timed(run, model, xs, ys), timed(yardstick, model, xs, ys)) for _ in range(size.runs)
        ]
        ratio = statistics.median(own / other for own, other in pairs)
        own = statistics.median(own for own, _ in pairs)
        print(f"| {name} | {ratio:.2f} | {own:.2f} | {megabytes:.1f} | {off:.0e} |", flush=True)


TYPES = tuple(int(i >= 81) for i in range(100))
PROGRAMS: list[tuple[str, Any, int | None]] = [
    ("BPTT", mpj.BPTT(), None),
    ("EProp", mpj.EProp(), None),
    ("MDGL(types)", mpj.MDGL(TYPES), None),
    ("ModProp(mu, types)", mpj.ModProp(0.25, TYPES), None),
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
        reset_gradient=True,
        key=keys[0],
    )
    rnn = mpj.RNN(mpj.Filtered(cell, 0.95, scale=True))
    model = Model(rnn, mpj.Readout(size.neurons, 2, key=keys[1]))
    shape = (size.steps, size.batch, size.inputs)
    xs = jr.bernoulli(keys[2], 0.04, shape).astype(jnp.float32) * 5
    return model, xs, jr.normal(keys[3], (*shape[:2], 2))


def error(outputs: jax.Array, ys: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((outputs - ys) ** 2) / ys.shape[1]


@eqx.filter_value_and_grad
def plain(model: Model, xs: jax.Array, ys: jax.Array) -> jax.Array:
    cell = model.rnn.cell

    def step(state, x):
        state = cell.step(state, x)
        return state, cell.emit(state)

    _, zs = jax.lax.scan(step, cell.init(xs.shape[1:-1]), xs)
    return error(model.readout(zs), ys)


def offline(rule: Any) -> Callable[..., Any]:
    return mpj.value_and_grad(lambda model, xs, ys: error(model.readout(model.rnn(xs)), ys), rule)


def streamed(rule: Any, segment: int) -> Callable[..., Any]:
    def segment_loss(model, carry, xs, ys):
        carry, zs = model.rnn(xs, carry)
        return error(model.readout(zs), ys), carry

    gradient = mpj.online_value_and_grad(segment_loss, segment=segment)

    def run(model, xs, ys):
        model = mpj.with_rule(model, rule)
        (loss, _), gradients = gradient(model, model.rnn.init(xs.shape[1:-1]), xs, ys)
        return loss, gradients

    return run


def compiled(gradient: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], float]:
    """The program, and the megabytes of its temporaries."""
    arrays, static = eqx.partition(args, eqx.is_array)

    @jax.jit
    def flat(arrays):
        return eqx.filter(gradient(*eqx.combine(arrays, static)), eqx.is_array)

    program: Any = flat.lower(arrays).compile()
    megabytes = program.memory_analysis().temp_size_in_bytes / 1e6
    return lambda *args: program(eqx.filter(args, eqx.is_array)), megabytes


def timed(run: Callable[..., Any], *args: Any) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - began


if __name__ == "__main__":
    main(tyro.cli(Size, description=__doc__))
