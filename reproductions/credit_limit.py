"""How close filters of ModProp's locality come to exact credit, on delayed XOR through training.

python reproductions/credit_limit.py --out docs/results/credit-limit
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import modprop_jax as mpj
from modprop_jax.experiments._network import build_network, build_optimizer, cell_types
from modprop_jax.tasks import TASKS


TASK = TASKS["delayed_xor"]
# T = 300
PRESET = dataclasses.replace(
    TASK.presets["small"],
    data={"cue": 40, "delay": 220},
    hidden_size=64,
    excitatory=52,
    cell_options={"tau": 30.0},
)
RATES = np.exp(-1 / np.geomspace(3, 300, 5))
BATCHES, ITERATIONS = 24, (0, 100, 300, 800)
COUNTS = (2, 4, 8)


def loss(model, xs, ys):
    return TASK.loss(model(xs), ys)[0]


@functools.cache
def trainer():
    optimizer = build_optimizer(PRESET)
    take = mpj.value_and_grad(loss, mpj.BPTT())

    @eqx.filter_jit
    def train(model, state, key, iterations):
        params, static = eqx.partition(model, eqx.is_inexact_array)

        def step(i, carry):
            params, state = carry
            xs, ys = TASK.batch(jr.fold_in(key, i), batch=PRESET.batch, **PRESET.data)
            _, gradients = take(eqx.combine(params, static), xs, ys)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        params, state = jax.lax.fori_loop(0, iterations, step, (params, state))
        return eqx.combine(params, static), state

    return optimizer, train


def accuracy(model, key):
    xs, ys = TASK.batch(key, batch=256, **PRESET.data)
    return float(jnp.mean(jnp.argmax(model(xs), -1) == ys))


def measure(seed: int, counts: tuple[int, ...]) -> list[dict]:
    """Figures of one network, before and after training."""
    optimizer, train = trainer()
    make, learn, draw = jr.split(jr.key(seed), 3)
    model = build_network(TASK, PRESET, make)
    state, done, found = optimizer.init(eqx.filter(model, eqx.is_inexact_array)), 0, []
    types = cell_types(PRESET)
    data = [
        TASK.batch(jr.fold_in(draw, i), batch=PRESET.batch, **PRESET.data) for i in range(BATCHES)
    ]
    for iterations in ITERATIONS:
        begun = time.perf_counter()
        model, state = train(model, state, jr.fold_in(learn, done), iterations - done)
        done = iterations
        rules = {
            "e-prop": mpj.EProp(),
            "MDGL": mpj.MDGL(types),
            "ModProp(auto)": mpj.ModProp("auto", types),
        }
        try:
            mpj.ModProp(0.25, types).check(model.rnn.cell)
            rules["ModProp(0.25)"] = mpj.ModProp(0.25, types)
        except ValueError as error:
            print(f"network {seed}, {iterations} iterations: {error}", flush=True)
        limit = mpj.credit_limit(
            loss,
            model,
            data,
            types=types,
            counts=counts,
            rates=RATES,
            memory=(1, 2, 5),
            held_out=BATCHES // 2,
            rules=rules,
        )
        entry = {
            "seed": seed,
            "iterations": iterations,
            "accuracy": accuracy(model, jr.fold_in(draw, BATCHES)),
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
        if seed == 0:
            entry["figure"] = mpj.plot_credit_limit(limit)
        print(json.dumps({k: v for k, v in entry.items() if k != "figure"}), flush=True)
        jax.clear_caches()  # each set of types has programs of its own
    return found


def table(entries: list[dict]) -> str:
    """Held-out cosine with BPTT, mean ± standard deviation over networks."""
    columns = sorted({entry["iterations"] for entry in entries})
    rows: dict[str, dict[int, list[float]]] = {}

    def put(label, iterations, value):
        rows.setdefault(label, {}).setdefault(iterations, []).append(value)

    for entry in entries:
        at = entry["iterations"]
        put("accuracy of the network", at, entry["accuracy"])
        for name, value in entry["rules"].items():
            put(name, at, value)
        for g, gate in enumerate(entry["gated"]):
            for c, count in enumerate(entry["counts"]):
                for k, memory in enumerate(entry["memory"]):
                    kind = "gated" if gate else "open"
                    label = f"fitted, {kind}, {count} types, {memory} exponentials"
                    put(label, at, entry["held_out_cosine"][g][c][k])
    lines = ["| rule | " + " | ".join(f"{c} iterations" for c in columns) + " |"]
    lines += ["|---|" + "---|" * len(columns)]
    for label, each in rows.items():
        cells = [_shown(each.get(column, [])) for column in columns]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(values: list[float]) -> str:
    if not values:
        return "–"
    mean, sd = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{mean:.3f} ± {sd:.3f} ({len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for seed in range(given.first, given.first + given.networks):
        for entry in measure(seed, tuple(given.counts)):
            figure = entry.pop("figure", None)
            if figure is not None:
                figure.savefig(given.out / f"limit-{entry['iterations']}.png", dpi=150)
            entries.append(entry)
        (given.out / "figures.json").write_text(json.dumps(entries, indent=1) + "\n", "utf-8")
        (given.out / "table.md").write_text(table(entries) + "\n", "utf-8")


if __name__ == "__main__":
    main()
