"""The pages of the rules, their pictures, and the page on how to choose one."""

import functools
import re
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import modprop_jax as mpj
from modprop_jax.experiments import RULES
from modprop_jax.tasks import TASKS


DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS / "hooks"))

import credit_maps  # noqa: E402
import credit_pictures  # noqa: E402
import rule_cells  # noqa: E402
import rule_tables  # noqa: E402
import rules  # noqa: E402


NAMES = list(mpj.cards())
PAGES = rules.pages()
CHOOSER = rule_tables.PAGE.read_text("utf-8")


def quick(*names, slow=()):
    """Some by default, and some where there is time: each takes seconds to trace or compile."""
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


def svg(name: str) -> str:
    return (rules.PICTURES / f"{name.lower()}.svg").read_text("utf-8")


def panels(name: str) -> dict[str, np.ndarray]:
    return dict(credit_pictures.panels_of(svg(name)))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other))


# --- pages ---


def test_every_rule_has_a_page_and_words():
    made = {f"rules/{name.lower()}.md" for name in NAMES}
    assert set(PAGES) == {*made, "rules/index.md", "theory/taxonomy.md"}
    assert set(rules.WORDS) == set(NAMES) == set(credit_maps.PANELS)
    assert "KF-RTRL" in PAGES["rules/kfrtrl.md"] and "KF-RTRL" in PAGES["rules/index.md"]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_card_docstring_and_papers_do(name):
    page, card = PAGES[f"rules/{name.lower()}.md"], mpj.cards()[name]
    said = (
        str(card.called).partition(", ")[0],
        card.credit,
        card.use,
        card.synapse,
        card.bias,
        card.when,
        card.memory,
        card.time,
    )
    assert all(field and field in page for field in said)
    assert f"[`modprop_jax.{name}`][]" in page and "\\[ " in page
    entries = re.findall(r"^    @\w+\{(\w+),$", page, re.MULTILINE)
    assert tuple(entries) == card.papers
    assert rules.snippet(name) in page and f"rule={rules.WORDS[name]['rule']})" in page
    typed = rules.command(name).split()
    named = typed[typed.index("--rules") + 1 :]
    assert typed[2] in TASKS and set(named) <= set(RULES) and len(named) == 2


def test_links_lead_to_files_and_names():
    texts = {**PAGES, "usage/how-to-choose-a-rule.md": CHOOSER}
    texts["citation.md"] = (DOCS / "citation.md").read_text("utf-8")
    for path, text in texts.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            found = (DOCS / path).parent.joinpath(target).resolve()
            relative = str(found.relative_to(DOCS))
            assert relative in texts or found.is_file(), (path, target)
        for name in re.findall(r"\[modprop_jax\.(\w+)\]|\[`modprop_jax\.(\w+)`\]\[\]", text):
            assert hasattr(mpj, "".join(name)), (path, name)


def test_rows_of_results_are_those_of_the_tables():
    found = rules.results("EProp")
    table = (DOCS / "results" / "xor-published" / "table.md").read_text("utf-8")
    (row,) = (line for line in table.splitlines() if line.startswith("| eprop |"))
    assert row in found and "| bptt |" in found
    assert "bptt:segment=10" in rules.results("BPTT") and "– → –" not in rules.results("UORO")


def test_the_taxonomy_is_that_of_the_cards():
    unlinked = re.sub(r"\[(`\w+`)\]\(\.\./rules/\w+\.md\)", r"\1", PAGES["theory/taxonomy.md"])
    assert unlinked == mpj.taxonomy() + "\n" != PAGES["theory/taxonomy.md"]


