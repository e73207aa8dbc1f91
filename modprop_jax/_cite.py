"""BibTeX of what was used: the papers that cards and cells name, as `_citations.bib` has them."""

import functools
import importlib.metadata
import importlib.resources
import re
from collections.abc import Iterable

from . import _arguments as arguments
from ._cell import AbstractCell
from ._cell._base import dynamics
from ._rule import AbstractRule


_PACKAGE = """@software{modprop_jax,
  title = {{modprop\\_jax}: Approximate gradients for recurrent networks},
  author = {{The modprop\\_jax authors}},
  version = {VERSION},
}"""


def cite(
    rule: AbstractRule | type[AbstractRule] | None = None,
    cell: AbstractCell | type[AbstractCell] | None = None,
    *,
    package: bool = True,
) -> str:
    """BibTeX of the papers that a rule and a cell come from, and of this package.

    `print(cite(EProp, GRUCell))` is ready for a `.bib` file: comments say whose papers these are,
    each comes once, and what has no paper of its own is named all the same. `cite()` is the
    package alone. A rule names its papers in its card (`Card.papers`) and a cell in its class
    (`AbstractCell.papers`), those of your own too, which may give whole entries.

    **Arguments:**

    - `rule`: a credit rule, or its class.
    - `cell`: a cell, or its class; of a `Filtered` one, the cell that it filters.
    - `package`: whether the entry of the package, with its version, ends the text.

    **Returns:** the entries as text.

    **Errors:** ValueError for anything else, and for a paper that is neither a known key nor an
    entry.
    """
    named: list[tuple[str, tuple[str, ...]]] = []
    if rule is not None:
        kind = _class_of("rule", rule, AbstractRule, "a credit rule or its class, such as EProp")
        # a rule from elsewhere may have no card
        card = getattr(kind, "card", None)
        named.append((kind.__name__, () if card is None else card.papers))
    if cell is not None:
        kind = _class_of("cell", cell, AbstractCell, "a cell or its class, such as GRUCell")
        if isinstance(cell, AbstractCell):
            kind = type(dynamics(cell))
        named.append((kind.__name__, kind.papers))
    return sections(named, package=arguments.boolean("package", package))


def sections(named: Iterable[tuple[str, tuple[str, ...]]], *, package: bool = True) -> str:
    """The papers of each of these, by name, each paper once; and the package's entry."""
    parts = []
    for name, papers in named:
        parts += [f"% {name}: {keys_of(papers)}", *bibtex(papers)]
    if package:
        version = importlib.metadata.version("modprop_jax")
        parts.append(_PACKAGE.replace("VERSION", version))
    return "\n\n".join(dict.fromkeys(parts))


def keys_of(papers: tuple[str, ...]) -> str:
    """The keys of papers, in words."""
    return ", ".join(map(_key, bibtex(papers))) or "no paper of its own"


def bibtex(papers: tuple[str, ...]) -> list[str]:
    """The entries with these keys; an entry is its own."""
    known = entries()
    for paper in papers:
        if paper not in known and not paper.startswith("@"):
            raise ValueError(
                f"papers must be BibTeX entries or keys of the package's own, but {paper!r} is "
                f"neither; possible: {', '.join(known)}."
            )
    return [known.get(paper, paper) for paper in papers]


@functools.cache
def entries() -> dict[str, str]:
    """The package's BibTeX entries by key."""
    text = importlib.resources.files("modprop_jax").joinpath("_citations.bib").read_text("utf-8")
    found = (entry.strip() for entry in re.split(r"\n(?=@)", text))
    return {_key(entry): entry for entry in found}


def _key(entry: str) -> str:
    return entry.partition("{")[2].partition(",")[0].strip()


def _class_of(name: str, value: object, base: type, words: str) -> type:
    kind = value if isinstance(value, type) else type(value)
    if not issubclass(kind, base):
        came = f"the class {kind.__name__}" if value is kind else arguments.shown(value)
        raise ValueError(f"{name} must be {words}, but is {came}.")
    return kind
