"""Time and memory of programs, each interleaved with the yardstick in one process."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from ._compile import compile_program, matmuls, Skipped, timed
from ._memory import growth
from ._networks import NETWORKS
from ._problem import Compiled, Gradient, Problem, Program, Size
from ._programs import programs, YARDSTICK


# Seconds after which runs are not repeated further.
_ENOUGH = 10.0
# Bytes of a trace so large that a few segments are timed before all of them are.
_LARGE = 64e6
# At least three: XLA knows the empty trace of the first, and may inline a loop of one or two.
_PROBE = 3


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a measurement depends on beside program and size.

    `runs`: timed runs of a program, at most; `seconds`: a program whose run would take longer is
    left out; `memory`: and so is one that needs more gigabytes, in XLA's own account.
    """

    batch: int = 32
    runs: int = 10
    seconds: float = 30.0
    memory: float = 4.0


def measure(
    size: Size,
    rules: Sequence[str] | None,
    modes: Sequence[str] | None,
    settings: Settings,
    done: Sequence[dict[str, Any]] = (),
    devices: Sequence[int] = (1,),
) -> Iterator[dict[str, Any]]:
    """One row a program that is not in `done`; each is timed as soon as the last was yielded.

    A run of the yardstick and one of a chain of matmuls go with each run of a program, so that
    ratios compare neighbours in time. `done`: rows of this process, of any size.
    """
    finished = {(row["program"], row["mode"], row["n"], row["T"], row["network"]) for row in done}
    chosen = programs(size.network, rules, modes, devices)
    pending = [p for p in chosen if (*p.key, *size) not in finished]
    if not pending:
        return
    alike = (size.n, size.network, None)
    shorter = [r for r in done if (r["n"], r["network"], r.get("skipped")) == alike]
    bench = None
    for program in pending:
        about = {"network": size.network, "program": program.name, "mode": program.mode}
        about |= {"n": size.n, "T": size.steps}
        try:
            bench = bench or _Bench(size, settings, chosen)
            known = [r for r in shorter if (r["program"], r["mode"]) == program.key]
            yield about | bench.row(program, known)
        except Skipped as reason:
            yield about | {"skipped": str(reason)}


