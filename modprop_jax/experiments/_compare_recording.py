"""Rules side by side on one recorded stream, each at a rate of its own, beside baselines."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float
from rich.console import Console

from .. import _arguments as arguments
from .._rule import AbstractRule
from .._rule._base import as_rule
from .._stream import learn_stream
from ..tasks import nmse, Recording
from ..tasks._nmse import span
from ._rates import rates_of
from ._seed_tables import pair_cells
from ._statistics import Centre, centre, Pair, paired_differences
from ._summary import table


Steps = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class RecordedRow:
    """What one rule, or baseline, made of a recording."""

    rule: str
    errors: tuple[float, ...]
    """By seed; NaN or infinite where the network diverged. A baseline has one."""
    centre: Centre | None
    """Of the errors; None where a network diverged, and for a baseline."""
    learning_rate: float | None
    trials: Mapping[float, float]
    """Mean error of the networks that chose, by rate."""

    @property
    def at_an_end(self) -> bool:
        """Whether the rate is the least or greatest of several: another may be better."""
        return len(self.trials) > 1 and self.learning_rate in (min(self.trials), max(self.trials))

    @property
    def diverged(self) -> int:
        """How many networks have no finite error."""
        return sum(not np.isfinite(error) for error in self.errors)


@dataclasses.dataclass(frozen=True)
class RecordedComparison:
    """Results of `compare_recording`. As text, two tables in Markdown."""

    rows: list[RecordedRow]
    pairs: list[Pair]
    """Differences in error between rules of which no network diverged, seed by seed."""

    def __str__(self) -> str:
        lines = [[row.rule, _error(row), _rate(row)] for row in self.rows]
        found = table(["rule", "error [95 %]", "learning rate"], lines)
        if self.pairs:
            heads = ["pair", "difference", "95 %", "p (Holm)", "supported", "seeds needed"]
            found += "\n\n" + table(heads, [pair_cells(pair) for pair in self.pairs])
        return found


def compare_recording(
    network: Callable[..., Any],
    recording: Recording,
    rules: Mapping[str, AbstractRule] | Sequence[AbstractRule],
    *,
    report: Steps,
    choose: Steps | None = None,
    learning_rates: str | Sequence[float] = (3e-4, 1e-3, 3e-3, 1e-2),
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam,
    loss: Callable[[Any, Any], Any] | None = None,
    error: Callable[[Any, Any], Any] = nmse,
    seeds: int = 5,
    tune_seeds: int = 3,
    first_seed: int = 0,
    segment: int = 1,
    baselines: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> RecordedComparison:
    """Networks that learn one recorded stream as it comes, under each rule: who predicts it best?

    The same initial weights under every rule. A rule's learning rate is that of the least error
    over the steps `choose`, a mean of networks of other seeds, which see no later step.

    **Arguments:**

    - `network`: as in `compare`: `(in_size, out_size, *, key) -> model`, of which each rule gets
        all layers. `in_size`: features of `xs`; `out_size`: targets, or classes of integer labels.
    - `recording`: what `modprop_jax.tasks.recorded` makes of an array or a file.
    - `rules`: by name, or rules of different types.
    - `report`: (a, b), the steps a to b − 1 whose error is reported.
    - `choose`: the steps that choose rates, whose truth is known before those; by default the
        second half of them.
    - `learning_rates`: those that are tried: numbers, or a range, as in `compare`.
    - `optimizer`: a function of a rate. `loss(outputs, ys)`: of one segment, a scalar; by default
        the mean square. `error(outputs, ys)`: of the steps that are reported, less is better.
    - `seeds`, `first_seed`: the networks that are reported. `tune_seeds`: those that choose a rate.
    - `segment`: steps from update to update.
    - `baselines`: outputs (T, ...) of other forecasts of this recording, by name
        (`modprop_jax.baselines`), whose error over the same steps stands beside.
    - `quiet`: do not say which rule is done.

    **Returns:** a `RecordedComparison`; `print` shows its tables. A rate at which a network
    diverges is not chosen; a rule that diverges at every rate is reported at the least.

    **Cost:** two compilations a rule; the time of `learn_stream` for tune_seeds · rates networks up
    to the last step of `choose`, and for `seeds` networks up to that of `report`.

    **Errors:** ValueError for steps outside of the recording, a choice by steps that are not known
    before those that are reported, rules of one name, a baseline of another shape, and what
    `learn_stream` refuses.
    """
    recording = arguments.instance("recording", recording, Recording, "a Recording")
    arguments.function("network", network, "(in_size, out_size, *, key) -> model")
    arguments.sizes(seeds=seeds, tune_seeds=tune_seeds, segment=segment)
    first_seed = arguments.count("first_seed", first_seed)
    named, rates = _named(rules), rates_of(learning_rates)
    whole = jnp.issubdtype(recording.ys.dtype, jnp.integer)
    if whole and (loss is None or error is nmse):
        raise ValueError(
            "the recording has labels that are integers: give a loss(outputs, labels) and an "
            "error(outputs, labels) of your own."
        )
    report = span(report, len(recording.ys))
    known = report[0] - recording.delay  # the truths of steps before are known by then
    choose = (known // 2, known) if choose is None else span(choose, len(recording.ys))
    if choose[0] >= choose[1]:
        raise ValueError(f"report={report} leaves no step before it to choose a rate by.")
    if choose[1] > known:
        raise ValueError(
            f"choose={choose} has steps whose truth is not known when those of report={report} "
            f"begin: rates are chosen by steps before {known}."
        )
    of = _Setting(
        network,
        optimizer,
        _mean_square if loss is None else arguments.function("loss", loss, "(outputs, ys)"),
        arguments.function("error", error, "(outputs, ys) -> scalar"),
        segment,
        recording.delay,
        _sizes(recording),
    )
    chosen_by, reported = (
        jax.vmap(jr.key)(first + jnp.arange(count))
        for first, count in ((first_seed + seeds, tune_seeds), (first_seed, seeds))
    )
    stream, rows, console = (recording.xs, recording.ys), [], Console(quiet=quiet)
    for name, rule in named.items():
        trials = np.asarray(_errors(of, rule, chosen_by, jnp.asarray(rates), stream, choose))
        means = np.where(np.isfinite(trials).all(1), trials.mean(1, dtype=float), np.inf)
        rate = rates[int(np.argmin(means))] if np.isfinite(means).any() else min(rates)
        found = _errors(of, rule, reported, jnp.asarray([rate]), stream, report)[0]
        errors = tuple(np.asarray(found, float).tolist())
        about = centre(errors) if np.isfinite(errors).all() else None
        rows.append(RecordedRow(name, errors, about, rate, dict(zip(rates, means.tolist()))))
        console.print(f"{name}: {_error(rows[-1])} at {_rate(rows[-1])}", highlight=False)
    pairs = paired_differences({row.rule: row.errors for row in rows if row.centre is not None})
    for name, outputs in (baselines or {}).items():
        errors = (_alone(of, name, outputs, stream[1], report),)
        rows.append(RecordedRow(name, errors, None, None, {}))
    return RecordedComparison(rows, pairs)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What all rules share; a compilation for each."""

    network: Callable[..., Any]
    optimizer: Callable[..., optax.GradientTransformation]
    loss: Callable[[Any, Any], Any]
    error: Callable[[Any, Any], Any]
    segment: int
    delay: int
    sizes: tuple[int, int]


