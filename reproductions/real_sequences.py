"""The laser and the markers on a chest under many rules, as published and in one causal pass.

python reproductions/real_sequences.py rows     # minutes; goes on where it stopped
python reproductions/real_sequences.py page > docs/results/real-sequences.md
"""

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from real_classification import BASELINES, classification_rows, halves, RULES as LABELLED, SETTINGS
from real_sequences_page import page

import modprop_jax as mpj
from modprop_jax.experiments import compare_recording
from modprop_jax.tasks import laser, nrmse, recorded, respiration_signals


ROWS = Path("results/real-sequences/rows.jsonl")
# --- the laser ---
UNITS, LANES, PASSES, RESET = 64, 8, 15, 200
LASER_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
CHOSEN, REPORTED = (1000, 5000), (5000, 10_092)
# --- the markers ---
LAGS, NEURONS, FIT, VALID = (12,), 90, 100, 200
HORIZONS = range(1, 8)
# recordings of up to 474 samples, and of up to 1,066: each is padded to the longest of its group
GROUPS = (2, 3, 4, 5, 6, 7), (1, 8, 9)
SEQUENCES = sorted(itertools.chain(*GROUPS))
RATES = {
    "as published": (0.005, 0.01, 0.02),
    "real time": (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
}
LMS_RATES, LMS_LAGS = (2e-4, 5e-4, 1e-3), (4, 8, 12, 16, 20)


TABLES = ("laser", "respiration", "time")


class Rule(NamedTuple):
    """A rule for n neurons and k outputs; `slow` ones run only if they are named.

    `neurons`: of the network for the markers, where another number was published for the rule.
    """

    make: Callable[[int, int], mpj.AbstractRule]
    slow: bool = False
    tables: tuple[str, ...] = TABLES
    neurons: int = NEURONS


RULES = {
    "RTRL": Rule(lambda n, k: mpj.RTRL(), slow=True, tables=("laser", "time")),
    "SnAp-1": Rule(lambda n, k: mpj.SnAp(1)),
    "RTRL, 40 neurons": Rule(lambda n, k: mpj.RTRL(), True, ("respiration",), 40),
    "SnAp-1, 40 neurons": Rule(lambda n, k: mpj.SnAp(1), False, ("respiration",), 40),
    "e-prop": Rule(lambda n, k: mpj.EProp()),
    "MDGL, two types": Rule(lambda n, k: mpj.MDGL(halves(n))),
    "ModProp .25, two types": Rule(lambda n, k: mpj.ModProp(0.25, halves(n))),
    "KeRNL": Rule(lambda n, k: mpj.KeRNL(learn=optax.adam(1e-3)), slow=True),
    "SK-RTRL, rank 4": Rule(lambda n, k: mpj.SKRTRL(4, certificate=False), slow=True),
    "SK-RTRL, rank 16": Rule(lambda n, k: mpj.SKRTRL(16, certificate=False), slow=True),
    "KF-RTRL": Rule(lambda n, k: mpj.KFRTRL()),
    "UORO": Rule(lambda n, k: mpj.UORO()),
    # the synthesiser's rate on the markers is the published one
    "DNI": Rule(lambda n, k: mpj.DNI(labels=k, learn=optax.sgd(0.002 if k > 1 else 0.01)), True),
    "published RFLO": Rule(lambda n, k: mpj.KeRNL(alpha=0.1, learn=optax.set_to_zero())),
    "readout only": Rule(lambda n, k: mpj.ReadoutOnly()),
}


def of_table(table: str, rules: dict[str, Rule]) -> list[str]:
    """Names of its rules."""
    return [name for name, rule in rules.items() if table in rule.tables]


LISTED = list(dict.fromkeys([*RULES, *LABELLED, *BASELINES]))


def uniform(key: Any, *shape: int, fan: int) -> Any:
    """U(±1/√fan)."""
    return jr.uniform(key, shape, minval=-1.0, maxval=1.0) / np.sqrt(fan)


def laser_network(inputs: int, outputs: int, *, key: Any) -> eqx.nn.Sequential:
    """A tanh network without a leak, as published."""
    keys = jr.split(key, 6)
    cell = mpj.RateCell(inputs, UNITS, alpha=1.0, key=keys[0])
    parts = uniform(keys[1], UNITS, UNITS, fan=UNITS), uniform(keys[2], UNITS, inputs, fan=UNITS)
    cell = eqx.tree_at(lambda c: (c.weight_rec, c.weight_in), cell, parts)
    readout = mpj.Readout(UNITS, outputs, key=keys[3])
    parts = uniform(keys[4], outputs, UNITS, fan=UNITS), uniform(keys[5], outputs, fan=UNITS)
    readout = eqx.tree_at(lambda r: (r.weight, r.bias), readout, parts)
    return eqx.nn.Sequential([mpj.RNN(cell), readout])


def mean_square(outputs: Any, ys: Any) -> Any:
    """Over lanes and outputs, summed over steps."""
    return jnp.sum(jnp.mean((outputs - ys) ** 2, axis=tuple(range(1, outputs.ndim))))


def lanes(seed: int, path: str | None) -> tuple[Any, Any, Any]:
    """The first 1,000 readings walked 15 times in 8 shifted lanes, as published; and where a step
    ends before a reset."""
    series = np.asarray(laser(jr.key(0), path=path)[0])[:1000, 0, 0]
    start = np.random.default_rng(seed).integers(1000) + 125 * np.arange(LANES)
    values = series[(start + 64 + np.arange(1001)[:, None]) % 1000]
    first = values[:1000]
    values = (values - first.mean(0)) / first.std(0, ddof=1)
    xs, ys = (np.tile(a, (PASSES, 1))[..., None] for a in (values[:-1], values[1:]))
    begins = np.broadcast_to((np.arange(len(xs)) % RESET == 0)[:, None], xs.shape[:2])
    return jnp.asarray(xs, jnp.float32), jnp.asarray(ys, jnp.float32), mpj.as_done(begins)


def laser_learnt(rule: mpj.AbstractRule, key: Any, xs: Any, ys: Any, done: Any = None) -> Any:
    """Outputs of one network, at the published rate."""
    options = {"loss": mean_square, "optimizer": optax.adam, "learning_rate": 1e-3}
    weights, carry = jr.split(key)
    model = laser_network(1, 1, key=weights)
    return mpj.learn_stream(model, xs, ys, rule=rule, done=done, key=carry, **options)[1]


@eqx.filter_jit
def laser_as_published(rule: mpj.AbstractRule, keys: Any, streams: Any) -> Any:
    """Mean square of the last five records, each over 200 steps, of every seed."""

    def one(key, stream):
        xs, ys, done = stream
        outputs = laser_learnt(rule, key, xs, ys, done)
        errors = jnp.mean((outputs - ys) ** 2, axis=(1, 2))
        ends = range(13_750, 15_000, 250)
        return jnp.mean(jnp.stack([errors[end - 200 : end].mean() for end in ends]))

    return jax.vmap(one)(keys, streams)


def over_steps(outputs: np.ndarray, ys: np.ndarray, steps: tuple[int, int]) -> np.ndarray:
    """NMSE of arrays (..., T, k)."""
    part = slice(*steps)
    wrong = np.sum((outputs[..., part, :] - ys[part]) ** 2, axis=(-2, -1))
    return wrong / np.sum((ys[part] - ys[part].mean(0)) ** 2)


def best_of(errors: np.ndarray) -> int:
    """The rate (the first axis) with the least mean error; one that diverged has none."""
    means = errors.reshape(len(errors), -1).mean(1)
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))


