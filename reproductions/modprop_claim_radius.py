"""Spectral radii of the networks of `modprop_claim`, before and after training."""

import functools
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree

import modprop_jax as mpj
from modprop_jax._tree import inexact
from modprop_jax.diagnostics import recurrent_eigenvalues
from modprop_jax.experiments import trained
from modprop_jax.experiments._summary import counted, iterations_to_criterion
from modprop_jax.tasks import TASKS


ENDS: Any = ("start", "end")
EXAMPLES = 4


def radius(folder: Path, study: Any, rules: list[str]) -> dict[str, Any]:
    """Spectral radii of a step and of the weights, by rule and seed, at both ends; kept."""
    kept = folder / "radius.json"
    if not kept.exists():
        task = TASKS[study.task]
        data = json.loads((folder / "config.json").read_text("utf-8"))["settings"]["data"]
        xs = task.batch(jr.key(9), EXAMPLES, **data)[0]
        found = {}
        for rule in rules:
            ends = [trained(folder, rule, at=at) for at in ENDS]
            found[rule] = {
                "step": [radii(models, xs).tolist() for models in ends],
                "weights": [of_weights(models).tolist() for models in ends],
            }
        kept.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return json.loads(kept.read_text("utf-8"))


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


def of_weights(models: Any) -> np.ndarray:
    """By seed."""
    return np.abs(recurrent_eigenvalues(models.rnn.cell)).max(-1)


def of_lost(folder: Path, radii: dict[str, Any]) -> str:
    """How many runs stopped or lost what they had learnt, and the radii of their weights."""
    config = json.loads((folder / "config.json").read_text("utf-8"))["settings"]["objective"]
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    by_rule: dict[str, list[Any]] = {rule: [] for rule in radii}
    for line in counted(list(lines)):
        by_rule[line["rule"]].append(line)
    ends: dict[bool, list[float]] = {True: [], False: []}
    for rule, lines in by_rule.items():
        stopped = {int(seed) for line in lines for seed in line.get("stopped", {})}
        for seed, after in enumerate(radii[rule]["weights"][1]):
            scores = [line["accuracy"][seed] for line in lines]
            at = [line["iteration"] for line in lines]
            met = iterations_to_criterion(at, scores, config["criterion"], config["patience"])
            fell = scores[-1] < (config["criterion"] + scores[0]) / 2
            ends[seed in stopped or (met is not None and fell)].append(after)
    said = f"{len(ends[True])} of {sum(map(len, ends.values()))} runs stopped or lost it"
    if not ends[True]:
        return f"{said}.\n"
    lost, kept = (f"{np.median(each):.2f} (up to {max(each):.2f})" for each in ends.values())
    return f"{said}: the radius of their weights at the end is {lost}, that of the others {kept}.\n"
