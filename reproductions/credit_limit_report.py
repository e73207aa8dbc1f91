"""What `credit_limit` has measured: a table a task, and a figure of all."""

from typing import Any

import numpy as np

from modprop_jax import _figures as figures
from modprop_jax.tasks import TASKS


Entries = list[dict[str, Any]]
# what the figure shows of fits: gated, which of the memories, marker, dashes, colour
FORMS = (
    (True, -1, "o", "-", figures.COLOURS[0]),
    (True, 0, "s", "--", figures.COLOURS[1]),
    (False, -1, "^", "-", figures.COLOURS[2]),
    (False, 0, "D", "--", figures.COLOURS[3]),
)
MARKS = {"e-prop": ":", "ModProp(auto)": "-."}


def table(entries: Entries, *, brief: bool = False) -> str:
    """Held-out cosine with BPTT, mean ± standard deviation over networks; `brief`: of the largest
    memory, and of both ends with two types."""
    columns = sorted({entry["iterations"] for entry in entries})
    rows: dict[str, dict[int, list[float]]] = {}

    def put(label, iterations, value):
        rows.setdefault(label, {}).setdefault(iterations, []).append(value)

    for entry in entries:
        at = entry["iterations"]
        put(f"{TASKS[entry['task']].score} of the network", at, entry["score"])
        for name, value in entry["rules"].items():
            put(name, at, value)
    for entry in entries:
        for g, gate in enumerate(entry["gated"]):
            for c, count in enumerate(entry["counts"]):
                for k, memory in enumerate(entry["memory"]):
                    ends = (max(entry["memory"]), *(entry["memory"][:1] if c == 0 else ()))
                    if brief and memory not in ends:
                        continue
                    form = f"{'gated' if gate else 'not gated'}, {count} types, K = {memory}"
                    value = entry["held_out_cosine"][g][c][k]
                    put(f"fitted, {form}", entry["iterations"], value)
    networks = len({entry["seed"] for entry in entries})
    lines = [f"| {networks} networks | " + " | ".join(f"{c} iterations" for c in columns) + " |"]
    lines += ["|---|" + "---|" * len(columns)]
    for label, each in rows.items():
        cells = [_shown(each.get(column, [])) for column in columns]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(values: list[float]) -> str:
    if not values:
        return "–"
    sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.2f} ± {sd:.2f}"


def figure(found: dict[str, Entries]) -> Any:
    """By number of types, before (left) and after (right) training; bars from the lowest network to
    the highest."""
    with figures.styled():
        made = figures.blank(figures.COLUMN, 0.6 + 1.5 * len(found))
        grid = made.subplots(len(found), 2, sharex=True, sharey="row", squeeze=False)
        for axes_of, (name, entries) in zip(grid, found.items()):
            ends = min(e["iterations"] for e in entries), max(e["iterations"] for e in entries)
            for axes, iterations in zip(axes_of, ends):
                _panel(axes, [e for e in entries if e["iterations"] == iterations])
                axes.set_title(f"{name.replace('_', ' ')}, {iterations:,}", fontsize=6.5)
            axes_of[0].set_ylabel("cosine with BPTT", fontsize=6.5)
        for axes in grid[-1]:
            axes.set_xlabel("cell types")
        handles = grid[0, 0].get_legend_handles_labels()
        made.legend(*handles, loc="outside lower center", ncols=2, fontsize=6)
    return made


def _panel(axes: Any, entries: Entries) -> None:
    counts, memory, gates = (entries[0][name] for name in ("counts", "memory", "gated"))
    cosine = np.array([entry["held_out_cosine"] for entry in entries])
    for place, (gate, which, marker, dashes, colour) in enumerate(FORMS):
        values = cosine[:, gates.index(gate), :, which]
        mean = values.mean(0)
        axes.errorbar(
            # side by side
            np.array(counts) * 2 ** (0.08 * (place - 1.5)),
            mean,
            [mean - values.min(0), values.max(0) - mean],
            color=colour,
            ls=dashes,
            marker=marker,
            lw=1,
            elinewidth=0.5,
            label=f"{'gated' if gate else 'not gated'}, K = {memory[which]}",
        )
    for name, dashes in MARKS.items():
        height = np.mean([entry["rules"][name] for entry in entries])
        axes.axhline(height, color="0.35", lw=0.9, ls=dashes, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(0, 1.02)
