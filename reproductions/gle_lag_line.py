"""The lag line: weights and time constants of a teacher, recovered in the stream.

python reproductions/gle_lag_line.py --out docs/results/gle-lag-line

Students of random weights and time constants see a square wave and the teacher's answers, and learn
at every step, nudged by their errors: by GLE, and by instantaneous errors (Ellenberger et al.,
arXiv 2403.16933, Figure 5). Writes `table.md` and `trajectories.png`; progress goes to the screen.
"""

import dataclasses
import pathlib
import time
from typing import Any

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


TEACHER = np.array([1.0, 2.0, 1.0, 2.0])
NAMES = "w₁", "w₂", "τ₁", "τ₂"
# (w₁, w₂, τ₁, τ₂) by 10,000 steps, of one student each
OTHERS = {
    "the public program, GLE (float32, 100 streams)": {
        1: (0.61, 1.35, 0.46, 0.80),
        2: (0.63, 2.04, 1.00, 1.21),
        3: (0.90, 2.04, 1.20, 1.54),
        4: (0.96, 2.01, 1.07, 1.81),
        5: (0.999, 2.001, 1.002, 1.995),
    },
    "NumPy, GLE": {2: (0.74, 2.06, 1.15, 1.30), 4: (0.978, 2.008, 1.036, 1.897)},
    "NumPy, instantaneous errors": {14: (-0.06, 2.10, 0.1, 0.1)},
}
GAMMA, BETA, FLOOR = 1.0, 0.01, 0.1
PERIOD, SETTLE, STRETCH, MARK = 400, 5_000, 1_000, 10_000
ADAM = optax.adam(1e-4)
RULES = {"GLE": mpj.GLE(), "instantaneous errors": mpj.GLE(prospective_errors=False)}


@dataclasses.dataclass(frozen=True)
class Options:
    """How many, how long, and where to."""

    out: pathlib.Path
    steps: int = 100_000
    """In all; nothing learns in the first 5,000."""
    batch: int = 20
    students: int = 5
    seed: int = 0


def student(key: Any) -> mpj.GLECell:
    """Weights and time constants between 0 and 1, as published."""
    w, tau = jr.uniform(key, (2, 2))
    cell = tasks.lag_line_cell((0.0, 0.0), (1.0, 1.0), gamma=GAMMA, learn_tau=True)
    return eqx.tree_at(parameters, cell, [*w[:, None, None], *jnp.maximum(tau, FLOOR)[:, None]])


def parameters(cell: Any) -> list[Any]:
    """Both weights, then both time constants."""
    return [layer.weight for layer in cell.layers] + [layer.tau_m for layer in cell.layers]


def segment_loss(model: mpj.RNN, carry: Any, xs: Any, ys: Any) -> tuple[Any, Any]:
    """Half the squared error, summed over the batch: nudges read its slope."""
    carry, zs = model(xs, carry)
    return 0.5 * BETA * jnp.sum((zs - ys) ** 2), carry


@eqx.filter_jit
def stretch(learns: bool, fixed: Any, students: Any, xs: Any, ys: Any) -> tuple[Any, Any]:
    """All students (parameters, carry, memory of Adam) on the same stream.

    Also returns their mean squared errors in its last period.
    """
    stream = mpj.online_value_and_grad(segment_loss, segment=1)

    def step(before, seen):
        learning, carry, memory = before
        x, y = seen
        (loss, carry), gradient = stream(eqx.combine(learning, fixed), carry, x[None], y[None])
        if learns:
            gradient = jax.tree.map(lambda g: g / len(x), gradient)
            updates, memory = ADAM.update(gradient, memory)
            learning: Any = optax.apply_updates(learning, updates)
            taus = [jnp.maximum(layer.tau_m, FLOOR) for layer in learning.cell.layers]
            learning = eqx.tree_at(lambda m: parameters(m.cell)[2:], learning, taus)
        return (learning, carry, memory), loss

    def one(student):
        student, losses = jax.lax.scan(step, student, (xs, ys))
        return student, jnp.mean(losses[-PERIOD:]) / (0.5 * BETA * xs.shape[1])

    return eqx.filter_vmap(one)(students)


