"""The command `modprop-jax align`."""

from typing import Annotated, Any

import tyro
from rich.console import Console

from .._figures import check_style
from ..tasks import TASKS
from ._align import Align, Alignments, reopen_align
from ._align._config import AlignConfig
from ._align_stream import AlignStream, reopen_align_stream, StreamAlignments
from ._align_stream._config import learns_online, stream_rules, StreamAlignConfig
from ._devices import use_cores
from ._options import (
    CellName,
    Cores,
    FeedbackName,
    Folder,
    Mu,
    PresetFloat,
    PresetInt,
    StyleName,
    TaskName,
)
from ._rules import DEFAULT_RULES
from ._runs import continued
from ._storage import RunFolder
from ._study import AbstractStudy, begun, conduct
from ._work import Work


def _shown(kind: str, default: str) -> Any:
    """How an option appears whose default is None: what it means depends on the preset."""
    return tyro.conf.arg(metavar=kind, help_behavior_hint=f"(default: {default})")


_Rules = Annotated[
    tuple[str, ...] | None,
    tyro.conf.arg(
        metavar="NAME [NAME ...]",
        help_behavior_hint=(
            f"(default: {' '.join(DEFAULT_RULES)}; on streams {' '.join(stream_rules('leaky'))}; "
            "those that serve the cell, for gle and equilibrium)"
        ),
    ),
]


