"""The command `modprop-jax align`."""

from collections.abc import Callable

from rich.console import Console

from ..tasks import TASKS
from ._align import execute_align, new_folder, reopen_align
from ._align_config import AlignConfig
from ._catalogue import DEFAULT_RULES
from ._options import CellName, Folder, Mu, PresetFloat, PresetInt, TaskName
from ._storage import RunFolder


def align(
    task: TaskName = None,
    *,
    rules: tuple[str, ...] = DEFAULT_RULES,
    seeds: int = 5,
    preset: str = "small",
    out: Folder = None,
    resume: Folder = None,
    optimizer: str = "sgd",
    checkpoints: int = 6,
    measure: int = 256,
    noise: float = 0.2,
    sweep: bool = False,
    iterations: PresetInt = None,
    batch: PresetInt = None,
    hidden_size: PresetInt = None,
    learning_rate: PresetFloat = None,
    cell: CellName = None,
    mu: Mu = None,
) -> Callable[[], int]:
    """Follow how well each rule's gradient points along training, and where it leads.

    Trains as compare does. At a few checkpoints it measures on each rule's own network
    the cosine and the projection ρ of the rule's gradient on BPTT's, the curvature λ₁ of
    the exact loss by the recurrent weights, and the gap between training and test data,
    clean and with input noise; at the start and the end also all rules against each
    other, and how much credit each rule delivers how far back in time. Example:

        modprop-jax align sequential_digits --rules modprop eprop bptt --seeds 3

    prints a table and writes a folder with align.json (all figures), table.md,
    alignment.png (cosine and ρ), matrix.png (rules against rules), credit.png (credit by
    lag, of neuron cells), curvature.png (λ₁ and its bounds; gap against λ₁), config.json,
    metrics.jsonl and checkpoints. Stop it at any moment; it continues with

        modprop-jax align --resume FOLDER

    How to read the bounds: plain SGD at the learning rate η can settle where λ₁ < 2/η
    with the exact gradient, and where λ₁ < 2/(ηρ) with one whose projection on it is ρ.
    So a rule with ρ < 1 may end in sharper minima, which often generalise worse. Under
    Adam 2/η is no bound.

    Args:
        task: What to learn; `modprop-jax list` shows the tasks.
        rules: Credit rules, with options as in modprop:mu=0.5; `modprop-jax list` shows
            them.
        seeds: Networks per rule, each with its own weights and data.
        preset: small (two or three minutes on two cores) or published (sizes of the
            paper).
        out: Folder for the results; by default runs/TASK-PRESET-TIME.
        resume: Folder of an interrupted run to continue; takes no other option.
        optimizer: sgd (plain, constant rate: the bounds hold) or adam (as compare).
        checkpoints: How often to measure, start and end included.
        measure: Trials in the fixed batch of training data for gradients and curvature.
        noise: Standard deviation of the noise on test inputs; those within [0, 1], such
            as pixels, stay clipped to it.
        sweep: Also train each rule at half, one and two times the learning rate η, and
            BPTT at the matched rate ρη.
        iterations: Optimizer steps.
        batch: Trials in a training batch.
        hidden_size: Neurons.
        learning_rate: The optimizer's; the preset's is Adam's, sgd takes 20 times it.
        cell: Kind of neuron in place of the preset's, with options of its own and the
            preset's time constant; `modprop-jax list` shows them.
        mu: ModProp's stand-in for the activation's derivative; auto measures it.
    """
    if (resume is None) == (task is None):
        raise ValueError(
            "name either a task or a run to continue: "
            f"`modprop-jax align {next(iter(TASKS))}` or `modprop-jax align --resume FOLDER`."
        )
    if resume is not None:
        folder = RunFolder(resume)
        config = reopen_align(folder)
    else:
        config = AlignConfig.make(
            str(task),
            preset,
            rules,
            seeds,
            optimizer=optimizer,
            checkpoints=checkpoints,
            measure=measure,
            noise=noise,
            sweep=sweep,
            iterations=iterations,
            batch=batch,
            hidden_size=hidden_size,
            learning_rate=learning_rate,
            cell=cell,
            mu=mu,
        )
        folder = new_folder(config, out)

    def work() -> int:
        result = execute_align(config, folder, Console())
        return int(any(row.diverged for row in result.rows))

    return work
