"""A walk over the signatures of everything public: a wrong value is a ValueError where it is given.

A new public name, or a new argument, without a row here fails.
"""

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import modprop_jax as mpj


pytestmark = pytest.mark.usefixtures("without_type_checks")
PACKAGE = Path(inspect.getfile(mpj)).parent
N, M, T = 4, 3, 5
KEY = jr.key(0)


class Trials:
    """The least environment of NeuroGym's interface."""

    class action_space:
        n = 2

    def seed(self, seed):
        self.rng = np.random.default_rng(seed)

    def new_trial(self):
        self.ob, self.gt = self.rng.normal(size=(4, 2)), self.rng.integers(2, size=4)


class Silent(mpj.NeuronCell):
    """The least cell of one's own."""

    def init(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size))

    def integrate(self, state, drive):
        return 0.5 * state + drive

    def emit(self, state):
        return state


@functools.cache
def leaky():
    return mpj.LeakyCell(M, N, tau=4.0, key=KEY)


@functools.cache
def settling():
    return mpj.EquilibriumCell.layered([2, 2], activation=jnp.tanh, key=KEY)


@functools.cache
def model():
    return mpj.RNN(leaky())


def loss(model, xs):
    return jnp.sum(model(xs))


def segment_loss(model, carry, xs, ys):
    carry, zs = model(xs, carry)
    return jnp.sum(zs), carry


def squares(outputs, ys):
    return jnp.sum((outputs - ys) ** 2)


def scored(model, xs, ys):
    return jnp.sum(model(xs)), jnp.ones(())


GRU, LSTM = eqx.nn.GRUCell(M, N, key=KEY), eqx.nn.LSTMCell(M, N, key=KEY)
XS = np.ones((T, 2, M))
YS = np.ones((T, 2, N))
LABELS = jnp.zeros(2, jnp.int32)
SGD = optax.sgd(0.1)
SIGNS = [1, -1, 1, -1]
EYE = jnp.eye(N)
LISTED = mpj.Sparse.from_dense(EYE)
MESH = jax.make_mesh((1,), ("neurons",), (jax.sharding.AxisType.Auto,))

# --- what is wrong, by kind ---

WORDS = [None, "1", {}, object()]
WHOLE = [*WORDS, 1.5, True, math.nan, [1], jnp.asarray(2)]
SIZE, COUNT = [*WHOLE, 0, -1], [*WHOLE, -1]
NUMBER = [*WORDS, True, math.nan, math.inf, 1j, [1.0], np.ones(7)]
STATIC = [*NUMBER, jnp.asarray(0.5)]
NEGATIVE, ZERO = [-1, -0.5], [0, 0.0]
TRAINABLE = [*NUMBER, jnp.asarray(1), np.array("1"), jnp.ones(7)]
POSITIVE = [*STATIC, *NEGATIVE, *ZERO]
CONSTANT = [
    *TRAINABLE,
    *NEGATIVE,
    *ZERO,
    jnp.asarray(-1.0),
    np.full(N, -1.0),
    mpj.Between(0, -1, 1),
]
FRACTION = [*STATIC, *NEGATIVE, 1.1]
FLAG = [*WORDS, 0, 1, np.ones(2, bool), jnp.asarray(True)]
KEYS = [*WORDS, 0, jr.split(KEY), jnp.zeros(2), np.zeros((3, 2), np.uint32)]
DTYPE = ["none", 3, int, bool, {}, jnp.int32]
REAL = [*DTYPE, complex, jnp.complex64]
ELEMENTWISE = [
    *WORDS,
    *(jax.nn.softmax, jnp.sum, jnp.cumsum, jnp.flip, eqx.nn.PReLU(), eqx.nn.PReLU().__call__),
    *(eqx.nn.PReLU, jnp.argmax, lambda v: v > 0, lambda v: 1.0, lambda a, b: a, jnp.ones(3)),
    lambda v: v - v.mean(),
]
FUNCTION = [*WORDS, 3, mpj.EProp]
MASK = ["all", 3, {}, np.ones((N, N)), np.ones((2, N), bool), np.ones((N, N), int)]
GIVEN = [*WORDS, 3, True, [1.9, -1, 1, -1], [1, 0, 1, -1], [[1, -1]], [], [True] * N]
CELL = [*WORDS, 3, mpj.LeakyCell, jnp.tanh, jnp.ones(3), GRU]
RULE = [*WORDS, 3, "eprop", mpj.EProp, SGD]
RULES = [None, 3, "eprop", mpj.EProp, [], {}, ["eprop"], {"eprop": mpj.EProp}, [None]]
OPTAX = [*WORDS, 3, optax.sgd, 0.1, jnp.tanh]
ARRAY = [*WORDS, "xs"]
SEQUENCE = [*WORDS, "xs", 3, np.ones(())]
FLOATS = [*WORDS, "u", 3, np.ones(2, int), jnp.ones(2, bool)]
CHOICE = [*WORDS, "other", 3, jnp.ones(2)]
TYPES = ["abc", 3, {}, [0, 2], [0.5, 1.5], [[0, 1]], [], jnp.ones(3)]
NOISE = [*WORDS, "uniform", 3, np.ones(3), [["a", "b"]]]
EMISSIONS = [*WORDS, 3, np.ones(3), np.full((2, 3), math.nan)]
REALS = [*WORDS, 1j, [1j], np.array("1")]
PERIODS = [*WORDS, 3, [], ["1"], [0], [-2], [None]]


def without(kind: list, *right: Any) -> list:
    """Where some of these are right after all."""
    return [value for value in kind if not any(value is r for r in right)]


def or_none(kind: list) -> list:
    return without(kind, None)


