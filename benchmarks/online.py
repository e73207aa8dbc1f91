"""The online family: what a step of each rule costs, next to one of plain BPTT.

python benchmarks/online.py > docs/results/online-cost.md (20 minutes)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from spiking import compiled, error, timed

import modprop_jax as mpj


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes, and runs of each program."""

    neurons: tuple[int, ...] = (32, 128)
    batches: tuple[int, ...] = (1, 32)
    steps: int = 1000
    inputs: int = 32
    outputs: int = 2
    runs: int = 10
    only: tuple[str, ...] = ()


class Model(eqx.Module):
    rnn: mpj.RNN
    readout: mpj.Readout


class Row(NamedTuple):
    """A program: a rule, and the steps of a segment (None: offline)."""

    name: str
    rule: Any
    segment: int | None


def programs(options: Options) -> list[Row]:
    learn: Any = {"labels": options.outputs, "learn": optax.sgd(1e-3)}
    jacobian: Any = {"learn_jacobian": optax.sgd(1e-3)}
    rules = {
        "ReadoutOnly()": mpj.ReadoutOnly(),
        "EProp()": mpj.EProp(),
        "KeRNL()": mpj.KeRNL(),
        "DNI()": mpj.DNI(**learn),
        'DNI(jacobian="learned")': mpj.DNI(jacobian="learned", **learn, **jacobian),
        "LocalDNI()": mpj.LocalDNI(**learn, **jacobian),
        "FutureBPTT(10)": mpj.FutureBPTT(10),
        "UORO()": mpj.UORO(),
        "UORO(probes=4)": mpj.UORO(probes=4),
        "KFRTRL()": mpj.KFRTRL(),
        "RKFRTRL()": mpj.RKFRTRL(),
        "RTRL()": mpj.RTRL(),
    }
    rows = [Row("BPTT()", mpj.BPTT(), segment) for segment in (None, 10)]
    offline = [Row(name, rules[name], None) for name in ("EProp()", "FutureBPTT(10)")]
    streamed = [Row(*rule, segment) for rule in rules.items() for segment in (1, 50)]
    return rows + offline + streamed


def main(options: Options) -> None:
    for n in options.neurons:
        for batch in options.batches:
            print(f"\n## n = {n}, batch {batch}\n")
            table(n, batch, options)


def table(n: int, batch: int, options: Options) -> None:
    print("| gradient | segment | time, of plain | µs a step | temporaries, MB |")
    print("| --- | --- | --- | --- | --- |")
    model, xs, ys = problem(n, batch, options)
    yardstick, megabytes = compiled(plain, model, xs, ys)
    for row in programs(options):
        if options.only and not any(row.name.startswith(o) for o in options.only):
            continue
        steps = options.steps
        work = batch * n * n * (n + options.inputs)
        if row.name.startswith("RTRL"):
            if work * n > 2e9:
                print(f"| {row.name} | {row.segment} | - | - | - |")
                continue
            steps //= 10
        gradient = offline(row.rule) if row.segment is None else streamed(row.rule, row.segment)
        args = model, xs[:steps], ys[:steps]
        run, megabytes = compiled(gradient, *args)
        timed(run, *args), timed(yardstick, model, xs, ys)
        own, unit = [], []
        for _ in range(options.runs):
            own.append(timed(run, *args) / steps)
            unit.append(timed(yardstick, model, xs, ys) / options.steps)
        ratio = min(own) / min(unit)
        label = "offline" if row.segment is None else row.segment
        print(f"| {row.name} | {label} | {ratio:.2f} | {1e6 * min(own):.1f} | {megabytes:.2f} |", flush=True)
    print(f"| plain | | 1 | {1e6*min(unit):.1f} | {compiled(plain, model, xs, ys)[1]:.2f} |")


def problem(n: int, batch: int, options: Options) -> tuple[Model, jax.Array, jax.Array]:
    keys = jr.split(jr.key(0), 4)
    cell = mpj.RateCell(options.inputs, n, alpha=0.5, key=keys[0])
    model = Model(mpj.RNN(cell), mpj.Readout(n, options.outputs, key=keys[1]))
    shape = (options.steps, batch)
    xs = jr.normal(keys[2], (*shape, options.inputs))
    return model, xs, jr.normal(keys[3], (*shape, options.outputs))


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
    labels = isinstance(rule, mpj.DNI | mpj.LocalDNI)

    def segment_loss(model, carry, xs, ys):
        carry, zs = model.rnn(xs, carry, context=ys if labels else None)
        return error(model.readout(zs), ys), carry

    gradient = mpj.online_value_and_grad(segment_loss, segment=segment)

    def run(model, xs, ys):
        model = mpj.with_rule(model, rule)
        carry = model.rnn.init(xs.shape[1:-1], key=jr.key(1))
        (loss, _), gradients = gradient(model, carry, xs, ys)
        return loss, gradients

    return run


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
