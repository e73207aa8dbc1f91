"""Follow how the gradients of many rules compare while one of them learns from a stream."""

import dataclasses
import datetime
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
from rich.console import Console

from ..._figures import check_style, Style
from ...diagnostics._online import Block, make_study, Running, Study
from ...tasks import Task
from .._config import Config
from .._network import Network
from .._progress import Reporter
from .._runs import Run
from .._setup import seed_keys, setup
from .._soundness import diverged, fault, raise_first
from .._storage import RunFolder
from .._study import AbstractStudy, begun, conduct, Metrics, reopened, Report
from .._summary import SECONDS
from .._train import State, stream_keys
from ._config import StreamAlignConfig
from ._plots import figures
from ._summary import caption, headers, markdown, RuleRow, summarise, summary


@dataclasses.dataclass(frozen=True)
class StreamAlignments:
    """Results of `align_stream`: a row for each rule, and a line of measurements for each block.

    `diverged`: why the run stopped early, if it did.
    """

    folder: Path
    config: StreamAlignConfig
    rows: list[RuleRow]
    metrics: list[dict[str, Any]]
    diverged: str | None


def align_stream(
    task: str,
    rules: Sequence[str] | None = None,
    *,
    learner: str | None = None,
    seeds: int = 5,
    preset: str = "brief",
    out: str | os.PathLike | None = None,
    quiet: bool = False,
    style: Style = None,
    **settings: object,
) -> StreamAlignments:
    r"""Train online under one rule, and compare the gradients of all rules step by step.

    On one network, which the learner trains, all rules give their gradients of the recurrent layer
    at every step; see `modprop_jax.online_alignment`. Tables have their mean cosines, rule with
    rule, over all but the first sixth of the stream, plain and weighted by the product of norms.

    **Arguments:**

    - `task`, `seeds`, `out`, `quiet`, `style`, `settings`: as in `compare`; `preset` one with a
        segment of a single step.
    - `rules`: what is compared, the learner in any case; by default the online family, or those
        that serve the cell (`CELLS[cell].rules`).
    - `learner`: the rule that trains the network; by default `"rtrl"` where it is among the rules,
        else the first of them.

    Rules that ask for random feedback (`local_dni`) get the network's own, as all others here do:
    `feedback="random"` makes it random for all.

    **Returns:** a `StreamAlignments`.

    **Raises:** `ValueError` for an unknown name or an impossible setting.

    Source of the study: Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649), which leaves out
    1,000 of 6,000 steps.
    """
    config = StreamAlignConfig.make(task, preset, rules, seeds, learner=learner, **settings)
    check_style(style)
    study = AlignStream(config)
    return conduct(study, begun(study, out), Console(quiet=quiet), style)


def resume_align_stream(
    folder: str | os.PathLike, *, quiet: bool = False, style: Style = None
) -> StreamAlignments:
    """Continue an interrupted `align_stream` from its folder, as `resume` does a `compare`."""
    check_style(style)
    run = RunFolder(Path(folder))
    return conduct(reopen_align_stream(run), run, Console(quiet=quiet), style)


def reopen_align_stream(folder: RunFolder) -> AbstractStudy[StreamAlignments]:
    """What a folder's run is, if it can go on here."""
    return reopened(
        folder,
        AlignStream.kind,
        lambda data: AlignStream(StreamAlignConfig.from_dict(data).checked()),
    )


@dataclasses.dataclass(frozen=True)
class AlignStream(AbstractStudy[StreamAlignments]):
    """One run, of the learner, in which all rules give their gradients."""

    config: StreamAlignConfig
    kind: ClassVar[str] = "align_stream"
    command: ClassVar[str] = "align"

    def __post_init__(self):
        # a ValueError if the stream is too short
        _study(self.config).bounds(self.config.settings.schedule.iterations, self.config.blocks)

    @property
    def run(self) -> Config:
        return self.config.run

    def options(self) -> dict[str, Any]:
        return {"align": self.config.options()}

    def reporter(self, console: Console) -> Reporter:
        return Reporter(self.run, console, line=functools.partial(_progress, self.config))

    def fresh(self) -> Mapping[str, State]:
        return {self.config.learner: _start(self.config, _study(self.config))}

    def runs(
        self, fresh: Mapping[str, State], metrics: Metrics, say: Callable[[str], None]
    ) -> Iterator[Run]:
        del metrics, say
        lines = functools.partial(_lines, self.config, _study(self.config))
        yield Run(self.config.learner, fresh[self.config.learner], lines)

    def report(
        self, folder: RunFolder, metrics: Metrics, diverged: dict[str, str], style: Style
    ) -> Report[StreamAlignments]:
        config, why = self.config, diverged.get(self.config.learner)
        rows = summarise(config, metrics)
        found = summary(config, rows, metrics) | {"diverged": why, "metrics": metrics}
        files: dict[str, str | bytes] = {
            "alignment.json": json.dumps(found, indent=1) + "\n",
            "table.md": markdown(config, rows, metrics, why),
            **figures(config, metrics, style),
        }

        def show(reporter: Reporter) -> None:
            reporter.grid(headers(config), [row.cells() for row in rows], caption(config))

        return Report(StreamAlignments(folder.path, config, rows, metrics, why), files, show)