class _Bench:
    """What the programs of a size share: the problem, the yardstick, gradients to compare with."""

    def __init__(self, size: Size, settings: Settings, chosen: Sequence[Program]):
        self._size, self._settings = size, settings
        # what others should equal, whether it was chosen or not
        rules = dict.fromkeys(p.same_as[0] for p in chosen if p.same_as is not None)
        rules.pop(YARDSTICK[0], None)
        compared = programs(size.network, tuple(rules), ("offline",))
        self._known = {program.key: program for program in [*compared, *chosen]}
        self._problem = Problem.make(size, settings.batch)
        self._chain, self._chain_flops = matmuls(size.n, settings.batch)
        self._found: dict[tuple[str, str], tuple[float, Gradient]] = {}
        self._yardstick = self._compile(self._known[YARDSTICK])
        timed(self._chain)  # the warm-up
        self._found[YARDSTICK] = timed(self._yardstick.run)[1]

    def row(self, program: Program, shorter: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Time, memory and gradient of a program; `shorter`: its rows of fewer steps."""
        if shorter:
            longest = max(shorter, key=lambda row: row["T"])
            self._refuse_slow(longest["milliseconds"] / 1e3 * self._size.steps / longest["T"])
        yardstick = program.key == YARDSTICK
        compiled = self._yardstick if yardstick else self._compile(program)
        try:
            if (compiled.temporary or 0) > _LARGE and program.segment is not None:
                self._refuse_slow(self._from_segments(program, program.segment))
            samples, (value, found), peak = self._repeat(compiled.run)
        finally:
            compiled.close()
        pace = [chain / self._chain_flops for *_, chain in samples]  # seconds a flop
        own = statistics.median(own for own, *_ in samples)
        row = {
            "milliseconds": 1e3 * own,
            "trial_microseconds": 1e6 * own / self._settings.batch,
            "ratios": [round(own / plain, 4) for own, plain, _ in samples],
            "gigaflops": 1e-9 / statistics.median(pace),
            "peak_megabytes": peak if compiled.peak is None else compiled.peak,
            "compile_seconds": compiled.seconds,
        }
        if compiled.temporary is not None:
            row["temporary_megabytes"] = compiled.temporary / 1e6
        flops = self._flops(program)
        if flops is not None:
            floors = [own / (flops * each) for (own, *_), each in zip(samples, pace)]
            row["over_floor"] = statistics.median(floors)
        return row | self._compare(program, float(value), found)

    def _flops(self, program: Program) -> int | None:
        drives = NETWORKS[self._size.network].drives
        if drives is None or program.matmuls is None:
            return None
        steps, batch, features = self._problem.xs.shape
        n = self._size.n
        return 2 * drives * program.matmuls * batch * steps * n * (n + features + 1)

    def _repeat(
        self, run: Callable[[], Any]
    ) -> tuple[list[tuple[float, float, float]], Any, float | None]:
        """(own, yardstick's, chain's) seconds, run by run; what it found; megabytes of memory."""
        (own, found), peak = growth(lambda: timed(run))
        first = own, timed(self._yardstick.run)[0], timed(self._chain)[0]
        samples: list[tuple[float, float, float]] = []
        spent = sum(first)
        while len(samples) < self._settings.runs:
            if spent + sum(first) > min(self._settings.seconds, _ENOUGH):
                break
            samples.append(self._sample(run, len(samples) % 2 == 0))
            spent += sum(samples[-1])
        # the warm-up counts where there is time for nothing else
        return samples or [first], found, peak

    def _sample(self, run: Callable[[], Any], forward: bool) -> tuple[float, float, float]:
        """One run of each, in this order or in the other: none always follows the same one."""
        order = [run, self._yardstick.run, self._chain]
        if forward:
            own, plain, chain = (timed(each)[0] for each in order)
        else:
            chain, plain, own = (timed(each)[0] for each in reversed(order))
        return own, plain, chain

    def _compare(self, program: Program, value: float, found: Gradient | None) -> dict[str, Any]:
        """The loss beside plain's; the cosine to the exact gradient, and the distance from the one
        that it should equal."""
        loss, exact = self._result(YARDSTICK)
        row: dict[str, Any] = {"loss_difference": abs(value / float(loss) - 1)}
        if found is None:
            return row
        row["cosine"] = _cosine(found.cell, exact.cell)
        self._found[program.key] = value, found
        if program.same_as is not None:
            with contextlib.suppress(Skipped):
                reference = self._result(program.same_as)[1]
                same = {"same_as": list(program.same_as)}
                row |= same | {"difference": _distance(found, reference)}
        return row

    def _result(self, key: tuple[str, str]) -> tuple[float, Gradient]:
        if key not in self._found:
            self._found[key] = self._compile(self._known[key]).run()
        return self._found[key]

    def _compile(self, program: Program) -> Compiled:
        compiled = compile_program(program, self._problem)
        gigabytes = (compiled.total or 0) / 1e9
        if gigabytes > self._settings.memory:
            raise Skipped(f"needs {gigabytes:.3g} GB, more than --memory {self._settings.memory:g}")
        return compiled

    def _from_segments(self, program: Program, segment: int) -> float:
        """Seconds of a run, from one of `_PROBE` segments; 0 where that would be no shorter."""
        length = _PROBE * segment
        if length >= self._size.steps:
            return 0.0
        short = Problem.make(self._size._replace(steps=length), self._settings.batch)
        run = compile_program(program, short).run
        timed(run)
        return timed(run)[0] * self._size.steps / length

    def _refuse_slow(self, seconds: float) -> None:
        if seconds > self._settings.seconds:
            raise Skipped(
                f"a run would take about {seconds:.2g} s, more than --seconds "
                f"{self._settings.seconds:g}"
            )


def _cosine(a: dict[str, Array], b: dict[str, Array]) -> float | None:
    """None where there is no gradient, as of a network that is too small to spike."""
    one, other = (np.concatenate([np.ravel(of[name]) for name in b]) for of in (a, b))
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / norms) if norms else None


def _distance(a: Gradient, b: Gradient) -> float:
    """The largest relative distance over the parameters."""
    pairs = [
        (np.ravel(of[name]), np.ravel(other[name])) for of, other in zip(a, b) for name in other
    ]
    return float(max(np.linalg.norm(x - y) / (np.linalg.norm(y) or 1) for x, y in pairs))
