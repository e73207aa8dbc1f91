"""Time and memory of programs, each interleaved with the yardstick in one process."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from ._compile import compile_program, Compiled, matmuls, Skipped, timed
from ._problem import Gradient, Problem, Program, Size
from ._programs import programs, RULES, YARDSTICK


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
    rules: Sequence[str],
    modes: Sequence[str],
    settings: Settings,
    done: Sequence[dict[str, Any]] = (),
) -> Iterator[dict[str, Any]]:
    """One row a program that is not in `done`; each is timed as soon as the last was yielded.

    A run of the yardstick and one of a chain of matmuls go with each run of a program, so that
    ratios compare neighbours in time. `done`: rows of this process, of any size.
    """
    finished = {(row["n"], row["T"], row["program"], row["mode"]) for row in done}
    chosen = programs(rules, modes)
    pending = [p for p in chosen if (*size, *p.key) not in finished]
    if not pending:
        return
    shorter = [r for r in done if (r["n"], r.get("skipped")) == (size.n, None)]
    bench = None
    for program in pending:
        about = {"program": program.name, "mode": program.mode, "n": size.n, "T": size.steps}
        try:
            bench = bench or _Bench(size, settings, rules, chosen)
            known = [r for r in shorter if (r["program"], r["mode"]) == program.key]
            yield about | bench.row(program, known)
        except Skipped as reason:
            yield about | {"skipped": str(reason)}


class _Bench:
    """What the programs of a size share: the problem, the yardstick, gradients to compare with."""

    def __init__(
        self, size: Size, settings: Settings, rules: Sequence[str], chosen: Sequence[Program]
    ):
        self._size, self._settings = size, settings
        compared = programs([*RULES, *rules], ("offline",))
        self._known = {program.key: program for program in [*compared, *chosen]}
        self._problem = Problem.make(size, settings.batch)
        self._chain, self._chain_flops = matmuls(size.n, settings.batch)
        self._gradients: dict[tuple[str, str], Gradient] = {}
        self._yardstick = self._compile(self._known[YARDSTICK])
        timed(self._chain)  # the warm-up
        self._gradients[YARDSTICK] = timed(self._yardstick.run)[1][1]

    def row(self, program: Program, shorter: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Time, memory and gradient of a program; `shorter`: its rows of fewer steps."""
        if shorter:
            longest = max(shorter, key=lambda row: row["T"])
            self._refuse_slow(longest["milliseconds"] / 1e3 * self._size.steps / longest["T"])
        yardstick = program.key == YARDSTICK
        compiled = self._yardstick if yardstick else self._compile(program)
        if compiled.temporary > _LARGE and program.mode.startswith("segment="):
            self._refuse_slow(self._from_segments(program))
        samples, found = self._repeat(compiled.run)
        _, batch, features = self._problem.xs.shape
        steps, n = self._size.steps, self._size.n
        flops = 2 * program.matmuls * batch * steps * n * (n + features + 1)
        pace = [chain / self._chain_flops for *_, chain in samples]  # seconds a flop
        floors = [own / (flops * each) for (own, *_), each in zip(samples, pace)]
        row = {
            "milliseconds": 1e3 * statistics.median(own for own, *_ in samples),
            "ratios": [round(own / plain, 4) for own, plain, _ in samples],
            "over_floor": statistics.median(floors),
            "gigaflops": 1e-9 / statistics.median(pace),
            "temporary_megabytes": compiled.temporary / 1e6,
            "compile_seconds": compiled.seconds,
        }
        return row | self._compare(program, found)

    def _repeat(
        self, run: Callable[[], Any]
    ) -> tuple[list[tuple[float, float, float]], Gradient | None]:
        """(own, yardstick's, chain's) seconds, run by run, and the gradient."""
        own, (_, found) = timed(run)
        first = own, timed(self._yardstick.run)[0], timed(self._chain)[0]
        samples: list[tuple[float, float, float]] = []
        spent = sum(first)
        while len(samples) < self._settings.runs:
            if spent + sum(first) > min(self._settings.seconds, _ENOUGH):
                break
            samples.append(self._sample(run, len(samples) % 2 == 0))
            spent += sum(samples[-1])
        # the warm-up counts where there is time for nothing else
        return samples or [first], found

    def _sample(self, run: Callable[[], Any], forward: bool) -> tuple[float, float, float]:
        """One run of each, in this order or in the other: none always follows the same one."""
        order = [run, self._yardstick.run, self._chain]
        if forward:
            own, plain, chain = (timed(each)[0] for each in order)
        else:
            chain, plain, own = (timed(each)[0] for each in reversed(order))
        return own, plain, chain

    def _compare(self, program: Program, found: Gradient | None) -> dict[str, Any]:
        """Cosine to the exact gradient, and distance from the one it should equal."""
        if found is None:
            return {}
        exact = self._gradient(YARDSTICK).recurrent
        row: dict[str, Any] = {"cosine": _cosine(found.recurrent, exact)}
        self._gradients[program.key] = found
        if program.same_as is not None:
            with contextlib.suppress(Skipped):
                reference = self._gradient(program.same_as)
                same = {"same_as": list(program.same_as)}
                row |= same | {"difference": _distance(found, reference)}
        return row

    def _gradient(self, key: tuple[str, str]) -> Gradient:
        if key not in self._gradients:
            _, self._gradients[key] = self._compile(self._known[key]).run()
        return self._gradients[key]

    def _compile(self, program: Program) -> Compiled:
        compiled = compile_program(program, self._problem)
        if compiled.total > 1e9 * self._settings.memory:
            raise Skipped(
                f"needs {compiled.total / 1e9:.3g} GB, more than --memory {self._settings.memory:g}"
            )
        return compiled

    def _from_segments(self, program: Program) -> float:
        """Seconds of a run, from one of `_PROBE` segments; 0 where that would be no shorter."""
        length = _PROBE * int(program.mode.partition("=")[2])
        if length >= self._size.steps:
            return 0.0
        short = Problem.make(Size(self._size.n, length), self._settings.batch)
        run = compile_program(program, short).run
        timed(run)
        return timed(run)[0] * self._size.steps / length

    def _refuse_slow(self, seconds: float) -> None:
        if seconds > self._settings.seconds:
            raise Skipped(
                f"a run would take about {seconds:.2g} s, more than --seconds "
                f"{self._settings.seconds:g}"
            )


def _cosine(a: Array, b: Array) -> float:
    one, other = np.ravel(a), np.ravel(b)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def _distance(a: Gradient, b: Gradient) -> float:
    """The largest relative distance over the parameters."""
    pairs = [(np.ravel(x), np.ravel(y)) for x, y in zip(a, b)]
    return float(max(np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in pairs))
