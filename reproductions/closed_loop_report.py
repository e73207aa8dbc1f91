"""The page and the figure of `closed_loop.py`."""

from typing import Any

import numpy as np
from closed_loop_agents import ENTROPY, FEATURES, GAMMA, LAMBDA, WINDOW

from modprop_jax import _figures as figures


TITLES = {"chain": "Memory chain", "maze": "T-maze"}
AXES = {"chain": "steps to remember", "maze": "length of the corridor"}
# SK-RTRL, Table 9: share of right turns, means of the last 5 records and sd over 3 seeds
PUBLISHED = {
    "RTU, exact traces (128 features)": (".994 ± .001", ".811 ± .069", ".609 ± .262"),
    "tanh, RTRL": (".901 ± .054", ".636 ± .186", ".496 ± .010"),
    "LRU, exact traces": (".909 ± .044", ".496 ± .125", ".082 ± .038"),
    "tanh, SK-RTRL of rank 16": (".740 ± .045", ".666 ± .118", ".392 ± .140"),
    "tanh, SnAp-1": (".582 ± .105", ".498 ± .015", ".492 ± .009"),
    "tanh, BPTT in windows of 2N": (".713 ± .141", ".272 ± .186", ".166 ± .222"),
}

INTRODUCTION = f"""# Learning in a closed loop

```bash
python reproductions/closed_loop.py run --minutes 60 --out results/closed-loop
python reproductions/closed_loop.py report --runs results/closed-loop > docs/results/closed-loop.md
```

Agents that live once, see little, and learn at every step: no batch, no replay, no second pass.
Which core, under which rule, remembers what an episode began with until it is asked?

All agents are one program but for the core: {FEATURES} features, read by an actor and a critic,
which share it. At every step the agent acts, the world answers with a reward, and one gradient,
that of −log π(a) − V, goes into [`modprop_jax.optim.eligibility_traces`][] (AC(λ): γ = {GAMMA},
λ = {LAMBDA}, entropy {ENTROPY} by the sign of the TD error), from there into Adam, and into the
weights. [The usage page](../usage/closed-loop.md) has such an agent in a few lines.

- *RTU*: linear [`modprop_jax.RTUCell`][], half as many units as features, with memories of 10 to
  1,000 steps at the start. The gradient of `DiagonalRTRL` is exact.
- *GRU*: as equinox makes it, with memories of a few steps at the start.
- *leaky*: tanh, time constants of 2 to 200 steps, which do not train.
- *BPTT*: over the last 1 or {WINDOW} sights, which are kept and run again at every step, so that
  there is an update at every step, as for all others.

Success: the share of episodes that ended well (a right answer, a right turn), over the last fifth
of a life, while the agent learns and explores. 0.5 is chance in the chain; in the maze it is for
those that walk to the junction. Mean ± standard deviation over 5 seeds. Adam's rate is that
of 3e-4, 1e-3 and 3e-3 with the most success over whole lives of 5 other seeds, at two lengths,
{{tuned}}. float32, two CPU cores; µs is the
time of a step of one life, 5 of which run side by side, beside other work.
"""

PROTOCOL = """
## Beside the published curves

The chain is that of Farr, Reddi, D'Eramo & Peters (arXiv 2605.24709), in whose paper RTUs under
exact RTRL sustain lengths from 2 to 128, and feed-forward, GRU and RTU networks under TBPTT(1)
collapse: curves without a table, of QRC(λ = .95), 500,000 steps and 5 seeds. Here the learner is an
actor-critic, the network smaller, and a life has {chain:,} steps.

The maze is that of Table 9 of SK-RTRL's public program: there AC(0) with the mean loss of 16 lanes,
Adam at 3e-4 for every rule, n = 64, which gives its RTU 128 features, and 60,000, 100,000 and
150,000 steps of all lanes for the three corridors. Here it is one lane of {maze:,} steps. Chance of
a right turn is .5, so that of the column of 40 only the RTU's .609 shows that anything was learnt.

| published, corridor | 10 | 20 | 40 |
|---|---|---|---|
"""

READING = """
## What it says

On the chain, up to the lengths that were measured, the RTU under its exact streamed gradient
remembers what all others forget: .99 at 64 steps, where the same cell without a trace (BPTT of one
step) has .65. The trace is what does it, not the cell. GRUs under e-prop and SnAp(1) are not told
apart (standard deviations of .2: a seed in five fails), and are ahead of a window of 8 sights from
16 steps on, but not by more than these deviations. Leaky neurons of fixed time constants under
e-prop are as good as the RTU up to 16. Cells without a figure, the length of 128 and the maze have
not been measured.
"""


