"""snntorch's gradient of a network of LIF neurons, by backpropagation, in a process of its own.

There PyTorch has its own threads, which are not those of XLA. The process computes when it is told
to, so that it takes turns with the other programs; `_snntorch_worker` is what it runs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ._networks import SLOPE
from ._problem import Compiled, Gradient, Problem


def build(problem: Problem, segment: int | None) -> Compiled:
    """A process that has run once: there is nothing to compile."""
    del segment
    cell, readout = problem.model
    given = {
        "weight_rec": cell.weight_rec,
        "weight_in": cell.weight_in,
        "readout": readout.weight,
        "bias": readout.bias,
        "xs": problem.xs,
        "ys": problem.ys,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "problem.npz"), Path(folder, "gradient.npz")
        np.savez(paths[0], leak=float(cell.leak), slope=SLOPE, **given)
        module = f"{__package__}._snntorch_worker"
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # threads that wait must not hold a core that the other programs need
            env={"OMP_WAIT_POLICY": "passive", **os.environ},
        )
        about = json.loads(_answer(process))
        with np.load(paths[1]) as found:
            names = "weight_rec", "weight_in", "readout", "bias"
            result = found["loss"], Gradient.of_neurons(*(found[name] for name in names))

    def run():
        assert process.stdin is not None
        process.stdin.write("run\n")
        process.stdin.flush()
        _answer(process)
        return result

    def close():
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()

    return Compiled(run, 0.0, None, None, peak=about["peak"], close=close)


def _answer(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the process of snntorch ended with code {process.wait()}")
    return line
