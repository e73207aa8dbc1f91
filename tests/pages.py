"""The Python of pages: the blocks of a page are one program, run from top to bottom.

`python tests/pages.py docs/tutorials/*.md --out docs/tutorials/figures` runs pages as a reader
does, and leaves there what they save.
"""

import argparse
import contextlib
import linecache
import re
import shutil
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
# also in tabs, which indent it; what stands after the language is for the site (hl_lines="3")
BLOCK = re.compile(r"^( *)```python(?!\w)(.*)\n((?:.*\n)*?)\1```", re.MULTILINE)
SKETCH = 'title="sketch"'


def program(page: Path) -> str:
    """The blocks of a page, each on its own lines: errors are reported by the line of the page."""
    text, lines = page.read_text(), []
    for block in BLOCK.finditer(text):
        if SKETCH not in block[2]:
            lines += [""] * (text[: block.start(3)].count("\n") - len(lines))
            lines += textwrap.dedent(block[3]).splitlines()
    return "\n".join(lines)


def run(page: Path) -> dict[str, Any]:
    """What a page defines, when it has run."""
    source, name = program(page), str(page)
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    names: dict[str, Any] = {"__name__": page.stem.lower()}
    exec(compile(source, name, "exec"), names)
    return names


@contextlib.contextmanager
def at(folder: Path) -> Iterator[None]:
    """Figures without a window, relative paths from here."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    with contextlib.chdir(folder):
        try:
            yield
        finally:
            plt.close("all")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run pages, and say how long each took."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    for page in [page.resolve() for page in chosen.pages]:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            with at(Path(folder)):
                run(page)
            for figure in Path(folder).glob("*.png"):
                shutil.copy(figure, chosen.out)
        print(f"{page.name}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
