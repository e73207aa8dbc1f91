"""What the site's own checks see, on lines of HTML."""

import importlib.util
from pathlib import Path

import pytest


FILE = Path(__file__).parents[2] / "docs" / "hooks" / "checks.py"
SPEC = importlib.util.spec_from_file_location("checks", FILE)
assert SPEC and SPEC.loader
checks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(checks)


@pytest.mark.parametrize(
    "html, found",
    [
        ('<script src="https://a.b/c.js"></script>', ["https://a.b/c.js"]),
        ('<img alt="" src="//a.b/c.png">', ["//a.b/c.png"]),
        ('<link rel="stylesheet" href="http://a.b/c.css">', ["http://a.b/c.css"]),
        ('<p style="background: url(https://a.b/c.png)">', ["https://a.b/c.png"]),
        ('<link rel="canonical" href="https://a.b/"><a href="https://a.b/">b</a>', []),
        ('<script src="../c.js"></script><img src="data:image/png;base64,AA">', []),
    ],
)
def test_foreign(html, found):
    assert checks.foreign(html) == found


@pytest.mark.parametrize(
    "html, count",
    [
        (r"<p>with \( x_t \) there</p>", 1),
        (r"<p>\frac{a}{b}</p>", 1),
        (r'<p>with <span class="arithmatex">\(x_t\)</span> there</p>', 0),
        (r"<pre>\[ x \]</pre> and <code>\(</code>", 0),
    ],
)
def test_unmarked(html, count):
    assert len(checks.unmarked(html)) == count


def test_public_names():
    names = checks.public_names()
    assert ["modprop_jax.scan"] in names
    assert ["modprop_jax.alignment", "modprop_jax.diagnostics.alignment"] in names
    assert ["modprop_jax.EProp"] in names and ["modprop_jax.RFLO"] in names
    assert ["modprop_jax.tasks.TASKS"] in names
