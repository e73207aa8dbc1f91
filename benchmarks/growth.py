"""How time and memory grow with synapses: `sparse.py` from 10^4 to 10^7 of them.

python benchmarks/growth.py [--synapses 10000 100000 1000000 10000000] [--rules eprop modprop2]

Rate neurons of a mean in-degree of 20 that learn at every step; a process each. Writes a table with
the slopes of log time and log memory, and a figure, to `--out`.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import tyro


FAN_IN = 20
NAMES = {"eprop": "e-prop", "modprop2": "ModProp, 2 types", "modprop8": "ModProp, 8 types"}


@dataclasses.dataclass(frozen=True)
class Growth:
    """Numbers of synapses, what learns, how often each is timed, and where the table goes."""

    synapses: tuple[int, ...] = (10**4, 10**5, 10**6, 10**7)
    rules: tuple[str, ...] = ("eprop", "modprop2")
    runs: int = 7
    out: Path = Path("results/growth")


class Point(NamedTuple):
    """A line of the table; times in ms a step, memory in MB."""

    rule: str
    neurons: int
    synapses: int
    least: float
    median: float
    product: float
    program: float
    process: float


def measured(rule: str, neurons: int, runs: int) -> Point:
    """One process of `sparse.py`, by the row that it prints."""
    script = Path(__file__).with_name("sparse.py")
    options = ["--rule", rule, "--neurons", str(neurons), "--runs", str(runs)]
    command = [sys.executable, str(script), "--fan-in", str(FAN_IN), *options]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    row = printed.splitlines()[-1].replace(",", "").strip("| ").split(" | ")
    least, median = row[5].rstrip(")").split(" (")
    return Point(
        rule, int(row[2]), int(row[3]), *map(float, (least, median, row[6], row[7], row[8]))
    )


def slope(points: list[Point], quantity: str) -> float:
    """Of the logarithms, by least squares: 1 is proportional to synapses."""
    x, y = (np.log([getattr(p, name) for p in points]) for name in ("synapses", quantity))
    return float(np.polyfit(x, y, 1)[0])


def table(by_rule: dict[str, list[Point]]) -> str:
    """In Markdown, with the slopes of each rule over all sizes and over the two largest."""
    titles = ("rule", "neurons", "synapses", "ms a step", "SciPy's product", "program, MB")
    lines = ["| " + " | ".join((*titles, "process, MB")) + " |", "|---" * 7 + "|"]
    for rule, points in by_rule.items():
        for p in points:
            times = f"{p.least:.2f} ({p.median:.2f}) | {p.product:.2f}"
            memory = f"{p.program:,.1f} | {p.process:,.0f}"
            lines.append(f"| {NAMES[rule]} | {p.neurons:,} | {p.synapses:,} | {times} | {memory} |")
    lines += ["", "| slope of the logarithm | all | the two largest |", "|---|---|---|"]
    for rule, points in by_rule.items():
        for quantity, words in (("least", "time"), ("program", "memory")):
            both = f"{slope(points, quantity):.2f} | {slope(points[-2:], quantity):.2f}"
            lines.append(f"| {NAMES[rule]}, {words} | {both} |")
    return "\n".join(lines) + "\n"


def figure(by_rule: dict[str, list[Point]], path: Path) -> None:
    """Time and memory against synapses."""
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for rule, points in by_rule.items():
        at = [p.synapses for p in points]
        axes[0].loglog(at, [p.least for p in points], "o-", label=NAMES[rule])
        axes[1].loglog(at, [p.program for p in points], "o-", label=NAMES[rule])
    points = next(iter(by_rule.values()))
    at = [p.synapses for p in points]
    axes[0].loglog(at, [p.product for p in points], "o:", color="0.6", label="SciPy's product")
    axes[1].loglog(at, [4e-6 * n for n in at], ":", color="0.6", label="weights alone")
    axes[0].set(xlabel="synapses", ylabel="ms a step")
    axes[1].set(xlabel="synapses", ylabel="memory of the program, MB")
    for ax in axes:
        ax.legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=110)


def main(of: Growth) -> None:
    """Measure all, smallest first."""
    of.out.mkdir(parents=True, exist_ok=True)
    by_rule: dict[str, list[Point]] = {rule: [] for rule in of.rules}
    for synapses in sorted(of.synapses):
        for rule in of.rules:
            by_rule[rule].append(measured(rule, synapses // FAN_IN, of.runs))
            print(by_rule[rule][-1], flush=True)
    made = table(by_rule)
    print(made)
    (of.out / "table.md").write_text(made)
    figure(by_rule, of.out / "growth.png")


if __name__ == "__main__":
    main(tyro.cli(Growth, description=__doc__))
