"""Pictures of credit: maps side by side, as SVG of mid-tones on no ground, for light and dark.

A picture keeps the numbers that it shows, so that what it says can be checked.
"""

import json
import re
from xml.sax.saxutils import escape

import numpy as np
from credit_maps import LINKS, N, Panels, STEPS


PITCH, LEFT, TOP, GAP = 24, 18, 34, 26
GREY, PLUS, MINUS = "#808080", "#e07b1a", "#3a8fd6"
STROKE = f'stroke="{GREY}" stroke-width="1.5" fill="none"'
OWN = [(row, row) for row in range(N)]
WIRED = OWN + [(post, pre) for post, pre, _ in LINKS]
# of rules that are shown on another cell: what leads from step to step, and how the error comes
OTHERS = {
    "DiagonalRTRL": (OWN, "the error is on one output, at the last step; lines: own memory"),
    "GLE": (OWN, "the error comes and goes slowly; lines: own memory"),
    "EICredit": ([], "the error enters at neuron 1, at the last step; nothing is remembered"),
}
OTHERS["EqProp"] = OTHERS["EICredit"]
USUAL = WIRED, "the error enters at neuron 1, at the last step; lines: synapses and own memory"


def picture(name: str, panels: Panels) -> str:
    """The maps of a rule under their titles: rows are neurons, columns steps, areas credit."""
    links, words = OTHERS.get(name, USUAL)
    most = max(np.abs(values).max() for _, values in panels)
    rows, steps = panels[0][1].shape
    pitch = PITCH if steps <= STEPS else PITCH * 0.6
    width = LEFT + len(panels) * (steps * pitch + GAP)
    height = TOP + rows * PITCH + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" '
        f'width="{width:g}" height="{height}" font-family="sans-serif" font-size="11" '
        f'fill="{GREY}">',
        f"<title>Credit of {name} beside that of BPTT</title>",
        f"<metadata>{json.dumps([[t, v.tolist()] for t, v in panels])}</metadata>",
    ]
    for index, (title, values) in enumerate(panels):
        left = LEFT + index * (steps * pitch + GAP)
        parts += _panel(title, values / most, left, pitch, links)
        if "neuron 1" in words:
            tip = left + steps * pitch
            parts.append(f'<path d="M{tip + 14:g} {_y(0):g}h-12m4-4l-4 4l4 4" {STROKE}/>')
    parts += [f'<text x="2" y="{_y(row) + 4:g}">{row + 1}</text>' for row in range(rows)]
    parts += [*_legend(TOP + rows * PITCH + 34, words), "</svg>\n"]
    return "\n".join(parts)


def panels_of(svg: str) -> Panels:
    """The maps that a picture shows."""
    found = re.search(r"<metadata>(.*)</metadata>", svg)
    assert found is not None
    return [(title, np.array(values)) for title, values in json.loads(found[1])]


def rounded(panels: Panels) -> Panels:
    """To a thousandth of the largest: what a picture keeps."""
    most = max(np.abs(values).max() for _, values in panels)
    return [(title, np.round(values / most, 3) + 0.0) for title, values in panels]


def _y(row: int) -> float:
    return TOP + (row + 0.5) * PITCH


def _panel(title: str, values: np.ndarray, left: float, pitch: float, links: list) -> list[str]:
    rows, steps = values.shape

    def x(step: int) -> float:
        return left + (step + 0.5) * pitch

    lines = "".join(
        f"M{x(step):g} {_y(pre):g}L{x(step + 1):g} {_y(post):g}"
        for step in range(steps - 1)
        for post, pre in links
    )
    parts = [
        f'<text x="{left + 4:g}" y="16" font-size="12">{escape(title)}</text>',
        f'<path d="{lines}" stroke="{GREY}" stroke-opacity="0.28" fill="none"/>',
    ]
    for (row, step), value in np.ndenumerate(values):
        radius = 0.48 * pitch * abs(value) ** 0.5
        colour = PLUS if value > 0 else MINUS
        if radius > 0.4:
            at = f'cx="{x(step):g}" cy="{_y(row):g}"'
            parts.append(f'<circle {at} r="{radius:.1f}" fill="{colour}"/>')
    parts.append(f'<text x="{x(0) - 4:g}" y="{TOP + rows * PITCH + 12:g}">time →</text>')
    return parts


def _legend(y: float, words: str) -> list[str]:
    return [
        f'<circle cx="8" cy="{y - 4:g}" r="4" fill="{PLUS}"/>',
        f'<text x="16" y="{y:g}">credit above 0</text>',
        f'<circle cx="106" cy="{y - 4:g}" r="4" fill="{MINUS}"/>',
        f'<text x="114" y="{y:g}">below 0</text>',
        f'<text x="2" y="{y + 15:g}">{words}</text>',
    ]