@pytest.mark.parametrize(
    "name", quick("EProp", "KFRTRL", slow=sorted(set(NAMES) - {"EProp", "KFRTRL"}))
)
def test_snippets_run(name, monkeypatch):
    """As far as tracing goes: compiling all of them would take minutes."""
    for gradient in ("value_and_grad", "online_value_and_grad"):
        made = getattr(mpj, gradient)

        def traced(loss, *, made=made, **options):
            return functools.partial(eqx.filter_eval_shape, made(loss, **options))

        monkeypatch.setattr(mpj, gradient, traced)
    names = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[f"rules/{name.lower()}.md"], re.M | re.S)
    exec("\n".join(blocks), names)
    weights, grads = eqx.filter(names["rnn"], eqx.is_inexact_array), names["grads"]
    shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (weights, grads)]
    assert shapes[0] == shapes[1] and names["value"].shape == ()


# --- pictures ---


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_its_numbers(name):
    text = svg(name)
    shown = credit_pictures.panels_of(text)
    assert credit_pictures.picture(name, shown) == text and len(text) < 30_000
    assert f"(../figures/rules/{name.lower()}.svg)" in PAGES[f"rules/{name.lower()}.md"]
    assert text.count("<circle") > 2 and shown[0][0] == "BPTT"


@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_what_cards_say(name):
    exact, *others = panels(name).values()
    bias = mpj.cards()[name].bias
    if bias == "exact" and name != "BPTT":
        assert np.allclose(others[0], exact, atol=2e-3)
    elif bias == "unbiased":
        draw, mean = others
        assert cosine(mean, exact) > 0.98 and abs(cosine(draw, exact)) < 0.9
    else:
        assert all(np.abs(other - exact).max() > 0.05 for other in others)


def test_pictures_show_whom_credit_reaches():
    def reached(values):
        return {int(row) for row in np.nonzero(np.abs(values).max(axis=1))[0]}

    first = {post: set() for post in range(credit_maps.N)}
    for post, pre, _ in credit_maps.LINKS:
        first[post].add(pre)
    assert reached(panels("EProp")["EProp()"]) == {0}
    assert reached(panels("MDGL")["MDGL(types)"]) == {0} | first[0]
    assert reached(panels("SnAp")["SnAp(2)"]) == {0} | first[0]
    assert reached(panels("ModProp")["ModProp(0.8, types)"]) == set(first)
    assert not panels("ReadoutOnly")["ReadoutOnly()"].any()
    assert not panels("FutureBPTT")["FutureBPTT(3)"][:, :-3].any()
    assert np.allclose(panels("SnAp")["SnAp(1)"], panels("EProp")["EProp()"], atol=2e-3)


@pytest.mark.parametrize("name", quick("EProp", slow=["MDGL", "GLE", "QuasiStatic"]))
def test_pictures_are_up_to_date(name):
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        with jax.numpy_dtype_promotion("standard"):
            found = credit_pictures.rounded(credit_maps.PANELS[name]())
    shown = panels(name)
    assert [title for title, _ in found] == list(shown)
    for title, values in found:
        # what is learnt or drawn adds up rounding
        assert np.allclose(values, shown[title], atol=0.02), "python docs/hooks/rules.py"


# --- how to choose ---


@pytest.mark.parametrize(
    "name", quick("MDGL", slow=["KFRTRL", "KeRNL", "LocalDNI", "QuasiStatic", "GLE"])
)
def test_cells_that_a_rule_serves(name):
    found = [kind for kind in rule_cells.CELLS if rule_cells.serves(name, kind)]
    assert found == rule_cells.serving(name)


def test_the_tables_are_up_to_date():
    for made in (rule_tables.knowledge(), rule_tables.cells()):
        assert made in CHOOSER, "python docs/hooks/rules.py --tables"


@pytest.mark.parametrize("name", ["EProp", "KFRTRL", "RTRL"])
def test_bytes_are_those_of_the_carry(name):
    (row,) = re.findall(rf"^\| \[`{name}`\].*\|$", CHOOSER.partition("<!-- memory")[2], re.M)[:1]
    *said, most = [int(entry.replace(",", "")) for entry in row.split("|")[2:-1]]
    assert said == [rule_tables.carried(name, n)[1] for n in rule_tables.SIZES]

    def total(n):
        weights, carry = rule_tables.carried(name, n)
        return 2 * weights + carry

    assert total(most) <= rule_tables.ROOM < total(most + 1)
