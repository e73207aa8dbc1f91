"""NEST's e-prop on the spiking network of `sparse.py`.

python benchmarks/sparse_nest.py [--neurons 127978 --fan-in 20 --drive 50]

In an environment with `nest-simulator`; nothing else of this package is needed. In-degrees, leak
and threshold as there, neurons `eprop_iaf`, synapses `eprop_synapse` that learn at every step of
1 ms, two readouts whose errors come back to all neurons, Poisson input. NEST's time depends on how
many spikes there are (`--drive`), which the row says.
"""

import argparse
import resource
import time
from typing import Any

import nest  # pyright: ignore[reportMissingImports]
import numpy as np


STEPS, RUNS, OBSERVED = 20, 3, 1000


def main(given: argparse.Namespace) -> None:
    """Time the network of these arguments."""
    n, rng = given.neurons, np.random.default_rng(0)
    nest.ResetKernel()
    nest.set(resolution=1.0, local_num_threads=given.threads, rng_seed=1)
    draw = rng.lognormal(np.log(given.fan_in) - 0.5, 1.0, n)
    counts = np.clip(np.round(draw), 1, min(given.most, n - 1)).astype(int)
    post = np.repeat(np.arange(n), counts)
    weight = rng.normal(size=post.size) / np.sqrt(np.repeat(counts, counts))

    leaky = {"C_m": 1.0, "E_L": 0.0, "I_e": 0.0, "tau_m": 10.0, "V_m": 0.0}
    neurons = nest.Create("eprop_iaf", n, {**leaky, "t_ref": 1.0, "V_th": 0.6, "c_reg": 0.0})
    readouts = nest.Create("eprop_readout", 2, leaky)
    targets = nest.Create("step_rate_generator", 2)
    times = np.arange(2.0, 2000.0, 10.0)
    for target in targets:
        target.set(amplitude_times=times, amplitude_values=rng.normal(size=times.size))
    poisson = nest.Create("poisson_generator", 1, {"rate": given.drive})
    spikes = nest.Create("spike_recorder")

    optimizer: dict[str, Any] = {"type": "gradient_descent", "batch_size": 1, "eta": 1e-4}
    nest.SetDefaults("eprop_synapse", {"optimizer": {**optimizer, "optimize_each_step": True}})
    first = int(neurons[0].global_id)
    one_ms = {"delay": 1.0}
    nest.Connect(
        rng.integers(0, n, post.size) + first,
        post + first,
        "one_to_one",
        {"synapse_model": "eprop_synapse", "weight": weight, "delay": np.ones(post.size)},
    )
    nest.Connect(poisson, neurons, syn_spec={"weight": 0.2, **one_ms})
    reads = nest.random.normal(0.0, 1 / np.sqrt(n))
    syn = {"synapse_model": "eprop_synapse", "weight": reads, **one_ms}
    nest.Connect(neurons, readouts, syn_spec=syn)
    back = {"synapse_model": "eprop_learning_signal_connection", **one_ms}
    nest.Connect(readouts, neurons, syn_spec={**back, "weight": nest.random.normal(0.0, 1.0)})
    rate = {"synapse_model": "rate_connection_delayed", "receptor_type": 2, **one_ms}
    nest.Connect(targets, readouts, "one_to_one", rate)
    nest.Connect(neurons[: min(n, OBSERVED)], spikes)

    nest.Simulate(2.0 * STEPS)
    before, each = spikes.n_events, []
    for _ in range(RUNS):
        began = time.perf_counter()
        nest.Simulate(float(STEPS))
        each.append(1e3 * (time.perf_counter() - began) / STEPS)
    hertz = 1e3 * (spikes.n_events - before) / min(n, OBSERVED) / (STEPS * RUNS)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"| NEST {nest.__version__}, {hertz:.0f} spikes a second | {n:,} | {post.size:,} | "
        f"{min(each):.2f} ({np.median(each):.2f}) | {held:.0f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, default=127_978)
    parser.add_argument("--fan-in", type=float, default=20.0)
    parser.add_argument("--most", type=int, default=2_077)
    parser.add_argument(
        "--drive", type=float, default=50.0, help="spikes a second, onto each neuron"
    )
    parser.add_argument("--threads", type=int, default=2)
    main(parser.parse_args())
