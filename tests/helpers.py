"""The table of rules and cells that drives the suites, and the calls that they share.

A new rule is one row in `RULES`, a new cell one row in `CELLS`; every suite picks it up, but for
those that the row opts out of, with the reason. `test_table.py` holds the table to the package.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import modprop_jax as mpj


# n neurons, m inputs, k outputs, T steps
N, M, OUT, T = 6, 3, 2, 11
BATCH = (2,)
# three types, none of them contiguous, of three, two and one neurons
TYPES = (0, 2, 0, 1, 1, 0)


class Suite(NamedTuple):
    """What every rule of the table meets, and the cells on which it does; none: its home alone."""

    what: str
    cells: tuple[str, ...] = ()


SUITES = {
    "structure": Suite("gradients have the model's structure, shapes and dtypes: test_contract"),
    "one trace": Suite("a step gives back what it takes, in float32 too: test_contract"),
    "vmap": Suite("under vmap over examples gradients have one more axis: test_contract"),
    "numpy": Suite("a NumPy array under vmap within jit: test_data"),
    "complex": Suite("complex numbers are refused: test_complex"),
    "functions": Suite("a cell without neurons is refused: test_errors"),
    "streams": Suite("streamed equals offline: test_segments"),
    "chained": Suite("one gradient over a chain of carries equals offline: test_segments"),
    "flags": Suite("sequences that end and pause are as apart: test_flags"),
    "flags streamed": Suite("and in segments: test_flags"),
    "exact": Suite("it is BPTT: test_differ"),
    "differs": Suite("it is not BPTT: test_differ"),
    "apart": Suite("it is no other rule of the table: test_differ"),
    "points": Suite("it points where BPTT points: test_differ"),
    "readout": Suite("what follows the layer has its exact gradient: test_differ"),
    "no recurrence": Suite(
        "without recurrent weights it is exact: test_limits",
        ("leaky_taus", "adaptive", "filtered_leaky", "leaky"),
    ),
    "one step": Suite("in one step it is exact: test_limits", ("leaky_taus", "adaptive", "leaky")),
    "missing": Suite("what is stored at missing synapses does not matter: test_limits"),
    "cost": Suite("it costs what its card says: test_cards"),
}


def rate(n: int, m: int, key: Any) -> Any:
    return mpj.RateCell(m, n, alpha=0.6, key=key)


def linear_units(n: int, m: int, key: Any) -> Any:
    return mpj.LRUCell(m, n, key=key)


def lagging(n: int, m: int, key: Any) -> Any:
    return mpj.GLECell([m, n], tau_m=1.0, tau_r=0.3, dt=0.1, activations=jnp.tanh, key=key)


def settling(n: int, m: int, key: Any) -> Any:
    """Of n + m units, m are clamped."""
    inputs = np.arange(n + m) < m
    options = {"inputs": inputs, "outputs": ~inputs, "activation": jnp.tanh, "key": key}
    return mpj.EquilibriumCell(n + m, rtol=1e-13, atol=1e-13, **options)


class RuleRow(NamedTuple):
    """A credit rule of the table: how to make it, what it serves, and what it does not promise.

    - `make`: for n neurons.
    - `cells`: those of the table that it runs on, the first its home; None: all neurons.
    - `any_cell`: and all functions.
    - `opts_out`: the suites that it does not meet, and why.
    - `far`: how far from BPTT's gradient it is at least, in units of its norm.
    - `like`: a rule that it is much like, so that its compiled cases are slow ones.
    - `sizes`, `kind`: what the formulas of its card have beside n and m, for n neurons, and the
      cell that they are of, for n and m.
    """

    make: Callable[[int], Any]
    cells: tuple[str, ...] | None = None
    opts_out: Mapping[str, str] = {}
    any_cell: bool = False
    far: float = 0.25
    like: str | None = None
    sizes: Callable[[int], dict[str, int]] = lambda n: {}
    kind: Callable[[int, int, Any], Any] = rate


# differing from another row in its numbers alone, a row runs on two cells
FEW = ("leaky", "adaptive")

MU_BY_TYPE = np.array([0.4, 0.7, 0.2])
MU_BY_NEURON = np.linspace(0.2, 0.8, N)
FILTER = np.array([0.9, 0.5]), np.linspace(-0.05, 0.1, 18).reshape(2, 3, 3)
LABELS = 2
# without a state of its own
SGD = optax.sgd(0.02)


def types(n: int) -> tuple[int, ...]:
    return (TYPES * n)[:n]


# Reasons that rows share.
APPROXIMATE = {"exact": "it is approximate"}
EXACT = {name: "it is exact" for name in ("differs", "apart", "points")}
ANY_CELL = {"functions": "it serves them"}
VARIANT = {"cost": "the card has the costs of another row"}
ANOTHER_CELL = {
    "no recurrence": "its cell is of another kind: its own tests have its limits",
    "one step": "its cell is of another kind: its own tests have its limits",
    "missing": "its cell is of another kind: its own tests have its masks",
}
ESTIMATE = {"chained": "its trace goes on with the errors, from one gradient to the next"}
TAPS = {"flags streamed": "its window does not stream with them, which it says: test_flags"}
FREE = {"no recurrence": "its filter does not come from the weights: test_type_filter"}
DRAWS = {
    "flags": "noise is of a place in the batch, so that places are not alike: test_stochastic",
    "flags streamed": "as in one segment",
    "no recurrence": "it is exact in the mean alone: test_stochastic",
    "one step": "it is exact in the mean alone: test_stochastic",
    "points": "a single draw points anywhere",
}
LEARNS = {
    "flags": "the batch shares what has been learned by then: test_dni, test_kernl",
    "flags streamed": "as in one segment",
    "no recurrence": "credit is what has been learned, and that is not exact",
    "one step": "credit is what has been learned, and that is not exact",
    "points": "credit is what has been learned, in these few steps nothing yet",
}

RULES = {
    "bptt": RuleRow(
        lambda n: mpj.BPTT(),
        None,
        EXACT
        | ANY_CELL
        | {
            "streams": "segments cut the past: truncated BPTT",
            "chained": "segments cut the past: truncated BPTT",
            "flags streamed": "segments cut the past: truncated BPTT",
            "complex": "it serves them",
        },
        any_cell=True,
    ),
    "rtrl": RuleRow(lambda n: mpj.RTRL(), None, EXACT | ANY_CELL, any_cell=True),
    "eprop": RuleRow(lambda n: mpj.EProp(), None, APPROXIMATE),
    "mdgl": RuleRow(lambda n: mpj.MDGL(), None, APPROXIMATE),
    "mdgl_types": RuleRow(lambda n: mpj.MDGL(types(n)), None, APPROXIMATE | VARIANT),
    "mdgl_diffuse": RuleRow(
        lambda n: mpj.MDGL(types(n), diffuse=True), FEW, APPROXIMATE | VARIANT, like="mdgl_types"
    ),
    "mdgl_online": RuleRow(
        lambda n: mpj.MDGL(types(n), online=True),
        ("filtered_adaptive",),
        APPROXIMATE
        | VARIANT
        | {name: "unfiltered it is MDGL" for name in ("no recurrence", "one step", "missing")},
    ),
    "modprop": RuleRow(lambda n: mpj.ModProp(0.5), None, APPROXIMATE, sizes=lambda n: {"C": n}),
    "modprop_types": RuleRow(
        lambda n: mpj.ModProp(0.5, types(n)), None, APPROXIMATE, sizes=lambda n: {"C": 3}
    ),
    "modprop_mu_by_type": RuleRow(
        lambda n: mpj.ModProp(MU_BY_TYPE, types(n)),
        FEW,
        APPROXIMATE | VARIANT,
        like="modprop_types",
    ),
    "modprop_mu_by_neuron": RuleRow(
        lambda n: mpj.ModProp(MU_BY_NEURON, types(n)),
        FEW,
        APPROXIMATE | VARIANT,
        like="modprop_types",
    ),
    "modprop_auto": RuleRow(
        lambda n: mpj.ModProp("auto"),
        (*FEW, "rate", "filtered_leaky"),
        APPROXIMATE | VARIANT,
        far=0.1,
    ),
    "modprop_auto_types": RuleRow(
        lambda n: mpj.ModProp("auto", types(n)), (*FEW, "filtered_leaky"), APPROXIMATE | VARIANT
    ),
    "modprop_taps": RuleRow(
        lambda n: mpj.ModProp(0.5, taps=3), ("leaky",), APPROXIMATE | VARIANT | TAPS
    ),
    "modprop_taps_types": RuleRow(
        lambda n: mpj.ModProp(0.5, types(n), taps=3),
        ("leaky",),
        APPROXIMATE | VARIANT | TAPS,
        like="modprop_taps",
    ),
    # arrivals meet the leak alone, or a neuron's derivative
    "type_filter": RuleRow(
        lambda n: mpj.TypeFilter(FILTER, types(n), gated=False),
        (*FEW, "leaky_tau"),
        APPROXIMATE | FREE,
        sizes=lambda n: {"C": 3, "K": 2},
    ),
    "type_filter_gated": RuleRow(
        lambda n: mpj.TypeFilter(FILTER, types(n)),
        (*FEW, "filtered_leaky"),
        APPROXIMATE | FREE | VARIANT,
        like="type_filter",
    ),
    "type_filter_taps": RuleRow(
        lambda n: mpj.TypeFilter(FILTER[1], types(n), gated=False),
        ("leaky",),
        APPROXIMATE | FREE | VARIANT,
        like="type_filter",
    ),
    # a leak goes further than the horizon: the other cells' limits do not hold
    "future_bptt": RuleRow(
        lambda n: mpj.FutureBPTT(4),
        ("leaky", "leaky_tau", "rate"),
        APPROXIMATE | {"no recurrence": "a leak goes further than the horizon"},
        sizes=lambda n: {"h": 4},
    ),
    "snap": RuleRow(
        lambda n: mpj.SnAp(1),
        ("rate", "leaky_taus"),
        APPROXIMATE | ANY_CELL,
        sizes=lambda n: {"r": 1},
    ),
    "snap_two_steps": RuleRow(
        lambda n: mpj.SnAp(2),
        ("leaky_taus",),
        APPROXIMATE | ANY_CELL,
        far=0.05,
        like="snap",
        sizes=lambda n: {"r": n},
    ),
    "sk_rtrl": RuleRow(
        lambda n: mpj.SKRTRL(2),
        ("rate", "leaky_taus"),
        APPROXIMATE,
        far=0.05,
        sizes=lambda n: {"r": 2},
    ),
    "uoro": RuleRow(lambda n: mpj.UORO(), ("leaky", "function"), APPROXIMATE | ANY_CELL | DRAWS),
    "kf_rtrl": RuleRow(lambda n: mpj.KFRTRL(), ("leaky",), APPROXIMATE | DRAWS, like="uoro"),
    "rkf_rtrl": RuleRow(lambda n: mpj.RKFRTRL(), ("leaky",), APPROXIMATE | DRAWS, like="uoro"),
    "forward_gradient": RuleRow(
        lambda n: mpj.ForwardGradient(),
        ("leaky", "function"),
        APPROXIMATE | ANY_CELL | DRAWS,
        like="uoro",
    ),
    "node_perturbation": RuleRow(
        lambda n: mpj.NodePerturbation(), ("leaky",), APPROXIMATE | DRAWS, like="uoro"
    ),
    "kernl": RuleRow(lambda n: mpj.KeRNL(sigma=0.1, learn=SGD), ("rate",), APPROXIMATE | LEARNS),
    "dni": RuleRow(
        lambda n: mpj.DNI(labels=LABELS, learn=SGD),
        ("rate",),
        APPROXIMATE | ANY_CELL | ESTIMATE | LEARNS,
        sizes=lambda n: {"k": LABELS},
    ),
    "local_dni": RuleRow(
        lambda n: mpj.LocalDNI(labels=LABELS, learn=SGD, learn_jacobian=SGD),
        ("rate",),
        APPROXIMATE | ESTIMATE | LEARNS,
        like="dni",
        sizes=lambda n: {"k": LABELS},
    ),
    "quasi_static": RuleRow(
        lambda n: mpj.QuasiStatic(ridge=0.1),
        ("leaky", "filtered_leaky"),
        APPROXIMATE | {"one step": "credit spreads over neurons within a step"},
    ),
    "ei_credit": RuleRow(
        lambda n: mpj.EICredit(rtol=1e-13, atol=1e-13),
        ("equilibrium",),
        EXACT | ANOTHER_CELL,
        kind=settling,
    ),
    "eqprop": RuleRow(
        lambda n: mpj.EqProp(),
        ("equilibrium",),
        APPROXIMATE | ANOTHER_CELL,
        kind=settling,
    ),
    "gle": RuleRow(
        lambda n: mpj.GLE(),
        ("gle",),
        APPROXIMATE
        | ANOTHER_CELL
        | ESTIMATE
        | {"points": "it does, but what looks ahead overshoots"},
        kind=lagging,
    ),
    "diagonal_rtrl": RuleRow(
        lambda n: mpj.DiagonalRTRL(),
        ("lru",),
        EXACT | ANOTHER_CELL,
        kind=linear_units,
    ),
    "readout_only": RuleRow(
        lambda n: mpj.ReadoutOnly(),
        ("leaky", "function"),
        APPROXIMATE
        | ANY_CELL
        | {
            name: "the dynamics get zeros"
            for name in ("points", "no recurrence", "one step", "missing")
        },
    ),
}


class AdaptiveCell(mpj.NeuronCell):
    """A neuron of two variables: membrane v and adaptation a.

    v_t = .8 v + .2 drive - strength a v,  a_t = rho a + (1 - rho) tanh(v); it emits
    tanh(slope v - strength a / 2) and sends tanh(v) - strength a / 4. `strength` is one value,
    read by all of these; `rho` and `slope` one a neuron, and only the emission reads `slope`.
    """

    strength: jax.Array
    rho: jax.Array
    slope: jax.Array

    def __init__(self, in_size, hidden_size, **kwargs):
        mpj.NeuronCell.__init__(self, in_size, hidden_size, **kwargs)
        self.strength = jnp.asarray(0.3, float)
        self.rho = jnp.linspace(0.5, 0.9, hidden_size)
        self.slope = jnp.linspace(1.5, 0.5, hidden_size)

    def init(self, batch_shape=()):
        zeros = jnp.zeros((*batch_shape, self.hidden_size), self.dtype)
        return zeros, zeros

    def integrate(self, state, drive):
        v, a = state
        rho = jnp.broadcast_to(self.rho, a.shape)
        v_next = 0.8 * v + 0.2 * drive - self.strength * a * v
        return v_next, rho * a + (1 - rho) * jnp.tanh(v)

    def emit(self, state):
        v, a = state
        slope = jnp.broadcast_to(self.slope, v.shape)
        return jnp.tanh(slope * v - 0.5 * self.strength * a)

    def message(self, state):
        v, a = state
        return jnp.tanh(v) - 0.25 * self.strength * a

    def membrane(self, state):
        return state[0]

    @property
    def gain(self):
        return 0.2


class RefractoryCell(mpj.NeuronCell):
    """A leaky neuron that ignores its drive for two steps after |v| > .3; it counts in integers."""

    def init(self, batch_shape=()):
        shape = (*batch_shape, self.hidden_size)
        return jnp.zeros(shape), jnp.zeros(shape, jnp.int32)

    def integrate(self, state, drive):
        v, blocked = state
        v = 0.7 * v + 0.3 * jnp.where(blocked > 0, 0.0, drive)
        return v, jnp.where(jnp.abs(v) > 0.3, 2, jnp.maximum(blocked - 1, 0))

    def emit(self, state):
        return jnp.tanh(state[0])

    @property
    def gain(self):
        return 0.3


def coupled_step(params, state, x):
    """Two state variables of different size that no neuron structure separates."""
    h, c = state
    gate = jax.nn.sigmoid(h @ params["gate"].T)
    h = gate * h + (1 - gate) * jnp.tanh(x @ params["into"].T + c @ params["mix"].T)
    return h, jnp.tanh(c * params["decay"] + h[..., :2])


def coupled_emit(state):
    return jnp.concatenate(state, axis=-1)[..., :N]


def _function_cell():
    k1, k2, k3 = jr.split(jr.key(11), 3)
    h = N - 2
    params = {
        "gate": jr.normal(k1, (h, h)),
        "into": jr.normal(k2, (h, M)),
        "mix": jr.normal(k3, (h, 2)),
        "decay": jnp.asarray(0.6),
    }
    return mpj.FunctionCell(coupled_step, params, (np.zeros(h), np.zeros(2)), coupled_emit)


def generic(cell: Any, strength: float = 1.5) -> Any:
    """Recurrence strong enough for the rules to differ, and a bias that is not zero."""
    cell = eqx.tree_at(lambda c: c.weight_rec, cell, strength * cell.weight_rec)
    if cell.bias is None:
        return cell
    return eqx.tree_at(lambda c: c.bias, cell, 0.3 * jr.normal(jr.key(5), (N,)))


# connectivity [post, pre] with 11 synapses missing, one of them an autapse
MASK = np.random.default_rng(3).random((N, N)) < 0.7

CELLS: dict[str, Callable[[], mpj.AbstractCell]] = {
    "leaky": lambda: generic(
        mpj.LeakyCell(M, N, tau=4.0, activation=jnp.tanh, use_bias=True, key=jr.key(1))
    ),
    "leaky_tau": lambda: generic(
        mpj.LeakyCell(M, N, tau=jnp.asarray(4.0), activation=jnp.tanh, autapses=True, key=jr.key(2))
    ),
    "leaky_taus": lambda: generic(
        mpj.LeakyCell(
            M,
            N,
            tau=jnp.linspace(2.0, 8.0, N),
            activation=jnp.tanh,
            use_bias=True,
            autapses=True,
            mask=MASK,
            key=jr.key(3),
        )
    ),
    "rate": lambda: generic(mpj.RateCell(M, N, alpha=0.6, key=jr.key(4)), 1.2),
    "adaptive": lambda: generic(AdaptiveCell(M, N, use_bias=True, key=jr.key(6)), 3.0),
    # pyright takes a cell without a constructor of its own for a plain dataclass
    "refractory": lambda: generic(RefractoryCell(M, N, key=jr.key(8)), 2.0),  # pyright: ignore
    "function": _function_cell,
    "filtered_leaky": lambda: mpj.Filtered(cell("leaky"), 0.7),
    "filtered_leaky_taus": lambda: mpj.Filtered(
        cell("leaky_taus"), np.linspace(0.3, 0.8, N), scale=True
    ),
    "filtered_rate": lambda: mpj.Filtered(cell("rate"), 0.7),
    "filtered_adaptive": lambda: mpj.Filtered(cell("adaptive"), 0.7, scale=True),
    "filtered_function": lambda: mpj.Filtered(cell("function"), 0.5),
}

# Cells that hardly a rule but BPTT shares with the others, which have a cell of their own.
OWN_CELLS: dict[str, Callable[[], mpj.AbstractCell]] = {
    "lru": lambda: linear_units(N, M, jr.key(12)),
    "gle": lambda: lagging(N, M, jr.key(13)),
    "equilibrium": lambda: settling(N, M, jr.key(14)),
}

PLAIN = [name for name in CELLS if not name.startswith("filtered")]
NEURONS = [name for name in PLAIN if name != "function"]


@functools.cache
def cell(name: str) -> Any:
    return (CELLS | OWN_CELLS)[name]()


def rule(name: str, n: int = N) -> Any:
    return RULES[name].make(n)


def public_rules() -> set[str]:
    """The names of the rule classes that the package exports."""
    found = [value for value in vars(mpj).values() if isinstance(value, type)]
    rules = [cls for cls in found if issubclass(cls, mpj.AbstractRule)]
    return {cls.__name__ for cls in rules if not inspect.isabstract(cls)}


def home(rule_name: str) -> str:
    """The cell on which it meets what one cell is enough for."""
    return (RULES[rule_name].cells or ("leaky",))[0]


def inner(cell_name: str) -> Any:
    """The cell itself, without the filter of its emission."""
    return cell(cell_name.removeprefix("filtered_"))


def serves(rule_name: str, cell_name: str) -> bool:
    row = RULES[rule_name]
    if row.cells is not None:
        return cell_name in row.cells
    if cell_name in OWN_CELLS:
        return rule_name == "bptt"
    if not row.any_cell and cell_name.endswith("function"):
        return False
    if cell_name == "refractory" or cell_name.startswith("filtered"):
        # one rule of each kind of trace
        all_of_them = cell_name == "filtered_adaptive"
        return all_of_them or rule_name not in ("mdgl", "modprop")
    return True


def meeting(suite: str, cell_name: str | None = None) -> list[str]:
    """The rules that meet a suite, on a cell."""
    assert suite in SUITES, suite
    return [
        name
        for name, row in RULES.items()
        if suite not in row.opts_out and (cell_name is None or serves(name, cell_name))
    ]


def pairs(suite: str, rules=None, cells=None) -> list[tuple[str, str]]:
    """(rule, cell) of a suite, on all cells or on these."""
    return [
        (r, c)
        for c in (cells or (*CELLS, *OWN_CELLS))
        for r in meeting(suite, c)
        if rules is None or r in rules
    ]


def at_home(suite: str) -> list[tuple[str, str]]:
    """(rule, cell) of a suite, for each rule its home."""
    return [(name, home(name)) for name in meeting(suite)]


def marked(rule_name: str, *others: Any, slow: bool = False) -> Any:
    """A case of the fast suite, or of the slow one if the rule is much like another."""
    slow |= RULES[rule_name].like is not None
    return pytest.param(rule_name, *others, marks=pytest.mark.slow if slow else ())


# of all rules that draw
KEY = jr.key(21)


class Net(eqx.Module):
    """A recurrent layer and a readout; a rule that draws begins with a carry."""

    rnn: mpj.RNN
    readout: mpj.Readout

    def __call__(self, xs, carry=None, **flags):
        flags |= context(self.rnn.rule, xs)
        if carry is None and not self.rnn.rule.needs_key:
            return self.readout(self.rnn(xs, **flags))
        start = begin(self, xs.shape[1:-1]) if carry is None else carry
        after, zs = self.rnn(xs, start, **flags)
        return self.readout(zs) if carry is None else (after, self.readout(zs))


def begin(model: Any, batch: tuple[int, ...] = BATCH) -> mpj.Carry:
    """A carry with no past."""
    return model.rnn.init(batch, key=KEY)


def context(rule: mpj.AbstractRule, xs: Any) -> dict[str, Any]:
    """What a rule that reads labels is told, step by step."""
    if isinstance(rule, mpj.AbstractEstimatingRule) and rule.context_size:
        return {"context": (xs[..., : rule.context_size] > 0).astype(xs.dtype)}
    return {}


def net(rule_name: str, cell_name: str, dtype: Any = None) -> Any:
    c = cell(cell_name)
    if dtype is not None:
        c = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, c)
    features = jax.eval_shape(lambda: c.emit(c.init())).shape[-1]
    readout = mpj.Readout(features, OUT, dtype=dtype, key=jr.key(7))
    return Net(mpj.RNN(c, rule=rule(rule_name)), readout)


def data(batch: tuple[int, ...] = BATCH, steps: int = T, seed: int = 0) -> tuple:
    """Inputs and targets, (T, *batch, features)."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(steps, *batch, M))
    return jnp.asarray(xs), jnp.asarray(rng.normal(size=(steps, *batch, OUT)))


