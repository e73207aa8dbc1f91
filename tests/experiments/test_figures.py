"""Figures as a journal takes them, and a rule's own look in all of them."""

import csv
import io

import numpy as np
import pytest

from modprop_jax.experiments import DEFAULT_RULES, main
from modprop_jax.experiments._rule_figures import by_rule, grouped, matrices, MOST
from modprop_jax.experiments._rule_styles import is_exact, name_of, styles
from modprop_jax.experiments._rules import ENTRIES, ONLINE_RULES
from modprop_jax.experiments._statistics import interval


def look(style):
    return tuple(map(str, (style.line["color"], style.line["ls"], style.line["marker"])))


def of(rules, seeds=4, steps=12, **options):
    """A figure of random walks, and these."""
    rng = np.random.default_rng(0)
    walks = {rule: rng.normal(size=(steps, seeds)).cumsum(0) for rule in rules}

    def draw(drawing, axes, rule, style):
        drawing.along(axes, rule, style, "score", range(steps), walks[rule])

    panels = [(draw, lambda axes: axes.set_ylabel("score"))]
    return by_rule("walk", "walks", rules, panels, **options), walks


def test_every_rule_has_a_look_and_a_name_of_its_own():
    """Line and marker alone, without the colour, tell apart what a figure shows by default."""
    found = styles(list(ENTRIES))
    assert len({look(style) for style in found.values()}) == len(ENTRIES)
    assert len({style.name for style in found.values()}) == len(ENTRIES)
    assert found["eprop"].name == "e-prop" and found["modprop"].name == "ModProp"
    for rules in (DEFAULT_RULES, ONLINE_RULES):
        for panel in grouped(rules):
            assert len({look(found[rule])[1:] for rule in panel}) == len(panel)


def test_a_rule_looks_the_same_whatever_stands_beside_it():
    among = styles(["uoro", "bptt", "eprop"])["eprop"].line
    assert among == styles(["eprop"])["eprop"].line == styles(list(ENTRIES))["eprop"].line


def test_options_keep_the_colour_and_change_line_and_marker():
    labels = ["modprop", "modprop:mu=0.5", "modprop:mu=0.5,learning_rate=0.01"]
    plain, other, third = styles(labels).values()
    assert plain.line["color"] == other.line["color"] == third.line["color"]
    assert len({look(style)[1] for style in (plain, other, third)}) == 3
    assert plain.line["mfc"] != other.line["mfc"]
    assert third.name == "ModProp, μ = 0.5, η = 0.01"
    assert name_of("my_rule:alpha=1") == "my rule, alpha = 1" and is_exact("bptt:segment=5")


def test_at_most_eight_rules_in_a_panel_and_the_exact_one_in_each():
    assert grouped(list(ENTRIES)[:MOST]) == [list(ENTRIES)[:MOST]]
    groups = grouped(list(ENTRIES))
    assert max(map(len, groups)) <= MOST and {rule for g in groups for rule in g} == set(ENTRIES)
    exact = next(rule for rule in ENTRIES if is_exact(rule))
    assert all(group[-1] == exact for group in groups)


def test_files_that_a_journal_takes():
    """One column of 3.4 inches at 300 dots; fonts embedded as TrueType; the data as drawn."""
    files, walks = of(["eprop", "bptt"])
    assert sorted(files) == ["walk.csv", "walk.pdf", "walk.png", "walk.svg"]
    png = files["walk.png"]
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == 1020
    assert b"/FontFile2" in files["walk.pdf"] and b"/Type3" not in files["walk.pdf"]
    assert b"<text" not in files["walk.svg"]  # outlines: no font is asked for
    head, *rows = csv.reader(io.StringIO(files["walk.csv"].decode()))
    assert head == ["rule", "quantity", "iteration", "mean", "low", "high"] + [
        f"seed {i}" for i in range(4)
    ]
    assert len(rows) == 24 and {row[0] for row in rows} == {"eprop", "bptt"}
    drawn = np.array([row[3:] for row in rows if row[0] == "eprop"], float)
    low, high = interval(walks["eprop"])
    expected = np.column_stack([walks["eprop"].mean(1), low, high, walks["eprop"]])
    np.testing.assert_allclose(drawn, expected)
    assert of(["eprop", "bptt"])[0] == files  # the same run, the same files


def test_many_rules_take_the_page_and_one_seed_has_no_band():
    files, _ = of(list(ENTRIES), seeds=1)
    assert int.from_bytes(files["walk.png"][16:20], "big") == 2100
    rows = list(csv.reader(io.StringIO(files["walk.csv"].decode())))[1:]
    assert {row[0] for row in rows} == set(ENTRIES) and {(r[4], r[5]) for r in rows} == {("", "")}


def test_matrices_keep_their_numbers():
    cosine = np.array([[1, 0.25], [0.25, 1]])
    files = matrices("matrix", "cosines", ["eprop", "bptt"], {"start": cosine, "end": -cosine})
    head, *rows = csv.reader(io.StringIO(files["matrix.csv"].decode()))
    assert head == ["panel", "rule", "eprop", "bptt"] and rows[3] == [
        "end",
        "bptt",
        "-0.25",
        "-1.0",
    ]


def test_a_style_has_the_last_word(tmp_path, capsys):
    style = tmp_path / "lab.mplstyle"
    style.write_text("savefig.dpi: 50\n")
    files, _ = of(["eprop"], style=style)
    assert int.from_bytes(files["walk.png"][16:20], "big") == 170
    assert main(["compare", "delayed_xor", "--style", "no-such-style"]) == 2
    error = capsys.readouterr().err
    assert "'no-such-style' is neither a file" in error and error.count("\n") == 1
    with pytest.raises(ValueError, match="neither a file"):
        of(["eprop"], style=tmp_path / "none.mplstyle")
