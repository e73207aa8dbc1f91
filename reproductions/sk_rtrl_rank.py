"""SK-RTRL at a rank that follows what it drops: which rank, and how near to RTRL.

python reproductions/sk_rtrl_rank.py --out results/sk-rtrl     # minutes a task

Streams and settings are those of `sk_rtrl.py`, with the largest singular value of W clipped; the
rule drives its own trajectory, and exact RTRL goes along. `sk_rtrl.py report` shows the figures.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sk_rtrl import clipped, LANES, network, of_step, TASKS, UNITS

import modprop_jax as mpj


EVERY = 100


def adaptive(task: str, steps: int, seed: int, clip: float) -> dict[str, Any]:
    """Ranks of each hundred steps, and the cosine with RTRL over the last fifth."""
    xs, ys, asked, ends = TASKS[task](np.random.default_rng(seed), steps)
    data = jnp.asarray(xs, jnp.float32), jnp.asarray(ys, jnp.float32)
    data = (*data, jnp.asarray(asked), jnp.asarray(ends))
    gradient, optimizer = of_step(task), optax.adam(1e-3)
    adapt, calm = mpj.AdaptiveRank(), 0
    model = network(mpj.SKRTRL(adapt.least), xs.shape[-1], ys.shape[-1], UNITS, jr.key(seed))
    exact = mpj.SKRTRL(UNITS, certificate=False)

    def vector(grads):
        return jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads.rnn.cell)])

    @eqx.filter_jit
    def go_on(loop, data):
        arrays, static = eqx.partition(loop, eqx.is_array)

        def step(arrays, at):
            model, state, carry, beside = eqx.combine(arrays, static)
            x, y, asked, end = at
            seen = (x[None], end[None]), (y[None], asked[None])
            (_, carry), grads = gradient(model, carry, *seen)
            (_, beside), truth = gradient(mpj.with_rule(model, exact), beside, *seen)
            one, other = vector(grads), vector(truth)
            norms = jnp.linalg.norm(one) * jnp.linalg.norm(other)
            cosine = jnp.where(asked, one @ other / jnp.maximum(norms, 1e-30), jnp.nan)
            updates, moved = optimizer.update(eqx.filter(grads, eqx.is_inexact_array), state)
            learnt = clipped(eqx.apply_updates(model, updates), clip), moved
            learnt, kept = (eqx.filter(tree, eqx.is_array) for tree in (learnt, (model, state)))
            # the program updates after a step that has a target, and not else
            after = jax.tree.map(lambda a, b: jnp.where(asked, a, b), learnt, kept)
            return (*after, *eqx.filter((carry, beside), eqx.is_array)), cosine

        arrays, cosines = jax.lax.scan(step, arrays, data)
        return eqx.combine(arrays, static), cosines

    start = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    carries = model.rnn.init((LANES,)), mpj.with_rule(model, exact).rnn.init((LANES,))
    loop, ranks, cosines = (model, start, *carries), [adapt.least], []
    began = time.perf_counter()
    for cut in range(0, steps, EVERY):
        loop, found = go_on(loop, jax.tree.map(lambda a: a[cut : cut + EVERY], data))
        cosines.append(np.asarray(found))
        carry, calm = adapt(loop[2], calm)
        rule: Any = carry.rule
        ranks.append(rule.rank)
        # the optimizer's moments are layers too
        loop = *(mpj.with_rule(tree, rule) for tree in loop[:2]), carry, loop[3]
    late = np.concatenate(cosines)[4 * steps // 5 :]
    return {
        "task": task,
        "seed": seed,
        "steps": steps,
        "clip": clip,
        "mean rank": float(np.mean(ranks[:-1])),
        "cosine": float(np.nanmean(late)),
        "ranks": ranks[:-1],
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/sk-rtrl"))
    parser.add_argument("--tasks", nargs="*", default=["anbn", "rotation"], choices=list(TASKS))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip", type=float, default=0.5)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for task in given.tasks:
        result = adaptive(task, given.steps, given.seed, given.clip)
        path = given.out / f"rank-{task}-{given.seed}-{given.clip:g}.json"
        path.write_text(json.dumps(result) + "\n", "utf-8")
        print(json.dumps(result)[:200], flush=True)


if __name__ == "__main__":
    main()
