"""The process of `_peer_snntorch`: PROBLEM.npz GRADIENT.npz; then a run for every line on stdin."""

import json
import sys
import time
from typing import Any

import numpy as np

from ._memory import growth


def main(given: str, out: str) -> None:
    """One run, whose gradient is kept, and then one for each line."""
    # imported here: a module is also read where PyTorch is not
    import snntorch  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    with np.load(given) as file:
        problem = {name: torch.from_numpy(file[name]) for name in file.files}
    xs, ys = problem["xs"], problem["ys"]

    def linear(weight: Any, bias: Any = None) -> Any:
        layer = torch.nn.Linear(*reversed(weight.shape), bias=bias is not None, dtype=weight.dtype)
        layer.weight.data = weight
        if bias is not None:
            layer.bias.data = bias
        return layer

    inputs, readout = linear(problem["weight_in"]), linear(problem["readout"], problem["bias"])
    neurons = snntorch.RLeaky(
        beta=float(problem["leak"]),
        linear_features=len(problem["weight_rec"]),
        spike_grad=snntorch.surrogate.fast_sigmoid(float(problem["slope"])),
    )
    neurons.recurrent = linear(problem["weight_rec"])
    trained = {
        "weight_rec": neurons.recurrent.weight,
        "weight_in": inputs.weight,
        "readout": readout.weight,
        "bias": readout.bias,
    }

    def gradient() -> dict[str, Any]:
        drives, spikes = inputs(xs), []
        spike, membrane = torch.zeros_like(drives[0]), torch.zeros_like(drives[0])
        for drive in drives:
            spike, membrane = neurons(drive, spike, membrane)
            spikes.append(spike)
        loss = torch.mean((readout(torch.stack(spikes)) - ys) ** 2)
        found = torch.autograd.grad(loss, list(trained.values()))
        return {"loss": loss.detach(), **dict(zip(trained, found))}

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        gradient()
        began = time.perf_counter()
        gradient()
        return time.perf_counter() - began

    # for small networks threads are slower than none
    torch.set_num_threads(min({1, torch.get_num_threads()}, key=seconds))
    found, peak = growth(gradient)
    np.savez(out, **{name: value.numpy() for name, value in found.items()})
    print(json.dumps({"peak": peak}), flush=True)
    for _ in sys.stdin:
        gradient()
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
