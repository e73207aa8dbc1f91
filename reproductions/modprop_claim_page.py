"""The page and figures of `modprop_claim`, from its run folders."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from modprop_claim_pairs import claim_tables, claim_words, clipping, forest, untrainable

import modprop_jax as mpj
from modprop_jax._tree import inexact
from modprop_jax.experiments import trained
from modprop_jax.tasks import TASKS


TITLES = {
    "xor": "Delayed XOR, a third of its published length",
    "xor-clipped": "The same, gradients clipped to a norm of 1",
    "xor-published": "Delayed XOR as published",
    "pattern": "Pattern generation, the published network",
    "evidence": "Evidence accumulation, a small network of spiking neurons",
}
SHORT = {
    "xor": "XOR",
    "xor-clipped": "XOR, clipped",
    "xor-published": "XOR as published",
    "pattern": "pattern",
    "evidence": "evidence",
}
NAMES = {
    "bptt": "BPTT",
    "modprop_cell": "ModProp, by cell",
    "modprop": "ModProp, by type",
    "mdgl": "MDGL",
    "eprop": "e-prop",
}
# of which the paper says that the first learns better than the second
CLAIMED = [("modprop", "mdgl"), ("modprop", "eprop"), ("modprop_cell", "mdgl"),
           ("modprop_cell", "eprop"), ("mdgl", "eprop")]  # fmt: skip
EXAMPLES = 4


def page(runs: Path, studies: dict[str, Any], planned: list[str], out: Path) -> None:
    """Write `modprop-claim.md`, and a folder of figures beside it."""
    folder = out / "modprop-claim"
    folder.mkdir(parents=True, exist_ok=True)
    took = json.loads((runs / "seconds.json").read_text("utf-8"))
    text = [INTRODUCTION.format(minutes=round(sum(took.values()) / 60))]
    missing = [TITLES[name] for name in planned if name not in studies]
    if missing:
        text.append(f"**Not run yet**: {'; '.join(missing)}.\n")
    text.append(reading(runs, studies))
    (folder / "claim.png").write_bytes(forest(runs, studies, SHORT))
    text.append("![Differences of the claim's five pairs, by task](modprop-claim/claim.png)\n")
    text.append("Mean and 95 % interval of each pair; blue: supported, of its five.\n")
    for name, study in studies.items():
        found = json.loads((runs / name / "summary.json").read_text("utf-8"))
        for ending in ("png", "pdf", "csv"):
            if (runs / name / f"curves.{ending}").exists():
                shutil.copy(runs / name / f"curves.{ending}", folder / f"{name}.{ending}")
        radii = radius(runs / name, study, [row["rule"] for row in found["rows"]])
        text += [
            f"## {TITLES[name]}\n",
            f"{about(runs / name, study)} {round(took[name] / 60)} minutes.\n",
            f"![Learning curves, {TITLES[name]}](modprop-claim/{name}.png)\n",
            table(found, radii),
            "\n" + claim_tables(runs, name, study, found["score"]),
            "Of all rows, differences in score of those pairs that the paper orders, seed by seed; "
            f"p by Holm's method for all {len(found['pairs'])} pairs of rows.\n",
            pairs(found),
            "",
        ]
    if {"xor", "xor-clipped"} <= {*studies}:
        text += ["## What clipping changes\n", clipping(runs, "xor", "xor-clipped", label)]
    (out / "modprop-claim.md").write_text("\n".join(text), "utf-8")


def label(rule: str, rate: bool = False) -> str:
    """A row's rule in words."""
    name, _, rest = rule.partition(":")
    given = dict(item.split("=") for item in rest.split(",") if item)
    words = NAMES[name]
    if name.startswith("modprop"):
        mu = given.get("mu", "")
        words += ", μ " + {"auto": "measured"}.get(mu, mu)
    return f"{words}, rate {given['learning_rate']}" if rate else words