def laser_rows(names: list[str], seeds: int, path: str | None) -> Iterator[tuple[str, Callable]]:
    """What the table of the laser is made of: a key, and what computes the row."""
    keys = jax.vmap(jr.key)(jnp.arange(seeds))

    def published(rule):
        streams = jax.tree.map(lambda *a: jnp.stack(a), *(lanes(s, path) for s in range(seeds)))
        found = laser_as_published(rule, keys, streams)
        return {"nmse": np.asarray(found, float).tolist(), "rate": 1e-3}

    def one_pass(name, rule):
        xs, ys = (a[:, 0] for a in laser(jr.key(0), path=path))
        stream = recorded(jnp.concatenate([xs[:1], ys]), fit=None)  # it is normalised already
        settings = {"report": REPORTED, "choose": CHOSEN, "learning_rates": LASER_RATES}
        settings |= {"loss": mean_square, "seeds": seeds, "quiet": True}
        found = compare_recording(laser_network, stream, {name: rule}, **settings).rows[0]
        rates = {"rates": list(found.trials), "trials": list(found.trials.values())}
        return {"nmse": found.errors, "rate": found.learning_rate} | rates

    for name in names:
        rule = RULES[name].make(UNITS, 1)
        yield f"laser/as published/{name}", functools.partial(published, rule)
        yield f"laser/one pass/{name}", functools.partial(one_pass, name, rule)

    def persistence():
        xs, ys = (np.asarray(a)[:, 0] for a in laser(jr.key(0), path=path))
        return {"nmse": [float(over_steps(xs, ys, REPORTED))], "rate": None}

    yield "laser/one pass/persistence", persistence


