"""What a strict build also fails on, when the pages are written.

A public name that is not on exactly one page of the API, a formula that is not marked as one, and
anything that a page would load from another host. Broken links and pages that no nav leads to are
mkdocs' own warnings.
"""

import ast
import importlib
import logging
import pkgutil
import re
from collections import Counter, defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import modprop_jax


HEADING = re.compile(r'<h\d id="(modprop_jax[^"]*)" class="doc doc-heading"')
CODE = re.compile(r"<(pre|code|script|style|textarea)\b.*?</\1>", re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">.*?</\1>', re.DOTALL)
UNMARKED = re.compile(r".{0,40}(?:\\[()\[\]]|\\[a-z]{3,}\b|\$\$).{0,40}")
IN_CSS = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]*)")
log = logging.getLogger("mkdocs.hooks.checks")


def on_post_build(config: Any) -> None:
    """Warn of each; strict makes it a failure."""
    site, headings = Path(config.site_dir), Counter()
    pages = sorted(site.rglob("*.html"))
    for page in pages:
        text = page.read_text("utf-8")
        headings.update(HEADING.findall(text))
        found = [f"loads {url}" for url in foreign(text)]
        found += [f"formula that is not marked: {part}" for part in unmarked(text)]
        for what in found:
            log.warning("%s: %s", page.relative_to(site), what)
    for sheet in site.rglob("*.css"):
        for url in IN_CSS.findall(sheet.read_text("utf-8")):
            log.warning("%s: loads %s", sheet.relative_to(site), url)
    names = public_names()
    for paths in names:
        places = sum(headings[path] for path in paths)
        if places != 1:
            log.warning("%s has %d places on the pages of the API", paths[0], places)
    log.info("%d pages, %d public names", len(pages), len(names))


def public_names() -> list[list[str]]:
    """Each public object by name, with the paths that lead to it."""
    found = defaultdict(list)
    parts = _unhidden([part.name for part in pkgutil.iter_modules(modprop_jax.__path__)])
    modules = [importlib.import_module(f"modprop_jax.{name}") for name in parts]
    for module in [modprop_jax, *modules]:
        for name in _public(Path(str(module.__file__)).read_text("utf-8")):
            found[name, id(getattr(module, name))].append(f"{module.__name__}.{name}")
    return list(found.values())


def _public(source: str) -> list[str]:
    """Names that a module defines, or imports under their own name (`scan as scan`)."""
    names = []
    for node in ast.parse(source).body:
        match node:
            case ast.ImportFrom():
                names += [alias.name for alias in node.names if alias.asname == alias.name]
            case ast.FunctionDef() | ast.ClassDef():
                names.append(node.name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.append(name)
    return _unhidden(names)


def _unhidden(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


def unmarked(html: str) -> list[str]:
    """TeX that KaTeX will not draw."""
    return UNMARKED.findall(FORMULA.sub("", CODE.sub("", html)))


def foreign(html: str) -> list[str]:
    """Addresses on other hosts that a browser would request for the page itself."""
    resources = _Resources()
    resources.feed(html)
    return [url for url in resources.found if re.match(r"(https?:)?//", url)]


class _Resources(HTMLParser):
    """What is loaded, by tag: all `src`, and `href` of links that are no mere relation."""

    def __init__(self) -> None:
        HTMLParser.__init__(self)
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address."""
        named = {name: value or "" for name, value in attrs}
        self.found += [named[name] for name in ("src", "data", "poster") if name in named]
        if tag == "link" and named.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.found.append(named.get("href", ""))
        self.found += IN_CSS.findall(named.get("style", ""))