# by the argument's name, unless a row below says otherwise
WRONG: dict[str, list] = {
    **dict.fromkeys(["in_size", "hidden_size", "out_size", "size", "batch", "steps"], SIZE),
    **dict.fromkeys(["n", "horizon", "refresh", "probes", "max_steps", "iterations"], SIZE),
    **dict.fromkeys(["blocks", "repeat", "length", "cue", "recall", "group", "bits"], SIZE),
    **dict.fromkeys(["stimulus", "hold", "unroll"], SIZE),
    **dict.fromkeys(["inputs", "chunk"], or_none(SIZE)),
    "means": [*WORDS, 3, np.ones((2, 2)), jnp.ones(3), jnp.ones((2, 2), int), jnp.ones((3, 3))],
    "weight": [*WORDS, 3, np.ones((N, N)), jnp.ones(3), jnp.ones((N, N), int)],
    "exists": MASK,
    **dict.fromkeys(["symbols", "categories", "draws"], [*SIZE, 1]),
    **dict.fromkeys(["labels", "refractory", "gap", "delay"], COUNT),
    **dict.fromkeys(["teacher", "pattern", "seed"], WHOLE),
    **dict.fromkeys(["taps", "sweeps", "held_out"], or_none(COUNT)),
    **dict.fromkeys(["tau", "dt", "threshold", "tau_adaptation"], CONSTANT),
    "cues": [*SIZE, 2],
    "beta": TRAINABLE,
    "alpha": [*CONSTANT, 1.5, mpj.Positive(0.5)],
    "value": [*REALS, math.nan, True, np.ones((2, 2))],
    **dict.fromkeys(["low", "high"], without(STATIC, math.inf)),
    **dict.fromkeys(["sigma", "max_phase", "revive", "half_period", "smoothing"], POSITIVE),
    **dict.fromkeys(["duration", "tau_credit"], POSITIVE),
    **dict.fromkeys(["dampening", "epsilon", "ridge", "rtol", "atol", "tol"], [*STATIC, *NEGATIVE]),
    "gamma": [*STATIC, *NEGATIVE, 0.5],
    "gain": STATIC,
    "damping": [*or_none(FRACTION), 0],
    **dict.fromkeys(["r_min", "r_max", "connectivity"], FRACTION),
    "plastic_from": [*FRACTION, 1],
    "p_transition": [*FRACTION, 0],
    **dict.fromkeys(["rate", "noise_rate"], [*NUMBER, *NEGATIVE, 101]),
    **dict.fromkeys(["amplitude", "baseline", "recurrent_scale", "target", "strength"], NUMBER),
    "sd": [*NUMBER, *NEGATIVE],
    "shrink": [*NUMBER, *NEGATIVE],
    **dict.fromkeys(["use_bias", "autapses", "scale_input", "reset_gradient", "scale"], FLAG),
    **dict.fromkeys(["scale_adaptation", "divide_by_adaptive", "check", "learn_tau"], FLAG),
    **dict.fromkeys(
        ["prospective_errors", "author_compat", "diffuse", "online", "driven", "gated"], FLAG
    ),
    **dict.fromkeys(
        ["has_aux", "recurrent", "deterministic", "paired", "states", "emit_params"], FLAG
    ),
    "key": KEYS,
    "dtype": REAL,
    **dict.fromkeys(["activation", "activations", "surrogate", "squash"], ELEMENTWISE),
    "balance": or_none(ELEMENTWISE),
    **dict.fromkeys(["step", "emit", "loss", "segment_loss", "init"], FUNCTION),
    "where": or_none(FUNCTION),
    "mask": MASK,
    "signs": or_none(GIVEN),
    **dict.fromkeys(["cell", "layer"], CELL),
    "like": or_none(CELL),
    **dict.fromkeys(["rule", "reference"], RULE),
    "rules": RULES,
    **dict.fromkeys(["learn", "optimizer"], OPTAX),
    "learn_jacobian": OPTAX,
    **dict.fromkeys(["xs", "ys"], SEQUENCE),
    **dict.fromkeys(["u", "x"], FLOATS),
    "carry": [*WORDS, 3, jnp.ones(7)],
    **dict.fromkeys(["jacobian", "output", "order", "feedback", "split", "by", "name"], CHOICE),
    **dict.fromkeys(["switching", "variant"], CHOICE),
    "types": TYPES,
    "noise": NOISE,
    "leak": [*NUMBER, *NEGATIVE, 1.1, (), (0.5, 2.0), jnp.asarray(0.5), mpj.Positive(0.5)],
    "state": [lambda: 0, "rest", object()],
    "model": [None, "model", 3, eqx.nn.Linear(2, 2, key=KEY)],
    **dict.fromkeys(["rate_", "projection", "rates"], REALS),
    "mu": [*WORDS, "large", 1j, math.nan, np.ones(3, bool), {}],
    **dict.fromkeys(["train", "test"], [*WORDS, 3, (XS,), XS[0, 0, 0]]),
    "bounds": ["0, 1", 3, (0,), (0, None), ("a", "b"), {}],
    "names": ["ab", 3, {}],
    "logits": FLOATS,
    "outputs": FLOATS,
    "lags": [*WORDS, 3, (1,), (2, 2), (1, -1), (1, 2.5), ("a", "b")],
    "periods": PERIODS,
    "weights": [*WORDS, 3, [], ["a"], [None], [math.nan]],
    "sizes": [*WORDS, 3, [], [2], [2, 0], [2, "3"], [0, 2], [2, -1], [2, 1.5]],
    "outputs_": [],
}


class Traced(NamedTuple):
    """A value that is not known where it is given."""

    value: Any


class Row(NamedTuple):
    """A right call, and what is wrong in an argument where `WRONG` does not say it."""

    right: Callable[[], dict[str, Any]] = dict
    wrong: dict[str, list] = {}
    args: tuple = ()
    # whose further arguments `**options` takes
    options: tuple[Any, ...] = ()
    # without a meaning that could be wrong
    free: tuple[str, ...] = ()
    call: Any = None


# --- data as tasks ---

