"""What mkdocs adds to the pages in docs: those of the rules, and the notebooks."""

import os
import pathlib
import sys
from collections.abc import Mapping

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


HERE = pathlib.Path(__file__).parent
# a folder with the same notebooks, executed
NOTEBOOKS = pathlib.Path(os.environ.get("DOCS_NOTEBOOKS", HERE.parents[1] / "notebooks"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, and list them where the nav names their folder."""
    pages = {**rules(), **notebooks()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    config.nav = [_listed(entry, list(pages)) for entry in config.nav or []]
    return files


def rules() -> Mapping[str, str | bytes]:
    """The pages made from the cards of the rules."""
    sys.path.append(str(HERE))
    import rules

    return rules.pages()


def notebooks() -> dict[str, str | bytes]:
    """The notebooks as pages, and their figures."""
    pages: dict[str, str | bytes] = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        body, resources = MarkdownExporter().from_filename(
            str(path), resources={"unique_key": path.stem}
        )
        pages[f"examples/{path.stem}.md"] = body.replace("](../docs/", "](../")
        pages |= {f"examples/{name}": figure for name, figure in resources["outputs"].items()}
    return pages


def _listed(entry: dict, paths: list[str]) -> dict:
    """An entry of the nav, a folder replaced by its pages, the index first."""
    ((title, content),) = entry.items()
    if isinstance(content, str) and content.endswith("/"):
        found = [path for path in paths if path.startswith(content) and path.endswith(".md")]
        content = sorted(found, key=lambda path: not path.endswith("/index.md"))
    return {title: content}
