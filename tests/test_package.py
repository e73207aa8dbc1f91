"""The package as it is published: one version everywhere, and a command that tells it."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import modprop_jax as mpj


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version():
    cff = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[^]]*)\] - (\S+)$", changelog, re.MULTILINE)
    assert released[0][0] == PROJECT["version"] == mpj.__version__
    assert f"version: {PROJECT['version']}\n" in cff
    assert f'date-released: "{released[0][1]}"' in cff
    (title,) = re.findall('^title: "(.*)"$', cff, re.MULTILINE)
    assert f"title = {{{{modprop\\_jax}}{title.removeprefix('modprop_jax')}}}" in mpj.cite()


def test_the_command_tells_its_version_without_jax():
    program = "import sys, modprop_jax_command as c; c.main(); print('jax' in sys.modules)"
    run = [sys.executable, "-c", program, "--version"]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert out == f"modprop_jax {PROJECT['version']}\nFalse\n"


def test_a_reader_may_leave():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "modprop_jax_command", "list"]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (run.returncode, run.stderr) == (128 + signal.SIGPIPE, "")


def test_every_extra_is_named_in_the_questions():
    said = (ROOT / "docs" / "faq.md").read_text()
    for extra in PROJECT["optional-dependencies"]:
        assert f'".[{extra}]"' in said, extra