SHARE = [*STATIC, *NEGATIVE, 0, 1]
DATA = {
    **dict.fromkeys(["test", "validation"], SHARE),
    "seed": [*WHOLE, -1],
    "normalise": FLAG,
    "readout": or_none(CHOICE),
    "classes": or_none(SIZE),
    "name": [None, {}, object(), 3, "two words"],
    "preset": [3, "small", {}, object()],
    "trials": SIZE,
}


def of_cell(**more):
    return lambda: dict(in_size=M, hidden_size=N, key=KEY) | more


def drawn(**given):
    """`probability` takes the place of `fan_in`."""
    if given.get("probability") is not None:
        del given["fan_in"]
    return mpj.Sparse.random(**given)


# a map in place of weights
INDEX = [[0.0, 1.0], [0, N], [-1, 0], [[0, 1]], [0], "all", [True, False]]
MAP = [{}, "all", 3, jnp.ones((N, N)), mpj.Dense, mpj.Dense(jnp.ones((N, N + 1)))]
GATES = [*MAP, (), [3, 3], (mpj.Dense(jnp.ones((N, N))),) * 7, (mpj.Dense, 3, None), (None,) * 4]


def neurons(**more):
    """Of cells whose `recurrent` is a map."""
    return {"recurrent": MAP, "inputs": MAP, "dtype": DTYPE} | more


def keyed(**more):
    return lambda: dict(key=KEY) | more


LIF = mpj._cell._lif.AbstractLIF  # pyright: ignore
COMPLEX = {"dtype": DTYPE}
# a list has an entry a layer
BY_LAYER = without(CONSTANT, NUMBER[8])
UNITS = {
    name: [*WORDS, "ab", 3, [True], np.ones(N), jnp.ones(N), [[True]]]
    for name in ("inputs", "outputs")
}
PREDICTING = mpj.RNN(mpj.RateCell(M, N, key=KEY), rule=mpj.LocalDNI(learn=SGD, learn_jacobian=SGD))
STREAM = dict(model=model(), xs=XS, ys=YS, init=lambda m, key: m.init((2,), key=key), key=KEY)
EI = {"rule": [*RULE, mpj.EProp()], "cell": [*CELL, leaky()], "dt": [*POSITIVE, 2.0]}
CROSS = {"labels": [*ARRAY, 3, jnp.ones(2), jnp.zeros(3, jnp.int32)]}

VALUES = np.arange(18.0).reshape(9, 2) ** 2
# of recorded data
RECORDED = {
    "steps": or_none(SIZE),
    "path": [*or_none(WORDS), 3, "nowhere"],
    "sequence": [*SIZE, 10],
    "lags": SIZE,
    "every": SIZE,
    "window": SIZE,
    "fold": [*COUNT, 5],
}
AMOUNTS = [*NUMBER, *NEGATIVE]
SERIES = dict(inputs=np.ones((T, M)), targets=np.ones((T, 2)))
STEPS = [*WORDS, 3, 0.5, np.ones(T), np.ones((T, M), int), np.full((T, M), math.nan)]
FORECAST = {
    "inputs": [*STEPS, np.ones((T + 1, M))],
    "targets": [*STEPS, np.ones((T - 1, 2))],
    **dict.fromkeys(["order", "fit"], [*SIZE, T]),
    "delay": [*COUNT, T - 1],
    **dict.fromkeys(["ridge", "rate", "clip"], [*AMOUNTS, *ZERO]),
    **dict.fromkeys(["leak", "forgetting"], [*AMOUNTS, *ZERO, 1.1]),
    **dict.fromkeys(["radius", "input_scale"], AMOUNTS),
}
SETS = dict(train=np.ones((9, 4, 2)), labels=np.array([0, 1, 0, 1]), test=np.ones((9, 4, 2)))
LENGTHS = ["all", 3, np.ones(4), np.ones(3, int), np.zeros(4, int), np.full(4, 10)]
CLASSIFY = {
    **dict.fromkeys(
        ["train", "test"],
        [*WORDS, 3, np.ones((9, 4)), np.ones((9, 4, 2), int), np.full((9, 4, 2), math.nan)],
    ),
    "labels": [*WORDS, 3, np.ones(4), np.ones(3, int)],
    **dict.fromkeys(["train_lengths", "test_lengths"], LENGTHS),
    "statistics": [*WORDS, 3, "mean", [], ["mode"], [None]],
    "kernels": [*WHOLE, 83],
    "seed": COUNT,
}

FILTERS = [*WORDS, 3, [], [[0.5]], np.ones((2, 2)), ([0.5], [0.5]), ([1.5], np.ones((1, 2, 2)))]
FIT: dict[str, Any] = dict(rates=[0.5], ridge=0.1)
FILTER = mpj.TypeFilter(([0.5], np.zeros((1, 2, 2))), [0, 0, 1, 1])
TURNING = mpj.TypeFilter(([0.5j], np.zeros((1, 2, 2))), [0, 0, 1, 1])
BATCHES = [*WORDS, 3, [], [(XS,), (XS[:1],)]]
RATES = [*WORDS, 0.5, [], [[0.5]], [0.5, 0.5], [1.5], [math.nan]]
RIDGES = [*or_none(WORDS), *NEGATIVE, [], [None], math.nan]

