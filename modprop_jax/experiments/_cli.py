"""The command `modprop-jax`: a thin shell around `compare` and `resume`."""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.console import Console

from .._figures import check_style
from .._taxonomy import taxonomy as table_of_rules
from ..tasks import TASKS
from ._align_command import align
from ._bench import bench
from ._cells import CELLS
from ._cite_cli import cite
from ._compare import Compare, reopen
from ._config import Config
from ._devices import use_cores
from ._files import FolderFault
from ._methods import METHODS
from ._names import known, summary
from ._options import (
    CellName,
    Coordinator,
    Cores,
    Count,
    FeedbackName,
    Folder,
    Mu,
    NetworkName,
    PresetFloat,
    PresetInt,
    PresetSeeds,
    Rates,
    RuleNames,
    StyleName,
    TaskName,
    Tuned,
)
from ._processes import join, leads
from ._rules import RULES
from ._runs import continued
from ._storage import RunFolder
from ._study import begun, conduct
from ._tensorboard import package, TensorBoard
from ._work import Work


def compare(
    task: TaskName = None,
    *,
    network: NetworkName = None,
    rules: RuleNames = None,
    seeds: PresetSeeds = None,
    preset: str = "small",
    first_seed: int = 0,
    learning_rates: Rates = None,
    tune: Tuned = None,
    tune_seeds: Count = None,
    out: Folder = None,
    resume: Folder = None,
    iterations: PresetInt = None,
    eval_every: PresetInt = None,
    batch: PresetInt = None,
    hidden_size: PresetInt = None,
    learning_rate: PresetFloat = None,
    clip: PresetFloat = None,
    cell: CellName = None,
    feedback: FeedbackName = None,
    segment: PresetInt = None,
    mu: Mu = None,
    style: StyleName = None,
    tensorboard: bool = False,
    cores: Cores = None,
    distributed: bool = False,
    coordinator: Coordinator = None,
    processes: Count = None,
    process: Count = None,
) -> Work:
    """Train one network under several credit rules and compare what it learns.

    Every rule starts from the same weights and sees the same data. Example:

        modprop-jax compare delayed_xor --rules modprop eprop bptt --seeds 3

    prints a table and writes a folder with config.json, metrics.jsonl (a line per
    evaluation), summary.json, table.md, curves.png (and .pdf,
    .svg, .csv) and checkpoints. Stop it at any moment; it
    continues with

        modprop-jax compare --resume FOLDER

    Args:
        task: What to learn; `modprop-jax list` shows the tasks. Or your own, FILE.py:NAME: a
            function (key, batch) -> (xs, ys).
        network: Your own, FILE.py:NAME: a function (in_size, out_size, *, key) that returns an
            equinox module with RNN layers.
        rules: Credit rules or methods, with options as in modprop:mu=0.5; `modprop-jax list`
            shows them.
        seeds: Networks per rule, each with its own weights and data.
        preset: small (a minute or two on two cores) or published (sizes of the paper); of task
            connectome small, column or fly, leaky neurons, and small_spiking and so on.
        first_seed: The first of the seeds.
        learning_rates: Tune first: every rule at each of these rates, such as 1e-4..1e-2 (five,
            evenly spaced by their logarithms; 1e-4..1e-2/9: nine) or 0.01,0.03, on seeds and
            data that are not reported; then each rule at the rate that served it best.
        tune: Options that are tuned too, in all combinations with the rates, such as
            modprop:mu=0.1,0.25,auto kernl:alpha=0.01..1.
        tune_seeds: Networks a trial; 3 by default.
        out: Folder for the results; by default runs/TASK-PRESET-TIME.
        resume: Folder of an interrupted run to continue; takes no other option.
        iterations: Optimizer steps.
        eval_every: Iterations between two evaluations.
        batch: Trials in a training batch.
        hidden_size: Neurons; of each layer, for cells gle and equilibrium.
        learning_rate: Of Adam, or of plain SGD on streams.
        clip: Largest norm of a gradient, which is scaled down to it; none by default.
        cell: Kind of neuron in place of the preset's, with options of its own and the
            preset's time constant; `modprop-jax list` shows them. Options of cells (of gle: tau,
            layers, lagging, activation) are set in Python, all of them by cell_options.
        feedback: How the readout sends error back; adaptive feedback learns as the readout does.
        segment: Online learning from endless streams: time steps from one optimizer step to
            the next. For tasks without trials, such as add.
        mu: ModProp's stand-in for the activation's derivative; auto measures it.
        style: Of the figures: a file of matplotlib's settings, or one of its styles. With --resume
            a finished run draws them anew.
        tensorboard: Write event files of TensorBoard too, into FOLDER/tensorboard, as it trains.
        cores: Cores of the CPU to spread seeds and trials over, where there is no accelerator; 1
            for one network after the other. A resumed run continues bit for bit on as many.
        distributed: Spread seeds and trials over the devices of several processes, each started
            with this command, on a cluster that JAX recognises (Slurm, Open MPI, Kubernetes, TPU
            pods) or with the next three options. The first process alone reads and writes.
        coordinator: Where the first process is to be met.
        processes: How many there are.
        process: Which one this is, 0 for the first.
    """
    if distributed:
        join(coordinator, processes, process)
    elif (coordinator, processes, process) != (None, None, None):
        raise ValueError("--coordinator, --processes and --process belong to --distributed.")
    else:
        use_cores(cores)
    check_style(style)
    if tensorboard:
        _check_tensorboard()
    if (resume is None) == (task is None):
        raise ValueError(
            "name either a task or a run to continue: "
            f"`modprop-jax compare {next(iter(TASKS))}` or "
            "`modprop-jax compare --resume FOLDER`."
        )
    if resume is not None:
        folder = RunFolder(resume)
        study = Compare(reopen(folder))
    else:
        config = Config.make(
            str(task),
            preset,
            rules,
            seeds,
            network,
            first_seed=first_seed,
            learning_rates=learning_rates,
            tune=tune,
            tune_seeds=tune_seeds,
            iterations=iterations,
            eval_every=eval_every,
            batch=batch,
            hidden_size=hidden_size,
            learning_rate=learning_rate,
            clip=clip,
            cell=cell,
            feedback=feedback,
            segment=segment,
            mu=mu,
        )
        study = Compare(config)
        folder = begun(study, out)

    def run() -> int:
        on_record = TensorBoard(folder, "tensorboard") if tensorboard else None
        result = conduct(study, folder, Console(quiet=not leads()), style, on_record)
        return int(any(row.diverged for row in result.rows))

    return Work(run, continued(study.command, folder))


