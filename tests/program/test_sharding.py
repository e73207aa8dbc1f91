"""Runs `sharded.py` where there are eight virtual devices, which must be set before JAX starts."""

import os
import pathlib
import subprocess
import sys

import pytest
from joined import together


MAPPED = "shard_map or itself"
PARTS = "neurons_over"
COUNTS = [(f"not ({MAPPED} or {PARTS})", 21), (MAPPED, 13), (PARTS, 5)]


@pytest.mark.parametrize("which, count", COUNTS)
@pytest.mark.slow
def test_sharded_over_eight_devices(which, count):
    file = pathlib.Path(__file__).parents[1] / "sharded.py"
    flags = "--xla_force_host_platform_device_count=8"
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-k",
            which,
            str(file),
        ],
        env=os.environ | {"XLA_FLAGS": flags, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ran.returncode == 0 and f"{count} passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.slow
def test_two_processes_share_the_neurons():
    """Eight devices, four in each of two processes, which are one machine to JAX."""
    file = pathlib.Path(__file__).parents[1] / "distributed.py"
    said = together([sys.executable, str(file)], "--xla_force_host_platform_device_count=4")
    assert all("8 devices, 4 here: the same" in text for text in said), "\n".join(said)