ROWS: dict[str, Row] = {
    "NeuronCell": Row(of_cell(), neurons(), call=Silent),
    "LeakyCell": Row(of_cell(tau=4.0), neurons()),
    "RateCell": Row(of_cell(), neurons()),
    "LIFCell": Row(of_cell(tau=4.0), neurons(), options=(LIF, mpj.NeuronCell)),
    "ALIFCell": Row(
        of_cell(tau=4.0, tau_adaptation=9.0, beta=1.0), neurons(), options=(LIF, mpj.NeuronCell)
    ),
    "GRUCell": Row(of_cell(), {"recurrent": GATES, "inputs": GATES}),
    "LSTMCell": Row(of_cell(), {"recurrent": GATES, "inputs": GATES}),
    "GRUCell.from_equinox": Row(lambda: dict(cell=GRU), {"cell": [*CELL[:-1], leaky()]}),
    "LSTMCell.from_equinox": Row(lambda: dict(cell=LSTM)),
    "LRUCell": Row(of_cell()),
    "RTUCell": Row(of_cell(), {"nonlinear": FLAG}),
    "Dense": Row(lambda: dict(weight=jnp.ones((N, M)))),
    "Masked": Row(lambda: dict(weight=jnp.ones((N, N)), exists=np.eye(N, dtype=bool))),
    "Sparse": Row(
        lambda: dict(post=[0, 1], pre=[1, 0], weight=jnp.ones(2), shape=(N, N)),
        {"post": INDEX, "pre": INDEX, "shape": [3, (N,), (N, 0), (N, 1.5), "square"]},
    ),
    "SparseRows": Row(
        lambda: dict(synapses=LISTED, parts=2),
        {"synapses": [3, None, mpj.Dense(jnp.ones((N, N)))], "parts": [*SIZE, 3]},
    ),
    "over_neurons": Row(
        lambda: dict(tree=jnp.ones(N), mesh=MESH, model=mpj.SparseRows(LISTED, 2), axis="neurons"),
        {"mesh": [3, None, "neurons"], "model": [3, None, LISTED], "axis": [3, None, "batch"]},
        free=("tree",),
    ),
    "Sparse.from_dense": Row(
        lambda: dict(matrix=EYE, mask=None),
        {
            "matrix": [*WORDS, 3, jnp.ones(N), [["one"]], np.eye(N, dtype=int), Traced(EYE)],
            "mask": [*MASK, Traced(jnp.ones((N, N), bool))],
        },
    ),
    "Sparse.random": Row(
        keyed(shape=(N, N), fan_in=2),
        {
            "key": [*KEYS, Traced(KEY)],
            "shape": [None, 3, (N,), (N, 0), (N, 1.5), "square", Traced((jnp.asarray(N), N))],
            "fan_in": [*WHOLE[:-1], -1, N, [1.5] * N, [N] * N, Traced(jnp.asarray(2))],
            "probability": [*or_none(STATIC), *NEGATIVE, *ZERO, 1.5, Traced(jnp.asarray(0.5))],
            "signs": [*or_none(GIVEN), [1] * N, Traced(jnp.asarray(SIGNS))],
            "autapses": [*FLAG, Traced(jnp.asarray(True))],
        },
        call=drawn,
    ),
    "Sparse.rewired": Row(
        keyed(),
        {"key": [*KEYS, Traced(KEY)]},
        free=("self",),
        call=lambda key: LISTED.rewired(key),
    ),
    "LowRank": Row(
        lambda: dict(left=jnp.ones((N, 2)), right=jnp.ones((M, 2)), plus=None),
        {
            "left": [*WORDS, 3, np.ones((N, 2)), jnp.ones(2), jnp.ones((N, 3))],
            "right": [*WORDS, 3, np.ones((M, 2)), jnp.ones(2), jnp.ones((M, 3))],
            "plus": [3, "rest", jnp.ones((N, M)), mpj.Dense(jnp.ones((M, N)))],
        },
    ),
    "Layer": Row(
        lambda: dict(
            layer=eqx.nn.Conv1d(1, 1, 3, padding=1, use_bias=False, key=KEY), sheet=(1, N)
        ),
        {"layer": [3, jnp.tanh, eqx.nn.Linear], "sheet": [N, None, (N,), (2, N), (1, 0), "square"]},
    ),
    "Blocks": Row(lambda: dict(means=jnp.ones((2, 2)), types=[0, 1, 1, 0])),
    "lognormal_degrees": Row(
        keyed(n=20, mean=3.0),
        {
            "mean": [*STATIC, 0.5, 20.0],
            "spread": [*STATIC, *NEGATIVE],
            "most": without(SIZE, None),
        },
    ),
    "FunctionCell": Row(
        lambda: dict(step=lambda p, s, x: s, params=None, state=np.zeros(2)), free=("params",)
    ),
    "GLECell": Row(
        keyed(sizes=[M, N], tau_m=4.0, tau_r=2.0, dt=1.0, activations=jnp.tanh),
        {name: [*BY_LAYER, 0.5] for name in ("tau_m", "tau_r")}
        | {"dt": without(CONSTANT, CONSTANT[-2])},
    ),
    "EquilibriumCell": Row(
        keyed(size=N, inputs=np.arange(N) < 1, outputs=np.arange(N) > 2, activation=jnp.tanh),
        UNITS | {"solver": ["newton", 3, jnp.tanh, optax.sgd]},
    ),
    "EquilibriumCell.layered": Row(
        keyed(sizes=[2, 2], activation=jnp.tanh),
        {"sizes": [*WORDS, 3, [], [2], [2, 0], [2, "3"], [2, -1], [2, 1.5]]},
    ),
    "Filtered": Row(
        lambda: dict(cell=leaky(), leak=0.5), {"cell": [*CELL, mpj.Filtered(leaky(), 0.5)]}
    ),
    "spiking_preset": Row(
        of_cell(name="bellec_lif", leak=0.5, tau=4.0), neurons(), options=(LIF, mpj.NeuronCell)
    ),
    "spike": Row(lambda: dict(u=jnp.ones(2))),
    "balanced_dale": Row(keyed(signs=SIGNS), {"signs": [*GIVEN, [1] * N]} | COMPLEX),
    "Positive": Row(lambda: dict(value=1.0), {"value": [*WRONG["value"], *NEGATIVE, *ZERO]}),
    "Between": Row(
        lambda: dict(value=1.0, low=0.0, high=2.0), {"value": [*WRONG["value"], *NEGATIVE, 0, 2]}
    ),
    "Readout": Row(keyed(in_size=M, out_size=2), COMPLEX),
    "ForceReadout": Row(keyed(in_size=M, out_size=2), COMPLEX | {"alpha": POSITIVE}),
    "RNN": Row(lambda: dict(cell=leaky())),
    "scan": Row(
        lambda: dict(cell=leaky(), carry=leaky().init((2,)), xs=XS),
        {
            "valid": ["all", 3, {}, np.ones((T, 2)), np.ones(T, bool), np.ones((T, 3), bool)],
            "done": ["all", 3, {}, np.ones((T, 2)), np.ones(T, bool), np.ones((T, 3), bool)],
            "drive": ["all", object(), np.ones((T, 2, N + 1)), np.ones(N)],
            "context": ["all", object()],
        },
    ),
    "reset": Row(
        lambda: dict(layer=model(), carry=model().init((2,)), ended=np.zeros(2, bool)),
        {"ended": [*WORDS, "all", np.zeros(3, bool), np.zeros(2)]},
    ),
    "take_examples": Row(
        lambda: dict(layer=model(), carry=model().init((2,)), index=np.zeros(2, int)),
        {"index": [*WORDS, "all", np.zeros(2)]},
    ),
    "with_rule": Row(lambda: dict(model=model(), rule=mpj.EProp())),
    "value_and_grad": Row(lambda: dict(loss=loss), {"rule": or_none(RULE)}),
    "perturbed_value_and_grad": Row(
        lambda: dict(loss=loss, key=KEY), {"kind": CHOICE, "noise": CHOICE, "antithetic": FLAG}
    ),
    "online_value_and_grad": Row(
        lambda: dict(segment_loss=segment_loss),
        {"segment": [*SIZE, "all"], "memory": [0, -1, "1", 1.5]},
    ),
    "checkpointed_value_and_grad": Row(
        lambda: dict(segment_loss=segment_loss), {"segment": [*SIZE, "all"]}
    ),
    "learn_stream": Row(
        lambda: dict(
            model=model(), xs=XS, ys=YS, loss=squares, optimizer=optax.sgd, learning_rate=0.1
        ),
        {
            "optimizer": [*WORDS, 3, SGD, 0.1, optax.GradientTransformation],
            "learning_rate": [*NUMBER[1:], *NEGATIVE],
            "rule": or_none(RULE),
            "segment": SIZE,
            "done": [*or_none(WORDS), 3, np.ones((T, 2)), np.ones((T, 3), bool)],
            "carry": [*or_none(WORDS), 3, jnp.ones(7)],
            "key": or_none(KEYS),
        },
    ),
    "as_done": Row(
        lambda: dict(begins=np.ones((T, 2), bool)),
        {"begins": [*WORDS, 3, np.ones(T), np.asarray(True)], "last": FLAG},
    ),
    "rate_cost": Row(
        lambda: dict(counts=jnp.ones((2, N)), steps=3, target=0.1),
        {"counts": [*WORDS, "ab", 3, 1j], "steps": without(SIZE, SIZE[8])},
    ),
    **{
        name: Row()
        for name in ("BPTT", "RTRL", "EProp", "RFLO", "ThreeFactor", "DiagonalRTRL", "ReadoutOnly")
    },
    **{name: Row() for name in ("cards", "taxonomy")},
    "cite": Row(
        wrong={
            "rule": [*CELL[1:], "eprop", mpj.AbstractCell],
            "cell": [*RULE[1:-2], "gru", mpj.AbstractRule, GRU],
            "package": FLAG,
        }
    ),
    "DNI": Row(lambda: dict(learn=SGD), {"learn_jacobian": or_none(OPTAX)}),
    "LocalDNI": Row(lambda: dict(learn=SGD, learn_jacobian=SGD)),
    "EICredit": Row(),
    "EqProp": Row(wrong={"beta": POSITIVE, "symmetric": FLAG}),
    "FutureBPTT": Row(lambda: dict(horizon=2)),
    "GLE": Row(),
    "KeRNL": Row(wrong={"alpha": or_none([*FRACTION, 0])}),
    "AdaptiveRank": Row(
        wrong={
            **dict.fromkeys(("least", "most", "patience"), SIZE),
            **dict.fromkeys(("low", "high"), [*STATIC, *NEGATIVE]),
        }
    ),
    "SKRTRL": Row(
        lambda: dict(rank=2),
        {"rank": COUNT, "iterations": or_none(SIZE), "extra": COUNT, "certificate": FLAG},
    ),
    **{name: Row() for name in ("UORO", "KFRTRL", "RKFRTRL")},
    **{name: Row() for name in ("ForwardGradient", "NodePerturbation")},
    "MDGL": Row(),
    "ModProp": Row(lambda: dict(mu=0.5)),
    "QuasiStatic": Row(),
    "SnAp": Row(lambda: dict(n=1)),
    "TypeFilter": Row(
        lambda: dict(filters=np.ones((1, 2, 2)), types=[0, 1, 1, 0]),
        {"filters": FILTERS, "own": [*or_none(WORDS), 0.1, [0.1], ["a", "b"], [math.nan, 0.0]]},
    ),
    "alignment": Row(
        lambda: dict(loss=loss, model=model(), rule=mpj.EProp()),
        {"rule": or_none(RULE)},
        args=(XS,),
    ),
    "alignment_matrix": Row(
        lambda: dict(loss=loss, model=model(), rules=[mpj.EProp()]), args=(XS,)
    ),
    "credit_limit": Row(
        lambda: dict(
            loss=loss, model=model(), batches=[(XS,), (XS,)], types=[0, 0, 1, 1], memory=(1,), **FIT
        ),
        {
            "batches": BATCHES,
            "types": without(TYPES, "abc"),
            "rates": RATES,
            "ridge": RIDGES,
            "counts": [*or_none(WORDS), 3, [], [1], [5], [2, 2], [None]],
            "memory": [*or_none(WORDS), 3, [], [0], [2], [1, 1], [None]],
            "gated": [*FLAG, [], [True, True], [None]],
            "rounds": SIZE,
            "rules": without(RULES, None),
        },
    ),
    "compartments": Row(
        lambda: dict(rnn=PREDICTING, carry=PREDICTING.init((2,), key=KEY), xs=XS, loss=jnp.sum),
        {
            "rnn": [*WORDS, 3, leaky(), model()],
            "context": [],
            "xs": [],
            "carry": [*WORDS, 3, leaky().init((2,))],
        },
        free=("context", "xs"),
    ),
    "credit_profile": Row(lambda: dict(loss=loss, model=model(), rules=[mpj.EProp()]), args=(XS,)),
    "curvature_bound": Row(lambda: dict(rate=0.1), {"rate": REALS}),
    "matched_rates": Row(lambda: dict(rates=0.1, projection=0.5)),
    "ei_balance": Row(
        lambda: dict(cell=settling(), state=settling().init()),
        {"cell": [*CELL, leaky()], "state": [*WORDS, 3, jnp.ones(4)]},
    ),
    "filter_taps": Row(
        lambda: dict(rule=mpj.ModProp(0.1), cell=leaky(), n=3), {"rule": [*RULE, mpj.EProp()]}
    ),
    "fit_filters": Row(
        lambda: dict(loss=loss, model=model(), batches=[(XS,), (XS,)], types=[0, 0, 1, 1], **FIT),
        {"batches": BATCHES, "rates": RATES, "ridge": RIDGES, "towards": or_none(RULE)},
    ),
    "filter_equations": Row(
        lambda: dict(loss=loss, model=model(), rule=FILTER),
        {"rule": [*RULE, mpj.EProp(), TURNING, mpj.TypeFilter(np.zeros((1, 1, 1)), [0])]},
        args=(XS,),
    ),
    "refit": Row(
        lambda: dict(rule=FILTER, equations=mpj.FilterEquations(jnp.zeros((2, 4, 4)))),
        {
            "rule": [*RULE, mpj.EProp(), TURNING],
            "equations": [*WORDS, 3, jnp.ones((2, 4, 4)), mpj.FilterEquations(jnp.ones((2, 3, 3)))],
            "ridge": [*NUMBER, *NEGATIVE, *ZERO, 1e-30],
            "towards": [
                *or_none(RULE),
                mpj.EProp(),
                TURNING,
                mpj.TypeFilter(np.zeros((3, 2, 2)), [0, 1]),
            ],
            "trust": [*or_none(NUMBER), *NEGATIVE, *ZERO],
        },
    ),
    "plot_credit_limit": Row(
        wrong={"limit": [*WORDS, 3, jnp.ones(2)]},
    ),
    "plot_filter_taps": Row(
        lambda: dict(rule=mpj.ModProp(0.1, [0, 0, 1, 1]), cell=leaky(), n=3),
        {"rule": [*RULE, mpj.EProp()]},
    ),
    "spectral_radius": Row(
        lambda: dict(rule=mpj.ModProp(0.1), cell=leaky()), {"rule": [*RULE, mpj.EProp()]}
    ),
    "running_mu": Row(lambda: dict(cell=leaky(), xs=jnp.asarray(XS))),
    "firing_rates": Row(lambda: dict(zs=YS), {"zs": EMISSIONS, "dt": POSITIVE}),
    "participation_ratio": Row(lambda: dict(zs=YS), {"zs": EMISSIONS}),
    "plot_raster": Row(
        lambda: dict(zs=YS), {"zs": EMISSIONS, "example": [*WHOLE, -1, 2], "dt": POSITIVE}
    ),
    "plot_participation_ratio": Row(
        lambda: dict(found=mpj.participation_ratio(YS)), free=("found",)
    ),
    "recurrent_eigenvalues": Row(
        lambda: dict(cell=leaky()), {"state": [3, jnp.ones((2, N))]}, free=("x",)
    ),
    "plot_eigenvalues": Row(lambda: dict(values=np.ones(3)), free=("values", "radius")),
    "fixed_points": Row(
        lambda: dict(cell=leaky(), starts=jnp.ones((2, N))),
        {"starts": [3, jnp.ones((2, 7))], "slow": POSITIVE, "apart": POSITIVE},
        free=("x",),
    ),
    "plot_fixed_points": Row(
        lambda: dict(found=mpj.fixed_points(leaky(), jnp.ones((2, N)))), free=("found", "states")
    ),
    "weight_change": Row(
        lambda: dict(before=np.eye(N), after=np.ones((N, N))),
        dict.fromkeys(["before", "after"], [*WORDS, 3, np.ones(3), np.ones((N, N), int)])
        | {"presynaptic": TYPES},
    ),
    "plot_weight_change": Row(
        lambda: dict(found=mpj.weight_change(np.eye(N), np.ones((N, N)))), free=("found", "names")
    ),
    "generalisation_gap": Row(
        keyed(loss=scored, model=model(), train=(XS, YS), test=(jnp.asarray(XS), YS)),
        free=("model",),
    ),
    "input_noise": Row(keyed(xs=jnp.asarray(XS)), {"xs": without(FLOATS, 3)}),
    "gradient_spread": Row(
        lambda: STREAM | dict(segment_loss=segment_loss, rule=mpj.EProp(), draws=2)
    ),
    "hessian_top": Row(keyed(loss=loss, model=model()), args=(XS,)),
    "online_alignment": Row(
        lambda: (
            STREAM
            | dict(segment_loss=segment_loss, rules=[mpj.EProp()], learner="EProp", optimizer=SGD)
        ),
        {"learner": RULE},
    ),
    "three_timescales": Row(
        lambda: dict(cell=settling(), x=jnp.ones(2), loss=jnp.sum, duration=1.0), EI
    ),
    "baselines.persistence": Row(lambda: SERIES, FORECAST),
    "baselines.ar_least_squares": Row(lambda: SERIES | dict(order=2, fit=3), FORECAST),
    "baselines.recursive_least_squares": Row(lambda: SERIES | dict(order=2), FORECAST),
    "baselines.lms": Row(
        lambda: SERIES | dict(order=2, rate=0.1), FORECAST | {"clip": or_none(FORECAST["clip"])}
    ),
    "baselines.reservoir": Row(keyed(inputs=SERIES["inputs"]), FORECAST | {"inputs": STEPS}),
    "baselines.echo_state": Row(keyed(**SERIES), FORECAST | {"fit": or_none(FORECAST["fit"])}),
    **{
        f"baselines.{name}": Row(lambda: SETS, CLASSIFY)
        for name in ("nearest_neighbour_dtw", "logistic_regression", "random_convolutions")
    },
    "optim.symmetric": Row(
        lambda: dict(inputs=np.ones(N, bool)), {"inputs": [*WORDS, 3, np.ones(N), [[True]]]}
    ),
    "optim.fptt": Row(wrong={"alpha": POSITIVE, "beta": FRACTION, "rho": FRACTION}),
    "optim.eligibility_traces": Row(
        lambda: dict(decay=0.9),
        {"decay": [*NUMBER, *NEGATIVE, 1.1, jnp.asarray(1.1)], "agents": or_none(SIZE)},
    ),
    "optim.dale": Row(lambda: dict(signs=SIGNS), {"signs": GIVEN}),
    "optim.rewire": Row(lambda: dict(signs=SIGNS), {"signs": GIVEN}),
    **{
        f"surrogate.{name}": Row(lambda: dict(u=jnp.ones(2)))
        for name in ("triangular", "fast_sigmoid", "gaussian", "exponential", "arctan", "boxcar")
    },
    **{
        f"tasks.{name}": Row(keyed(batch=2), {"noise": [*NUMBER]})
        for name in ("delayed_xor", "delayed_match", "copy_memory", "flip_flop", "add", "digits")
    },
    **{f"tasks.{name}": Row(keyed(batch=2)) for name in ("sequential_digits", "mnist1d")},
    **{f"tasks.{name}_split": Row() for name in ("sequential_digits", "mnist1d", "digits")},
    "tasks.sine_wave": Row(keyed(steps=5)),
    "tasks.mimic": Row(keyed(steps=5), {"alpha": [*FRACTION, 0]}),
    "tasks.pattern_generation": Row(
        keyed(steps=5, periods=(5, 3)),
        {"noise": [*STATIC, *NEGATIVE], "steps": [*SIZE, 2], "periods": [*PERIODS, [9]]},
    ),
    "tasks.evidence_accumulation": Row(
        keyed(batch=2, cues=1, cue=2, gap=1, recall=2), {"delay": or_none(COUNT)}
    ),
    "tasks.lag_line": Row(
        keyed(steps=5, batch=2),
        {
            "dt": POSITIVE,
            "tau_m": [*WORDS, 3, [], ["a", "b"], [0, 1]],
            "tau_r": [*without(CONSTANT, None), 1e-3],
        },
    ),
    "tasks.lag_line_cell": Row(
        wrong={
            "tau_m": [*WORDS, 3, [], ["a", "b"], [0, 1]],
            "tau_r": [*without(CONSTANT, None), 1e-3],
            "dt": without(CONSTANT, CONSTANT[-2]),
        },
    ),
    "tasks.from_recordings": Row(
        lambda: dict(
            inputs=np.random.default_rng(0).normal(size=(20, 4, 2)), targets=np.arange(20) % 2
        ),
        DATA
        | {
            "inputs": [*WORDS, 3, [], np.ones((20, 4)), np.full((20, 4, 2), math.nan)],
            "targets": [*WORDS, 3, [], np.ones(7, int), np.ones(20), np.full((20, 1), math.nan)],
            "lengths": or_none([*WORDS, 3, [1], np.ones(20), np.zeros(20, int)]),
            "groups": or_none([*WORDS, 3, [1], np.ones(20), np.zeros(20, int), str]),
        },
    ),
    "tasks.from_generator": Row(
        lambda: dict(
            generator=lambda rng: (rng.normal(size=(4, 2)), int(rng.integers(2))), trials=30
        ),
        DATA | {"generator": [*WORDS, 3, lambda: 3, lambda: (1, 2, 3), [(XS[:, 0], 1)]]},
    ),
    "tasks.from_neurogym": Row(
        lambda: dict(env=Trials(), trials=30),
        DATA | {"env": [None, {}, object(), 3], "fixation": or_none(COUNT)},
    ),
    "tasks.connectome": Row(keyed(), {"answer": SIZE, "noise": NUMBER}),
    "tasks.recorded": Row(
        lambda: dict(values=VALUES, fit=4),
        {
            "values": [None, {}, 3, "no.csv", np.ones((1, 2, 3)), np.full((9, 2), np.nan)],
            "fit": [*or_none(SIZE), 10],
            "horizon": [*or_none(SIZE), 9],
            "lags": [*SIZE, 9],
            "labels": [{}, object(), "2", 3, np.ones(8), np.ones((9, 1, 1)), np.full(9, np.nan)],
            "columns": [*or_none(WORDS), 3, [], ["2"], [0], ["0", "0"]],
            "targets": [*or_none(WORDS), 3, [], ["2"], [0], ["0", "0"]],
            "time": [{}, object(), "2", 3, np.ones(8), np.ones(9), [0, 1, 2, 3, 4, 5, 6, 7, 20]],
            "delay": [*or_none(COUNT), 2],
            "ddof": [*COUNT],
        },
    ),
    **{
        f"tasks.{name}": Row(
            lambda: dict(outputs=jnp.ones((T, 2)), ys=jnp.ones((T, 2))),
            {"ys": [*FLOATS, jnp.ones((T, 3))], "outputs": [*FLOATS, jnp.ones((T, 3))]}
            | {"steps": [*or_none(WORDS), 3, (1,), (3, 3), (0, T + 1), (-1, 2), (0, 1.5)]},
        )
        for name in ("nmse", "nrmse")
    },
    **{
        f"tasks.{name}": Row(keyed(), RECORDED | {"fit": fit})
        for name, fit in {"laser": SIZE, "sunspots": SIZE, "respiration": or_none(SIZE)}.items()
    },
    "tasks.respiration_signals": Row(wrong=RECORDED),
    **{
        f"tasks.{name}{suffix}": Row(dict if suffix else keyed(), RECORDED)
        for name in ("watch", "japanese_vowels", "basic_motions")
        for suffix in ("", "_split")
    },
    "tasks.cross_entropy": Row(lambda: dict(logits=jnp.ones((2, 3)), labels=LABELS), CROSS),
    "tasks.summed_cross_entropy": Row(
        lambda: dict(logits=jnp.ones((T, 2, 3)), labels=LABELS), CROSS
    ),
    "tasks.squared_error": Row(
        lambda: dict(outputs=jnp.ones((T, 2, 3)), ys=jnp.ones((T, 2, 3))),
        {"ys": [*FLOATS, jnp.ones((T, 2, 4))], "outputs": [*FLOATS, jnp.ones((T, 2, 4))]},
    ),
}