@eqx.filter_jit
def _errors(
    of: _Setting,
    rule: AbstractRule,
    keys: Array,
    rates: Float[Array, " rates"],
    stream: tuple[Array, Array],
    steps: Steps,
) -> Float[Array, "rates seeds"]:
    """Over the steps, of networks that have seen none behind them."""
    xs, ys = (a[: steps[1]] for a in stream)

    def one(rate, key):
        weights, carry = jr.split(key)
        outputs = learn_stream(
            of.network(*of.sizes, key=weights),
            xs,
            ys,
            loss=of.loss,
            optimizer=of.optimizer,
            learning_rate=rate,
            rule=rule,
            segment=of.segment,
            delay=of.delay,
            key=carry,
        )[1]
        return of.error(outputs[steps[0] :], ys[steps[0] :])

    return jax.vmap(lambda rate: jax.vmap(lambda key: one(rate, key))(keys))(rates)


def _alone(of: _Setting, name: str, outputs: Any, ys: Array, steps: Steps) -> float:
    """The error of a forecast without a seed."""
    outputs = arguments.floats(f"baselines[{name!r}]", outputs)
    if len(outputs) != len(ys):
        raise ValueError(
            f"baselines[{name!r}] must be outputs of the {len(ys)} steps of the recording, but has "
            f"shape {outputs.shape}."
        )
    return float(of.error(outputs[slice(*steps)], ys[slice(*steps)]))


def _named(rules: Any) -> dict[str, AbstractRule]:
    if isinstance(rules, Mapping):
        found = [(str(name), rule) for name, rule in rules.items()]
    else:
        arguments.entries(rules, 1, "rules must be {name: rule, ...}, or a list of rules")
        found = [(type(rule).__name__, rule) for rule in rules]
    if not found:
        raise ValueError("rules is empty: give {name: rule, ...}, or a list of rules.")
    named = {name: as_rule(f"rules[{name!r}]", rule) for name, rule in found}
    if len(named) < len(found):
        kinds = ", ".join(name for name, _ in found)
        raise ValueError(f"rules of one type need names, {{name: rule}}, but there are {kinds}.")
    return named


def _sizes(recording: Recording) -> tuple[int, int]:
    """Features, and targets or classes."""
    if jnp.issubdtype(recording.ys.dtype, jnp.integer):
        return recording.xs.shape[-1], int(recording.ys.max()) + 1
    return recording.xs.shape[-1], recording.ys.shape[-1] if recording.ys.ndim > 1 else 1


def _mean_square(outputs: Any, ys: Any) -> Any:
    if outputs.shape != ys.shape:  # broadcasting would make an error of each two steps
        raise ValueError(
            f"outputs must have the shape of targets, but have {outputs.shape} and {ys.shape}."
        )
    return jnp.mean((outputs - ys) ** 2)


def _error(row: RecordedRow) -> str:
    if row.diverged:
        return f"diverges ({row.diverged} of {len(row.errors)})"
    if row.centre is None or row.centre.low is None:
        return f"{row.errors[0]:.4g}"
    return f"{row.centre.mean:.4g} [{row.centre.low:.4g}, {row.centre.high:.4g}]"


def _rate(row: RecordedRow) -> str:
    if row.learning_rate is None:
        return "–"
    return f"{row.learning_rate:g}" + (" (end of those tried)" if row.at_an_end else "")
