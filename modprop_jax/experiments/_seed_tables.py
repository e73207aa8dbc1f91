"""Tables of what the seeds say: where each rule's lie, and which rules they tell apart."""

from collections.abc import Mapping, Sequence

from ._config import Config
from ._statistics import Centre, MOST, Pair, Reached


def centre_headers(config: Config) -> list[str]:
    """Titles of the table of centres."""
    score = config.entry.score
    return [
        "rule",
        f"{score}: mean [95 %]",
        "median",
        "middle half",
        "loss: mean [95 %]",
        "median",
        "iterations to criterion: median [95 %]",
        "mean, up to the end",
    ]


def centre_cells(
    rule: str, score: Centre | None, loss: Centre | None, time: Reached | None
) -> list[str]:
    """A rule's centres as text."""

    def ends(low: float | None, high: float | None, digits: int) -> str:
        # an end that is not known lies beyond the run, or there is one seed
        low_text, high_text = ("–" if end is None else f"{end:.{digits}f}" for end in (low, high))
        return f" [{low_text}, {high_text}]"

    def mean(found: Centre) -> str:
        around = ends(found.low, found.high, 3) if found.count > 1 else ""
        return f"{found.mean:.3f}{around}"

    if score is None or loss is None or time is None:
        return [rule, *["–"] * 7]
    return [
        rule,
        mean(score),
        f"{score.median:.3f}",
        f"{score.iqm:.3f}",
        mean(loss),
        f"{loss.median:.3f}",
        iterations(time) + (ends(time.low, time.high, 0) if time.seeds > 1 else ""),
        f"{time.mean:.0f}",
    ]


def iterations(time: Reached) -> str:
    """The median time, which may be longer than the run."""
    return f"> {time.until}" if time.median is None else f"{time.median:.0f}"


def pair_headers(config: Config) -> list[str]:
    """Titles of the table of differences."""
    return [
        "pair",
        f"difference\nin {config.entry.score}",
        "95 %\ninterval",
        "p\n(Holm)",
        "supported",
        "seeds\nneeded",
    ]


def pair_cells(pair: Pair) -> list[str]:
    """A difference as text."""
    around = "–" if pair.low is None else f"{pair.low:+.3f} to {pair.high:+.3f}"
    corrected = "–"
    if pair.holm is not None:
        corrected = f"{pair.holm:.1g}" if pair.holm < 0.01 else f"{pair.holm:.2f}"
    if pair.supported:
        needed = "–"
    elif pair.needed is None:
        needed = "?"
    elif pair.needed > MOST:
        needed = f"> {MOST}"
    else:
        needed = f"{pair.needed} (+{pair.needed - pair.seeds})"
    return [
        f"{pair.first} − {pair.second}",
        f"{pair.mean:+.3f}",
        around,
        corrected,
        "yes" if pair.supported else "no",
        needed,
    ]


def verdict(config: Config, pairs: Sequence[Pair], diverged: Mapping[str, str]) -> str:
    """Which differences the seeds support, in words; empty where there is no pair."""
    left_out = f" Left out, as it stopped early: {', '.join(diverged)}." if diverged else ""
    if not pairs:
        return left_out.strip()
    if config.seeds == 1:
        return (
            "One seed: nothing can be said about differences between rules, as how much they "
            f"change from seed to seed is not known. Take --seeds 5 or more.{left_out}"
        )
    few = (
        f" Of {config.seeds} seeds no bootstrap interval covers more than "
        f"{100 * (1 - 2.0 ** (1 - config.seeds)):.0f} %."
        if config.seeds < 6
        else ""
    )
    return (
        f"{config.seeds} seeds support {sum(pair.supported for pair in pairs)} of {len(pairs)} "
        f"differences in {config.entry.score}: paired t test at 5 %, corrected for all "
        "pairs. A difference that is not supported is not shown to be none. Seeds needed: about so "
        "many would have a chance of 80 % to support it, if it is as large as it seems here."
        f"{few}{left_out}"
    )