# what calls return, records of plain values, and bases without a constructor of their own
RETURNED = """Alignment AlignmentMatrix Carry Compartments CreditLimit CreditProfile EIBalance
FilterEquations FilterFit FiringRates FixedPoints GeneralisationGap GradientSpread HessianTop
OnlineAlignment ParticipationRatio StreamCarry tasks.Recording ThreeTimescales WeightChange
optim.RewireState optim.FPTTState optim.EligibilityTracesState""".split()
RECORDS = ["Card", "tasks.Task", "tasks.Preset"]
RECORDS += [f"tasks.{part}" for part in ("Architecture", "Schedule", "Optimizer", "Objective")]
BASES = """AbstractCell SeparableCell AbstractSynapses AbstractLocalSynapses AbstractRule
AbstractTransportRule AbstractSurrogateRule
AbstractInfluenceRule AbstractEstimatingRule""".split()
METHODS = """GRUCell.from_equinox LSTMCell.from_equinox EquilibriumCell.layered Sparse.from_dense
Sparse.random Sparse.rewired""".split()


# a figure, data that take seconds to make, and fits to numbers, which other tests do
SLOW = {"plot_filter_taps", "tasks.mnist1d", "tasks.mnist1d_split"}
SLOW |= {"fit_filters", "credit_limit", "plot_credit_limit"}
# NumPy's, of what has been computed
SLOW |= {name for name in ROWS if "eigenvalues" in name or "fixed_points" in name}
# data that need not be here
SLOW |= {f"tasks.{name}" for name in ("laser", "sunspots")}
SLOW |= {name for name in ROWS if name.startswith(("tasks.watch", "tasks.japan", "tasks.basic"))}
SLOW |= {"baselines.random_convolutions"}  # which needs an extra
SLOW |= {"plot_raster", "plot_participation_ratio", "plot_weight_change"}


