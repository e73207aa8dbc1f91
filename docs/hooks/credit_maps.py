"""Where a rule's credit goes: how strongly it would change a synapse that was active at one step.

Input t is 1 at step t alone, so the gradient of its weight onto neuron i is the credit on that
neuron's drive at that step, δ_i at t, as the rule itself charges it: forward rules too.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array

import modprop_jax as mpj


N, STEPS = 6, 8
TYPES = [0, 0, 0, 0, 1, 1]
# post, pre, weight: a ring with a shortcut; the last neuron inhibits
LINKS = [(0, 1, 1.3), (0, 3, 0.6), (1, 2, 0.9), (2, 3, 1.2), (3, 4, 1.4), (4, 5, -0.9), (5, 0, 1)]
DRAWS, PASSES = 2000, 4000

Panels = list[tuple[str, np.ndarray]]
"""Maps side by side, (neuron, step) each, under their titles."""


def leaky() -> mpj.LeakyCell:
    """Six leaky neurons of two types with few synapses, and an input for each step."""
    weights = np.zeros((N, N))
    for post, pre, weight in LINKS:
        weights[post, pre] = weight
    keys = jr.split(jr.key(0))
    cell = mpj.LeakyCell(STEPS, N, tau=2.0, activation=jnp.tanh, mask=weights != 0, key=keys[0])
    inputs = 0.5 * jr.normal(keys[1], (N, STEPS))
    return eqx.tree_at(
        lambda c: (c.weight_rec, c.weight_in), cell, (jnp.asarray(weights, inputs.dtype), inputs)
    )


def linear() -> mpj.LRUCell:
    """Six linear units, which send nothing to each other."""
    return mpj.LRUCell(STEPS, N, r_min=0.5, r_max=0.9, max_phase=0.5, key=jr.key(0))


def settling() -> mpj.EquilibriumCell:
    """The leaky neurons' synapses in a network that settles at every step."""
    index, units = np.arange(STEPS + N), leaky().weight_rec
    mask = np.ones((STEPS + N, STEPS + N), bool)
    mask[STEPS:, STEPS:] = units != 0
    mask[:STEPS] = False
    cell = mpj.EquilibriumCell(
        STEPS + N,
        inputs=index < STEPS,
        outputs=index == STEPS,
        activation=jnp.tanh,
        mask=mask,
        key=jr.key(0),
    )
    weight = cell.weight.at[STEPS:, STEPS:].set(0.5 * units)
    return eqx.tree_at(lambda c: c.weight, cell, weight)


def tied() -> mpj.EquilibriumCell:
    """The same, with a synapse back for each one between neurons, of the same weight."""
    cell = settling()
    free = np.arange(STEPS + N) >= STEPS
    mask = np.asarray(cell.mask)
    weight = jnp.where(mask, cell.weight, 0)
    weight = jnp.where(free[:, None] & free[None], weight + weight.T, weight)
    made = mpj.EquilibriumCell(
        STEPS + N,
        inputs=~free,
        outputs=cell.outputs.numpy(),
        activation=jnp.tanh,
        mask=(mask | mask.T) & free[:, None],
        key=jr.key(0),
    )
    return eqx.tree_at(lambda c: c.weight, made, weight)


