"""Pictures of credit: maps side by side, as SVG of mid-tones on no ground, for light and dark.

A picture keeps the numbers that it shows, so that what it says can be checked.
"""

import json
import re
from xml.sax.saxutils import escape

import numpy as np
from credit_maps import LINKS, Panels, STEPS


PITCH, LEFT, TOP, GAP = 24, 18, 34, 26
GREY, PLUS, MINUS = "#808080", "#e07b1a", "#3a8fd6"


def picture(panels: Panels, title: str) -> str:
    """The maps under their titles: rows are neurons, columns steps, areas are credit."""
    most = max(np.abs(values).max() for _, values in panels)
    rows, steps = panels[0][1].shape
    pitch = PITCH if steps <= STEPS else PITCH * 0.6
    width = LEFT + len(panels) * (steps * pitch + GAP)
    height = TOP + rows * PITCH + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" '
        f'width="{width:g}" height="{height}" font-family="sans-serif" font-size="11" '
        f'fill="{GREY}">',
        f"<title>{escape(title)}</title>",
        f"<metadata>{json.dumps([[t, v.tolist()] for t, v in panels])}</metadata>",
    ]
    for index, (name, values) in enumerate(panels):
        left = LEFT + index * (steps * pitch + GAP)
        parts += _panel(name, values / most, left, pitch, steps <= STEPS)
    parts += [f'<text x="2" y="{_y(row) + 4:g}">{row + 1}</text>' for row in range(rows)]
    parts += [*_legend(TOP + rows * PITCH + 34, steps <= STEPS), "</svg>\n"]
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


def _panel(name: str, values: np.ndarray, left: float, pitch: float, wired: bool) -> list[str]:
    rows, steps = values.shape
    links = [(row, row) for row in range(rows)]
    # GLE's neurons send nothing to each other
    links += [(post, pre) for post, pre, _ in LINKS] if wired else []

    def x(step: int) -> float:
        return left + (step + 0.5) * pitch

    lines = "".join(
        f"M{x(step):g} {_y(pre):g}L{x(step + 1):g} {_y(post):g}"
        for step in range(steps - 1)
        for post, pre in links
    )
    parts = [
        f'<text x="{left + 4:g}" y="16" font-size="12">{escape(name)}</text>',
        f'<path d="{lines}" stroke="{GREY}" stroke-opacity="0.28" fill="none"/>',
    ]
    largest = 0.48 * PITCH
    for (row, step), value in np.ndenumerate(values):
        radius = largest * abs(value) ** 0.5
        colour = PLUS if value > 0 else MINUS
        if radius > 0.4:
            parts.append(
                f'<circle cx="{x(step):g}" cy="{_y(row):g}" r="{radius:.1f}" fill="{colour}"/>'
            )
    bottom = TOP + rows * PITCH + 12
    parts.append(f'<text x="{x(0) - 4:g}" y="{bottom:g}">time →</text>')
    if wired:
        parts.append(
            f'<circle cx="{x(steps - 1):g}" cy="{_y(0):g}" r="{largest + 1.5:.1f}" fill="none" '
            f'stroke="{GREY}" stroke-width="1.5"/>'
        )
    return parts


def _legend(y: float, wired: bool) -> list[str]:
    words = "ring: where the error enters;" if wired else "the error comes and goes slowly;"
    return [
        f'<circle cx="8" cy="{y - 4:g}" r="4" fill="{PLUS}"/>',
        f'<text x="16" y="{y:g}">credit above 0</text>',
        f'<circle cx="106" cy="{y - 4:g}" r="4" fill="{MINUS}"/>',
        f'<text x="114" y="{y:g}">below 0; {words} lines: '
        f"{'synapses and own memory' if wired else 'own memory'}</text>",
    ]
