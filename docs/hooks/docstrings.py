"""Docstrings as Markdown: displayed formulas, doctests, and links to the classes they name."""

import re
from typing import Any

import griffe

import modprop_jax


FORMULA = re.compile(r"^( *)(\\\[(?:.|\n)*?\\\][.,;]?)$", re.MULTILINE)
DOCTEST = re.compile(r"(?<=\n\n)>>> (?:.+\n?)+")  # after a blank line: not one that is fenced
CLASS = re.compile(r"(?<![`\[])`([A-Z]\w+)`(?![`\]])")


class Docstrings(griffe.Extension):
    """Mend each docstring when its object is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of modules, classes, functions and attributes."""
        if obj.docstring:
            obj.docstring.value = mended(obj.docstring.value, obj.name)


def mended(text: str, name: str) -> str:
    """As the docstring of what has this name."""
    text = FORMULA.sub(r"\n\1\2\n", text)
    text = DOCTEST.sub(lambda block: f"```pycon\n{block[0].rstrip()}\n```\n", text)
    return CLASS.sub(lambda found: _linked(found[1], name), text)


def _linked(found: str, name: str) -> str:
    known = found != name and hasattr(modprop_jax, found)
    return f"[`{found}`][modprop_jax.{found}]" if known else f"`{found}`"
