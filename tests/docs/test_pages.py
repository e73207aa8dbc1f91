"""Pages of the documentation run as they stand, each as one program in a reader's settings."""

import functools
import re
from pathlib import Path

import jax
import pages
import pytest

import modprop_jax as mpj
from modprop_jax.tasks import TASKS


DOCS = pages.ROOT / "docs"
RUN = "*.md", "usage/*.md", "tutorials/*.md", "ecosystem/*.md", "theory/*.md"
SOURCES = [pages.ROOT / "README.md", *(page for what in RUN for page in sorted(DOCS.glob(what)))]
TUTORIALS = [page for page in SOURCES if page.parent.name == "tutorials" and page.stem != "index"]
# what a page may import beyond the package's own dependencies
OPTIONAL = "braintrace", "flax", "haiku"


def name_of(page: Path) -> str:
    return str(page.relative_to(pages.ROOT).with_suffix(""))


def figure_of(page: Path) -> Path:
    """The one figure that a tutorial shows."""
    (path,) = re.findall(r"^!\[.+\]\((.+)\)$", page.read_text(), re.MULTILINE)
    return page.parent / path


@pytest.fixture
def as_a_reader(tmp_path):
    """JAX as it comes, a folder of one's own, and no task that another page has added."""
    tasks = dict(TASKS)
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        pages.at(tmp_path),
    ):
        yield tmp_path
    TASKS.clear()
    TASKS.update(tasks)


def programs() -> list:
    """The pages that have one, each program once; the README's runs in the fast suite too."""
    found = {pages.program(page).strip(): page for page in reversed(SOURCES)}
    return [
        pytest.param(page, marks=[] if page == SOURCES[0] else pytest.mark.slow, id=name_of(page))
        for text, page in found.items()
        if text
    ]


@pytest.mark.parametrize("page", programs())
def test_a_page_runs(page, as_a_reader, without_type_checks):
    for package in OPTIONAL:
        if re.search(rf"^(import|from) {package}\b", pages.program(page), re.MULTILINE):
            pytest.importorskip(package)
    pages.run(page)
    if page in TUTORIALS:
        assert [path.name for path in as_a_reader.glob("*.png")] == [figure_of(page).name]


@pytest.mark.parametrize("page", TUTORIALS, ids=name_of)
def test_a_tutorial_is_listed_and_shows_a_small_figure(page):
    assert f"({page.name})" in (page.parent / "index.md").read_text()
    assert 0 < figure_of(page).stat().st_size < 60_000


@pytest.mark.parametrize("page", [*SOURCES[:1], *sorted(DOCS.rglob("*.md"))], ids=name_of)
def test_what_a_page_names_is_there(page):
    for name in set(re.findall(r"\bmpj((?:\.[A-Za-z]\w*)+)", page.read_text())):
        functools.reduce(getattr, name[1:].split("."), mpj)


def test_a_program_is_all_blocks_but_sketches(tmp_path):
    page = tmp_path / "page.md"
    tab = '=== "tab"\n\n    ```python hl_lines="2"\n    if a:\n        b = 2\n    ```\n'
    left_out = '```python title="sketch"\nraise ValueError\n```\n\n```py\nno\n```\n'
    page.write_text(f"text\n\n```python\na = 1\n```\n\n{left_out}\n{tab}\n```python\n1 / 0\n```\n")
    assert pages.program(page).split() == "a = 1 if a: b = 2 1 / 0".split()
    with pytest.raises(ZeroDivisionError) as raised:
        pages.run(page)
    line = page.read_text().splitlines().index("1 / 0") + 1
    assert (raised.traceback[-1].path, raised.traceback[-1].lineno + 1) == (page, line)
