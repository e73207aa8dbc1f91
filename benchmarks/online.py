"""The online family: what a step of each rule costs, beside one of plain BPTT.

python benchmarks/online.py [--neurons 32 128] [--rounds 15]

`RateCell`s, a linear readout, squared error at every step, float32. Programs take turns, round by
round, and a run of plain `jax.value_and_grad` of `jax.lax.scan` over the same cell follows each.
Time is the least of all rounds, and the ratio is that of two such times. Memory is XLA's count of
temporaries.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.random as jr
import optax
import tyro
from harness import compile_gradient, Model, offline, plain, streamed, timed

import modprop_jax as mpj


# A run that would take longer than so many seconds is one of fewer steps: a short one finds a
# moment in which nothing else is on the machine.
_LONG, _FEWER = 0.2, 200
# Seconds after which a program takes no more turns.
_ENOUGH = 15.0
# Flops a step of RTRL, above which it is left out.
_FLOPS = 2e9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Neurons, examples, steps, inputs and outputs; and how many turns each program takes."""

    neurons: tuple[int, ...] = (32, 128)
    batches: tuple[int, ...] = (1, 32)
    steps: int = 1000
    inputs: int = 32
    outputs: int = 2
    rounds: int = 15


class Program(NamedTuple):
    """A rule, and the steps of a segment (None: offline)."""

    name: str
    rule: Any
    segment: int | None


class Timed:
    """A compiled program: its temporaries, and the microseconds a step of each run so far."""

    def __init__(self, gradient: Callable[..., Any], *args: Any):
        compiled = compile_gradient(gradient, *args)
        self.run, self.megabytes = compiled.run, (compiled.temporary or 0) / 1e6
        self.steps = len(args[-1])
        self.seconds = timed(self.run)[0]  # the warm-up
        self.microseconds = []

    def turn(self) -> None:
        seconds = timed(self.run)[0]
        self.seconds += seconds
        self.microseconds.append(1e6 * seconds / self.steps)


def main(sizes: Sizes) -> None:
    for n in sizes.neurons:
        columns = [measure(n, batch, sizes) for batch in sizes.batches]
        print(f"\n## n = {n}\n")
        print("| gradient | segment |", end="")
        for batch in sizes.batches:
            print(f" batch {batch}: time, of plain | µs a step | temporaries, MB |", end="")
        print("\n|" + " --- |" * (2 + 3 * len(columns)))
        for row in zip(*columns, strict=True):
            print(f"| {row[0][0]} | {row[0][1]} |", *(cells for *_, cells in row))


def measure(n: int, batch: int, sizes: Sizes) -> list[tuple[str, str, str]]:
    """A row a program: its name, its segment, and its cells."""
    model, *data = problem(n, batch, sizes)
    yardstick = Timed(plain, model, *data)
    found: dict[Program, Timed | None] = {}
    for program in programs(sizes.outputs):
        too_slow = program.name == "RTRL()" and 2 * batch * n**3 * (n + sizes.inputs) > _FLOPS
        found[program] = None if too_slow else ready(program, model, *data)
    for _ in range(sizes.rounds):
        for each in filter(None, found.values()):
            if each.seconds < _ENOUGH:
                each.turn()
                yardstick.turn()
    unit = min(yardstick.microseconds)
    rows = [("plain", "offline", cells(yardstick, unit))]
    for program, each in found.items():
        rows.append((program.name, str(program.segment or "offline"), cells(each, unit)))
    return rows


def programs(labels: int) -> list[Program]:
    """All that is timed; `labels`: how many `DNI` sees."""
    dni: Any = {"labels": labels, "learn": optax.sgd(1e-3)}
    jacobian: Any = {"learn_jacobian": optax.sgd(1e-3)}
    truncated = [Program("BPTT()", mpj.BPTT(), segment) for segment in (None, 10)]
    future = [Program("FutureBPTT(10)", mpj.FutureBPTT(10), s) for s in (None, 50, 10, 1)]
    eprop = [Program("EProp()", mpj.EProp(), segment) for segment in (None, 50, 1)]
    streamed = {
        "ReadoutOnly()": mpj.ReadoutOnly(),
        "DNI()": mpj.DNI(**dni),
        'DNI(jacobian="learned")': mpj.DNI(jacobian="learned", **dni, **jacobian),
        "LocalDNI()": mpj.LocalDNI(**dni, **jacobian),
        "KeRNL()": mpj.KeRNL(),
        "UORO()": mpj.UORO(),
        "UORO(probes=4)": mpj.UORO(probes=4),
        "KFRTRL()": mpj.KFRTRL(),
        "RKFRTRL()": mpj.RKFRTRL(),
        "RTRL()": mpj.RTRL(),
    }
    rest = [Program(*rule, segment) for rule in streamed.items() for segment in (50, 1)]
    return truncated + future + eprop + rest


def ready(program: Program, model: Model, xs: jax.Array, ys: jax.Array) -> Timed:
    """The program compiled, for fewer steps where it is slow."""
    if program.segment is None:
        return Timed(offline(program.rule), model, xs, ys)
    gradient = streamed(program.rule, program.segment)
    short = Timed(gradient, model, xs[:_FEWER], ys[:_FEWER])
    short.turn()
    slow = short.microseconds[0] * len(xs) > 1e6 * _LONG
    return short if slow else Timed(gradient, model, xs, ys)


def cells(found: Timed | None, unit: float) -> str:
    if found is None:
        return "– | – | – |"
    least = min(found.microseconds)
    return f"{digits(least / unit)} | {digits(least)} | {found.megabytes:.2g} |"


def digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.{int(value < 100)}f}"


def problem(n: int, batch: int, sizes: Sizes) -> tuple[Model, jax.Array, jax.Array]:
    keys = jr.split(jr.key(0), 4)
    cell = mpj.RateCell(sizes.inputs, n, alpha=0.5, key=keys[0])
    model = Model(mpj.RNN(cell), mpj.Readout(n, sizes.outputs, key=keys[1]))
    shape = (sizes.steps, batch)
    xs = jr.normal(keys[2], (*shape, sizes.inputs))
    return model, xs, jr.normal(keys[3], (*shape, sizes.outputs))


if __name__ == "__main__":
    main(tyro.cli(Sizes, description=__doc__))
