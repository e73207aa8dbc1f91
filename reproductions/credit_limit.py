"""How close filters of ModProp's locality come to exact credit, through training, on three tasks.

python reproductions/credit_limit.py --out results/credit-limit

goes on where it stopped; with `--task` one of them alone; then tables and the figure, `--report
docs/results/credit-limit`.
"""

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
from credit_limit_report import figure, table

import modprop_jax as mpj
from modprop_jax.experiments._network import build_network, build_optimizer, cell_types
from modprop_jax.tasks import Preset, Task, TASKS


# T = 300
_XOR = (
    TASKS["delayed_xor"]
    .presets["small"]
    .replace(
        data={"cue": 40, "delay": 220},
        hidden_size=64,
        excitatory=52,
        cell_options={"tau": 30.0},
    )
)
# presets, and the iterations of BPTT after which it is measured
STUDIES: dict[str, tuple[Preset, tuple[int, ...]]] = {
    "delayed_xor": (_XOR, (0, 100, 300, 800)),
    "pattern_generation": (TASKS["pattern_generation"].presets["small"], (0, 100, 600)),
    "sequential_digits": (TASKS["sequential_digits"].presets["small"], (0, 500, 3000)),
}
RATES = np.exp(-1 / np.geomspace(3, 300, 5))
BATCHES = 16
COUNTS, MEMORY = (2, 4, 8), (1, 2, 5)


class Study:
    """A task and its network, trained by BPTT."""

    def __init__(self, name: str):
        self.name = name
        self.task: Task = TASKS[name]
        self.preset, self.iterations = STUDIES[name]
        self.optimizer = build_optimizer(self.preset)

    def loss(self, model: Any, xs: Any, ys: Any) -> Any:
        """The task's."""
        return self.task.loss(model(xs), ys)[0]

    def batch(self, key: Any) -> Any:
        """Of training."""
        return self.task.batch(key, self.preset.schedule.batch, **self.preset.data)

    @functools.cached_property
    def train(self) -> Callable[..., Any]:
        """`(model, state, key, iterations) -> (model, state)`, compiled once."""
        take = mpj.value_and_grad(self.loss, mpj.BPTT())

        @eqx.filter_jit
        def train(model, state, key, iterations):
            params, static = eqx.partition(model, eqx.is_inexact_array)

            def step(i, carry):
                params, state = carry
                xs, ys = self.batch(jr.fold_in(key, i))
                _, gradients = take(eqx.combine(params, static), xs, ys)
                updates, state = self.optimizer.update(gradients, state, params)
                return optax.apply_updates(params, updates), state

            params, state = jax.lax.fori_loop(0, iterations, step, (params, state))
            return eqx.combine(params, static), state

        return train

    def score(self, model: Any, key: Any) -> float:
        """Of held-out data."""
        xs, ys = self.task.evaluation(key, **self.preset.data)
        return float(self.task.loss(model(xs), ys)[1])

    def rules(self, cell: mpj.AbstractCell) -> dict[str, mpj.AbstractRule]:
        """Marks; ModProp(0.25) where it is stable."""
        types = cell_types(self.preset.network)
        rules: dict[str, mpj.AbstractRule] = {
            "e-prop": mpj.EProp(),
            "MDGL": mpj.MDGL(types),
            "ModProp(auto)": mpj.ModProp("auto", types),
        }
        try:
            mpj.ModProp(0.25, types).check(cell)
        except ValueError as error:
            print(f"{self.name}: {error}", flush=True)
            return rules
        return rules | {"ModProp(0.25)": mpj.ModProp(0.25, types)}


def measure(study: Study, seed: int, out: pathlib.Path) -> list[dict[str, Any]]:
    """Figures of one network, before, while and after it is trained."""
    make, learn, draw = jr.split(jr.key(seed), 3)
    model = build_network(study.task, study.preset, make)
    state = study.optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    data = [study.batch(jr.fold_in(draw, i)) for i in range(BATCHES)]
    done, found = 0, []
    for iterations in study.iterations:
        begun = time.perf_counter()
        model, state = study.train(model, state, jr.fold_in(learn, done), iterations - done)
        done = iterations
        limit = mpj.credit_limit(
            study.loss,
            model,
            data,
            types=cell_types(study.preset.network),
            counts=COUNTS,
            rates=RATES,
            memory=MEMORY,
            held_out=BATCHES // 2,
            rules=study.rules(model.rnn.cell),
        )
        entry = {
            "task": study.name,
            "seed": seed,
            "iterations": iterations,
            "score": study.score(model, jr.fold_in(draw, BATCHES)),
            "rules": dict(zip(limit.names, limit.rule_cosine.tolist())),
            "gated": limit.gated,
            "counts": limit.counts,
            "memory": limit.memory,
            "rates": limit.rates,
            "sizes": [[np.bincount(t).tolist() for t in each] for each in limit.types],
            "seconds": time.perf_counter() - begun,
        }
        for name in ("cosine", "held_out_cosine", "residual", "held_out_residual"):
            entry[name] = getattr(limit, name).tolist()
        found.append(entry)
        print(f"{study.name}, network {seed}, {iterations}: {entry['seconds']:.0f} s", flush=True)
        if seed == 0:
            figure = mpj.plot_credit_limit(limit)
            figure.savefig(out / f"{study.name}-{iterations}.png", dpi=150)
    return found


def report(runs: pathlib.Path, out: pathlib.Path) -> None:
    """The full tables, a figure, and the brief tables of the page, printed."""
    out.mkdir(parents=True, exist_ok=True)
    paths = {name: runs / f"{name}.json" for name in STUDIES}
    found = {n: json.loads(p.read_text("utf-8")) for n, p in paths.items() if p.exists()}
    full = [f"## {name}\n\n{table(entries)}\n" for name, entries in found.items()]
    (out / "table.md").write_text("\n".join(["# The credit limit: all fits\n", *full]), "utf-8")
    for name, entries in found.items():
        print(f"## {name}\n\n{table(entries, brief=True)}\n")
    figure(found).savefig(out / "limit.png", dpi=150)


def main() -> None:
    """Measure what is missing, network after network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--task", choices=STUDIES)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--report", type=pathlib.Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.report is not None:
        report(given.out, given.report)
        return
    for name in STUDIES if given.task is None else [given.task]:
        study, path = Study(name), given.out / f"{name}.json"
        entries = json.loads(path.read_text("utf-8")) if path.exists() else []
        for seed in range(given.networks):
            if seed in {entry["seed"] for entry in entries}:
                continue
            entries += measure(study, seed, given.out)
            path.write_text(json.dumps(entries, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