def public() -> list[str]:
    found = []
    modules = "baselines", "optim", "surrogate", "tasks"
    for prefix, module in {"": mpj, **{f"{m}.": getattr(mpj, m) for m in modules}}.items():
        for name, value in vars(module).items():
            ours = getattr(value, "__module__", "").startswith("modprop_jax")
            if callable(value) and ours and not name.startswith("_"):
                found.append(prefix + name)
    return sorted([*found, *METHODS])


def named(name: str) -> Any:
    value: Any = mpj
    for part in name.split("."):
        value = getattr(value, part)
    return value


def arguments_of(function: Any, options: tuple[Any, ...] = ()) -> list[str]:
    """Names of the arguments, with those that `**options` hands on."""
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    found = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in kinds
    ]
    return list(dict.fromkeys([*found, *(n for o in options for n in arguments_of(o))]))


def test_every_public_name_is_walked():
    rest = {*RETURNED, *RECORDS, *BASES, "triangular"}
    assert set(public()) - rest == set(ROWS)


# A rule needs a row where an argument must be given, or is wrong in ways of its own.
for rule in sorted(set(mpj.cards()) - set(ROWS)):
    ROWS[rule] = Row(wrong={a: [{}, object()] for a in arguments_of(named(rule)) if a not in WRONG})