def error(outputs, ys):
    """A loss at every step, with a third-order term: generic, and additive over time."""
    return jnp.sum(0.5 * (outputs - ys) ** 2 + 0.1 * outputs**3) / BATCH[0]


def offline_loss(model, xs, ys):
    return error(model(xs), ys)


def segment_loss(model, carry, xs, ys):
    carry, outputs = model(xs, carry)
    return error(outputs, ys), carry


# Compiling is what these suites cost, and their sizes need no fast code: a third of the time.
FAST_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
}


@functools.cache
def _options() -> dict[str, Any]:
    try:
        jax.jit(lambda x: x + 1, compiler_options=FAST_TO_COMPILE)(1.0)
    except jax.errors.JaxRuntimeError:  # an XLA without one of them
        return {}
    return FAST_TO_COMPILE


def jit(function: Callable) -> Callable:
    """`eqx.filter_jit`, for tests."""
    options: Any = {"compiler_options": _options()}
    return eqx.filter_jit(function, **options)


# one trace and one compilation a (rule, cell), whichever suite comes first
gradient = jit(mpj.value_and_grad(offline_loss))


@functools.cache
def streamed_gradient(segment: int) -> Callable:
    """`(model, xs, ys) -> ((loss, carry), gradients)` in segments of this many steps."""
    stream = mpj.online_value_and_grad(segment_loss, segment=segment)
    return jit(lambda model, xs, ys: stream(model, begin(model, xs.shape[1:-1]), xs, ys))


