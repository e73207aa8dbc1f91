"""Every approximate rule differs from BPTT and from its neighbours, offline and streamed.

Without this, a package in which every rule is BPTT would pass most of the other suites. Distances
are relative to the norm of BPTT's gradient, over the parameters of the cell.
"""

import itertools

import numpy as np
import pytest
from helpers import flat, home, meeting, offline, RULES, streamed


# measured: 0.020 between the two nearest rules (the two MDGL with types); how far each is from BPTT
# stands in its row
FROM_EACH_OTHER = 0.015
TOGETHER = ("leaky", "adaptive")


def at(suite, cell_name):
    """The rules that are compared on a cell: all of its, or those that are at home there."""
    return [
        name
        for name in meeting(suite, cell_name)
        if cell_name in TOGETHER or home(name) == cell_name
    ]


HOMES = list(dict.fromkeys([*TOGETHER, *map(home, RULES)]))


def of_cell(name, cell_name, streams=False):
    """The gradient of the cell."""
    found = streamed(name, cell_name, 5) if streams else offline(name, cell_name)
    return flat(found[1].rnn.cell)


@pytest.mark.parametrize(
    "streams", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["offline", "streamed"]
)
@pytest.mark.parametrize("cell_name", HOMES)
def test_approximate_rules_differ_from_bptt_and_from_each_other(cell_name, streams):
    exact = of_cell("bptt", cell_name)
    rules = at("differs", cell_name)
    found = {name: of_cell(name, cell_name, streams) for name in rules}

    def apart(one, other):
        return np.linalg.norm(one - other) / np.linalg.norm(exact)

    for name in rules:
        assert apart(found[name], exact) > RULES[name].far, name
    for one, other in itertools.combinations(at("apart", cell_name), 2):
        assert apart(found[one], found[other]) > FROM_EACH_OTHER, (one, other)
    if streams:
        # BPTT in segments is truncated, and no other rule
        truncated = of_cell("bptt", cell_name, streams)
        for name in rules:
            assert apart(truncated, found[name]) > FROM_EACH_OTHER, name
        if cell_name in TOGETHER:
            assert apart(truncated, exact) > 0.25


@pytest.mark.parametrize("cell_name", HOMES)
def test_exact_rules_are_bptt(cell_name):
    exact = of_cell("bptt", cell_name)
    for name in at("exact", cell_name):
        off = np.linalg.norm(of_cell(name, cell_name) - exact) / np.linalg.norm(exact)
        assert off < 1e-12, name


@pytest.mark.parametrize("cell_name", HOMES)
def test_approximate_rules_point_where_bptt_points(cell_name):
    """They differ, but they are approximations: more than random alignment, of the right size."""
    exact = of_cell("bptt", cell_name)
    for name in at("points", cell_name):
        other = of_cell(name, cell_name)
        assert exact @ other > 0.6 * np.linalg.norm(exact) * np.linalg.norm(other), name
        assert 0.3 < np.linalg.norm(other) / np.linalg.norm(exact) < 2, name


@pytest.mark.parametrize("cell_name", HOMES)
def test_readout_gradients_are_exact_under_every_rule(cell_name):
    expected = flat(offline("bptt", cell_name)[1].readout)
    for name in at("readout", cell_name):
        actual = flat(offline(name, cell_name)[1].readout)
        np.testing.assert_allclose(actual, expected, rtol=1e-12, err_msg=name)
