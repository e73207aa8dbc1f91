"""braintrace on the rate network of `sparse.py`: its sparse operators, its traces.

python benchmarks/sparse_braintrace.py [--neurons 127978] [--algorithm D_RTRL]

In an environment with `braintrace` and `numba`. The same network, input, readout and SGD step after
every step; `D_RTRL` keeps a trace for each synapse, `pp_prop` with these decays one for each
neuron, which is e-prop here. Recurrent weights alone learn.
"""

import dataclasses
import resource
import time
from typing import Any, Literal

import brainevent  # pyright: ignore[reportMissingImports]
import brainstate  # pyright: ignore[reportMissingImports]
import braintrace  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from sparse import INPUTS, made, Network, OUTPUTS, STEPS


@dataclasses.dataclass(frozen=True)
class Program:
    """Neurons, their mean in-degree, and what keeps the traces."""

    neurons: int = 127_978
    fan_in: float = 20.0
    most: int = 2_077
    algorithm: Literal["D_RTRL", "pp_prop"] = "D_RTRL"
    runs: int = 7


def rows_of(synapses: Any) -> Any:
    """The list by presynaptic neuron, as brainevent has it."""
    order = np.lexsort((np.asarray(synapses.post), np.asarray(synapses.pre)))
    pre, post = np.asarray(synapses.pre)[order], np.asarray(synapses.post)[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(pre, minlength=synapses.shape[1]))])
    index = jnp.asarray(post, jnp.int32), jnp.asarray(ends, jnp.int32)
    return brainevent.CSR((synapses.weight[order], *index), shape=synapses.shape[::-1])


def main(of: Program) -> None:
    """Time one program."""
    model = made(Network(of.neurons, of.fan_in, of.most))
    cell: Any = model.rnn.cell
    leak, n = float(cell.leak), of.neurons
    inward, outward = cell.weight_in.as_matrix().T, model.readout.weight.T

    class Leaky(brainstate.nn.Module):
        def __init__(self):
            brainstate.nn.Module.__init__(self)
            self.recurrent = braintrace.nn.SparseLinear(rows_of(cell.weight_rec))

        def init_state(self, batch_size=None, **_):
            self.v = brainstate.HiddenState(jnp.zeros(n, jnp.float32))

        def update(self, x):
            v = self.v.value
            self.v.value = leak * v + (1 - leak) * (self.recurrent(jax.nn.relu(v)) + x)
            return jax.nn.relu(self.v.value)

    net = Leaky()
    brainstate.nn.init_all_states(net)
    options = {} if of.algorithm == "D_RTRL" else {"decay_or_rank": (leak, 0.0)}
    learner: Any = braintrace.compile(net, of.algorithm, jnp.zeros(n), **options)
    weights = {"recurrent": net.recurrent.weight}

    def step(seen):
        x, y = seen

        def loss():
            return jnp.mean((learner(x @ inward) @ outward - y) ** 2)

        gradients, value = brainstate.transform.grad(loss, weights, return_value=True)()
        trained = net.recurrent.weight
        trained.value = jax.tree.map(
            lambda w, g: w - 1e-4 * g, trained.value, gradients["recurrent"]
        )
        return value

    @brainstate.transform.jit
    def run(xs, ys):
        return brainstate.transform.for_loop(step, (xs, ys))

    data = jr.normal(jr.key(5), (STEPS, INPUTS)), jr.normal(jr.key(6), (STEPS, OUTPUTS))
    jax.block_until_ready(run(*data))
    each = []
    for _ in range(of.runs):
        began = time.perf_counter()
        jax.block_until_ready(run(*data))
        each.append(1e3 * (time.perf_counter() - began) / STEPS)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"| braintrace {braintrace.__version__}, {of.algorithm} | {n:,} | "
        f"{cell.weight_rec.weight.size:,} | {min(each):.2f} ({np.median(each):.2f}) | {held:.0f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Program, description=__doc__))