def chest_network(neurons: int, rule: mpj.AbstractRule, key: Any) -> eqx.nn.Sequential:
    """All weights N(0, .02²), no bias of the outputs, as published."""
    keys = jr.split(key, 5)
    inputs = 9 * max(LAGS)
    cell = mpj.RateCell(inputs, neurons, alpha=1.0, key=keys[0])
    shapes = (neurons, neurons), (neurons, inputs), (neurons,)
    parts = tuple(0.02 * jr.normal(key, shape) for key, shape in zip(keys[1:4], shapes))
    cell = eqx.tree_at(lambda c: (c.weight_rec, c.weight_in, c.bias), cell, parts)
    readout = mpj.Readout(neurons, 9, use_bias=False, key=keys[0])
    weight = 0.02 * jr.normal(keys[4], (9, neurons))
    readout = eqx.tree_at(lambda r: r.weight, readout, weight)
    return eqx.nn.Sequential([mpj.RNN(cell, rule=rule), readout])


def filter_without_a_network(rule: Any, key: Any) -> eqx.nn.Sequential:
    """Least mean squares: a linear map of the last samples, from 0."""
    del rule
    readout = mpj.Readout(9 * max(LMS_LAGS), 9, key=key)
    readout = eqx.tree_at(lambda r: r.weight, readout, jnp.zeros_like(readout.weight))
    return eqx.nn.Sequential([readout])


def half_square(outputs: Any, ys: Any) -> Any:
    """½|e|²."""
    return 0.5 * jnp.sum((outputs - ys) ** 2)


def clipped(rate: Any) -> optax.GradientTransformation:
    """Plain SGD, of a gradient of norm 100 at most."""
    return optax.chain(optax.clip_by_global_norm(100.0), optax.sgd(rate))


@eqx.filter_jit
def chest_outputs(
    network: Callable, rule: Any, keys: Any, rates: Any, xs: Any, ys: Any, delay: int
) -> Any:
    """Of every stream, rate and seed: (..., rates, seeds, T, 9)."""

    def one(xs, ys, rate, key):
        weights, carry = jr.split(key)
        model = network(rule, weights)
        options = {"loss": half_square, "optimizer": clipped, "learning_rate": rate}
        return mpj.learn_stream(model, xs, ys, delay=delay, key=carry, **options)[1]

    seeds: Any = jax.vmap(one, (None, None, None, 0))

    # seeds side by side, the rest one after the other: so few weights stay in the cache
    def of_stream(stream):
        return jax.lax.map(lambda rate: seeds(*stream, rate, keys), rates)

    return jax.lax.map(of_stream, (xs, ys))


class Chest(NamedTuple):
    """A group of recordings at one horizon and some numbers of lags, recording by recording.

    Padded by zeros: behind their end, where nothing counts, and, where lags differ, before their
    beginning and in inputs that are not shown, from which a map without a state learns nothing.
    """

    xs: Any
    ys: Any
    horizon: int
    lags: tuple[int, ...]
    group: tuple[int, ...]

    @classmethod
    def at(cls, horizon: int, lags: tuple[int, ...], group: tuple[int, ...]) -> "Chest":
        """With targets so many samples ahead."""
        signals = [respiration_signals(s) for s in group]
        longest = max(map(len, signals)) - min(lags)  # that of h = 1: one program for all
        xs, ys = [], []
        for values, many in itertools.product(signals, lags):
            found = recorded(values, fit=FIT, horizon=horizon, lags=many, ddof=1)
            before = many - min(lags)
            steps = before, longest - before - len(found.xs)
            xs.append(jnp.pad(found.xs, (steps, (0, 9 * (max(lags) - many)))))
            ys.append(jnp.pad(found.ys, (steps, (0, 0))))
        return cls(jnp.stack(xs), jnp.stack(ys), horizon, lags, group)

    def errors(self, outputs: np.ndarray, sequence: int) -> tuple[Any, Any]:
        """nRMSE (lags and rates, seeds) in millimetres: of validation, then of the test."""
        signals = respiration_signals(sequence)
        mean, sd = signals[:FIT].mean(0), signals[:FIT].std(0, ddof=1)
        first = min(self.lags) - 1 + self.horizon  # the sample that the first step is about
        truth, many = signals[first:], len(self.lags)
        place = self.group.index(sequence) * many
        of_sequence = outputs[place : place + many]
        made = mean + sd * of_sequence.reshape(-1, *outputs.shape[2:])[..., : len(truth), :]
        # by the time of the target, and where all lags have begun
        begin = max(FIT, first + max(self.lags) - min(self.lags))
        chosen = np.sqrt(over_steps(made, truth, (begin - first, VALID - first)))
        return chosen, np.sqrt(over_steps(made, truth, (VALID - first, len(truth))))


