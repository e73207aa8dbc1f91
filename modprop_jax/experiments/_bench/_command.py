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
from ._programs import programs
from ._progress import Progress
from ._report import markdown, show
from ._results import key_of, Results, summarise


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
    networks: tuple[str, ...] = ("leaky",),
    rules: tuple[str, ...] | None = None,
    modes: tuple[str, ...] | None = None,
    devices: tuple[int, ...] = (1,),
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

    Other packages, where they are installed, run on the same network in turn with the others:
    braintrace's D_RTRL and pp_prop on leaky, snntorch on lif, spyx on lif_reset.

    Args:
        sizes: Neurons x time steps.
        full: Also 512 neurons, up to 10,000 steps.
        networks: leaky, lif, lif_reset (credit passes through the reset), alif, gru, lru, gle.
        rules: Credit rules, with options as in modprop:mu=0.5; `modprop-jax list` shows them. By
            default those that go with the network, and its other packages.
        modes: offline, segment=K (streamed, K steps at a time) and checkpointed (exact). By default
            those of the network: all, or offline and segment=50.
        devices: Also with the batch split over so many devices; of a CPU, over its cores.
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
    for count in devices:
        if count < 1 or batch % count:
            raise ValueError(
                f"devices={count}: a batch of {batch} has to divide over 1 or more devices."
            )
    rules, modes = (given and tuple(dict.fromkeys(given)) for given in (rules, modes))
    listed = {name: programs(name, rules, modes, devices) for name in dict.fromkeys(networks)}
    texts = (*sizes, *(FULL if full else ()))
    chosen = [
        size for network in listed for size in sorted({Size.parse(text, network) for text in texts})
    ]
    if not chosen:
        raise ValueError("no sizes given: name at least one, such as --sizes 128x1000.")
    settings = Settings(batch, runs, seconds, memory)
    results = Results(out, settings)

    # in a new one, JAX can still be told how many devices there are
    measured = measure if processes == 1 == max(devices) else _in_new_process

    def run() -> int:
        console = Console()
        asked = {(*program.key, *size) for size in chosen for program in listed[size.network]}
        known = [row for row in results.rows if key_of(row) in asked]
        with Progress(console, len(asked) * processes, known) as progress:
            for process in range(processes):
                for size in chosen:
                    done = results.of_process(process)
                    for row in measured(size, rules, modes, settings, done, devices):
                        row = {"process": process} | row
                        results.add(row)
                        progress.record(row)
        lines = summarise(results.rows)
        results.write("md", markdown(lines, results.about))
        for suffix, content in figure(lines).items():
            results.write(suffix, content)
        show(console, lines, results.about)
        return 0

    return Work(run, None if out is None else "the same command")


def _in_new_process(
    size: Size,
    rules: Sequence[str] | None,
    modes: Sequence[str] | None,
    settings: Settings,
    done: Sequence[dict[str, Any]],
    devices: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """`measure` in a fresh process: for its life, XLA's code runs at one of several speeds."""
    work = json.dumps([size, rules, modes, dataclasses.asdict(settings), done, devices])
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
