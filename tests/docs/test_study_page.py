"""The page on a study of one's own, from the shell and killed, as it says that it may be."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pages
import pytest

import modprop_jax_command


PAGE = pages.ROOT / "docs" / "tutorials" / "your-study.md"
TINY = {"--seeds": "2", "--tune-seeds": "1", "--iterations": "2", "--eval-every": "1"}
TINY |= {"--batch": "4", "--out": None}


def command() -> list[str]:
    """The page's, without `modprop-jax`, at a tiny size."""
    (text,) = re.findall(r"^modprop-jax (compare lab\.py(?:.*\\\n)*.*)$", PAGE.read_text(), re.M)
    words = text.replace("\\\n", " ").split()
    for option, value in TINY.items():
        words[words.index(option) + 1] = value or "{folder}"
    return words


def started(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, modprop_jax_command.__file__, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(pages.ROOT)},
    )


def done(*arguments: str) -> None:
    process = started(*arguments)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def lines(folder: str) -> list[dict]:
    found = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in found]


@pytest.mark.slow
def test_its_command_killed_among_the_trials_ends_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    definitions, _, _ = pages.program(PAGE).partition("from modprop_jax.experiments")
    Path("lab.py").write_text(definitions)
    done(*(word.format(folder="whole") for word in command()))
    trials = len(lines("whole/tuning"))
    process = started(*(word.format(folder="killed") for word in command()))
    metrics = Path("killed/tuning/metrics.jsonl")
    try:
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < trials // 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert metrics.read_bytes().count(b"\n") < trials and not Path("killed/tuning.json").exists()
    done("compare", "--resume", "killed")
    assert lines("killed/tuning") == lines("whole/tuning") and lines("killed") == lines("whole")
    for name in ("tuning.md", "tuning.json", "curves.csv"):
        assert Path("killed", name).read_text() == Path("whole", name).read_text()
    assert Path("killed/curves.pdf").read_bytes().startswith(b"%PDF")
    assert "seeds support" in Path("killed/table.md").read_text()
