"""One comparison in two processes."""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import pytest
from joined import together

from modprop_jax.experiments import compare, main
from modprop_jax.experiments._processes import check_alone, check_divided, said_by_first, whole


COMMAND = [sys.executable, "-m", "modprop_jax_command", "compare"]
SMALL: dict[str, Any] = {
    "seeds": 2,
    "iterations": 4,
    "eval_every": 2,
    "hidden_size": 12,
    "batch": 8,
}


def metrics(folder: pathlib.Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = ("rule", "iteration", "loss", "accuracy", "cosine")
    return [{k: v for k, v in json.loads(line).items() if k in kept} for line in lines]


@pytest.mark.slow
def test_two_processes_compare_as_one_and_resume(tmp_path):
    """A seed in each; the first process alone speaks and writes; what is lost is done again."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    compare("delayed_xor", ("eprop", "bptt"), out=alone, quiet=True, **SMALL)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    typed = ["delayed_xor", "--rules", "eprop", "bptt", *options, "--out", str(both)]
    first, second = together([*COMMAND, *typed, "--distributed"])
    assert "device: 2 x" in first and f"written to {both}" in first, first + second
    assert "written" not in second and "loss" not in second
    for have, want in zip(metrics(both), metrics(alone), strict=True):
        assert (have["rule"], have["iteration"]) == (want["rule"], want["iteration"])
        for name in ("loss", "accuracy", *(["cosine"] if "cosine" in want else [])):
            np.testing.assert_allclose(have[name], want[name], rtol=1e-9)
    whole_run = metrics(both)
    (both / "checkpoints" / "bptt.eqx").unlink()
    first, second = together([*COMMAND, "--resume", str(both), "--distributed"])
    assert "bptt: compiling" in first and "eprop: compiling" not in first, first + second
    assert metrics(both) == whole_run


def test_one_process_needs_nothing():
    tree = {"a": jax.numpy.ones(3), "b": "rest"}
    assert whole(tree) is tree
    assert said_by_first(b"x") == b"x" and said_by_first(None) is None
    check_divided(3, 5, None)
    check_alone()


def test_devices_without_work_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="devices of all processes must divide"):
        check_divided(3, 5, None)
    with pytest.raises(ValueError, match="streams run in one process"):
        check_alone()


@pytest.mark.parametrize(
    "typed, said",
    [
        (["--process", "1"], "belong to --distributed"),
        (["--distributed", "--processes", "2"], "go together"),
    ],
)
def test_what_does_not_go_together(typed, said, capsys):
    assert main(["compare", "delayed_xor", *typed]) == 2
    assert said in capsys.readouterr().err
