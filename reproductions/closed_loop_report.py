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

- **In the chain the exact rule remembers longest.** RTUs under `DiagonalRTRL` answer 98 % at all
  lengths up to 128. With credit of one step the same RTUs do as well to 16, answer .65 at 64, and
  are at chance at 128, as all GRUs are. (Their .81 at 32 owes to the rate: 1e-3 and 3e-3 were level
  over both tuning lengths, and at 32 those at 1e-3 answered .98 and more on the seeds that chose.)
  Leaky neurons with slow time constants, under e-prop, come second, with .89 at 64 and .62 at 128.
- **To 16 steps, the memory at the start decides more than the rule.** RTUs and leaky neurons begin
  with long time constants. What they saw is still there when it is asked for, and readouts and
  input weights learn to use it by credit of one step. That is no merit of a rule. It may be why
  BPTT of one step on RTUs does not collapse here as published, where the moduli of RTUs begin
  anywhere in (0, 1).
- **GRUs have to learn to remember**, and do so on some seeds and not on others, under each of their
  three rules: at 32 one seed of five stays at chance under `SnAp(1)`, and two answer .99 and more.
  Five seeds do not order `SnAp(1)`, `EProp` and BPTT over 8 steps; e-prop is the cheapest of them.
- Without memory it is chance at all lengths of the chain: nothing leaks through the sights.
- **In the maze some lives never learn to walk**, which is another failure than to forget: RTUs
  under the exact rule have .80 and .78 by one life of five without any success at 20 and 40, and
  .95 to 1.00 in the others. (Their rate, 3e-3, was level with 1e-3 in tuning, where no life
  failed.) GRUs under `SnAp(1)` have no such life and .96 at 40, under e-prop one; under BPTT over 8
  steps they have .83.
  Credit of one step falls to .29. Five seeds order no more than that.
"""


def page(
    rows: list[dict[str, Any]], agents: list[str], settings: dict[str, Any]
) -> tuple[str, dict[str, bytes]]:
    """In Markdown, and the figure's files by name. Rows have their `success`, by seed."""
    found = {(r["world"], r["agent"], r["length"]): r for r in rows if not r["tuning"]}
    steps = {world: setting.steps for world, setting in settings.items()}
    words = [
        f"{' and '.join(map(str, setting.tuned_at))} in the {world}"
        for world, setting in settings.items()
    ]
    text = [INTRODUCTION.format(tuned=", ".join(words))]
    missing = [
        words
        for world, setting in settings.items()
        for words in left_of(found, world, list(setting.lengths), agents)
    ]
    if missing:
        text.append(f"**Not run yet**: {'; '.join(missing)}.\n")
    text.append("![Success by what has to be remembered](closed-loop/success.png)\n")
    shown = [world for world in settings if any(key[0] == world for key in found)]
    for world in shown:
        text.append(f"## {TITLES[world]}\n\n{steps[world]:,} steps a life.\n")
        lengths = [n for n in settings[world].lengths if any(k[::2] == (world, n) for k in found)]
        text += [*table(found, world, lengths, agents), ""]
    text.append(READING.strip("\n") + "\n")
    listed = [f"| {name} | " + " | ".join(values) + " |" for name, values in PUBLISHED.items()]
    text += [PROTOCOL.format(**steps).strip("\n"), *listed]
    drawing, data = figure(found, shown, agents)
    return "\n".join(text) + "\n", figures.files("success", drawing, data)


def left_of(found: dict[Any, Any], world: str, lengths: list[int], agents: list[str]) -> list[str]:
    """What was not run of a world: agents at a length, or all of them."""
    left = {n: [agent for agent in agents if (world, agent, n) not in found] for n in lengths}
    if all(len(names) == len(agents) for names in left.values()):
        return [f"all agents ({world})"]
    return [
        f"{'all agents' if len(names) == len(agents) else ', '.join(names)} at {n} ({world})"
        for n, names in left.items()
        if names
    ]


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
