"""MNIST-1D learnt online by GLE: an optimizer step at every step of time.

python reproductions/gle_mnist1d.py train --minutes 45 --seed 0 --out results/gle-mnist1d/seed0
python reproductions/gle_mnist1d.py report --runs results/gle-mnist1d --out docs/results/gle-mnist1d

The network of 15,000 parameters of Ellenberger et al. (arXiv 2403.16933), in its published order of
update, rates, schedule and batches; `--order sweep` leaves out the delays between layers.
"""

import dataclasses
import json
import pathlib
import time
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import modprop_jax as mpj
from modprop_jax import tasks


BATCH, RATE, DT = 100, 1e-3, 0.2
HIDDEN, WIDTH = 6, 53
# Per hidden layer: 18 and 18 neurons that remember, and 17 that follow at once.
MEMBRANE = np.repeat([0.6, 1.2, 1.2], [18, 18, 17])
PROSPECTIVE = np.repeat([DT, DT, 1.2], [18, 18, 17])
ADAM = optax.scale_by_adam()
# Halves the rate when three epochs in a row have not been better than the best by 1e-4 of it, down
# to 1.5e-8: PyTorch's scheduler with patience=2 and its own defaults.
PLATEAU = optax.contrib.reduce_on_plateau(factor=0.5, patience=3, rtol=1e-4, min_scale=2**-16)
MARKS = 10, 20, 30, 50, 100, 150
# test accuracy in %, means over ten seeds, by epoch; at the end ± standard deviation
PUBLIC = {10: "45.8", 50: "87.7", 150: "91.7 ± 0.8"}


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, and where to."""

    out: pathlib.Path
    """Folder of `metrics.jsonl` and `last.eqx`."""
    minutes: float = 45.0
    """No epoch starts after so many, those before a resumption included."""
    epochs: int = 150
    """At most so many."""
    order: Literal["sync", "sweep"] = "sync"
    prospective_errors: bool = True
    seed: int = 0
    resume: bool = False
    """Go on from `last.eqx`."""


@dataclasses.dataclass(frozen=True)
class Report:
    """A table and a figure of finished runs."""

    runs: pathlib.Path
    """Folder of the runs' folders."""
    out: pathlib.Path


class Run(eqx.Module):
    """All that is needed to go on."""

    model: mpj.RNN
    state: Any
    """Of the network: it is never put to rest."""
    adam: Any
    plateau: Any


def network(options: Train) -> mpj.RNN:
    """1 - 6 x 53 - 10: the first hidden layer and the output linear, the others tanh."""
    cell = mpj.GLECell(
        [1, *[WIDTH] * HIDDEN, 10],
        tau_m=[*[MEMBRANE] * HIDDEN, 1.2],
        tau_r=[*[PROSPECTIVE] * HIDDEN, 1.2],
        dt=DT,
        activations=[jax.nn.identity, *[jnp.tanh] * (HIDDEN - 1), jax.nn.identity],
        order=options.order,
        key=jr.key(options.seed),
    )
    return mpj.RNN(cell, rule=mpj.GLE(prospective_errors=options.prospective_errors))


def segment_loss(model: mpj.RNN, carry: Any, xs: Any, labels: Any) -> tuple[Any, Any]:
    """Summed over the batch; the logits are in the carry."""
    carry, logits = model(xs, carry)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum(), carry


@eqx.filter_jit
def epoch(run: Run, rate: Any, lines: Any, labels: Any) -> tuple[Run, Any, Any]:
    """One pass over batches: lines (N, T, batch, 1) and labels (N, batch).

    Returns the run, and means of the loss and the accuracy on the way.
    """
    parameters, fixed = eqx.partition(run.model, eqx.is_inexact_array)
    stream = mpj.online_value_and_grad(segment_loss, segment=1)

    def step(before, x, labels):
        parameters, adam, carry, loss, logits = before
        model = eqx.combine(parameters, fixed)
        (more, carry), gradient = stream(model, carry, x[None], labels[None])
        gradient = jax.tree.map(lambda g: g / BATCH, gradient)
        updates, adam = ADAM.update(gradient, adam)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        parameters = optax.apply_updates(parameters, updates)
        return parameters, adam, carry, loss + more, logits + carry.state.out

    def batch(before, seen):
        line, labels = seen
        start = (*before, jnp.zeros(()), jnp.zeros((BATCH, 10)))
        *before, loss, logits = jax.lax.scan(
            lambda before, x: (step(before, x, labels), None), start, line
        )[0]
        return tuple(before), (loss / line.shape[0] / BATCH, jnp.mean(logits.argmax(-1) == labels))

    # errors have died out in the test before
    start = parameters, run.adam, run.model.rule.init(run.model.cell, run.state)
    (parameters, adam, carry), found = jax.lax.scan(batch, start, (lines, labels))
    run = Run(eqx.combine(parameters, fixed), carry.state, adam, run.plateau)
    return run, *map(jnp.mean, found)


