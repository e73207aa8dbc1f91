"""The table of rules, held to the package: every rule is in it, and what it does not meet has a
reason."""

import pytest
from helpers import CELLS, home, meeting, OWN_CELLS, public_rules, rule, RULES, serves, SUITES


def test_every_public_rule_has_a_row():
    assert {type(rule(name)).__name__ for name in RULES} == public_rules()


@pytest.mark.parametrize("name", RULES)
def test_a_row_says_what_it_opts_out_of_and_why(name):
    row = RULES[name]
    assert set(row.opts_out) <= set(SUITES), "it names a suite that there is not"
    assert all(len(reason.split()) > 1 for reason in row.opts_out.values())
    assert row.like is None or (row.like in RULES and RULES[row.like].like is None)
    assert set(row.cells or ()) <= {*CELLS, *OWN_CELLS}
    assert serves(name, home(name))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_meets_every_suite_that_it_does_not_opt_out_of(name):
    for suite, (_, cells) in SUITES.items():
        if suite not in RULES[name].opts_out and cells:
            assert any(serves(name, cell_name) for cell_name in cells), suite
        assert (name in meeting(suite)) == (suite not in RULES[name].opts_out)


def test_a_rule_is_exact_or_it_is_not():
    for name, row in RULES.items():
        assert ("exact" in row.opts_out) != ("differs" in row.opts_out), name


def test_a_suite_that_there_is_not():
    with pytest.raises(AssertionError, match="streamd"):
        meeting("streamd")
