"""Firing, credit and plasticity of a network at equilibrium, all running at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._cell import EquilibriumCell
from .._cell._base import as_cell
from .._cell._settle import with_gradient
from .._precision import widened
from .._rule import EICredit
from .._synapses._masked import existing


class ThreeTimescales(NamedTuple):
    """A run of `three_timescales`.

    `rates`, `credit` (T, *batch, n) after each step, `time` (T,) in units of the firing time
    constant; `gradient`: what plasticity averages to, shaped as the cell (optimizers descend it).
    The source's credit is the negative.
    """

    time: Float[Array, " T"]
    rates: Float[Array, "T *batch n"]
    credit: Float[Array, "T *batch n"]
    gradient: PyTree


def three_timescales(
    cell: EquilibriumCell,
    x: Float[Array, "*batch k"],
    loss: Callable[[Array], Float[Array, ""]],
    *,
    rule: EICredit = EICredit(),
    duration: float = 1000.0,
    tau_credit: float = 10.0,
    plastic_from: float = 0.5,
    dt: float = 0.1,
) -> ThreeTimescales:
    r"""Let leaky firing, leaky credit and plasticity run together, from rest.

    \[ \dot r = -r + M\sigma(Wr + b) + (1 - M)x, \qquad
       \tau_c \dot a = -a + e(r) + W^T (f \odot a), \qquad
       \nabla_W = \langle (f \odot a) \otimes r \rangle \]

    `EICredit` takes these limits one after the other; here nothing waits. The average is over the
    last part of the run, from `plastic_from` · `duration` on. Credit that has not settled by then
    makes the gradient differ from the rule's, by O(tau_credit / duration) if plasticity is on all
    the time, and exponentially little if it starts late. Leaky dynamics settles where all
    eigenvalues of \(\mathrm{diag}(f) W\) have a real part below 1, also where sweeps do not.

    **Arguments:** `x`: one input. `loss(rates) -> scalar`: of the rates of all units (*batch, n).
    `rule`: its `output` and `balance`. `duration`, `tau_credit`: in units of the firing time
    constant. `dt`: Euler step, in the same unit.

    Cost: O(n²) a step and example; memory O(T n) for the trajectory, T = duration / dt.
    """
    if not isinstance(rule, EICredit):
        raise ValueError(f"rule must be EICredit(...), but is {arguments.shown(rule)}.")
    rule.check(as_cell("cell", cell))
    x = arguments.floats("x", x)
    arguments.function("loss", loss, "loss(rates) -> scalar")
    arguments.number("plastic_from", plastic_from, arguments.BELOW_ONE)
    arguments.number("tau_credit", tau_credit, arguments.POSITIVE)
    longest = min(1.0, tau_credit)
    words = f"positive, and no longer than a time constant ({longest})"
    within = arguments.POSITIVE_FRACTION._replace(words=words, high=longest)
    arguments.number("dt", dt, within)
    at_least = arguments.POSITIVE._replace(words=f"at least dt={dt}", low=dt, with_low=True)
    arguments.number("duration", duration, at_least)
    whole, cell, connectivity = cell, widened(cell.effective()), cell.connectivity
    steps = round(duration / dt)
    begin = min(round(plastic_from * steps), steps - 1)
    start = cell.init(x.shape[:-1]).rates

    def body(carry, step):
        rates, credit, weight, bias = carry
        balance = rule.balance_at(cell, cell.drive(rates))
        sent = rule.sweep(cell, balance, jax.grad(loss)(rates))(credit)
        rates = rates + dt * (cell.sweep(x)(rates) - rates)
        credit = credit + dt / tau_credit * (sent - credit)
        rows = (balance * credit).reshape(-1, rates.shape[-1])
        on = (step >= begin).astype(rates.dtype)
        weight = weight + on * (rows.T @ rates.reshape(rows.shape))
        return (rates, credit, weight, bias + on * rows.sum(0)), (rates, credit)

    zeros = jnp.zeros_like(cell.weight), jnp.zeros(cell.hidden_size, cell.weight.dtype)
    carry = start, jnp.zeros_like(start), *zeros
    (_, _, weight, bias), (rates, credit) = lax.scan(body, carry, jnp.arange(steps))
    count = steps - begin
    weight = existing(weight, connectivity)
    bias = None if cell.bias is None else bias / count
    time = dt * jnp.arange(1, steps + 1, dtype=rates.dtype)
    return ThreeTimescales(time, rates, credit, with_gradient(whole, weight / count, bias))