@eqx.filter_jit
def test(run: Run, lines: Any, labels: Any) -> tuple[Run, Any, Any]:
    """Mean loss and accuracy; the network goes on from where it is, and from there to training."""
    state = jax.tree.map(lambda a: jnp.concatenate([a] * (len(labels) // BATCH)), run.state)
    state, logits = mpj.scan(run.model.cell, state, lines)
    state = jax.tree.map(lambda a: a[:BATCH], state)
    loss, accuracy = tasks.summed_cross_entropy(logits, labels)
    return eqx.tree_at(lambda run: run.state, run, state), loss, accuracy


def learn(run: Run, options: Train) -> None:
    """Epoch after epoch."""
    lines, labels = map(np.asarray, tasks.mnist1d_split("train"))
    held_out = tasks.mnist1d_split("test")
    metrics, checkpoint = options.out / "metrics.jsonl", options.out / "last.eqx"
    done = [json.loads(line) for line in metrics.open()] if options.resume else []
    before = sum(entry["seconds"] for entry in done)
    start = time.monotonic()
    if not options.resume:
        run, _, accuracy = test(run, *held_out)
        print(f"untrained                                test {accuracy:6.1%}")
    with metrics.open("a" if options.resume else "w") as file:
        for number in range(len(done) + 1, options.epochs + 1):
            begun, used = time.monotonic(), time.process_time()
            if before + begun - start > 60 * options.minutes:
                break
            order = np.random.default_rng([options.seed, number]).permutation(len(labels))
            order = order.reshape(-1, BATCH)
            rate = RATE * run.plateau.scale
            seen = np.moveaxis(lines[:, order], 0, 1), labels[order]
            run, loss, accuracy = epoch(run, rate, *seen)
            run, test_loss, test_accuracy = test(run, *held_out)
            _, plateau = PLATEAU.update({}, run.plateau, value=test_loss)
            run = eqx.tree_at(lambda run: run.plateau, run, plateau)
            # replaced in one go: an interruption leaves the last one whole
            eqx.tree_serialise_leaves(options.out / "next.eqx", run)
            (options.out / "next.eqx").replace(checkpoint)
            entry = {
                "epoch": number,
                "train_loss": float(loss),
                "train_accuracy": float(accuracy),
                "test_loss": float(test_loss),
                "test_accuracy": float(test_accuracy),
                "rate": float(rate),
                "seconds": time.monotonic() - begun,
                "cpu_seconds": time.process_time() - used,
            }
            print(json.dumps(entry), file=file, flush=True)
            print(
                f"epoch {number:3d}   {entry['seconds']:6.1f} s   train {accuracy:6.1%}   "
                f"test {test_accuracy:6.1%}   rate {rate:.2e}",
                flush=True,
            )


def train(options: Train) -> None:
    """Start, or go on."""
    options.out.mkdir(parents=True, exist_ok=True)
    model = network(options)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    print(f"{count:,} parameters")
    state = model.cell.init((BATCH,))
    run = Run(model, state, ADAM.init(parameters), PLATEAU.init(parameters))
    if options.resume:
        run = eqx.tree_deserialise_leaves(options.out / "last.eqx", run)
    learn(run, options)


def report(options: Report) -> None:
    """Read the metrics of all runs."""
    options.out.mkdir(parents=True, exist_ok=True)
    runs = {}
    for path in sorted(options.runs.glob("*/metrics.jsonl")):
        runs[path.parent.name] = [json.loads(line) for line in path.read_text().splitlines()]
    marks = " | ".join(f"epoch {n}" for n in MARKS)
    table = [f"| run | {marks} | last | s an epoch | of CPU |"]
    table.append("|---" * (len(MARKS) + 4) + "|")
    for name, rows in runs.items():
        values = {row["epoch"]: f"{100 * row['test_accuracy']:.1f}" for row in rows}
        cells = [values.get(mark, "") for mark in MARKS]
        last, seconds = rows[-1]["epoch"], np.median([row["seconds"] for row in rows])
        used = [row["cpu_seconds"] for row in rows if "cpu_seconds" in row]
        cells += [f"{values[last]} ({last})", f"{seconds:.1f}"]
        cells.append(f"{np.median(used):.1f}" if used else "")
        table.append(f"| {name} | " + " | ".join(cells) + " |")
    public = " | ".join(PUBLIC.get(mark, "") for mark in MARKS)
    table.append(f"| public, ten seeds | {public} | {PUBLIC[150]} (150) | | 49 |")
    (options.out / "table.md").write_text("\n".join(table) + "\n")
    curves(runs).savefig(options.out / "accuracy.png", dpi=150)
    print("\n".join(table))


def curves(runs: dict[str, Any]) -> Figure:
    """Test accuracy against epochs."""
    drawing = Figure(figsize=(6.5, 3.6), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots()
    for name, rows in runs.items():
        accuracy = [100 * row["test_accuracy"] for row in rows]
        axes.plot([row["epoch"] for row in rows], accuracy, lw=1.2, label=name)
    means = [float(value.partition(" ")[0]) for value in PUBLIC.values()]
    axes.plot(list(PUBLIC), means, "k_", ms=14, mew=2, label="public, mean of ten")
    axes.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(0, 100))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return drawing


if __name__ == "__main__":
    chosen = tyro.cli(Train | Report)
    train(chosen) if isinstance(chosen, Train) else report(chosen)
