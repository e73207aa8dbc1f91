"""What is cited: entries that are whole, of every rule and cell."""

import re

import jax.random as jr
import pytest

import modprop_jax as mpj
from modprop_jax._cell import AbstractCell
from modprop_jax._cite import entries
from modprop_jax.experiments import main, METHODS, RULES
from modprop_jax.experiments._cells import CELLS


# no dynamics of its own: a base, a filter around a cell, or any function
WITHOUT = {"AbstractCell", "SeparableCell", "NeuronCell", "Filtered", "FunctionCell"}
VENUE = {"article": "journal", "inproceedings": "booktitle", "misc": "eprint", "software": "url"}


def fields(entry: str) -> dict[str, str]:
    return dict(re.findall(r"^  (\w+) = \{(.*)\},$", entry, re.MULTILINE))


def cells() -> list[type[AbstractCell]]:
    return [c for c in vars(mpj).values() if isinstance(c, type) and issubclass(c, AbstractCell)]


@pytest.mark.parametrize("key", entries())
def test_an_entry_is_whole(key):
    entry = entries()[key]
    found = fields(entry)
    kind = entry.partition("{")[0].removeprefix("@")
    assert {"title", "author", "year", VENUE[kind]} <= set(found)
    assert ("archiveprefix" in found) == ("eprint" in found)
    assert len(found) + 2 == len(entry.splitlines()) and entry.count("{") == entry.count("}")
    assert re.fullmatch(rf"[a-z]+{found['year']}[a-z]+", key) and entry.isascii()
    first = found["author"].partition(",")[0]
    assert key.startswith(first.lower())


def test_no_entry_is_there_for_nothing():
    named = [card.papers for card in mpj.cards().values()] + [cell.papers for cell in cells()]
    named += [entry.papers for entry in (*RULES.values(), *METHODS.values())]
    assert {paper for papers in named for paper in papers} == set(entries())


@pytest.mark.parametrize("name", mpj.cards())
def test_every_rule_has_a_paper_that_its_card_and_docstring_name(name):
    rule, card = getattr(mpj, name), mpj.cards()[name]
    text = mpj.cite(rule, package=False)
    assert text.startswith(f"% {name}: {', '.join(card.papers)}\n") and card.papers
    surnames = [fields(entries()[key])["author"].partition(",")[0] for key in card.papers]
    assert all(surname in rule.__doc__ for surname in surnames)
    assert surnames[0] in card.source
    found = [line for line in text.splitlines() if line.startswith("@")]
    assert len(found) == len(card.papers)


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: cell.__name__)
def test_every_cell_has_a_paper_or_says_that_it_has_none(cell):
    text = mpj.cite(cell=cell, package=False)
    if cell.__name__ in WITHOUT:
        assert text == f"% {cell.__name__}: no paper of its own"
    else:
        first = fields(entries()[cell.papers[0]])["author"].partition(",")[0]
        assert first in cell.__doc__ and text.count("\n@") == len(cell.papers)


def test_instances_and_what_comes_twice():
    cell = mpj.Filtered(mpj.LIFCell(2, 3, tau=4.0, key=jr.key(0)), 0.5)
    text = mpj.cite(mpj.EProp(), cell)
    assert text == mpj.cite(mpj.EProp, mpj.LIFCell) and "% LIFCell: bellec2020eprop" in text
    assert text.count("@article{bellec2020eprop,") == 1
    assert text.endswith(mpj.cite()) and f"version = {{{mpj.__version__}}}" in mpj.cite()
    assert mpj.cite(package=False) == ""


def test_a_rule_of_ones_own():
    class Mine(mpj.EProp):
        card = mpj.EProp.card._replace(papers=("@misc{mine,\n  title = {Mine},\n}",))

    class Wrong(mpj.EProp):
        card = mpj.EProp.card._replace(papers=("mine2026",))

    assert "% Mine: mine\n\n@misc{mine," in mpj.cite(Mine())
    with pytest.raises(ValueError, match="papers must be BibTeX.*'mine2026'.*bellec2020eprop"):
        mpj.cite(Wrong())
    assert mpj.cite(mpj.AbstractRule, package=False) == "% AbstractRule: no paper of its own"


def test_the_command(capsys):
    assert main(["cite", "kf_rtrl:probes=2", "--cell", "gle"]) == 0
    text = capsys.readouterr().out
    assert "@inproceedings{mujika2018kfrtrl," in text and "@software{modprop_jax," in text
    assert text.index("mujika2018") < text.index("% gle: ellenberger2025gle")
    assert main(["cite"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[0] == " "]
    assert listed == [*RULES, *METHODS, *CELLS]
    for wrong in (["kf-rtrl"], ["eprop", "--cell", "gr"], ["eprop:sd=2"], ["eprop", "--cel", "x"]):
        assert main(["cite", *wrong]) == 2
        assert "possible: " in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["cite", "--help"])
    assert left.value.code == 0 and "kf_rtrl --cell gru" in capsys.readouterr().out