def _check_tensorboard() -> None:
    try:
        package()
    except ImportError as error:
        raise ValueError(f"--tensorboard: {error}") from error


def list_names(*, taxonomy: bool = False) -> Work:
    """Show the tasks, credit rules, methods and cells, a line each.

    Args:
        taxonomy: Show a table of rules in Markdown: approximation, bias, cost, locality.
    """
    sections = {
        "tasks": {
            name: " ".join([task.description, f"Data: {task.licence}." if task.licence else ""])
            for name, task in TASKS.items()
        },
        "rules": {name: rule.description for name, rule in RULES.items()},
        "methods": {name: method.description for name, method in METHODS.items()},
        "cells": {name: summary(entry.cell) for name, entry in CELLS.items()},
    }

    def run() -> int:
        if taxonomy:
            print(table_of_rules())
            return 0
        for title, lines in sections.items():
            print(title)
            for name, text in lines.items():
                print(f"  {name:<22} {text}".rstrip())
        return 0

    return Work(run)


# A command checks what was typed and returns the work to run. So a ValueError of the first
# half is an answer to the user, and one of the second half is a bug that shows its
# traceback.
_COMMANDS: dict[str, Callable[..., Work]] = {
    "compare": compare,
    "align": align,
    "bench": bench,
    "list": list_names,
    "cite": cite,
}


def main(
    arguments: Sequence[str] | None = None, *, announce: Callable[[str], Any] | None = None
) -> int:
    """Run the command and return its exit code.

    0: done; 1: a rule diverged; 2: wrong usage; 130: interrupted by Ctrl-C. `announce` is told the
    command that would continue this one, as soon as there is one.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        _check_names(arguments)
        work = tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,
            prog="modprop-jax",
            description="Compare credit rules for recurrent networks.",
            args=arguments,
        )
    except ValueError as error:
        print(f"modprop-jax: {error}", file=sys.stderr)
        return 2
    if announce is not None and work.again is not None:
        announce(work.again)
    try:
        return work.run()
    except KeyboardInterrupt:
        return 130
    except FolderFault as error:
        print(f"modprop-jax: {error}", file=sys.stderr)
        return 2


def _check_names(arguments: list[str]) -> None:
    """Commands and options by name, so that a slip gets one line rather than a page."""
    if arguments[0] in ("-h", "--help"):
        return
    command = _COMMANDS[known("command", arguments[0], _COMMANDS)]
    options = ["--help"] + [
        "--" + name.replace("_", "-")
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    typed = [
        known("option", argument.partition("=")[0].replace("_", "-"), options)
        for argument in arguments[1:]
        if argument.startswith("--")
    ]
    where = ("--style", "--tensorboard", "--cores", "--distributed", "--coordinator")
    where += ("--processes", "--process")
    others = [name for name in typed if name not in ("--resume", "--help", *where)]
    if "--resume" in typed and others:
        raise ValueError(
            "--resume continues a run with its own settings and takes no other option, "
            f"but got {others[0]}."
        )
