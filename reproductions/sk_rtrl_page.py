"""The page of `sk_rtrl.py` and `sk_rtrl_rank.py`, from what they measured."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np


# Table 3 of the program: each rule on its own trajectory of 20,000 steps; mean of 5 seeds
PUBLISHED = {
    "SnAp(1)": {"copy": 0.700, "adding": 0.606, "rotation": 0.422, "anbn": 0.425},
    "SKRTRL(4)": {"copy": 0.822, "adding": 0.884, "rotation": 0.985, "anbn": 0.979},
    "SKRTRL(16)": {"copy": 0.856, "adding": 0.887, "rotation": 0.981, "anbn": 0.983},
}
INTRODUCTION = """# SK-RTRL: how near to RTRL, and at what cost

Output of `python reproductions/sk_rtrl.py report`, float32 on CPU.

[`SKRTRL`][modprop_jax.SKRTRL] on the streams and with the settings of its public program
(`sonaradarcn/sketched-rtrl`, Table 3): 64 tanh units, 8 lanes, Adam at 1e-3, an update after each
step that has a target. All rules are measured on one trajectory, which the rule of rank 16 drives.
"Best" truncates by a decomposition of the Gram matrix, the others by one product with it.

The published figures are means of five seeds over the last fifth of 20,000 steps, each rule on its
own trajectory; ours of one seed over the same steps of one trajectory. So a row stands beside a
published one, and is no reproduction of it. A cell without a figure was not measured.
"""
CERTIFICATE = """## The certificate

Every tenth step, each lane: the bound e beside the truth, |M - M̂| by exact RTRL with the same stale
influence, where that is more than a thousandth of the influence's size √(|S|² + |Z|²). A violation
is a bound below the truth by more than 3e-4 of the size, what float32 knows of a step's loss.
Medians of the second half. With the largest singular value of W clipped at .9 (`--clip .9`) the
bound is within ten times of the truth. Without a clip that value is above 1, and the bound grows
within a sequence until it ends: it then says nothing, though the rule is near.
"""
RANK = """## A rank that follows what is dropped

Output of `reproductions/sk_rtrl_rank.py`: [`AdaptiveRank`][modprop_jax.AdaptiveRank] with its
defaults, asked every 100 steps, from rank 4 on. Published are means of three seeds.

| task, σ_max(W) | steps | mean rank | ranks | cosine, last fifth | published: mean rank, cosine |
|---|---|---|---|---|---|"""
READING = """
## What it says

- After 20,000 steps rank 16 is above the published cosines on all four streams (.94, 1.00, .90 and
  1.00), and rank 4 on two; on aⁿbⁿ and rotation it has .95 and .92 beside .979 and .985. The
  trajectory is that of rank 16, so rank 4 did not learn by its own gradient. Other roundings lead
  elsewhere: another run of rotation had .62, .975 and .999 for SnAp(1) and the two ranks. The best
  truncation is no better here than one product.
- The bound was never below the truth: some 56,800 points a rule without a clip, 8,531 with one. It
  is 1.3 to 9.5 times the truth at the median with a clip, 10² to 10¹⁶ times without.
- A rank that follows what is dropped stays at 4 on aⁿbⁿ and goes to 32, the most it may, on
  rotation, as published; both cosines are above .9999.
- Rank 4 takes ten times the time of SnAp(1) at 64 neurons and no more than it at 256; RTRL takes
  24, 115 and 250 times that of rank 4.
"""
ADAPTIVE = {"anbn": "5.4, above .9996", "rotation": "31.7, above .9996"}
TIME = """## Time

Milliseconds a step with its gradient and trace, of 8 lanes in segments of one step: the least of
interleaved runs in one process on one core, with the load of the machine (two cores).
"""


def report(runs: pathlib.Path, tasks: Sequence[str], rules: Sequence[str]) -> str:
    """Tables of what was measured."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(runs.glob("cosines-*.json"))]
    lines = [INTRODUCTION, "## Cosine with exact RTRL\n"]
    lines += [f"| rule | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]

    def mean(rule, task, what, clip):
        each = [r[rule][what] for r in found if r["task"] == task and r["clip"] == clip]
        return float(np.mean(each)) if each else None

    def cell(value, form):
        return "" if value is None else format(value, form)

    for rule in rules:
        row = [cell(mean(rule, task, "cosine", 0), ".3f") for task in tasks]
        lines.append(f"| {rule} | {' | '.join(row)} |")
        if rule in PUBLISHED:
            row = [f"{PUBLISHED[rule][task]:.3f}" for task in tasks]
            lines.append(f"| published, of its own trajectory | {' | '.join(row)} |")
    lines += [
        "",
        CERTIFICATE,
        "",
        "| task, σ_max(W), steps | rule | points | violations "
        "| e / truth | e / size | truth / size |",
    ]
    lines += ["|---" * 7 + "|"]
    for run in found:
        for rule in rules:
            r = run[rule]
            clip = f"clipped at {run['clip']}" if run["clip"] else "free"
            head = f"| {run['task']}, {clip}, {run['steps']:,} | {rule} "
            head += f"| {r['points']:,} | {r['violations']} "
            figures = (r["bound over truth"], r["bound over size"], r["truth over size"])
            lines.append(head + "| " + " | ".join(f"{x:.2g}" for x in figures) + " |")
    adapted = [json.loads(path.read_text("utf-8")) for path in sorted(runs.glob("rank-*.json"))]
    lines += ["", RANK] if adapted else []
    for run in adapted:
        seen = ", ".join(f"{r} ({run['ranks'].count(r)})" for r in sorted({*run["ranks"]}))
        cells = run["steps"], run["mean rank"], seen, run["cosine"], ADAPTIVE.get(run["task"], "–")
        head = f"| {run['task']}, clipped at {run['clip']:g} "
        lines.append(head + "| {:,} | {:.1f} | {} | {:.5f} | {} |".format(*cells))
    timing = runs / "times.json"
    if timing.exists():
        rows = json.loads(timing.read_text("utf-8"))
        names = list(rows[0]["ms"])
        lines += [
            "",
            TIME,
            "",
            f"| n | {' | '.join(names)} | load |",
            "|---" * (len(names) + 2) + "|",
        ]
        for row in rows:
            each = " | ".join(f"{row['ms'][name]:.3g}" for name in names)
            lines.append(f"| {row['n']} | {each} | {row['load']:.1f} |")
    return "\n".join(lines) + "\n" + READING