def about(folder: Path, study: Any) -> str:
    """Sizes, from the configuration."""
    settings = json.loads((folder / "config.json").read_text("utf-8"))["settings"]
    network, schedule = settings["network"], settings["schedule"]
    signs = f"{network['excitatory']} of them excitatory, " if network["excitatory"] else ""
    return (
        f"{network['hidden_size']} neurons, {signs}batches of {schedule['batch']}, "
        f"{schedule['iterations']} iterations, {study.seeds} seeds."
    )


def table(found: dict[str, Any], radii: dict[str, list[list[float]]]) -> str:
    """A row a rule."""
    score = found["score"]
    lines = [
        f"| rule, and the rate that was chosen | {score} [95 %] | median | loss [95 %] | "
        "iterations to criterion (seeds) | stopped | lost | radius of a step |",
        "|" + "---|" * 8,
    ]
    for row in found["rows"]:
        middle, loss, time = row["centre"], row["loss_centre"], row["criterion"]
        if middle is None:
            lines.append(f"| {label(row['rule'], True)} | – | – | – | – | all | – | – |")
            continue
        median = "> end" if time["median"] is None else f"{time['median']:.0f}"
        start, end = radii[row["rule"]]
        lines.append(
            f"| {label(row['rule'], True)} | {interval(middle)} | {middle['median']:.3f} | "
            f"{interval(loss)} | {median} ({time['count']}/{time['seeds']}) | "
            f"{'all' if row['diverged'] else len(row['stopped'])} | {row['collapsed']} | "
            f"{np.median(start):.2f} → {np.median(end):.2f}, {max(end):.2f} |"
        )
    return "\n".join(lines)


def interval(centre: dict[str, Any]) -> str:
    """Mean and its interval."""
    return f"{centre['mean']:.3f} [{centre['low']:.3f}, {centre['high']:.3f}]"