def align(
    task: TaskName = None,
    *,
    rules: _Rules = None,
    seeds: int = 5,
    preset: str = "small",
    first_seed: int = 0,
    out: Folder = None,
    resume: Folder = None,
    learner: Annotated[str | None, _shown("NAME", "rtrl, else the first rule")] = None,
    optimizer: Annotated[str | None, _shown("STR", "sgd")] = None,
    checkpoints: Annotated[int | None, _shown("INT", "6")] = None,
    measure: Annotated[int | None, _shown("INT", "256")] = None,
    noise: Annotated[float | None, _shown("FLOAT", "0.2")] = None,
    sweep: bool = False,
    limit: Annotated[tuple[int, ...] | None, _shown("INT [INT ...]", "not measured")] = None,
    iterations: PresetInt = None,
    batch: PresetInt = None,
    hidden_size: PresetInt = None,
    learning_rate: PresetFloat = None,
    cell: CellName = None,
    feedback: FeedbackName = None,
    mu: Mu = None,
    style: StyleName = None,
    cores: Cores = None,
) -> Work:
    """Follow how well each rule's gradient points along training, and where it leads.

    Trains as compare does. At a few checkpoints it measures on each rule's own network
    the cosine and the projection ρ of the rule's gradient on BPTT's, the curvature λ₁ of
    the exact loss by the recurrent weights, and the gap between training and test data,
    clean and with input noise; at the start and the end also all rules against each
    other, and how much credit each rule delivers how far back in time. Example:

        modprop-jax align sequential_digits --rules modprop eprop bptt --seeds 3

    prints a table and writes a folder with align.json (all figures), table.md,
    alignment.png (cosine and ρ), matrix.png (rules against rules), credit.png (credit by
    lag, of neuron cells), curvature.png (λ₁ and its bounds; gap against λ₁), with
    --limit also limit.png (what the best filters would reach), config.json, metrics.jsonl
    and checkpoints. Stop it at any moment; it continues with

        modprop-jax align --resume FOLDER

    How to read the bounds: plain SGD at the learning rate η can settle where λ₁ < 2/η
    with the exact gradient, and where λ₁ < 2/(ηρ) with one whose projection on it is ρ.
    So a rule with ρ < 1 may end in sharper minima, which often generalise worse. Under
    Adam 2/η is no bound.

    With a preset that learns online from an endless stream it does something else: one
    rule, --learner, trains the network, and at every step all rules give their gradient
    on it, side by side. Example:

        modprop-jax align add --preset brief --learner rtrl --seeds 3

    prints each rule's mean cosine to the learner and writes a folder with table.md,
    matrix.png (rules against rules, plain and weighted by norms), curves.png (cosine to
    the learner along training), alignment.json (all figures), config.json, metrics.jsonl
    and a checkpoint. Tables leave out the first sixth of the stream. future_bptt knows
    the gradient of a step only some steps later; those of the others wait for it.

    Args:
        task: What to learn; `modprop-jax list` shows the tasks.
        rules: Credit rules, with options as in modprop:mu=0.5; `modprop-jax list` shows
            them.
        seeds: Networks per rule, each with its own weights and data.
        preset: small (two or three minutes on two cores) or published (sizes of the
            paper); of a task without end, such as add, also brief, on a stream.
        first_seed: The first of the seeds.
        out: Folder for the results; by default runs/TASK-PRESET-TIME.
        resume: Folder of an interrupted run to continue; takes no other option.
        learner: On streams, the rule that trains the network; rtrl where it is among the rules.
        optimizer: sgd (plain, constant rate: the bounds hold) or adam (as compare). This
            and the next five are not for streams.
        checkpoints: How often to measure, start and end included.
        measure: Trials in the fixed batch of training data for gradients and curvature.
        noise: Standard deviation of the noise on test inputs; those within [0, 1], such
            as pixels, stay clipped to it.
        sweep: Also train each rule at half, one and two times the learning rate η, and
            BPTT at the matched rate ρη.
        limit: Numbers of cell types, such as 2 8: how close to BPTT's gradient any
            type-specific filters would come, on each network; limit.png. Some seconds a
            network and checkpoint, more with more types than the network's own.
        iterations: Optimizer steps.
        batch: Trials in a training batch.
        hidden_size: Neurons; of each layer, for cells gle and equilibrium.
        learning_rate: The optimizer's; the preset's is Adam's, sgd takes 20 times it. On
            streams it is that of plain SGD.
        cell: Kind of neuron in place of the preset's, with options of its own and the
            preset's time constant; `modprop-jax list` shows them. Options of cells (of gle: tau,
            layers, lagging, activation) are set in Python, all of them by cell_options.
        feedback: How the readout sends error back. On streams there is one network, so that
            a rule that asks for random feedback (local_dni) gets what all others get.
        mu: ModProp's stand-in for the activation's derivative; auto measures it.
        style: Of the figures: a file of matplotlib's settings, or one of its styles. With --resume
            a finished run draws them anew.
        cores: Cores of the CPU to spread seeds over, where there is no accelerator and no stream; 1
            for one network after the other. A resumed run continues bit for bit on as many.
    """
    use_cores(cores)
    check_style(style)
    if (resume is None) == (task is None):
        raise ValueError(
            "name either a task or a run to continue: "
            f"`modprop-jax align {next(iter(TASKS))}` or `modprop-jax align --resume FOLDER`."
        )
    of_batches = {
        "optimizer": optimizer,
        "checkpoints": checkpoints,
        "measure": measure,
        "noise": noise,
        "sweep": sweep or None,
        "limit": limit,
    }
    given = {name: value for name, value in of_batches.items() if value is not None}
    overrides = {
        "first_seed": first_seed,
        "iterations": iterations,
        "batch": batch,
        "hidden_size": hidden_size,
        "learning_rate": learning_rate,
        "cell": cell,
        "feedback": feedback,
        "mu": mu,
    }
    if resume is not None:
        folder = RunFolder(resume)
        kind, _ = folder.read_config("align", "align_stream")
        if kind == "align_stream":
            return _on_stream(reopen_align_stream(folder), folder, style)
        return _in_batches(reopen_align(folder), folder, style)
    if not learns_online(str(task), preset):
        if learner is not None:
            raise ValueError(
                f"--learner is for streams, but preset {preset!r} trains each rule's own network "
                "in batches: leave it out, or take --preset brief of a task such as add."
            )
        study = Align(AlignConfig.make(str(task), preset, rules, seeds, **given, **overrides))
        return _in_batches(study, begun(study, out), style)
    if given:
        raise ValueError(
            f"--{next(iter(given))} is for networks that train in batches, but preset {preset!r} "
            "learns from a stream: leave it out."
        )
    made = StreamAlignConfig.make(str(task), preset, rules, seeds, learner=learner, **overrides)
    stream = AlignStream(made)
    return _on_stream(stream, begun(stream, out), style)


def _in_batches(study: AbstractStudy[Alignments], folder: RunFolder, style: str | None) -> Work:
    def run() -> int:
        result = conduct(study, folder, Console(), style)
        return int(any(row.diverged for row in result.rows))

    return Work(run, continued(study.command, folder))


def _on_stream(
    study: AbstractStudy[StreamAlignments], folder: RunFolder, style: str | None
) -> Work:
    def run() -> int:
        return int(conduct(study, folder, Console(), style).diverged is not None)

    return Work(run, continued(study.command, folder))
