"""What all figures share: sizes, fonts and colours of a paper, and files that a journal takes."""

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


COLUMN, PAGE = 3.4, 7.0
"""Widths in inches of one column and of a page of two."""
# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow one, which is
# faint on white.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# With these they differ in grey too.
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_SETTINGS = {
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.dpi": 100,
    "figure.titlesize": 8,
    "font.size": 7,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    # TrueType, embedded, which journals ask for; text of an SVG as outlines, which need no font
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "savefig.dpi": 300,
    "svg.fonttype": "path",
    "svg.hashsalt": "modprop_jax",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


Style = str | os.PathLike | None
"""Of matplotlib: a file of settings, or the name of one of its styles."""


def check_style(style: Style) -> None:
    """A ValueError if there is no such style."""
    if style is not None:
        with styled(style):
            pass


@contextlib.contextmanager
def styled(style: Style = None) -> Iterator[None]:
    """Matplotlib's settings for a figure, then those of a style: a file, or a name of its own."""
    # imported here, as below: it takes a second that few calls need
    import matplotlib.style

    given: Any = [_SETTINGS] if style is None else [_SETTINGS, style]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(matplotlib.style.context(given))
        except OSError as error:
            raise ValueError(
                f"style {str(style)!r} is neither a file of matplotlib's settings nor one of its "
                "styles."
            ) from error
        yield


def blank(width: float, height: float) -> Any:
    """An empty figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and none of pyplot's global state
    return figure


def files(name: str, figure: Any, rows: Sequence[Sequence[Any]]) -> dict[str, bytes]:
    """A figure as PNG, PDF and SVG, and the data that it shows as CSV (the first row has names)."""
    found = {}
    # the layout is the same in all of them, and takes longest
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # without dates, the same figure is the same file
    metadata: dict[str, Any] = {
        "png": {},
        "pdf": {"CreationDate": None, "ModDate": None},
        "svg": {"Date": None},
    }
    for kind, about in metadata.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=about)
        found[f"{name}.{kind}"] = buffer.getvalue()
    return found | {f"{name}.csv": table(rows)}


def table(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