def ordered(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Pairs that the paper orders, the one that it puts ahead first."""
    chosen = []
    for pair in found["pairs"]:
        kinds = tuple(pair[end].partition(":")[0] for end in ("first", "second"))
        if kinds in CLAIMED:
            chosen.append(pair)
        elif kinds[::-1] in CLAIMED:
            turned = {"first": pair["second"], "second": pair["first"], "mean": -pair["mean"]}
            chosen.append(pair | turned | {"low": -pair["high"], "high": -pair["low"]})
    return chosen


def pairs(found: dict[str, Any]) -> str:
    """Their differences."""
    lines = [
        f"| pair | difference in {found['score']} [95 %] | p (Holm) | supported | seeds needed |",
        "|---|---|---|---|---|",
    ]
    for pair in ordered(found):
        needed = "–" if pair["supported"] else pair["needed"] or "?"
        needed = "> 1000" if needed == 1001 else needed
        lines.append(
            f"| {label(pair['first'])} − {label(pair['second'])} | {pair['mean']:+.3f} "
            f"[{pair['low']:+.3f}, {pair['high']:+.3f}] | {pair['holm']:.2g} | "
            f"{'yes' if pair['supported'] else 'no'} | {needed} |"
        )
    return "\n".join(lines)


def reading(runs: Path, studies: dict[str, Any]) -> str:
    """Which differences are supported, from the figures; and `READING`."""
    lines = ["## Which differences the seeds support\n"]
    for name, study in studies.items():
        found = json.loads((runs / name / "summary.json").read_text("utf-8"))
        chosen = ordered(found)
        words = claim_words(runs, name, study, found["score"])
        lines.append(f"- {TITLES[name]}: {words}.")
        for way, word in ((1, "as the paper says"), (-1, "the other way round")):
            said = [
                f"{label(pair['first'])} and {label(pair['second'])} ({pair['mean']:+.3f})"
                for pair in chosen
                if pair["supported"] and way * pair["mean"] > 0
            ]
            lines.append(
                f"    - of all rows, {len(said)} of {len(chosen)} {word}"
                + (f": {'; '.join(said)}." if said else ".")
            )
        lines += [f"    - {said}" for said in (ahead(found), untrainable(runs, name, study, label))]
    return "\n".join(lines) + "\n" + READING


def ahead(found: dict[str, Any]) -> str:
    """Which rows BPTT is ahead of."""
    said = []
    for what, kind in ((found["score"], "pairs"), ("loss", "pairs_by_loss")):
        of_bptt = [pair for pair in found[kind] if pair["first"].startswith("bptt")]
        yes = [f"{label(p['second'])} ({p['mean']:+.3f})" for p in of_bptt if p["supported"]]
        named = f" ({'; '.join(yes)})" if yes else ""
        said.append(f"{len(yes)} of {len(of_bptt)} in {what}{named}")
    return f"differences from BPTT, corrected for all rows: {', '.join(said)}."


def radius(folder: Path, study: Any, rules: list[str]) -> dict[str, list[list[float]]]:
    """The spectral radius of a step by seed, before and after training; kept."""
    kept = folder / "radius.json"
    if not kept.exists():
        task = TASKS[study.task]
        data = json.loads((folder / "config.json").read_text("utf-8"))["settings"]["data"]
        xs = task.batch(jr.key(9), EXAMPLES, **data)[0]
        found = {
            rule: [radii(trained(folder, rule, at=at), xs).tolist() for at in ENDS]
            for rule in rules
        }
        kept.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return json.loads(kept.read_text("utf-8"))


ENDS: Any = ("start", "end")


@functools.partial(eqx.filter_jit)
def jacobians(models: Any, xs: Any) -> Any:
    """Of a step in the middle of a trial, by seed and trial."""
    half = len(xs) // 2

    def of_network(model):
        cell = model.rnn.cell
        states, _ = mpj.scan(cell, cell.init((xs.shape[1],)), xs[:half], rule=mpj.BPTT())

        def of_trial(state, x):
            flat, unravel = ravel_pytree(inexact(state))
            rest = eqx.filter(state, eqx.is_inexact_array, inverse=True)

            def step(flat):
                return ravel_pytree(inexact(cell.step(eqx.combine(unravel(flat), rest), x)))[0]

            return jax.jacrev(step)(flat)

        return eqx.filter_vmap(of_trial)(states, xs[half])

    return eqx.filter_vmap(of_network)(models)


def radii(models: Any, xs: Any) -> np.ndarray:
    """By seed: the mean over trials."""
    found = np.asarray(jacobians(models, xs))
    return np.abs(np.linalg.eigvals(found)).max(-1).mean(-1)


INTRODUCTION = """# Does ModProp learn better?

```bash
python reproductions/modprop_claim.py run --out results/modprop-claim
python reproductions/modprop_claim.py report --runs results/modprop-claim
```

The paper of ModProp (Liu et al., NeurIPS 2022) puts it ahead of MDGL, and MDGL ahead of e-prop, on
three tasks, at one learning rate. Here each rule has the rate that serves it best: of three, by the
final loss of two networks of other seeds. So has the μ of "tuned" ModProp, of .1, .5 and 1; .25 (as
published) and the measured one are rows of their own. Then seeds are paired: the same weights and
the same data under every rule. float32, two CPU cores, {minutes} minutes in all, beside other work.

The claim itself is of four rules, not of nine rows. Its five pairs were named before a run was
read: either form of ModProp, with the μ of the least loss in tuning, beside MDGL and e-prop; and
MDGL beside e-prop. Their p is corrected for these five, of one task and one measure. Intervals are
of one difference alone, and no correction goes over tasks.

*Stopped*: seeds that met NaN or infinity, or whose ModProp became unstable; they count from there
on as untrained. *Lost*: seeds that had met the criterion and ended below half way from it to their
start. *Radius of a step*: the spectral radius of ∂s_t/∂s_(t-1) in the middle of a trial, before and
after training, median over seeds, and the largest: above 1 what is perturbed grows.
"""

READING = ""
