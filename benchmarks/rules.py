"""Time and temporary memory of each rule against plain JAX, interleaved in one process.

    python benchmarks/rules.py --out benchmarks/results/cpu

Every figure is a ratio to `jax.value_and_grad` of `jax.lax.scan` on the same network, data and
loss (a linear readout at every step, mean squared error), taken run by run; the median over runs,
then over fresh processes, with the range over processes beside it: plain JAX runs at one of two
speeds for the life of a process. Memory is XLA's own account of temporaries (`memory_analysis`).
Writes OUT.json and OUT.md.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import modprop_jax as mpj


SIZES = ((128, 900), (256, 200))
INPUTS, OUTPUTS = 32, 2


def types(n: int) -> tuple[int, ...]:
    """A fifth of the neurons inhibitory."""
    return (0,) * (n // 5) + (1,) * (n - n // 5)


def offline_loss(model, xs, ys):
    rnn, readout = model
    return jnp.mean((readout(rnn(xs)) - ys) ** 2)


def segment_loss(model, carry, xs, ys):
    rnn, readout = model
    carry, zs = rnn(xs, carry)
    return jnp.sum((readout(zs) - ys) ** 2), carry


def plain_loss(model, xs, ys):
    """What one writes without this package."""
    cell, readout = model[0].cell, model[1]

    def step(state, x):
        state = cell.step(state, x)
        return state, cell.emit(state)

    _, zs = jax.lax.scan(step, cell.init(xs.shape[1:-1]), xs)
    return jnp.mean((readout(zs) - ys) ** 2)


def programs(n: int, steps: int, batch: int) -> dict[str, tuple]:
    """The gradients to time, as `name: (function, arguments)`; the first is the yardstick."""
    keys = jr.split(jr.key(0), 4)
    cell = mpj.LeakyCell(INPUTS, n, tau=20.0, key=keys[0])
    readout = mpj.Readout(n, OUTPUTS, key=keys[1])
    xs = jr.normal(keys[2], (steps, batch, INPUTS))
    ys = jr.normal(keys[3], (steps, batch, OUTPUTS))
    rules = {
        "BPTT": mpj.BPTT(),
        "EProp": mpj.EProp(),
        "MDGL": mpj.MDGL(types(n)),
        "ModProp, cell-specific": mpj.ModProp(0.25),
        "ModProp, types": mpj.ModProp(0.25, types(n)),
    }
    plain = mpj.RNN(cell), readout
    found: dict[str, tuple] = {"plain": (eqx.filter_value_and_grad(plain_loss), (plain, xs, ys))}
    for name, rule in rules.items():
        model = mpj.RNN(cell, rule=rule), readout
        found[name] = mpj.value_and_grad(offline_loss), (model, xs, ys)
    for name in ("EProp", "MDGL", "ModProp, types"):
        for segment in (1, 50):
            model = mpj.RNN(cell, rule=rules[name]), readout
            stream = mpj.online_value_and_grad(segment_loss, segment=segment)
            args = model, model[0].init((batch,)), xs, ys
            found[f"{name}, segment={segment}"] = stream, args
    exact = mpj.checkpointed_value_and_grad(segment_loss, segment=max(1, round(steps**0.5)))
    found["BPTT, checkpointed"] = exact, (plain, cell.init((batch,)), xs, ys)
    found["forward only"] = plain_loss, (plain, xs, ys)
    return found


def compile_program(function, args):
    """The compiled program of its arrays, and the arrays."""
    arrays, static = eqx.partition(args, eqx.is_array)

    def run(arrays):
        return eqx.filter(function(*eqx.combine(arrays, static)), eqx.is_array)

    return jax.jit(run).lower(arrays).compile(), arrays


def measure(n: int, steps: int, batch: int, runs: int) -> list[dict]:
    """One row a program."""
    compiled = {name: compile_program(*p) for name, p in programs(n, steps, batch).items()}
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for run in range(runs + 1):
        for name, (program, arrays) in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(program(arrays))
            if run:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - began)
    rows = []
    for name, (program, _) in compiled.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds["plain"])]
        memory = program.memory_analysis()
        assert memory is not None
        rows.append(
            {
                "n": n,
                "T": steps,
                "batch": batch,
                "program": name,
                "milliseconds": 1e3 * statistics.median(seconds[name]),
                "ratio": statistics.median(ratios),
                "temporary_megabytes": memory.temp_size_in_bytes / 1e6,
            }
        )
    return rows


def in_processes(size: tuple[int, int], options: argparse.Namespace) -> list[dict]:
    """`measure` in fresh processes: medians, and all ratios."""
    command = [sys.executable, __file__, "--worker", "--sizes", f"{size[0]},{size[1]}"]
    command += ["--runs", str(options.runs), "--batch", str(options.batch)]
    found = []
    for _ in range(options.processes):
        found.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    rows = []
    for each in zip(*found):
        ratios = [row["ratio"] for row in each]
        milliseconds = statistics.median(row["milliseconds"] for row in each)
        median = {"milliseconds": milliseconds, "ratio": statistics.median(ratios)}
        rows.append({**each[0], **median, "ratios": ratios})
    return rows


def markdown(rows: list[dict], about: dict) -> str:
    """The table, a section a size."""
    lines = ["# Time and temporary memory of the rules", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    for n, steps in dict.fromkeys((row["n"], row["T"]) for row in rows):
        chosen = [row for row in rows if (row["n"], row["T"]) == (n, steps)]
        lines += ["", f"## n = {n}, T = {steps}, batch {chosen[0]['batch']}", ""]
        lines += ["| program | time / plain | over processes | ms | temporaries, MB |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {row['program']} | {row['ratio']:.2f} "
            f"| {min(row['ratios']):.2f}-{max(row['ratios']):.2f} "
            f"| {row['milliseconds']:.1f} | {row['temporary_megabytes']:.2f} |"
            for row in chosen
        ]
    return "\n".join(lines) + "\n"


def parse(size: str) -> tuple[int, int]:
    """`"n,T"`."""
    n, steps = size.split(",")
    return int(n), int(steps)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, help="write OUT.json and OUT.md")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each program")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes a size")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="n,T",
        help="default: " + " ".join(f"{n},{t}" for n, t in SIZES),
    )
    options = parser.parse_args()
    sizes = [parse(text) for text in options.sizes] if options.sizes else SIZES
    if options.worker:
        print(json.dumps(measure(*sizes[0], options.batch, options.runs)))
        return
    device = jax.devices()[0]
    about = {
        "device": device.device_kind if device.platform != "cpu" else platform.machine() + " CPU",
        "precision": "float32",
        "versions": ", ".join(f"{p} {version(p)}" for p in ("modprop_jax", "jax", "jaxlib")),
        "runs": f"{options.runs} in each of {options.processes} processes",
    }
    rows = [row for size in sizes for row in in_processes(size, options)]
    table = markdown(rows, about)
    print(table)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps({**about, "rows": rows}, indent=1))
        options.out.with_suffix(".md").write_text(table)


if __name__ == "__main__":
    main()
