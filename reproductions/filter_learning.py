"""Learning with type filters that are fitted, kept or learnt, on delayed XOR.

python reproductions/filter_learning.py --out results/filter-learning

goes on where it stopped, and several processes share a folder by `--methods`; with `--confirm`, on
further seeds; then the tables and the figure, `--report docs/results/filter-learning`.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from filter_learning_parts import (
    batch,
    EVERY,
    FROM_OTHERS,
    Learner,
    learner,
    LEARNING_RATES,
    loss,
    METHODS,
    network,
    optimizer_of,
    PRESET,
    SCHEDULE,
    step,
    TASK,
)
from filter_learning_report import ageing, differences, figure, table
from filter_learning_rows import best_rate, CONFIRM, Rows, score, TEST, TUNING

import modprop_jax as mpj


def trainer(how: Learner) -> Callable[[Any, Any], dict[str, Any]]:
    """A compiled function of a key and a rate: curves."""

    @jax.jit
    def train(key, rate):
        make, learn, judge = jr.split(key, 3)
        model = network(make)
        params, static = eqx.partition(model, eqx.is_inexact_array)
        optimizer = optimizer_of(rate)
        held_out = TASK.evaluation(judge, **PRESET.data)

        def iteration(i, carry):
            params, state, kept = carry
            seen = batch(jr.fold_in(learn, 2 * i))
            model = eqx.combine(params, static)
            kept = how.update(kept, model, i, jr.fold_in(learn, 2 * i + 1), seen)
            params, state = step((params, state), static, how.rule(kept), seen, optimizer)
            return params, state, kept

        def measure(carry):
            params, _, kept = carry
            model = eqx.combine(params, static)
            value, right = TASK.loss(model(held_out[0]), held_out[1])
            angle = mpj.alignment(loss, model, *held_out, rule=how.rule(kept)).cosine
            return {"loss": value, "accuracy": right, "cosine": angle}

        def block(carry, first):
            found = measure(carry)
            return jax.lax.fori_loop(first, first + EVERY, iteration, carry), found

        kept = how.start(model, jr.fold_in(learn, 2 * SCHEDULE.iterations))
        carry = params, optimizer.init(params), kept
        firsts = jnp.arange(0, SCHEDULE.iterations, EVERY)
        carry, curves = jax.lax.scan(block, carry, firsts)
        return jax.tree.map(lambda a, b: jnp.append(a, b), curves, measure(carry))

    return train


def filters_of(method: str, folder: pathlib.Path) -> Any:
    """Those that other networks have led to, made where they are missing; None: it needs none."""
    if method not in FROM_OTHERS:
        return None
    path = folder / f"{method.replace(' ', '-')}.json"
    if not path.exists():
        begun = time.perf_counter()
        made = FROM_OTHERS[method]()
        seconds = time.perf_counter() - begun
        path.write_text(json.dumps({"weights": made.tolist(), "seconds": seconds}) + "\n", "utf-8")
    return np.array(json.loads(path.read_text("utf-8"))["weights"])


def run(method: str, rows: Rows, *, confirm: bool = False) -> None:
    """Tune the rate, then test: what is not done yet."""
    train = trainer(learner(method, filters_of(method, rows.folder)))

    def ensure(seed, rate):
        if any((r["method"], r["seed"], r["rate"]) == (method, seed, rate) for r in rows.read()):
            return
        begun = time.perf_counter()
        curves = jax.tree.map(np.asarray, train(jr.key(seed), rate))
        row = {"method": method, "seed": seed, "rate": rate}
        row["seconds"] = time.perf_counter() - begun
        for name, values in curves.items():
            row[name] = [float(v) if np.isfinite(v) else None for v in values]
        rows.add(row, method)
        print(f"{method}, seed {seed}, rate {rate:g}: {score(row):.3f}", flush=True)

    for rate in LEARNING_RATES:
        for seed in TUNING:
            ensure(seed, rate)
    rate = best_rate(rows.read(), method)
    for seed in CONFIRM if confirm else TEST:
        ensure(seed, rate)


def main() -> None:
    """Run what is missing, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--confirm", action="store_true", help="on seeds of their own")
    parser.add_argument("--report", type=pathlib.Path)
    given = parser.parse_args()
    rows = Rows(given.out)
    if given.report is None:
        for method in given.methods:
            run(method, rows, confirm=given.confirm)
            jax.clear_caches()
        return
    given.report.mkdir(parents=True, exist_ok=True)
    found = rows.read()
    again = f"On seeds {CONFIRM[0]} and on, not seen before:\n\n{differences(found, CONFIRM)}"
    said = (
        "# Learning with filters: all runs",
        *(table(found), differences(found), again, ageing(found)),
    )
    (given.report / "table.md").write_text("\n\n".join(said) + "\n", "utf-8")
    figure(found).savefig(given.report / "curves.png", dpi=150)


if __name__ == "__main__":
    main()