@functools.cache
def offline(rule_name: str, cell_name: str) -> Any:
    """(loss, gradients) of the whole sequence."""
    return gradient(net(rule_name, cell_name), *data())


@functools.cache
def streamed(rule_name: str, cell_name: str, segment: int) -> Any:
    """((loss, carry), gradients) in segments of this many steps."""
    return streamed_gradient(segment)(net(rule_name, cell_name), *data())


def weights(gradients: Any) -> Any:
    """The gradients without the rule, to compare one rule's with another's."""
    return gradients.rnn.cell, gradients.readout


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def distance(actual: Any, expected: Any) -> float:
    """Relative distance of two gradients, in the norm over all leaves."""
    a, b = flat(actual), flat(expected)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def assert_close(actual: Any, expected: Any, tol: float = 1e-9, what: str = "") -> None:
    """Same structure, shapes and dtypes; each leaf within tol of the expected leaf's maximum.

    Written so that NaN fails, and so that a leaf expected to be zero has to be zero.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected), what
    named, _ = jax.tree_util.tree_flatten_with_path(expected)
    for (path, want), have in zip(named, jax.tree.leaves(actual), strict=True):
        name = f"{what}{jax.tree_util.keystr(path)}"
        want, have = np.asarray(want), np.asarray(have)
        assert have.shape == want.shape and have.dtype == want.dtype, name
        if want.size:
            off, scale = np.abs(have - want).max(), np.abs(want).max()
            assert off <= tol * scale, f"{name}: off by {off:.1e}, values up to {scale:.1e}"


def plain_scan(dynamics: Any, state: Any, xs: Any) -> Any:
    """(last state, emissions) by `jax.lax.scan` of the cell's own step: JAX's own derivative."""

    def step(state, x):
        state = dynamics.step(state, x)
        return state, dynamics.emit(state)

    return jax.lax.scan(step, state, xs)


def plain_loss(model, xs, ys):
    """`offline_loss` by JAX's own derivative."""
    state = model.rnn.cell.init(xs.shape[1:-1])
    return error(model.readout(plain_scan(model.rnn.cell, state, xs)[1]), ys)
