"""Pages of the documentation run as they stand, each as one program in a reader's settings."""

import re
from pathlib import Path

import jax
import pages
import pytest

import modprop_jax as mpj
from modprop_jax.tasks import TASKS


FOLDERS = "usage", "tutorials", "ecosystem", "theory"
SOURCES = sorted(
    page
    for page in [pages.ROOT / "README.md", pages.ROOT / "docs/index.md"]
    + [page for folder in FOLDERS for page in (pages.ROOT / "docs" / folder).glob("*.md")]
    if page.is_file()
)
# what a page may import beyond the package's own dependencies
OPTIONAL = "asdex", "braintrace", "flax", "haiku", "mnist1d"


def name_of(page: Path) -> str:
    return str(page.relative_to(pages.ROOT).with_suffix(""))


def images(page: Path) -> list[Path]:
    """The figures of a tutorial."""
    return [page.parent / path for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())]


@pytest.fixture
def as_a_reader(tmp_path, monkeypatch):
    """JAX as it comes, a folder of one's own, and no task that a page has added."""
    monkeypatch.setattr(mpj.tasks, "TASKS", TASKS)
    tasks = dict(TASKS)
    plain = jax.enable_x64(False), jax.numpy_rank_promotion("allow")
    with plain[0], plain[1], jax.numpy_dtype_promotion("standard"), pages.at(tmp_path):
        yield tmp_path
    TASKS.clear()
    TASKS.update(tasks)


def cases() -> list:
    """The pages that have a program, each program once; the README's runs in the fast suite too."""
    found = {pages.program(page).strip(): page for page in reversed(SOURCES)}
    found.pop("")
    readme = pages.ROOT / "README.md"
    return [
        pytest.param(page, marks=[] if page == readme else pytest.mark.slow, id=name_of(page))
        for page in sorted(found.values())
    ]


@pytest.mark.parametrize("page", cases())
def test_a_page_runs(page, as_a_reader, without_type_checks):
    for package in OPTIONAL:
        if re.search(rf"^(?:import|from) {package}\b", pages.program(page), re.MULTILINE):
            pytest.importorskip(package)
    pages.run(page)
    if page.parent.name == "tutorials":
        made = {path.name for path in as_a_reader.glob("*.png")}
        assert made == {path.name for path in images(page)}


def test_figures_of_tutorials_are_there_and_small():
    found = [image for page in SOURCES if page.parent.name == "tutorials" for image in images(page)]
    assert len(found) > 8
    assert not [image.name for image in found if not 0 < image.stat().st_size < 60_000]
