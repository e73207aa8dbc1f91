"""spyx's gradient of a network of LIF neurons, by backpropagation.

Its neurons take credit through their reset, as those of the network `lif_reset`. A step emits the
spikes of the state that it starts from: so it runs one step longer, and its first emission is left
out. β, which it trains, is a constant here.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ._networks import SLOPE
from ._problem import Gradient, Problem, squared_error


def build(problem: Problem, segment: int | None):
    """See `Program.build`."""
    del segment
    import spyx  # pyright: ignore[reportMissingImports]
    from flax import nnx

    cell, readout = problem.model
    n, steps = cell.hidden_size, len(problem.xs)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.inputs = nnx.Linear(cell.in_size, n, use_bias=False, rngs=rngs)
            spike = spyx.axn.superspike(SLOPE)
            self.neurons = spyx.nn.RLIF((n,), beta=float(cell.leak), activation=spike, rngs=rngs)
            self.readout = nnx.Linear(n, readout.weight.shape[0], rngs=rngs)

    def loss(net, xs, ys):
        drive = net.inputs(jnp.concatenate([xs, jnp.zeros_like(xs[:1])]))
        spikes, _ = spyx.nn.run(net.neurons, drive)
        return squared_error(net.readout(spikes[1:]), ys, steps)

    trained = nnx.All(nnx.Param, lambda path, _: "beta" not in path)
    gradient = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, trained))

    def run(model, xs, ys):
        cell, readout = model
        net = Net(nnx.Rngs(0))
        net.inputs.kernel[...] = cell.weight_in.T
        net.neurons.recurrent_w[...] = cell.weight_rec.T
        net.readout.kernel[...] = readout.weight.T
        bias: Any = net.readout.bias
        bias[...] = readout.bias
        value, found = gradient(net, xs, ys)
        found = jax.tree.map(lambda a: a.T, nnx.to_pure_dict(found))
        return value, Gradient.of_neurons(
            found["neurons"]["recurrent_w"],
            found["inputs"]["kernel"],
            found["readout"]["kernel"],
            found["readout"]["bias"],
        )

    return run