def chest_row(
    network: Callable,
    rule: Any,
    seeds: int,
    protocol: str,
    rates: tuple[float, ...],
    lags: tuple[int, ...] = LAGS,
) -> dict:
    """Mean over recordings of each horizon and seed, with rate (and lags) chosen for each pair."""
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    found = np.zeros((len(HORIZONS), len(SEQUENCES), seeds))
    tried = jnp.asarray(rates)
    for (h, horizon), group in itertools.product(enumerate(HORIZONS), GROUPS):
        chest = Chest.at(horizon, lags, group)
        delay = 0 if protocol == "as published" else horizon - 1
        outputs = chest_outputs(network, rule, keys, tried, chest.xs, chest.ys, delay)
        outputs = np.asarray(outputs, float)
        for sequence in group:
            chosen_by, tested = chest.errors(outputs, sequence)
            found[h, sequence - 1] = tested[best_of(chosen_by)]
    by_horizon = found.mean((1, 2))
    return {
        "nrmse": found.mean((0, 1)).tolist(),
        "by_horizon": dict(zip(map(str, HORIZONS), by_horizon.tolist())),
        "rates": list(rates),
    }


def chest_rows(names: list[str], seeds: int) -> Iterator[tuple[str, Callable]]:
    """What the table of the markers is made of."""
    for protocol, rates in RATES.items():
        for name in names:
            neurons = RULES[name].neurons
            network = functools.partial(chest_network, neurons)
            rule = RULES[name].make(neurons, 9)
            row = functools.partial(chest_row, network, rule, seeds, protocol, rates)
            yield f"respiration/{protocol}/{name}", row
        lms = chest_row, filter_without_a_network, None, 1, protocol, LMS_RATES, LMS_LAGS
        yield f"respiration/{protocol}/LMS", functools.partial(*lms)

    def persistence():
        found = np.zeros((len(HORIZONS), len(SEQUENCES)))
        for h, horizon in enumerate(HORIZONS):
            for s in SEQUENCES:
                signals = respiration_signals(s)
                now, then = signals[VALID - horizon : -horizon], signals[VALID:]
                found[h, s - 1] = nrmse(jnp.asarray(now), jnp.asarray(then))
        by_horizon = dict(zip(map(str, HORIZONS), found.mean(1).tolist()))
        return {"nrmse": [float(found.mean())], "by_horizon": by_horizon, "rates": []}

    yield "respiration/real time/persistence", persistence


def time_rows(names: list[str], path: str | None) -> Iterator[tuple[str, Callable]]:
    """Microseconds of one core for a step of the laser: of the process, whatever else runs."""
    steps = 2000

    def timed(rule):
        xs, ys = (a[:steps, 0] for a in laser(jr.key(0), path=path))
        learnt, least = eqx.filter_jit(laser_learnt), np.inf
        for run in range(4):  # the first one compiles
            began = time.process_time()
            jax.block_until_ready(learnt(rule, jr.key(0), xs, ys))
            least = min(least, time.process_time() - began) if run else least
        return {"us": 1e6 * least / steps}

    for name in names:
        yield f"time/{name}", functools.partial(timed, RULES[name].make(UNITS, 1))


def rows_of(path: Path) -> dict[str, dict]:
    """What is there already; a line that was cut off is computed anew."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[row["row"]] = row
    return found


def compute(
    named: list[str] | None, tables: list[str], seeds: int, path: str | None, only: str
) -> None:
    """Row by row, each written as soon as it is known."""
    there = rows_of(ROWS)
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    kept = {n: rule for n, rule in RULES.items() if (n in named if named else not rule.slow)}

    made: dict[str, Callable[[], Iterator[tuple[str, Callable]]]] = {
        name: functools.partial(classification_rows, name, named, seeds) for name in SETTINGS
    }
    made["laser"] = lambda: laser_rows(of_table("laser", kept), seeds, path)
    made["respiration"] = lambda: chest_rows(of_table("respiration", kept), seeds)
    made["time"] = lambda: time_rows(of_table("time", kept), path)
    for table in tables:
        for key, work in made[table]():
            if key in there or only not in key:
                continue
            began = time.perf_counter()
            row = {"row": key, "seeds": seeds} | work()
            row["seconds"] = round(time.perf_counter() - began, 1)
            with open(ROWS, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row)[:160], flush=True)


def main() -> None:
    """Compute rows, or print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rows", "page"])
    parser.add_argument("--tables", nargs="+", default=["laser", "respiration", *SETTINGS, "time"])
    parser.add_argument("--rules", nargs="+", choices=LISTED)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--laser", help="santafe_laser.npy or .npz, else the package reservoirpy")
    given = parser.parse_args()
    if given.what == "page":
        named = {table: of_table(table, RULES) for table in TABLES}
        print(page(rows_of(ROWS), named, SETTINGS), end="")
        return
    compute(given.rules, given.tables, given.seeds, given.laser, given.only)


if __name__ == "__main__":
    main()