def trajectory(rule: mpj.GLE, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (marks, students, 4) and mean squared errors (marks, students).

    A mark after the steps in which nothing learns, and every 1,000 steps from there.
    """
    draw, key = jr.split(jr.key(options.seed))
    xs, ys = tasks.lag_line(draw, options.batch, steps=options.steps)

    def start(key):
        model = mpj.RNN(student(key), rule=rule)
        learning = eqx.filter(model, eqx.is_inexact_array)
        return learning, model.init((options.batch,)), ADAM.init(learning)

    students = eqx.filter_vmap(start)(jr.split(key, options.students))
    fixed = eqx.filter(mpj.RNN(student(key), rule=rule), eqx.is_inexact_array, inverse=True)
    rows, errors = [], []
    for begin in [0, *range(SETTLE, options.steps, STRETCH)]:
        end = min(begin + STRETCH, options.steps) if begin else SETTLE
        students, error = stretch(begin > 0, fixed, students, xs[begin:end], ys[begin:end])
        rows.append(columns(students))
        errors.append(error)
    return np.stack(rows), np.stack(errors)


def columns(students: Any) -> np.ndarray:
    """(students, 4)."""
    return np.stack([np.ravel(leaf) for leaf in parameters(students[0].cell)], axis=1)


def table(found: dict[str, Any]) -> str:
    """Means over students every 10,000 steps, and how far the worst of them is off."""
    lines = [
        f"| rule | steps | {' | '.join(NAMES)} | largest error | mean squared error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (rows, errors) in found.items():
        for index in range((MARK - SETTLE) // STRETCH, len(rows), MARK // STRETCH):
            steps = SETTLE + index * STRETCH
            values = " | ".join(f"{value:.3f}" for value in rows[index].mean(0))
            worst = np.abs(rows[index] - TEACHER).max()
            lines.append(
                f"| {name} | {steps:,} | {values} | {worst:.1e} | {errors[index].max():.1e} |"
            )
    for name, marks in OTHERS.items():
        for mark, values in marks.items():
            worst = np.abs(np.array(values) - TEACHER).max()
            cells = " | ".join(f"{value:.3f}" for value in values)
            lines.append(f"| {name} | {mark * MARK:,} | {cells} | {worst:.0e} | |")
    return "\n".join(lines) + "\n"


def figure(found: dict[str, Any]) -> Figure:
    """Each student's parameters against steps, and its error."""
    drawing = Figure(figsize=(11, 3.5), layout="constrained")
    FigureCanvasAgg(drawing)
    panels = drawing.subplots(1, 5)
    for colour, (name, (rows, errors)) in zip(("#D55E00", "#0072B2"), found.items()):
        steps = (SETTLE + STRETCH * np.arange(len(rows))) / 1000
        for axes, values in zip(panels, [*np.moveaxis(rows, -1, 0), errors]):
            lines = axes.plot(steps, values, color=colour, lw=1, alpha=0.8)
            lines[0].set_label(name)
    for axes, title, value in zip(panels, NAMES, TEACHER):
        axes.axhline(value, color="black", lw=0.8, ls="--", label="teacher")
        axes.set(title=title)
    panels[-1].set(title="mean squared error", yscale="log")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    for axes in panels:
        axes.set(xlabel="thousand steps")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return drawing


def main(options: Options) -> None:
    """Train, and write the table and the figure."""
    jax.config.update("jax_enable_x64", True)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, rule in RULES.items():
        begun = time.monotonic()
        found[name] = trajectory(rule, options)
        print(f"{name}: {time.monotonic() - begun:.0f} s, with compilation", flush=True)
    (options.out / "table.md").write_text(table(found))
    figure(found).savefig(options.out / "trajectories.png", dpi=150)
    print(table(found))


if __name__ == "__main__":
    main(tyro.cli(Options))
