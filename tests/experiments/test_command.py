"""The command before its work: it speaks at once, and Ctrl-C ends it at any moment."""

import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

import modprop_jax as mpj
import modprop_jax_command
from modprop_jax.diagnostics._pairs import named
from modprop_jax.experiments import align, align_stream, compare
from modprop_jax.experiments._compare._study import reopen
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._progress import Reporter
from modprop_jax.experiments._storage import RunFolder
from modprop_jax.experiments._summary import SECONDS


# Ctrl-C counts, also where these tests run in the background of a shell, which has it ignored
COMMAND = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, modprop_jax_command.__file__, *map(str, arguments)],
        env=os.environ | {"JAX_ENABLE_X64": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_nothing_heavy_comes_before_its_first_word():
    code = "import sys, modprop_jax_command; print(len({'numpy', 'jax'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=".")
    assert ran.stdout == "0\n", ran.stderr


@pytest.mark.parametrize(
    "word, wait",
    [
        ("starting\n", 0.5),  # importing
        ("bptt: compiling", 0.3),
        pytest.param("starting\n", 0.0, marks=pytest.mark.slow),
        pytest.param("run folder", 0.0, marks=pytest.mark.slow),
        pytest.param("starting: making", 0.5, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_it_starts(tmp_path, word, wait):
    folder = tmp_path / "run"
    size = ("--iterations", 200_000, "--eval-every", 100_000, "--hidden-size", 8, "--batch", 4)
    options = ("--rules", "bptt", "--seeds", 1, *size, "--out", folder)
    process = started("compare", "delayed_xor", *options)
    try:
        assert process.stdout is not None and process.stderr is not None
        early = word == "starting\n"
        seen = [process.stderr.readline()]
        while not early and word not in seen[-1]:
            assert (line := process.stdout.readline()), process.communicate()
            seen.append(line)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130 and "Traceback" not in errors
    assert seen[0] == "modprop-jax: starting\n"
    if early and not folder.exists():
        assert errors == "modprop-jax: interrupted; there is nothing to continue\n"
        return
    again = f"modprop-jax: interrupted; continue with: modprop-jax compare --resume {folder}\n"
    assert errors == again and reopen(RunFolder(folder)).rules == ("bptt",)
    assert early or seen[1] == f"run folder: {folder}\n"


def test_time_left_counts_compilation(monkeypatch, capsys):
    """A rule to come takes 10 iterations of .5 s, and 20 s beside them as this one did."""
    config = Config.make("delayed_xor", "small", ["bptt", "eprop"], 1, iterations=10, eval_every=5)
    now = [100.0]
    monkeypatch.setattr("modprop_jax.experiments._progress.time.monotonic", lambda: now[0])
    line = {"rule": "bptt", "loss": [1.0], "accuracy": [0.5]}
    with Reporter(config, Console()) as reporter:
        reporter.start("bptt", 0)
        now[0] += 20
        reporter.record(line | {"iteration": 0, SECONDS: None})
        now[0] += 2.5
        reporter.record(line | {"iteration": 5, SECONDS: 0.5})
    # 5 and 10 iterations, and 20 s
    assert "time left 0:00:28" in capsys.readouterr().out


def test_a_string_is_one_name(tmp_path):
    options = {"seeds": 1, "quiet": True, "iterations": 0}
    with pytest.raises(ValueError, match="iterations must be greater than 0"):
        compare("delayed_xor", "eprop", out=tmp_path / "a", **options)
    with pytest.raises(ValueError, match="unknown rule 'epro'.*mean 'eprop'"):
        compare("delayed_xor", "epro", out=tmp_path / "a", seeds=1)
    with pytest.raises(ValueError, match="unknown rule 'epro'.*mean 'eprop'"):
        align("delayed_xor", "epro", out=tmp_path / "a", seeds=1)
    with pytest.raises(ValueError, match="unknown rule 'rtr'.*mean 'rtrl'"):
        align_stream("add", "rtr", preset="brief", out=tmp_path / "a", seeds=1)
    assert Config.make("delayed_xor", "small", "eprop", 1).rules == ("eprop",)
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("without_type_checks")
def test_one_rule_is_a_sequence_of_one():
    assert named(mpj.EProp()) == named([mpj.EProp()]) == (("EProp",), (mpj.EProp(),))
    for wrong in ("eprop", ["eprop"], {"eprop": "eprop"}, [mpj.EProp]):
        with pytest.raises(
            ValueError, match="rules.* must be a (sequence of rules|credit rule).*[eE][pP]rop"
        ):
            named(wrong)  # pyright: ignore[reportArgumentType]