def _study(config: StreamAlignConfig) -> Study:
    run = config.run
    return make_study(
        functools.partial(_segment_loss, run.entry),
        functools.partial(_no_past, config.settings.schedule.batch),
        {label: run.rule(label) for label in run.rules},
        config.learner,
        setup(run).optimizer,
    )


def _segment_loss(
    task: Task, model: Network, carry: PyTree, xs: Array, ys: Array
) -> tuple[Array, PyTree]:
    """Summed over steps."""
    carry, zs = model.rnn(xs, carry, context=ys)
    return len(xs) * task.loss(model.read(zs), ys)[0], carry


def _no_past(batch: int, model: Network, key: PRNGKeyArray) -> PyTree:
    return model.rnn.init((batch,), key=key)


def _start(config: StreamAlignConfig, study: Study) -> State:
    """Before the first step: the weights and the stream that `compare` starts with."""
    weight_keys, keys = seed_keys(config.run)
    models = setup(config.run).start(weight_keys).model
    start = eqx.filter_jit(eqx.filter_vmap(study.start))
    return _saveable(start(models, stream_keys(keys)[1]), jnp.zeros((), jnp.int32))


def _saveable(running: Running, iteration: Array) -> State:
    model, opt_state, *rest = running
    return State(model, opt_state, iteration, tuple(rest))


def _lines(
    config: StreamAlignConfig, study: Study, state: State
) -> Iterator[tuple[State, dict[str, Any]]]:
    """Go on from `state`; yields after each block."""
    data_keys, _ = stream_keys(seed_keys(config.run)[1])
    xs, ys = jax.jit(jax.vmap(setup(config.run).data))(data_keys)
    running = Running(state.model, state.opt_state, *state.carry)
    advance: Any = _advance
    compiled = None
    for first, last in study.bounds(config.settings.schedule.iterations, config.blocks):
        if last <= state.iteration:
            continue
        arguments = study, running, xs, ys, jnp.int32(first), jnp.int32(last)
        compiled = compiled or advance.lower(*arguments).compile()
        began = time.perf_counter()
        running, block, faults = jax.block_until_ready(compiled(*arguments))
        seconds = (time.perf_counter() - began) / (last - first)
        block = jax.tree.map(np.asarray, block)
        _check(config, block, np.asarray(faults), running.model, last)
        line = {"rule": config.learner, "iteration": last, "steps": int(block.steps[0])}
        for name in ("loss", "cosine", "weighted", "weight", "norm"):
            line[name] = getattr(block, name).tolist()
        yield _saveable(running, jnp.int32(last)), line | {SECONDS: seconds}


@eqx.filter_jit
def _advance(
    study: Study,
    running: Running,
    xs: Float[Array, "seeds T batch m"],
    ys: Array,
    first: Int[Array, ""],
    last: Int[Array, ""],
) -> tuple[Running, Block, Int[Array, " seeds"]]:
    """A block of every seed; and the fault of its network after it."""

    def one_seed(running, xs, ys):
        running, block = study.advance(running, xs, ys, first, last)
        return running, block, fault(running.model, ())

    return eqx.filter_vmap(one_seed)(running, xs, ys)


def _check(
    config: StreamAlignConfig, block: Block, faults: np.ndarray, model: PyTree, last: int
) -> None:
    """Raise `TrainingDiverged` by the end of a block: the learner first, it breaks all others."""
    squares = np.diagonal(block.weight, axis1=1, axis2=2)  # mean squared norms, (seeds, rules)
    bad, at = ~np.isfinite(squares), np.full(len(faults), last)
    learner = bad[:, config.run.rules.index(config.learner)]
    bad_learner = learner | (faults > 0) | ~np.isfinite(block.loss)
    raise_first(diverged(config.learner, bad_learner, at, faults, model))
    for rule, broken in zip(config.run.rules, bad.T):
        raise_first(diverged(rule, broken, at))


def _progress(config: StreamAlignConfig, line: dict[str, Any], seconds: float) -> str:
    total = config.settings.schedule.iterations
    left = datetime.timedelta(seconds=round((total - line["iteration"]) * seconds))
    loss, at = statistics.fmean(line["loss"]), f"{line['iteration']}/{total}"
    return f"{config.learner}  {at}  loss {loss:.3f}  time left {left}"