def page(
    rows: list[dict[str, Any]], agents: list[str], steps: dict[str, int]
) -> tuple[str, dict[str, bytes]]:
    """In Markdown, and the figure's files by name. Rows have their `success`, by seed; `steps` of
    a life are by world."""
    found = {
        (r["world"], r["agent"], r["length"]): r for r in rows if not r["tuning"]
    }  # fmt: skip
    tuned: dict[str, list[int]] = {}
    for row in rows:
        if row["tuning"] and row["length"] not in tuned.setdefault(row["world"], []):
            tuned[row["world"]].append(row["length"])
    words = ", ".join(f"{' and '.join(map(str, at))} in the {w}" for w, at in tuned.items())
    text = [INTRODUCTION.format(tuned=words)]
    text.append("![Success by what has to be remembered](closed-loop/success.png)\n")
    for world in tuned:
        lengths = sorted({key[2] for key in found if key[0] == world})
        if not lengths:
            continue
        text.append(f"## {TITLES[world]}\n\n{steps[world]:,} steps a life.\n")
        text += [*table(found, world, lengths, agents), ""]
    listed = [f"| {name} | " + " | ".join(values) + " |" for name, values in PUBLISHED.items()]
    text += [PROTOCOL.format(**steps).strip("\n"), *listed]
    drawing, data = figure(found, list(tuned), agents)
    return "\n".join(text) + "\n" + READING, figures.files("success", drawing, data)


def table(found: dict[Any, Any], world: str, lengths: list[int], agents: list[str]) -> list[str]:
    """A line for each agent."""
    lines = ["| " + " | ".join(["agent", *map(str, lengths), "rate", "µs"]) + " |"]
    lines.append("|---" * (len(lengths) + 3) + "|")
    for agent in agents:
        row = [found.get((world, agent, length)) for length in lengths]
        cells = ["" if r is None else f"{spread(r)}" for r in row]
        there = [r for r in row if r is not None]
        if not there:
            continue
        each = [1e6 * r["seconds"] / r["steps"] / len(r["success"]) for r in there]
        cells += [f"{there[0]['rate']:g}", f"{np.median(each):.0f}"]
        lines.append(f"| {agent} | " + " | ".join(cells) + " |")
    return lines


def spread(row: dict[str, Any]) -> str:
    """Mean ± standard deviation over seeds."""
    values = np.asarray(row["success"])
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def figure(found: dict[Any, Any], worlds: list[str], agents: list[str]) -> tuple[Any, list]:
    """Success against length, a panel a world: means, and the lowest and highest seed."""
    data: list[Any] = [["world", "agent", "length", "seed", "success"]]
    with figures.styled():
        drawing = figures.blank(figures.PAGE, 2.6)
        panels = drawing.subplots(1, max(len(worlds), 1), squeeze=False)[0]
        for panel, world in zip(panels, worlds):
            lengths = sorted({key[2] for key in found if key[0] == world})
            for place, agent in enumerate(agents):
                at = [n for n in lengths if (world, agent, n) in found]
                each = [np.asarray(found[world, agent, n]["success"]) for n in at]
                if not at:
                    continue
                mean = np.array([e.mean() for e in each])
                bars = [mean - [e.min() for e in each], [e.max() for e in each] - mean]
                last = place == len(agents) - 1
                panel.errorbar(
                    at,
                    mean,
                    bars,
                    color="0.5" if last else figures.COLOURS[place % len(figures.COLOURS)],
                    ls=figures.LINES[place % len(figures.LINES)],
                    marker=figures.MARKERS[place],
                    elinewidth=0.6,
                    label=agent,
                )
                data += [
                    [world, agent, n, seed, value]
                    for n, values in zip(at, each)
                    for seed, value in enumerate(values)
                ]
            panel.set_xscale("log", base=2)
            panel.set_xticks(lengths, list(map(str, lengths)))
            panel.set(title=TITLES[world], xlabel=AXES[world], ylabel="success", ylim=(0, 1.04))
            panel.axhline(0.5, color="0.7", lw=0.8, ls=":")
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside right center")
    return drawing, data