def prospective() -> mpj.GLECell:
    """Six neurons below an output; the first three lag behind their drive."""
    lags = np.where(np.arange(N) < N // 2, 0.5, 1.5)
    return mpj.GLECell(
        [2 * STEPS, N, 1],
        tau_m=[1.5, 1.0],
        tau_r=[lags, 1.0],
        dt=0.5,
        activations=jnp.tanh,
        key=jr.key(3),
    )


def pulse(cell: mpj.AbstractCell, at: int = 0) -> Array:
    """The error: on one output, at the last step that has an input."""
    size = jax.eval_shape(lambda: cell.emit(cell.init())).shape[0]
    return jnp.zeros((STEPS, 1, size)).at[-1, :, at].set(1.0)


def wave() -> Array:
    """An error of an output that comes and goes slowly."""
    return jnp.exp(-(((jnp.arange(2.0 * STEPS) - 8) / 5) ** 2))[:, None, None]


def credit(rule, cell=None, error=None, *, segment: int | None = None) -> np.ndarray:
    """The map of a rule, offline or in segments."""
    cell = leaky() if cell is None else cell
    error = pulse(cell) if error is None else error
    model = mpj.RNN(cell, rule=rule)
    carry = model.init((1,), key=jr.key(0))
    return np.asarray(_gradient(model, error, carry, segment or len(error))[1])


def mean_credit(rule) -> np.ndarray:
    """The mean over draws of a rule's noise."""
    cell = leaky()
    model, error = mpj.RNN(cell, rule=rule), pulse(cell)

    def draw(key):
        return _gradient(model, error, model.init((1,), key=key), 1)[1]

    return np.asarray(jax.jit(jax.vmap(draw))(jr.split(jr.key(1), DRAWS)).mean(0))


def learnt_credit(rule) -> np.ndarray:
    """Of a rule that learns on the way, after so many passes at fixed weights."""
    cell = leaky()
    model, error = mpj.RNN(cell, rule=rule), jnp.concatenate([pulse(cell), jnp.zeros((1, 1, N))])

    def again(carry, _):
        carry, _ = _gradient(model, error, carry, 1)
        return mpj.reset(model, carry, jnp.ones(1, bool)), None

    def run(carry):
        carry, _ = jax.lax.scan(again, carry, length=PASSES)
        return _gradient(model, error, carry, 1)[1]

    return np.asarray(jax.jit(run)(model.init((1,), key=jr.key(0))))


def _gradient(model, error, carry, segment: int):
    """The carry afterwards, and the gradient by the input weights; steps past the inputs: none."""
    xs = jnp.eye(len(error), model.cell.in_size)[:, None]

    def loss(model, carry, xs, error):
        carry, zs = model(xs, carry)
        return jnp.sum(zs * error), carry

    online = mpj.online_value_and_grad(loss, segment=segment)
    (_, carry), grads = online(model, carry, xs, error)
    return carry, _input_weights(grads.cell)


def _input_weights(cell):
    match cell:
        case mpj.LRUCell():
            return cell.B_re
        case mpj.GLECell():
            return cell.layers[0].weight
        case mpj.EquilibriumCell():
            return cell.weight[STEPS:, :STEPS]
    return cell.weight_in


def _exact(cell=leaky, error=None) -> Panels:
    return [("BPTT", credit(mpj.BPTT(), cell(), error))]


def _noisy(rule) -> Panels:
    draw = "one draw", credit(rule, segment=1)
    return [*_exact(), draw, (f"mean of {DRAWS:,} draws", mean_credit(rule))]


def _learnt(rule) -> Panels:
    return [*_exact(), (f"after {PASSES:,} passes", learnt_credit(rule))]


def _beside(titles: dict[str, mpj.AbstractRule], segment=None, cell=leaky, error=None) -> Panels:
    found = [(title, credit(r, cell(), error, segment=segment)) for title, r in titles.items()]
    return [*_exact(cell, error), *found]


def _of_modprop(gated: bool) -> mpj.TypeFilter:
    return mpj.TypeFilter.of_modprop(mpj.ModProp(0.8, TYPES), leaky(), gated=gated)


_SGD = optax.sgd(0.03)
PANELS: dict[str, Callable[[], Panels]] = {
    "BPTT": lambda: _beside({"in segments of 3 steps": mpj.BPTT()}, 3),
    "RTRL": lambda: _beside({"RTRL(), step by step": mpj.RTRL()}, 1),
    "DiagonalRTRL": lambda: _beside({"DiagonalRTRL()": mpj.DiagonalRTRL()}, 1, linear),
    "EProp": lambda: _beside({"EProp()": mpj.EProp()}),
    "MDGL": lambda: _beside(
        {
            "MDGL(types)": mpj.MDGL(TYPES),
            "MDGL(types, diffuse=True)": mpj.MDGL(TYPES, diffuse=True),
        }
    ),
    "ModProp": lambda: _beside(
        {"ModProp(0.8, types)": mpj.ModProp(0.8, TYPES), "ModProp(0.8)": mpj.ModProp(0.8)}
    ),
    "TypeFilter": lambda: _beside(
        {"ModProp's, not gated": _of_modprop(gated=False), "gated": _of_modprop(gated=True)}
    ),
    "SnAp": lambda: _beside({"SnAp(1)": mpj.SnAp(1), "SnAp(2)": mpj.SnAp(2)}, 1),
    "SKRTRL": lambda: _beside({"SKRTRL(0)": mpj.SKRTRL(0), "SKRTRL(2)": mpj.SKRTRL(2)}, 1),
    "UORO": lambda: _noisy(mpj.UORO()),
    "KFRTRL": lambda: _noisy(mpj.KFRTRL()),
    "RKFRTRL": lambda: _noisy(mpj.RKFRTRL()),
    "ForwardGradient": lambda: _noisy(mpj.ForwardGradient()),
    "NodePerturbation": lambda: _noisy(mpj.NodePerturbation()),
    "KeRNL": lambda: _learnt(mpj.KeRNL()),
    "FutureBPTT": lambda: _beside({"FutureBPTT(3)": mpj.FutureBPTT(3)}, 1),
    "DNI": lambda: _learnt(mpj.DNI(learn=_SGD)),
    "LocalDNI": lambda: _learnt(mpj.LocalDNI(learn=_SGD, learn_jacobian=_SGD)),
    "QuasiStatic": lambda: _beside(
        {"QuasiStatic(sweeps=1)": mpj.QuasiStatic(sweeps=1), "QuasiStatic()": mpj.QuasiStatic()}
    ),
    "EICredit": lambda: _beside(
        {"EICredit()": mpj.EICredit(), "EICredit(sweeps=1)": mpj.EICredit(sweeps=1)},
        cell=settling,
        error=pulse(settling(), STEPS),
    ),
    "EqProp": lambda: [
        *_beside({"EqProp()": mpj.EqProp()}, None, settling, pulse(settling(), STEPS)),
        ("BPTT, weights tied", credit(mpj.BPTT(), tied(), pulse(settling(), STEPS))),
        ("EqProp(), weights tied", credit(mpj.EqProp(), tied(), pulse(settling(), STEPS))),
    ],
    "GLE": lambda: _beside(
        {"GLE()": mpj.GLE(), "GLE(prospective_errors=False)": mpj.GLE(prospective_errors=False)},
        1,
        prospective,
        wave(),
    ),
    "ReadoutOnly": lambda: _beside({"ReadoutOnly()": mpj.ReadoutOnly()}),
}
"""What the picture of each rule shows."""
