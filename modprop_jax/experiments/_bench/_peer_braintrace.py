"""braintrace's online gradients of the leaky network.

Its cells are stateful modules. The leaky cell is written as its own recurrent cells are (one
`braintrace.nn.Linear` over input and activity together), and its own `etrace_grad` drives the
sequence; the readout's weights stay outside the learner, whose one-step mode returns zero gradients
for them. `StatefulFunction` then gives a pure function, compiled and timed as all others.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ._problem import Gradient, Problem


# Its options, given the leak. pp_prop keeps one decaying trace of the input and one of the output.
# With these two decays it is e-prop on a leaky cell, as D_RTRL is, so that all that is compared is
# time and memory.
_OPTIONS = {
    "D_RTRL": lambda leak: {},
    "pp_prop": lambda leak: {"decay_or_rank": (leak, 0.0)},
}


def build(algorithm: str, problem: Problem, segment: int | None):
    """See `Program.build`."""
    import brainstate  # pyright: ignore[reportMissingImports]
    import braintrace  # pyright: ignore[reportMissingImports]

    cell, readout = problem.model
    n, m, leak = cell.hidden_size, cell.in_size, float(cell.leak)
    steps, batch, _ = problem.xs.shape
    window = min(segment or steps, steps)

    class Leaky(brainstate.nn.Module):
        def __init__(self):
            brainstate.nn.Module.__init__(self)
            self.drive = braintrace.nn.Linear(m + n, n, b_init=None)

        def init_state(self, batch_size=None, **_):
            self.v = brainstate.HiddenState(jnp.zeros((batch_size, n), jnp.float32))

        def update(self, x):
            v = self.v.value
            drive = self.drive(jnp.concatenate([x, jax.nn.relu(v)], axis=-1))
            self.v.value = leak * v + (1 - leak) * drive
            return jax.nn.relu(self.v.value)

    net = Leaky()
    read = brainstate.ParamState({"weight": readout.weight, "bias": readout.bias})
    options = {} if window == 1 else {"vjp_method": "multi-step"}
    learner: Any = braintrace.compile(
        net,
        algorithm,
        problem.xs[0],
        batch_size=batch,
        **_OPTIONS[algorithm](leak),
        **options,
    )

    def step_loss(x, y):
        z = learner(x if window == 1 else braintrace.MultiStepData(x))
        out = z @ read.value["weight"].T + read.value["bias"]
        return jnp.mean((out - y) ** 2, axis=(-2, -1))

    def sequence(xs, ys):
        return learner.etrace_grad(
            xs,
            ys,
            step_fn=step_loss,
            chunk_size=window,
            weights={"drive": net.drive.weight, "read": read},
            return_value=True,
            loss_output="scalar",
        )

    pure = brainstate.transform.StatefulFunction(sequence)
    pure.make_jaxpr(problem.xs, problem.ys)
    states = pure.get_states(problem.xs, problem.ys)

    def run(model, xs, ys):
        cell, readout = model
        weight = jnp.concatenate([cell.weight_in, cell.weight_rec], axis=1).T
        given = {
            id(net.drive.weight): {"weight": weight},
            id(read): {"weight": readout.weight, "bias": readout.bias},
        }
        # all others start from rest, in the program as in those of this package
        rest = [jax.tree.map(jnp.zeros_like, state.value) for state in states]
        values = [given.get(id(state), zero) for state, zero in zip(states, rest)]
        _, (found, value) = pure.jaxpr_call(values, xs, ys)
        weight, read_found = found["drive"]["weight"].T, found["read"]
        own = weight[:, m:], weight[:, :m]
        return value, Gradient.of_neurons(*own, read_found["weight"], read_found["bias"])

    return run
