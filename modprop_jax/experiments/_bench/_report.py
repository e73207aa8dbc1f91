"""Results as tables, on the terminal and in Markdown."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from . import _peers
from ._results import Line


HEADERS = (
    "program",
    "time /\nplain",
    "range",
    "ms",
    "time /\nfloor",
    "temporaries,\nMB",
    "compile,\ns",
    "cosine\nto exact",
)
EXPLAINED = (
    "Every program computes the loss and all weight gradients of one leaky network (relu, 32 "
    "inputs, a linear readout of 2 outputs at every step, mean squared error) from rest. `plain` "
    "is `jax.value_and_grad` of `jax.lax.scan`, `forward` its loss alone, `plain, checkpointed` "
    "the same scan with `jax.checkpoint` around segments of about √T steps; other names are those "
    "of `modprop-jax list`.",
    "`time / plain`: median of ratios to a run of `plain` beside it, in the same process; "
    "`range`: of the medians over processes, or the quartiles over runs of a single process. "
    "Compilation is not part of it.",
    "`time / floor`: to the time that the needed matmuls take at the rate of a chain of (batch, n) "
    "by (n, n) products, measured beside each run (GFLOP/s below). They are 2 flops for each "
    "of batch·n·(n+m+1) entries and step forward, 2 for the weight gradient and, where credit "
    "passes through the recurrent weights, 2 for their transpose. (The weight gradient's matmuls "
    "over many steps at once can be faster than the chain's.)",
    "`temporaries`: XLA's own account. `cosine to exact`: of the recurrent weights' gradient. "
    "`bptt` in segments is truncated.",
    "–: not run; the reason is below the table.",
)


def heading(lines: Sequence[Line], batch: int) -> str:
    """A size, and the rate at which this machine multiplied at it."""
    rates = [line.gigaflops for line in lines if line.gigaflops is not None]
    rate = f", {sorted(rates)[len(rates) // 2]:.0f} GFLOP/s" if rates else ""
    return f"n = {lines[0].n}, T = {lines[0].steps}, batch {batch}{rate}"


def sizes(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of each size, smallest first."""
    found = sorted({(line.n, line.steps) for line in lines})
    return [[x for x in lines if (x.n, x.steps) == size] for size in found]


def cells(line: Line) -> list[str]:
    """A line as text."""
    name = line.program if line.mode == "offline" else f"{line.program}, {line.mode}"
    if line.ratio is None or line.megabytes is None:
        return [name, "–", *[""] * (len(HEADERS) - 2)]
    return [
        name,
        _digits(line.ratio),
        f"{_digits(line.low)}-{_digits(line.high)}",
        _digits(line.milliseconds),
        _digits(line.over_floor),
        _digits(line.megabytes),
        f"{line.compile_seconds:.1f}",
        "" if line.cosine is None else f"{line.cosine:.4f}",
    ]


def reasons(lines: Sequence[Line]) -> list[str]:
    """Why some lines were not measured."""
    return [f"{cells(line)[0]}: {line.skipped}." for line in lines if line.skipped]


def notes(lines: Sequence[Line], peer: str | None) -> list[str]:
    """What the table as a whole says about gradients and peers."""
    found = []
    own = [x for x in lines if x.program not in _peers.ALGORITHMS and x.difference is not None]
    if own:
        worst = max(line.difference or 0.0 for line in own)
        found.append(
            "Gradients that should be equal, streamed and offline or exact and plain, are equal to "
            f"{worst:.0e} (relative, the worst parameter of the worst program)."
        )
    return found + _about_peers(lines, peer)


def markdown(lines: Sequence[Line], about: dict[str, Any], peer: str | None) -> str:
    """The tables as a Markdown file, one a size."""
    text = ["# What each gradient costs", ""]
    for key, value in about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        text.append(f"- {key}: {value}")
    text += ["", *(f"{paragraph}\n" for paragraph in (*EXPLAINED, *notes(lines, peer)))]
    for chosen in sizes(lines):
        text += [f"## {heading(chosen, about['batch'])}", ""]
        titles = [header.replace("\n", " ") for header in HEADERS]
        text += ["| " + " | ".join(titles) + " |", "|---" * len(HEADERS) + "|"]
        text += ["| " + " | ".join(cells(line)) + " |" for line in chosen]
        text += ["", *(f"- {reason}" for reason in reasons(chosen)), ""]
    return "\n".join(text)


def show(console: Console, lines: Sequence[Line], about: dict[str, Any], peer: str | None) -> None:
    """The tables on the terminal."""
    if not console.is_terminal:
        console.width = max(console.width, 120)  # rich assumes 80
    for chosen in sizes(lines):
        table = Table(
            title=heading(chosen, about["batch"]),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for index, header in enumerate(HEADERS):
            table.add_column(header, justify="right" if index else "left", no_wrap=True)
        for line in chosen:
            table.add_row(*cells(line))
        console.print(table)
        for reason in reasons(chosen):
            console.print(reason, highlight=False, markup=False)
        console.print()
    for note in notes(lines, peer):
        console.print(note, highlight=False, markup=False)


def _about_peers(lines: Sequence[Line], peer: str | None) -> list[str]:
    measured = [x for x in lines if x.program in _peers.ALGORITHMS and x.difference is not None]
    if not measured and peer is None:
        return [f"To compare with braintrace, install it and run this again: {_peers.INSTALL}"]
    found = []
    for mode in dict.fromkeys(line.mode for line in measured):
        of_mode = [line for line in measured if line.mode == mode]
        off = max(line.difference or 0.0 for line in of_mode)
        names = " and ".join(dict.fromkeys(line.program for line in of_mode))
        found.append(
            f"{names}, {mode}: braintrace {peer or ''} on the same cell, weights, data and loss, "
            f"driven by its own etrace_grad; its gradient is e-prop's to {off:.0e}."
            + (" (Inside a window it is exact instead.)" if mode != "segment=1" else "")
        )
    return found


def _digits(value: float | None) -> str:
    """Three digits or so."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
