"""The table of rules and cells that drives the suites, and the calls that they share.

A new rule is one row in `RULES`, a new cell one row in `CELLS`; every suite picks it up.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import modprop_jax as mpj


# n neurons, m inputs, k outputs, T steps
N, M, OUT, T = 6, 3, 2, 11
BATCH = (2,)
# three types, none of them contiguous, of three, two and one neurons
TYPES = (0, 2, 0, 1, 1, 0)


class RuleRow(NamedTuple):
    """A credit rule of the table: how to make it, and what it promises."""

    cls: type[mpj.AbstractRule]
    args: tuple = ()
    kwargs: dict[str, Any] = {}
    exact: bool = False
    # keeps a trace: streamed equals offline
    streams: bool = True
    # needs a NeuronCell
    local: bool = True
    # the cells of the table that it runs on, where these are not all that it serves
    cells: tuple[str, ...] | None = None

    def make(self) -> Any:
        return self.cls(*self.args, **self.kwargs)


# differing from another row in its numbers alone, a row runs on two cells
FEW = ("leaky", "adaptive")

MU_BY_TYPE = np.array([0.4, 0.7, 0.2])
MU_BY_NEURON = np.linspace(0.2, 0.8, N)

RULES = {
    "bptt": RuleRow(mpj.BPTT, exact=True, streams=False, local=False),
    "rtrl": RuleRow(mpj.RTRL, exact=True, local=False),
    "eprop": RuleRow(mpj.EProp),
    "mdgl": RuleRow(mpj.MDGL),
    "mdgl_types": RuleRow(mpj.MDGL, (TYPES,)),
    "mdgl_diffuse": RuleRow(mpj.MDGL, (TYPES,), {"diffuse": True}, cells=FEW),
    "mdgl_online": RuleRow(mpj.MDGL, (TYPES,), {"online": True}, cells=("filtered_adaptive",)),
    "modprop": RuleRow(mpj.ModProp, (0.5,)),
    "modprop_types": RuleRow(mpj.ModProp, (0.5, TYPES)),
    "modprop_mu_by_type": RuleRow(mpj.ModProp, (MU_BY_TYPE, TYPES), cells=FEW),
    "modprop_mu_by_neuron": RuleRow(mpj.ModProp, (MU_BY_NEURON, TYPES), cells=FEW),
    "modprop_auto": RuleRow(mpj.ModProp, ("auto",), cells=(*FEW, "rate", "filtered_leaky")),
    "modprop_auto_types": RuleRow(mpj.ModProp, ("auto", TYPES), cells=(*FEW, "filtered_leaky")),
    "modprop_taps": RuleRow(mpj.ModProp, (0.5,), {"taps": 3}, cells=("leaky",)),
    "modprop_taps_types": RuleRow(mpj.ModProp, (0.5, TYPES), {"taps": 3}, cells=("leaky",)),
    # a leak goes further than the horizon: the other cells' limits do not hold
    "future_bptt": RuleRow(mpj.FutureBPTT, (4,), cells=("leaky", "leaky_tau", "rate")),
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
        self.strength = jnp.asarray(0.3)
        self.rho = jnp.linspace(0.5, 0.9, hidden_size)
        self.slope = jnp.linspace(1.5, 0.5, hidden_size)

    def init(self, batch_shape=()):
        zeros = jnp.zeros((*batch_shape, self.hidden_size))
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

PLAIN = [name for name in CELLS if not name.startswith("filtered")]
NEURONS = [name for name in PLAIN if name != "function"]


@functools.cache
def cell(name: str) -> Any:
    return CELLS[name]()


def rule(name: str) -> Any:
    return RULES[name].make()


def inner(cell_name: str) -> Any:
    """The cell itself, without the filter of its emission."""
    return cell(cell_name.removeprefix("filtered_"))


def serves(rule_name: str, cell_name: str) -> bool:
    row = RULES[rule_name]
    if row.local and cell_name.endswith("function"):
        return False
    if row.cells is not None:
        return cell_name in row.cells
    if cell_name == "refractory" or cell_name.startswith("filtered"):
        # one rule of each kind of trace
        all_of_them = cell_name == "filtered_adaptive"
        return all_of_them or rule_name not in ("mdgl", "modprop")
    return True


def pairs(rules=None, cells=None, streams: bool = False) -> list[tuple[str, str]]:
    """(rule, cell) of the table, rules that stream only if asked."""
    return [
        (r, c)
        for c in (cells or CELLS)
        for r in (rules or RULES)
        if serves(r, c) and (RULES[r].streams or not streams)
    ]


class Net(eqx.Module):
    """A recurrent layer and a readout."""

    rnn: mpj.RNN
    readout: mpj.Readout

    def __call__(self, xs, carry=None):
        if carry is None:
            return self.readout(self.rnn(xs))
        carry, zs = self.rnn(xs, carry)
        return carry, self.readout(zs)


def net(rule_name: str, cell_name: str) -> Any:
    return Net(
        mpj.RNN(cell(cell_name), rule=rule(rule_name)),
        mpj.Readout(N, OUT, key=jr.key(7)),
    )


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
    return jit(lambda model, xs, ys: stream(model, model.rnn.init(xs.shape[1:-1]), xs, ys))


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
