"""The command `modprop-jax cite`: the papers behind a rule and a cell, as BibTeX."""

from .._cite import keys_of, sections
from ._cells import CELLS
from ._methods import METHODS
from ._names import known
from ._options import CitedCell, RuleName
from ._rules import entry_of, RULES
from ._work import Work


def cite(rule: RuleName = None, *, cell: CitedCell = None) -> Work:
    """Print BibTeX of the papers that a credit rule and a kind of cell come from.

    The package's own entry, with its version, comes last. Example:

        modprop-jax cite kf_rtrl --cell gru >> references.bib

    Without a rule and a cell it lists them all, each with the keys of its papers. In Python
    the same is `modprop_jax.cite(rule, cell)`, for rules and cells of your own too.

    Args:
        rule: A rule or method as `modprop-jax list` shows it; options as in modprop:mu=0.5 may
            stay.
        cell: A kind of cell as `modprop-jax list` shows it.
    """
    rules = {name: entry.papers for name, entry in RULES.items()}
    methods = {name: method.papers for name, method in METHODS.items()}
    cells = {name: entry.cell.papers for name, entry in CELLS.items()}
    named = []
    if rule is not None:
        named.append((rule, entry_of(rule).papers))
    if cell is not None:
        named.append((cell, cells[known("cell", cell, cells)]))

    def run() -> int:
        if named:
            print(sections(named))
            return 0
        for title, entries in {"rules": rules, "methods": methods, "cells": cells}.items():
            print(title)
            for name, papers in entries.items():
                print(f"  {name:<22} {keys_of(papers)}")
        return 0

    return Work(run)
