"""Which trials each rule gets, what is chosen of them, and that a kill changes nothing."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from folders import resigned, unsigned

from modprop_jax.experiments import compare, main, resume
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._setup import seed_keys, setup
from modprop_jax.experiments._summary import SECONDS
from modprop_jax.experiments._tuning import Tuning


TINY: dict[str, Any] = {"batch": 2, "hidden_size": 4, "excitatory": 3, "iterations": 2}
TINY |= {"eval_every": 2, "data": {"cue": 2, "delay": 1}, "seeds": 2, "quiet": True}


def made(rules, rates=None, tune=None) -> Tuning:
    return Tuning.make(rules, rates, tune, 1, 10, range(5))


def test_learning_rates_share_what_is_compiled():
    """All that `_advance` is compiled for, but not the state, in which the rate is."""
    one, other = (
        Config.make("delayed_xor", "small", ["eprop"], 1, learning_rate=rate) for rate in (0.1, 0.2)
    )
    first, second = setup(one), setup(other)
    assert first.loss is second.loss and first.data is second.data
    assert first.optimizer.update is second.optimizer.update
    for parts, rate in ((first, 0.1), (second, 0.2)):
        state: Any = parts.start(seed_keys(one)[0]).opt_state
        assert state.learning_rate == pytest.approx(rate)
    assert setup(one) is first


@pytest.mark.parametrize(
    "tune",
    [
        "modprop:mu=0.1,0.25,auto",
        ["modprop:mu=0.1,0.25,auto"],
        {"modprop": {"mu": [0.1, 0.25, "auto"]}},
        {"modprop": {"mu": "0.1,0.25,auto"}},
    ],
)
def test_all_combinations_however_they_are_said(tune):
    tuning = made(["modprop", "eprop"], [0.01, 0.1], tune)
    assert tuning.labels("modprop") == [
        f"modprop:mu={mu},learning_rate={rate}"
        for mu in ("0.1", "0.25", "auto")
        for rate in (0.01, 0.1)
    ]
    assert tuning.labels("eprop") == ["eprop:learning_rate=0.01", "eprop:learning_rate=0.1"]


def test_every_rule_has_as_many_trials():
    """More points of the same range for what has fewer options; what is said one by one stays."""
    rules = ["modprop", "kernl", "eprop", "bptt:learning_rate=0.5"]
    tune = "modprop:mu=0.1,0.25,auto", "kernl:alpha=0.1,0.2"
    tuning = made(rules, "0.001..0.1/3", tune)
    rates: Any = {rule: tuning.options.get(rule, {}).get("learning_rate") for rule in rules}
    assert rates["modprop"] is None and tuning.rates == (0.001, 0.01, 0.1)
    assert [len(tuning.labels(rule)) for rule in rules] == [9, 8, 9, 1]
    for rule in ("kernl", "eprop"):
        assert (rates[rule][0], rates[rule][-1]) == (0.001, 0.1) and len({*rates[rule]}) > 3
    assert tuning.labels("bptt:learning_rate=0.5") == ["bptt:learning_rate=0.5"]
    listed = made(rules, [0.001, 0.1], tune)
    assert [len(listed.labels(rule)) for rule in rules] == [6, 4, 2, 1]
    # a rule's own rates count as they are
    own = made(["modprop", "eprop"], "1e-3..1e-1", "eprop:learning_rate=0.1,0.2")
    assert own.labels("eprop") == ["eprop:learning_rate=0.1", "eprop:learning_rate=0.2"]
    assert len(own.labels("modprop")) == 5


def test_an_option_is_for_the_rules_that_leave_it_open():
    tuning = made(["modprop:mu=0.5", "modprop"], None, "modprop:mu=0.1,0.2,l2=0,0.1")
    assert tuning.labels("modprop:mu=0.5") == ["modprop:mu=0.5,l2=0", "modprop:mu=0.5,l2=0.1"]
    assert len(tuning.labels("modprop")) == 4
    # without rates each rule keeps its own, and what has nothing to tune is tried as it is
    assert made(["modprop", "eprop"], None, "modprop:mu=0.1,0.2").labels("eprop") == ["eprop"]
    spaced = made(["kernl"], None, "kernl:alpha=0.01..1/3,0.5")
    assert spaced.labels("kernl") == [f"kernl:alpha={each}" for each in (0.01, 0.1, 1, 0.5)]
    counts = made(["uoro"], None, "uoro:probes=1,4")
    assert counts.labels("uoro") == ["uoro:probes=1", "uoro:probes=4"]


@pytest.mark.parametrize(
    "tune, message",
    [
        ("modprop", "a rule, options and their values are due"),
        ("modprop:", "a rule, options and their values are due"),
        ("modprop:mu", "a rule, options and their values are due"),
        ("modprop:mu=", 'mu needs a number or "auto", but got '),
        ("modprop:mu=0.1,fast", 'mu needs a number or "auto", but got .fast'),
        ("modprop:mu=nan", "mu needs a number"),
        ("modprop:mu=0.1,0.10", "a value of mu is given twice"),
        ("modprop:mu=0.1,mu=0.2", "mu is given twice"),
        (["modprop:mu=0.1", "modprop:mu=0.2"], "mu is given twice"),
        ("modprop:mu=0..1", "a range is such as .* but got '0..1'"),
        ("modprop:mu=0.1..1/x", "a range is such as"),
        ("modprop:feedback=random", "unknown modprop option to tune 'feedback'.*possible: mu,"),
        ("modprop:muu=0.1", "unknown modprop option to tune 'muu'.*mean 'mu'"),
        ("magic:mu=0.1", "unknown rule 'magic'"),
        ("mdgl:l2=0.1", "l2 of mdgl is to be tuned, but no rule is compared that leaves it open"),
        ("bptt:learning_rate=0.1", "learning_rate of bptt is to be tuned, but no rule"),
        ("uoro:probes=1..4", "probes is a count: give each value"),
        ("eprop:learning_rate=0.1,-1", "learning_rate must be greater than 0"),
        ("modprop:taps=2,-1", "taps must be a whole number"),
        ("modprop:taps=1.5", "taps must be a whole number"),
        ({"modprop": {"mu": []}}, "mu needs a number"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_begins(tune, message, tmp_path):
    rules = ["modprop", "eprop", "bptt:learning_rate=0.1"]
    if "uoro" in str(tune):
        with pytest.raises(ValueError, match=message):
            made(["uoro"], None, tune)
        return
    with pytest.raises(ValueError, match=message):
        compare("delayed_xor", rules, tune=tune, out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


def _lines(folder):
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != SECONDS} for line in lines]


def test_an_option_is_chosen_with_the_rate_and_a_kill_changes_nothing(tmp_path, capsys):
    """Of the trials that were lost, and where only the choice was."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tuning: dict[str, Any] = {"learning_rates": "0.01..0.1/1", "tune_seeds": 1}
    tuning["tune"] = "modprop:mu=0.05,0.5,auto"
    rules = ["modprop", "eprop"]
    aloud: dict[str, Any] = TINY | {"quiet": False}
    result = compare("delayed_xor", rules, out=whole, **tuning, **aloud)
    said = capsys.readouterr().out
    assert "tuning: 6 trials of 1 seeds" in said
    found = json.loads((whole / "tuning.json").read_text())
    assert len(found["loss"]) == 6 == len({*found["loss"].values()})
    mine = {name: loss for name, loss in found["loss"].items() if name.startswith("modprop")}
    assert {re.findall("mu=([^,]*)", name)[0] for name in mine} == {"0.05", "0.5", "auto"}
    assert found["chosen"]["modprop"] == min(mine, key=mine.__getitem__)
    assert result.config.rules == tuple(found["chosen"].values())
    assert {line["rule"] for line in _lines(whole)} == {*found["chosen"].values()}
    text = (whole / "tuning.md").read_text()
    assert "Trials: modprop 3, eprop 3." in text and "Not all" not in text
    assert text.count("**") == 4 and text.count("| rule |") == 2
    for name, loss in found["loss"].items():
        assert f"{loss:.4g}" in text, name

    shutil.copytree(whole / "tuning", killed / "tuning")
    shutil.copy(whole / "config.json", killed)
    (killed / "checkpoints").mkdir()
    for path in (killed / "tuning" / "checkpoints").glob("eprop*"):  # which come last
        path.unlink()
    assert main(["compare", "--resume", str(killed)]) == 0
    assert _lines(killed) == _lines(whole) and _lines(killed / "tuning") == _lines(whole / "tuning")
    assert (killed / "tuning.json").read_text() == (whole / "tuning.json").read_text()
    (killed / "tuning.json").unlink()
    again = resume(killed, quiet=True)
    assert again.config.rules == result.config.rules


