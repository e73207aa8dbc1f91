"""The command `modprop-jax bench`."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from .._work import Work
from ._figure import figure
from ._measure import measure, Settings
from ._problem import Size
from ._programs import DEFAULT_RULES, MODES, programs
from ._progress import Progress
from ._report import markdown, show
from ._results import peer_version, Results, summarise


SIZES = ("32x100", "32x1000", "128x100", "128x1000", "256x100", "256x1000")
FULL = (*SIZES, "512x100", "512x1000", "512x10000")

# Ctrl-C goes to it too: it ends without a traceback
_WORKER = f"""
import runpy, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
runpy.run_module({__package__!r}, run_name="__main__")
"""

_Out = Annotated[Path | None, tyro.conf.arg(metavar="OUT", help_behavior_hint="")]
_Full = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def bench(
    *,
    sizes: tuple[str, ...] = SIZES,
    full: _Full = False,
    rules: tuple[str, ...] = DEFAULT_RULES,
    modes: tuple[str, ...] = MODES,
    batch: int = 32,
    runs: int = 10,
    seconds: float = 30.0,
    memory: float = 4.0,
    processes: int = 1,
    out: _Out = None,
) -> Work:
    """Time and memory of every rule, against plain JAX and against the arithmetic alone.

    Each program computes a loss and its gradient on the same network and data. It runs in turn
    with plain `jax.value_and_grad` of `jax.lax.scan` in one process, and its time is given as the
    ratio of the two. Example:

        modprop-jax bench --sizes 64x500 --rules eprop modprop --out results/mine

    prints a table and writes results/mine.json, .md and .png. The JSON is written after each
    program, so the same command goes on where it was stopped and measures nothing twice.

    With the extra `peers` installed, braintrace's D_RTRL and pp_prop run on the same cell.

    Args:
        sizes: Neurons x time steps.
        full: Also 512 neurons, up to 10,000 steps.
        rules: Credit rules, with options as in modprop:mu=0.5; `modprop-jax list` shows them.
        modes: offline, segment=K (streamed, K steps at a time) and checkpointed (exact).
        batch: Sequences in parallel.
        runs: Timed runs of each program, at most.
        seconds: A program whose single run would take longer is left out.
        memory: Gigabytes that a program may take; one that needs more is left out.
        processes: Fresh processes; figures are then medians over them.
        out: Path of the results, without suffix.
    """
    for name, value in {
        "batch": batch,
        "runs": runs,
        "seconds": seconds,
        "memory": memory,
        "processes": processes,
    }.items():
        if not value > 0:
            raise ValueError(f"{name} must be greater than 0, but got {value}.")
    chosen = sorted({Size.parse(text) for text in (*sizes, *(FULL if full else ()))})
    rules, modes = (tuple(dict.fromkeys(given)) for given in (rules, modes))
    listed = programs(rules, modes)
    if not chosen:
        raise ValueError("no sizes given: name at least one, such as --sizes 128x1000.")
    settings = Settings(batch, runs, seconds, memory)
    results = Results(out, settings)

    measured = measure if processes == 1 else _in_new_process

    def run() -> int:
        console = Console()
        total = len(listed) * len(chosen) * processes
        asked = {(*program.key, *size) for program in listed for size in chosen}
        known = [r for r in results.rows if (r["program"], r["mode"], r["n"], r["T"]) in asked]
        with Progress(console, total, known) as progress:
            for process in range(processes):
                for size in chosen:
                    done = results.of_process(process)
                    for row in measured(size, rules, modes, settings, done):
                        row = {"process": process} | row
                        results.add(row)
                        progress.record(row)
        lines = summarise(results.rows)
        results.write("md", markdown(lines, results.about, peer_version()))
        results.write("png", figure(lines))
        show(console, lines, results.about, peer_version())
        return 0

    return Work(run, None if out is None else "the same command")


def _in_new_process(
    size: Size,
    rules: Sequence[str],
    modes: Sequence[str],
    settings: Settings,
    done: Sequence[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """`measure` in a fresh process: for its life, XLA's code runs at one of several speeds."""
    work = json.dumps([size, rules, modes, dataclasses.asdict(settings), done])
    command = [sys.executable, "-c", _WORKER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(work)
        process.stdin.close()
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"the process for n={size.n}, T={size.steps} failed: see above.")