@pytest.mark.parametrize("name", sorted(ROWS))
def test_wrong_arguments(name):
    row, call = ROWS[name], ROWS[name].call or named(name)
    faults = []
    for argument in arguments_of(named(name), row.options):
        if argument in row.free:
            continue
        assert argument in row.wrong or argument in WRONG, f"no wrong values for {argument}"
        for wrong in row.wrong.get(argument, WRONG.get(argument, [])):
            fault = complaint(call, row, argument, wrong)
            if fault:
                faults.append(f"{name}({argument}={wrong!r}) {fault}")
    assert not faults, "\n".join(faults)


def complaint(call: Callable, row: Row, argument: str, wrong: Any) -> str | None:
    """What is wrong with the answer: it should be a ValueError of ours that names the argument."""
    given = row.right() | {argument: wrong}
    first = [given.pop(n) for n in ("loss", "model") if row.args]
    try:
        if isinstance(wrong, Traced):
            given.pop(argument)
            eqx.filter_jit(lambda value: call(**given | {argument: value}))(wrong.value)
        else:
            call(*first, *row.args, **given)
    except ValueError as error:
        frame: Any = error.__traceback__
        while frame.tb_next is not None:
            frame = frame.tb_next
        if not Path(frame.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
            return f"raised in {frame.tb_frame.f_code.co_filename}: {error}"
        return None if argument in str(error) else f"raised without the name: {error}"
    except Exception as error:  # what a user should not see
        return f"raised {type(error).__name__}: {error}"
    return "was accepted"


@pytest.mark.parametrize("name", sorted(set(ROWS) - SLOW))
def test_right_arguments(name):
    """The call in which one argument is wrong is right without it."""
    row, call = ROWS[name], ROWS[name].call or named(name)

    def run():
        given = row.right()
        first = [given.pop(n) for n in ("loss", "model") if row.args]
        return eqx.filter(call(*first, *row.args, **given), eqx.is_array)

    eqx.filter_eval_shape(run)