def test_the_report_says_where_rules_had_other_numbers_of_trials(tmp_path):
    run = tmp_path / "run"
    tuning: dict[str, Any] = {"tune": "modprop:mu=0.05,0.5", "tune_seeds": 1}
    compare("delayed_xor", ["modprop", "eprop"], out=run, learning_rates=[0.01], **tuning, **TINY)
    text = (run / "tuning.md").read_text()
    assert "Trials: modprop 2, eprop 1." in text
    assert "- eprop had nothing to choose from: eprop:learning_rate=0.01." in text
    assert "learns best at an end of what was tried, mu 0." in text
    config = run / "config.json"
    for options, message in (
        ({"modprop": {"mu": []}}, "an option without values"),
        ({"modprop": {"mu": ["fast"]}}, "mu needs a number"),
        ({"modprop": {"mu": 3}}, "tune can't be"),
    ):
        changed = unsigned(config)["tune"] | {"options": options}
        config.write_text(resigned(config, tune=changed))
        with pytest.raises(ValueError, match=message):
            resume(run)


def test_a_folder_of_before_options_could_be_tuned(tmp_path):
    """Its `config.json` has no such field."""
    config = Config.make("delayed_xor", "small", ["eprop"], 1, learning_rates=[0.1])
    data = json.loads(json.dumps(config.to_dict()))
    del data["tune"]["options"]
    assert Config.from_dict(data).tune == config.tune
