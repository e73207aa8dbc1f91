"""What the compartments of neurons do under a rule that predicts credit."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._cell import computing
from .._program._reverse import points_of
from .._program._run import run, whole
from .._rnn import RNN
from .._rule import Carry, DNI, LocalDNI
from .._tree import pullback


class Compartments(NamedTuple):
    r"""Voltages and rates over time, each (T, *batch, n), by neuron.

    - `soma`: the drive \(h_t = W \hat a_t\); `rate`: \(a_t\).
    - `credit`: of the credit compartment, \(v_t\), after the step's plasticity.
    - `teaching`: what the credit compartment should have been one step earlier, \(\tau_{t-1}\):
      compare `teaching[1:]` with `credit[:-1]`.
    - `prediction`: of the soma's rate, \(p_t\), before the step's plasticity: compare with `rate`.
    - `error`: what the feedback synapses bring, \(W_{FB}^T e_t\).
    """

    soma: Float[Array, "T *batch n"]
    rate: Float[Array, "T *batch n"]
    credit: Float[Array, "T *batch n"]
    teaching: Float[Array, "T *batch n"]
    prediction: Float[Array, "T *batch n"]
    error: Float[Array, "T *batch n"]


def compartments(
    rnn: RNN,
    carry: Carry,
    xs: Float[Array, "T *batch m"],
    loss: Callable[[Array], Float[Array, ""]],
    *,
    context: Float[Array, "T *batch k"] | None = None,
) -> Compartments:
    """Run a layer under `LocalDNI` and return its neurons' compartments, for plots.

    **Arguments:** `rnn`: a layer under `LocalDNI` (or `DNI` with a learnt Jacobian). `carry`: from
    `rnn.init(batch_shape, key=key)`, or after some training. `loss(zs) -> scalar`: of the layer's
    emissions, such as a readout and its error. `context`: the labels, if the rule reads them.

    A, B, C and J learn while it runs, as in training; the network's own weights do not. Runs under
    `jit`. Cost: one forward pass and the rule's trace.

    **Errors:** ValueError for another rule, or a carry that does not fit.

    Example, for a model of a layer `rnn` and a `readout`:

    ```python
    seen = mpj.compartments(
        model.rnn, carry, xs, lambda zs: error(model.readout(zs), ys), context=ys
    )
    plt.plot(seen.credit[:, 0]), plt.plot(seen.prediction[:, 0]), plt.plot(seen.soma[:, 0])
    ```
    """
    if not isinstance(rnn, RNN):
        raise ValueError(f"rnn must be a recurrent layer, an RNN, but is {arguments.shown(rnn)}.")
    if not isinstance(carry, Carry):
        raise ValueError(
            "carry must be a Carry, from rnn.init(batch_shape, key=key), but is "
            f"{arguments.shown(carry)}."
        )
    arguments.function("loss", loss, "loss(zs) -> scalar")
    rule = rnn.rule
    if not isinstance(rule, DNI | LocalDNI) or rule.learn_jacobian is None:
        raise ValueError(
            "compartments needs a layer under LocalDNI, or DNI(jacobian='learned'), but the rule "
            f"of rnn is {type(rule).__name__}."
        )
    _, zs = rnn(xs, carry, context=context)  # what can be wrong is checked there
    on = rule.on(computing(rnn.cell))
    cell = on.cell
    xs = jnp.asarray(xs, zs.dtype)
    _, record = run(whole(cell.step), cell, carry.state, xs)
    (direct,) = pullback(cell.emit, record.states)(jax.grad(loss)(zs))
    labels = jnp.zeros((*xs.shape[:-1], 0), zs.dtype) if context is None else context

    def body(value, at):
        point, after, direct, label = at
        seen, value = on.trace.phases(on, point, after, direct, label, value)
        return value, seen

    points = points_of(cell, record)
    steps = points, record.states, direct, labels.astype(zs.dtype)
    _, seen = lax.scan(body, carry.trace.value, steps)
    drive = cell.drive(cell.message(points.before), xs)
    assert seen.prediction is not None  # the Jacobian is learnt
    voltages = seen.credit, seen.teaching, seen.prediction, seen.error
    return Compartments(drive, record.states, *voltages)
