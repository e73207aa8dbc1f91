"""Results as tables, on the terminal and in Markdown."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ._networks import NETWORKS
from ._peers import PEERS
from ._results import Line


HEADERS = (
    "program",
    "time /\nplain",
    "range",
    "µs /\ntrial",
    "time /\nfloor",
    "temporaries,\nMB",
    "peak,\nMB",
    "compile,\ns",
    "cosine\nto exact",
)
EXPLAINED = (
    "Every program computes the loss and all gradients of one network (32 inputs, a linear readout "
    "of 2 outputs at every step, mean squared error) from rest. `plain` "
    "is `jax.value_and_grad` of `jax.lax.scan`, `forward` its loss alone, `plain, checkpointed` "
    "the same scan with `jax.checkpoint` around segments of about √T steps; other names are those "
    "of `modprop-jax list`. `2 devices`: the batch split over so many, of a CPU its cores, "
    "by `jax.shard_map` with one mean at the end; `sharded`: by the compiler, from sharded arrays.",
    "`time / plain`: median of ratios to a run of `plain` beside it, in the same process; "
    "`range`: of the medians over processes, or the quartiles over runs of a single process. "
    "Compilation is not part of it. That `plain` has one device.",
    "`time / floor`: to the time that the needed matmuls take at the rate of a chain of (batch, n) "
    "by (n, n) products, measured beside each run (GFLOP/s below). They are 2 flops for each "
    "of batch·n·(n+m+1) entries and step forward, 2 for the weight gradient and, where credit "
    "passes through the recurrent weights, 2 for their transpose. (The weight gradient's matmuls "
    "over many steps at once can be faster than the chain's.) A GRU has three such matrices; "
    "nothing is given where another product leads the cost.",
    "`temporaries`: XLA's own account, of all devices. `peak`: by how much what the process has "
    "allocated grew in a run, outputs too, by the C library's account, the same for all packages. "
    "`cosine to exact`: of the gradient of all the cell's parameters. `bptt` in segments is "
    "truncated.",
    "–: not run; the reason is below the table.",
)


def heading(lines: Sequence[Line], batch: int) -> str:
    """A size, and the rate at which this machine multiplied at it."""
    rates = [line.gigaflops for line in lines if line.gigaflops is not None]
    rate = f", {sorted(rates)[len(rates) // 2]:.0f} GFLOP/s" if rates else ""
    return f"{lines[0].network}, n = {lines[0].n}, T = {lines[0].steps}, batch {batch}{rate}"


def sizes(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of each network and size, smallest first."""
    networks = list(dict.fromkeys(line.network for line in lines))
    found = sorted({(networks.index(line.network), line.n, line.steps) for line in lines})
    return [
        [x for x in lines if (x.network, x.n, x.steps) == (networks[index], *size)]
        for index, *size in found
    ]


def cells(line: Line) -> list[str]:
    """A line as text."""
    mode = line.mode.removeprefix("offline").removeprefix(", ")
    name = f"{line.program}, {mode}" if mode else line.program
    if line.ratio is None:
        return [name, "–", *[""] * (len(HEADERS) - 2)]
    return [
        name,
        _digits(line.ratio),
        f"{_digits(line.low)}-{_digits(line.high)}",
        _digits(line.trial),
        _digits(line.over_floor),
        _digits(line.megabytes),
        _digits(line.peak),
        f"{line.compile_seconds:.1f}",
        "" if line.cosine is None else f"{line.cosine:.4f}",
    ]


def reasons(lines: Sequence[Line]) -> list[str]:
    """Why some lines were not measured."""
    return [f"{cells(line)[0]}: {line.skipped}." for line in lines if line.skipped]


def notes(lines: Sequence[Line]) -> list[str]:
    """What the table as a whole says about networks, gradients and peers."""
    networks = dict.fromkeys(line.network for line in lines)
    found = [f"`{name}`: {NETWORKS[name].about}." for name in networks]
    own = [x for x in lines if x.program not in PEERS and x.difference is not None]
    if own:
        worst = max(line.difference or 0.0 for line in own)
        found.append(
            "Gradients that should be equal, streamed and offline or exact and plain, are equal to "
            f"{worst:.0e} (relative, the worst parameter of the worst program)."
        )
    return found + _about_peers(lines, list(networks))


def markdown(lines: Sequence[Line], about: dict[str, Any]) -> str:
    """The tables as a Markdown file, one a size."""
    text = ["# What each gradient costs", ""]
    for key, value in about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        text.append(f"- {key}: {value}")
    text += ["", *(f"{paragraph}\n" for paragraph in (*EXPLAINED, *notes(lines)))]
    for chosen in sizes(lines):
        text += [f"## {heading(chosen, about['batch'])}", ""]
        titles = [header.replace("\n", " ") for header in HEADERS]
        text += ["| " + " | ".join(titles) + " |", "|---" * len(HEADERS) + "|"]
        text += ["| " + " | ".join(cells(line)) + " |" for line in chosen]
        text += ["", *(f"- {reason}" for reason in reasons(chosen)), ""]
    return "\n".join(text)


def show(console: Console, lines: Sequence[Line], about: dict[str, Any]) -> None:
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
    for note in notes(lines):
        console.print(note, highlight=False, markup=False)


def _about_peers(lines: Sequence[Line], networks: Sequence[str]) -> list[str]:
    """How other packages were driven, and how far their numbers are from those here."""
    found = []
    for name, peer in PEERS.items():
        measured = [x for x in lines if x.program == name and x.difference is not None]
        if peer.network in networks and not measured and not peer.installed:
            found.append(
                f"To compare with {peer.package}, install it and run this again: {peer.install}"
            )
        for mode in dict.fromkeys(line.mode for line in measured):
            of_mode = [line for line in measured if line.mode == mode]
            off, loss = (
                max(getattr(line, field) or 0.0 for line in of_mode)
                for field in ("difference", "loss_difference")
            )
            found.append(
                f"{name}, {mode}: {peer.version} on the same {peer.network} network, data and "
                f"loss: {peer.about}. Its loss is that of plain to {loss:.0e}, its gradient that "
                f"of {peer.same_as[0]} to {off:.0e}."
            )
    return list(dict.fromkeys(found))


def _digits(value: float | None) -> str:
    """Three digits or so."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
