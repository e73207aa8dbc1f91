# cells without constructors of their own, and properties in a line: pyright knows neither
# pyright: reportCallIssue=false, reportIncompatibleMethodOverride=false, reportArgumentType=false
"""Structure that rules and traces take for granted: final, named, and verified.

Whatever a cell of one's own looks like: exact rules give JAX's derivative of its steps, and a rule
in segments gives what it gives offline; or there is a ValueError.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, CELLS, inner, jit, plain_scan

import modprop_jax as mpj
from modprop_jax._cell._claims import apart, check_claims


N, M, B, STEPS = 4, 3, 2, 4
TYPES = (0, 1, 1, 0)
EXACT = {"bptt": mpj.BPTT(), "rtrl": mpj.RTRL()}
# in segments of one step, too, as a segment of one step has a path of its own
SEGMENTS = {"eprop": (1, 3), "modprop": (1,)}
RULES = EXACT | {
    "eprop": mpj.EProp(),
    "mdgl": mpj.MDGL(TYPES),
    "modprop": mpj.ModProp(0.1, TYPES),
    "diagonal": mpj.DiagonalRTRL(),
    "quasi_static": mpj.QuasiStatic(sweeps=1),
}
LOCAL = ("eprop", "mdgl", "modprop", "quasi_static")


# --- what is measured ---


def gradients(cell, xs, rules) -> dict[str, Any]:
    """By JAX through the steps, offline by rule, and by rule in segments; refusals as messages."""

    def error(zs, begin):
        count = jnp.arange(begin, begin + zs.size, dtype=zs.dtype).reshape(zs.shape)
        return jnp.sum(jnp.cos(1.3 * count) * zs + 0.3 * zs**2)

    def by_steps(cell):
        return error(plain_scan(cell, cell.init((B,)), xs)[1], 0)

    def offline(cell, rule):
        return error(mpj.scan(cell, cell.init((B,)), xs, rule=rule)[1], 0)

    def segment(cell, carry, xs, begin, rule):
        carry, zs = mpj.scan(cell, carry, xs, rule=rule)
        return error(zs, begin * zs[0].size), carry

    def streamed(cell, rule, size):
        carry, total = rule.init(cell, cell.init((B,))), None
        for t in range(0, STEPS, size):
            grad = eqx.filter_grad(segment, has_aux=True)
            found, carry = grad(cell, carry, xs[t : t + size], t, rule)
            total = found if total is None else jax.tree.map(jnp.add, total, found)
        return total

    def tried(make, *args):
        try:
            return make(*args)
        except ValueError as refusal:
            return str(refusal)

    found = {"steps": eqx.filter_grad(by_steps)(cell)}
    for name in rules:
        rule = RULES[name]
        found[name] = tried(eqx.filter_grad(offline), cell, rule)
        if name == "bptt" or isinstance(found[name], str):
            continue
        for size in SEGMENTS.get(name, (3,)):
            found[f"{name}/{size}"] = tried(streamed, cell, rule, size)
    return found


def verify(cell, rules=tuple(RULES)) -> dict[str, str]:
    """The refusals, by "rule" and "rule/segment"; all else is right."""
    xs = jr.normal(jr.key(9), (STEPS, B, M))
    found = jit(lambda cell, xs: gradients(cell, xs, rules))(cell, xs)
    refused = {key: text for key, text in found.items() if isinstance(text, str)}
    for key in found.keys() - refused.keys() - {"steps"}:
        rule = key.partition("/")[0]
        expected = found["steps"] if rule in EXACT else found[rule]
        assert_close(found[key], expected, 1e-9, f"{type(cell).__name__}, {key}: ")
    return refused


# --- cells ---


class Neuron(mpj.NeuronCell):
    """A leaky neuron to start from, with parameters that some of its kin read."""

    own: jax.Array
    one: jax.Array

    def __init__(self, autapses=False):
        options = {} if autapses else {"mask": np.tri(N, dtype=bool)}
        mpj.NeuronCell.__init__(
            self, M, N, use_bias=True, autapses=autapses, key=jr.key(0), **options
        )
        self.own = jnp.linspace(0.5, 1.2, N)
        self.one = jnp.asarray(0.8)

    def init(self, batch_shape: Any = ()) -> Any:
        return jnp.full((*batch_shape, N), 0.1)

    def integrate(self, state, drive):
        return 0.7 * state + 0.3 * drive

    def emit(self, state):
        return jnp.tanh(state)

    @property
    def gain(self):
        return 0.3


class Units(mpj.SeparableCell):
    """Leaky units to start from, with weights as a NeuronCell has them."""

    rec: jax.Array
    into: jax.Array
    own: jax.Array

    def __init__(self):
        self.rec, self.into = jr.normal(jr.key(1), (N, N)), jr.normal(jr.key(2), (N, M))
        self.own = jnp.linspace(0.5, 0.9, N)

    in_size = property(lambda self: M)
    hidden_size = property(lambda self: N)
    drive_parameters = property(lambda self: ("rec", "into"))
    unit_parameters = property(lambda self: ("rec", "into", "own"))

    def init(self, batch_shape: Any = ()) -> Any:
        return jnp.zeros((*batch_shape, N))

    def drive(self, message, x):
        return message @ self.rec.T + x @ self.into.T

    def integrate(self, state, drive):
        return jnp.broadcast_to(self.own, state.shape) * state + drive

    def emit(self, state):
        return jnp.tanh(state)


def like(shaped: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.broadcast_to(value, shaped.shape)


# --- what is final ---


PUBLIC = (
    mpj.SeparableCell,
    mpj.NeuronCell,
    mpj.LeakyCell,
    mpj.RateCell,
    mpj.LIFCell,
    mpj.ALIFCell,
    mpj.GRUCell,
    mpj.LSTMCell,
    mpj.LRUCell,
    mpj.RTUCell,
    mpj.Filtered,
    mpj.GLECell,
    mpj.EquilibriumCell,
)
FREE = {"init", "emit", "message", "membrane", "gain", "leak", "uniform_leak"}


def finals(base):
    return {name for cls in base.__mro__ for name in getattr(cls, "_final", ((), ""))[0]}


@pytest.mark.parametrize("base", PUBLIC, ids=lambda base: base.__name__)
def test_what_is_final_is_refused_where_a_class_defines_it(base):
    names = finals(base)
    for name in names:
        message = f"Own defines {name}, which is final in .*subclass|FunctionCell"
        with pytest.raises(ValueError, match=message):
            type("Own", (base,), {name: lambda self, *_: None})
    if base is not mpj.SeparableCell:
        assert {"step", "integrate", "drive"} & names or base is mpj.Filtered
    type("Own", (base,), dict.fromkeys(FREE - names, lambda self, *_: None))


def test_a_mixin_and_a_field_define_too():
    class Mixin:
        def drive(self, message, x):
            return message

    with pytest.raises(ValueError, match="Mixin defines drive"):
        type("Own", (Mixin, mpj.LeakyCell), {})
    with pytest.raises(ValueError, match="Own defines gain"):
        type("Own", (mpj.LeakyCell,), {"__annotations__": {"gain": float}})
    with pytest.raises(ValueError, match="defines weight_rec.*subclass SeparableCell"):
        type("Own", (mpj.NeuronCell,), {"weight_rec": property(lambda self: self.raw**2)})


# --- overrides that are allowed are right ---


class Shown(mpj.LeakyCell):
    """Its own start, message and emission, of more features than it has neurons."""

    slope: jax.Array

    def __init__(self):
        activation = {"tau": jnp.asarray(3.0), "activation": jnp.tanh}
        mpj.LeakyCell.__init__(self, M, N, use_bias=True, key=jr.key(3), **activation)
        self.slope = jnp.linspace(0.6, 1.4, N)

    def init(self, batch_shape: Any = ()) -> Any:
        return jnp.full((*batch_shape, N), 0.2)

    def message(self, state):
        return jnp.tanh(like(state, self.slope) * state)

    def emit(self, state):
        both = jnp.concatenate([state, jnp.tanh(state)], axis=-1)
        return both - jnp.mean(both, axis=-1, keepdims=True)


class ShownRate(mpj.RateCell):
    def emit(self, state):
        return jnp.sin(state)

    def init(self, batch_shape: Any = ()) -> Any:
        return jnp.full((*batch_shape, N), 0.2)


class Membrane(mpj.LIFCell):
    """Shows its membrane as well; what it sends, and what resets it, are its spikes."""

    def emit(self, state):
        return jnp.concatenate([state[0], mpj.LIFCell.emit(self, state)], axis=-1)


class ShownGRU(mpj.GRUCell):
    scale: jax.Array

    def __init__(self):
        mpj.GRUCell.__init__(self, M, N, key=jr.key(4))
        self.scale = jnp.ones((2, N))

    def emit(self, state):
        return state @ self.scale.T


@pytest.mark.parametrize(
    "make",
    [
        Shown,
        lambda: ShownRate(M, N, alpha=0.6, key=jr.key(1)),
        lambda: Membrane(M, N, tau=4.0, threshold=0.4, dampening=0.7, key=jr.key(2)),
        ShownGRU,
    ],
    ids=["leaky", "rate", "lif", "gru"],
)
@pytest.mark.slow
def test_an_own_start_message_and_emission_are_right(make):
    cell = make()
    neurons = isinstance(cell, mpj.NeuronCell)
    assert set(verify(cell)) == {"diagonal", *(() if neurons else LOCAL[1:])}


# --- what belongs to a unit is named ---


class LowRank(Units):
    left: jax.Array
    right: jax.Array
    names: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, names):
        Units.__init__(self)
        self.left, self.right = jr.normal(jr.key(3), (N, 2)), jr.normal(jr.key(4), (N, 2))
        self.names = names

    drive_parameters = property(lambda self: ("left", "right", "into"))
    unit_parameters = property(lambda self: self.names)

    def drive(self, message, x):
        return (message @ self.right) @ self.left.T + x @ self.into.T


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "LowRank.unit_parameters does not name into"),
        (("left", "into", "own"), "does not name right"),
        (("left", "right", "into", "own"), "names right, whose entries act on other units"),
    ],
)
def test_a_parameter_between_units_is_not_streamed(names, message):
    refused = verify(LowRank(names), ("bptt", "rtrl", "eprop"))
    assert set(refused) == {"eprop/1", "eprop/3"}
    assert message in refused["eprop/1"]


class Positive(Units):
    """Weights through a function, and centred: a drive that no NeuronCell may have."""

    unit_parameters = property(lambda self: ("rec", "into", "own"))

    def drive(self, message, x):
        drive = message @ jax.nn.softplus(self.rec).T + x @ jnp.exp(self.into).T
        return 0.3 * drive + jnp.sin(jnp.sum(message, axis=-1, keepdims=True)) + 0 * drive


@pytest.mark.slow
def test_weights_through_a_function_have_a_place():
    assert set(verify(Positive(), ("bptt", "rtrl", "eprop"))) == set()


class Kernel(Units):
    """A kernel in the order of Keras, (inputs, gates x units), of as many inputs as units."""

    kernel: jax.Array
    unit_parameters = property(lambda self: ("kernel", "rec", "own"))
    drive_parameters = property(lambda self: ("kernel", "rec"))
    in_size = property(lambda self: N)

    def __init__(self):
        Units.__init__(self)
        self.kernel = jr.normal(jr.key(5), (N, 2 * N))

    def drive(self, message, x):
        gate, new = jnp.split(x @ self.kernel, 2, axis=-1)
        return message @ self.rec.T + gate * new


class InputLayer(Units):
    """An input layer of n features, under the weights of the units."""

    below: jax.Array
    drive_parameters = property(lambda self: ("rec", "into", "below"))
    unit_parameters = property(lambda self: ("rec", "into", "below", "own"))

    def __init__(self):
        Units.__init__(self)
        self.into, self.below = jr.normal(jr.key(5), (N, N)), jr.normal(jr.key(6), (N, M))

    def drive(self, message, x):
        return message @ self.rec.T + jnp.tanh(x @ self.below.T) @ self.into.T


@pytest.mark.parametrize(("make", "field"), [(Kernel, "kernel"), (InputLayer, "below")])
def test_a_first_axis_as_long_as_the_units_is_no_axis_of_units(make, field):
    cell = make()
    with pytest.raises(ValueError, match=f"names {field}, whose entries act on other units"):
        mpj.EProp().init(cell, cell.init((B,)))


# --- exact rules, whatever the drive ---


class Bilinear(Units):
    """Inputs gate what is heard, and hearing saturates: no matrix for all steps."""

    def drive(self, message, x):
        heard = jnp.tanh(message @ self.rec.T)
        return heard * (x @ self.into.T) + message


@pytest.mark.slow
def test_a_drive_that_is_not_linear_has_exact_credit():
    cell = Bilinear()
    assert set(verify(cell, ("bptt", "rtrl", "eprop"))) == set()
    # and SnAp, which keeps a linear drive's matrix: RTRL for a full recurrence
    xs = jr.normal(jr.key(9), (STEPS, B, M))

    def error(cell, rule):
        return jnp.sum(mpj.scan(cell, cell.init((B,)), xs, rule=rule)[1] ** 2)

    found, exact = (jit(eqx.filter_grad(error))(cell, rule) for rule in (mpj.SnAp(N), mpj.BPTT()))
    assert_close(found, exact)


# --- who reads what ---


class ReadsWeights(Neuron):
    def integrate(self, state, drive):
        return 0.7 * state + drive * jnp.tanh(jnp.sum(self.weight_in))


class ShowsWeights(Neuron):
    def emit(self, state):
        return state @ self.weight_rec


class SendsBias(Neuron):
    def message(self, state):
        return state * like(state, jnp.cos(self.bias))


class ReadsMask(Neuron):
    def integrate(self, state, drive):
        return 0.7 * state + (drive if self.mask is None else jnp.tanh(drive))


class ReadsAutapses(Neuron):
    def emit(self, state):
        return jnp.tanh(state) if self.autapses else jnp.sin(state)


class ReadsNorm(Neuron):
    def integrate(self, state, drive):
        size = jax.lax.stop_gradient(jnp.sqrt(jnp.sum(self.weight_rec**2)))
        return 0.7 * state + drive / size


class Unnamed(Units):
    drive_parameters = property(lambda self: ("rec",))


class Shared(Units):
    def drive(self, message, x):
        return Units.drive(self, message, x) * like(message, self.own)


class Emission(Units):
    emission_parameters = property(lambda self: ("own",))


READS = {
    ReadsWeights: "ReadsWeights.integrate reads weight_in, which is one of the drive_parameters",
    ShowsWeights: "ShowsWeights.message reads weight_rec, which is one of the drive_parameters",
    SendsBias: "SendsBias.message reads bias, which is one of the drive_parameters",
    ReadsMask: "ReadsMask.integrate reads what connects the units",
    ReadsAutapses: "ReadsAutapses.message reads what connects the units",
    ReadsNorm: "ReadsNorm.integrate reads what connects the units",
    Unnamed: "Unnamed.drive reads into, which drive_parameters does not name",
    Shared: "Shared.drive reads own, which drive_parameters does not name",
    Emission: "Emission.integrate reads own, which is one of the emission_parameters",
}


@pytest.mark.parametrize("make", READS, ids=lambda cls: cls.__name__)
def test_a_method_reads_what_it_may(make):
    cell = make()
    for rule in (mpj.BPTT(), mpj.RTRL(), mpj.UORO(), mpj.FutureBPTT(2)):
        if rule.needs_key:
            carry = rule.init(cell, cell.init((B,)), key=jr.key(0))
        else:
            carry = cell.init((B,))
        with pytest.raises(ValueError, match=READS[make]):
            mpj.scan(cell, carry, jnp.ones((STEPS, B, M)), rule=rule)


def test_what_is_stopped_may_come_from_weights_that_no_mask_changes():
    assert set(verify(ReadsNorm(autapses=True), ("bptt", "eprop"))) == set()


# --- examples and units stay apart ---


class Whole(Neuron):
    def integrate(self, state, drive):
        return 0.7 * state + drive - 0.1 * jnp.mean(state)


class Normalised(Neuron):
    """By a number that no gradient passes, but which is another for other steps."""

    def emit(self, state):
        return state / jax.lax.stop_gradient(1 + jnp.max(jnp.abs(state)))


class Centred(Units):
    def drive(self, message, x):
        return Units.drive(self, message, x - jnp.mean(x, axis=0, keepdims=True))


class Frozen(Neuron):
    """Noise that is drawn once, but by the shape: another for other steps."""

    def integrate(self, state, drive):
        return 0.7 * state + drive * jr.normal(jr.key(0), drive.shape)


class OneExample(Neuron):
    def emit(self, state):
        return state if state.ndim == 1 else state.T


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (Whole, "integrate"),
        (Normalised, "emit"),
        (Centred, "drive"),
        (Frozen, "integrate"),
        (OneExample, "message"),
    ],
)
def test_an_example_hears_of_no_other(make, method):
    cell = make()
    with pytest.raises(ValueError, match=rf"{make.__name__}\.{method} (mixes the examples|must)"):
        mpj.scan(cell, cell.init((B,)), jnp.ones((STEPS, B, M)))


def one_vector(params, state, x):
    """As one writes a step for a single example."""
    return jnp.tanh(params["rec"] @ state + params["into"] @ x - jnp.mean(state))


def test_a_step_of_a_single_example_has_exact_credit():
    """Of as many steps as units, where an axis of time passes for one of units."""
    weights = {"rec": jr.normal(jr.key(1), (N, N)), "into": jr.normal(jr.key(2), (N, M))}
    cell = mpj.FunctionCell(one_vector, weights, np.zeros(N), lambda s: s[:2])
    xs = jr.normal(jr.key(3), (N, M))

    def by_rule(cell, rule):
        state, zs = mpj.scan(cell, rule.init(cell, cell.init()), xs, rule=rule)
        return jnp.sum(zs**2)

    def exact(cell):
        return jnp.sum(plain_scan(cell, cell.init(), xs)[1] ** 2)

    expected = jit(eqx.filter_grad(exact))(cell)
    for rule in (mpj.RTRL(), mpj.SnAp(N, inputs=M)):
        assert_close(jit(eqx.filter_grad(by_rule))(cell, rule), expected)


def test_a_function_that_mixes_examples_has_exact_credit_alone():
    def step(params, state, x):
        return jnp.tanh(like(state, params) * state + x - jnp.mean(state))

    cell = mpj.FunctionCell(step, jnp.ones(M), np.zeros(M))
    xs = jnp.ones((STEPS, B, M))
    mpj.scan(cell, cell.init((B,)), xs)
    for rule in (mpj.RTRL(), mpj.SnAp(1, inputs=M)):
        with pytest.raises(ValueError, match="FunctionCell.step mixes the examples"):
            mpj.scan(cell, cell.init((B,)), xs, rule=rule)


class Lateral(Neuron):
    def integrate(self, state, drive):
        return 0.7 * state + drive - 0.1 * jnp.mean(state, axis=-1, keepdims=True)


def test_units_that_meet_outside_of_the_drive_have_exact_credit_alone():
    lateral = verify(Lateral())
    assert set(lateral) == {*LOCAL, "diagonal"}
    assert all("Lateral.integrate mixes them" in lateral[name] for name in LOCAL)


class Competing(Neuron):
    def message(self, state):
        return jax.nn.softmax(state)


class Compartments(Neuron):
    def init(self, batch_shape: Any = ()) -> Any:
        return jnp.zeros((*batch_shape, 2, N))

    def integrate(self, state, drive):
        return 0.7 * state + drive[..., None, :] - 0.1 * state[..., ::-1, :]

    def emit(self, state):
        return jnp.tanh(state[..., 0, :])


class Pooled(Units):
    """It also remembers what its units were together."""

    def init(self, batch_shape: Any = ()) -> Any:
        return jnp.zeros((*batch_shape, N)), jnp.zeros((*batch_shape, 1))

    def integrate(self, state, drive):
        h, pool = state
        return 0.5 * h + drive - pool, 0.9 * pool + jnp.mean(h, axis=-1, keepdims=True)

    def emit(self, state):
        return jnp.tanh(state[0])


APART: dict[str, Any] = {
    "message": (Competing, mpj.QuasiStatic(), "Competing.message mixes"),
    "message, auto": (Competing, mpj.ModProp("auto", TYPES), "Competing.message mixes"),
    "state": (Compartments, mpj.EProp(), r"one of shape \(\*batch, 2, 4\)"),
    "pool": (Pooled, mpj.EProp(), "Pooled.integrate mixes"),
}


@pytest.mark.parametrize("name", APART)
def test_units_that_meet_are_refused(name):
    make, rule, message = APART[name]
    cell = make()
    xs = jnp.ones((STEPS, B, M))
    for start in (lambda: cell.init((B,)), lambda: rule.init(cell, cell.init((B,)))):
        with pytest.raises(ValueError, match=message):
            mpj.scan(cell, start(), xs, rule=rule)
    mpj.scan(cell, cell.init((B,)), xs)  # BPTT


class Remembering(Units):
    """What only remembers inputs is no unit's; what remembers itself would be lost."""

    keep: float = eqx.field(static=True)

    def __init__(self, keep):
        Units.__init__(self)
        self.keep = keep

    def init(self, batch_shape: Any = ()) -> Any:
        return jnp.zeros((*batch_shape, N)), jnp.zeros((*batch_shape, M))

    def drive(self, message, x):
        return Units.drive(self, message, x), x

    def integrate(self, state, drive):
        h, last = state
        h = like(h, self.own) * h + drive[0] * (1 + last[..., :1])
        return h, drive[1] + self.keep * last if self.keep else drive[1]

    def emit(self, state):
        return jnp.tanh(state[0])


@pytest.mark.slow
def test_variables_that_are_no_units():
    assert set(verify(Remembering(0.0), ("rtrl", "eprop"))) == set()
    cell = Remembering(0.5)
    with pytest.raises(ValueError, match="also remembers in one of shape"):
        mpj.EProp().init(cell, cell.init((B,)))


# --- a neuron's own parameters ---


class Own(Neuron):
    def integrate(self, state, drive):
        return like(state, self.one * self.own * 0.5) * state + 0.3 * drive


class Rolled(Neuron):
    def integrate(self, state, drive):
        return like(state, jnp.roll(self.own, 1, axis=-1)) * state + 0.3 * drive


class Square(Neuron):
    """One value a neuron that stands for a pair of them."""

    def integrate(self, state, drive):
        return like(state, self.own / jnp.sum(self.own, axis=-1, keepdims=True)) * state + drive


def test_own_parameters_act_on_their_own_neuron():
    assert set(verify(Own(), ("bptt", "rtrl", "eprop"))) == set()
    for cell in (Rolled(), Square()):
        refused = verify(cell, ("rtrl", "eprop"))
        assert set(refused) == {"eprop/1", "eprop/3"}
        assert "own act on other neurons" in refused["eprop/1"]


# --- what a uniform leak, a membrane and a filter take for granted ---


class Uniform(Neuron):
    uniform_leak = property(lambda self: True)
    leak = property(lambda self: 0.7)


class Cubic(Uniform):
    def integrate(self, state, drive):
        return state - 0.1 * state**3 + drive


class WrongGain(Uniform):
    gain = property(lambda self: 0.4)


class Doubled(Uniform):
    def membrane(self, state):
        return 2 * state


def test_a_uniform_leak_is_one():
    assert set(verify(Uniform(), ("eprop", "modprop"))) == set()
    for cell in (Cubic(), WrongGain(), Doubled()):
        local = mpj.EProp(), mpj.MDGL(), mpj.ModProp(0.1, TYPES)
        for rule in local[:2] if isinstance(cell, Doubled) else local:
            with pytest.raises(ValueError, match="uniform_leak is True.*leave uniform_leak"):
                rule.init(cell, cell.init((B,)))


class Difference(Neuron):
    def membrane(self, state):
        return 2 * state


def test_a_membrane_is_selected():
    cell = Difference()
    with pytest.raises(ValueError, match="Difference.membrane has to select one"):
        mpj.ModProp(0.1).init(cell, cell.init((B,)))


class Softmax(mpj.LeakyCell):
    def __init__(self):
        mpj.LeakyCell.__init__(self, M, N, tau=3.0, key=jr.key(1))

    def emit(self, state):
        return jax.nn.softmax(state)


class Many(Units):
    def emit(self, state):
        return jnp.concatenate([state, jnp.tanh(state)], axis=-1)

    def message(self, state):
        return state


@pytest.mark.parametrize("make", [Softmax, Many])
def test_a_filtered_emission_that_mixes_units_streams_under_exact_rules(make):
    refused = verify(mpj.Filtered(make(), 0.7), ("rtrl", "eprop"))
    assert set(refused) == {"eprop/1", "eprop/3"}
    assert "under a Filtered emission" in refused["eprop/1"]


# --- any of them ---


def piece(of, draw):
    return list(of)[draw.integers(len(of))]


INTEGRATE = {
    "leaky": lambda c, s, d: 0.7 * s + 0.3 * d,
    "cubic": lambda c, s, d: s - 0.1 * s**3 + d,
    "own": lambda c, s, d: like(s, c.own) * s + jnp.tanh(d),
    "both": lambda c, s, d: like(s, c.one * c.own) * s + like(d, c.one) * d,
    "mean": lambda c, s, d: s + d - jnp.mean(d, axis=-1, keepdims=True),
    "whole": lambda c, s, d: s + d - jnp.mean(d),
    "roll": lambda c, s, d: like(s, c.own[..., ::-1]) * s + d,
    "reads": lambda c, s, d: 0.5 * s + d * c.weight_in[0, 0],
}
SHOW = {
    "tanh": lambda c, s: jnp.tanh(s),
    "own": lambda c, s: jnp.tanh(like(s, c.own) * s),
    "softmax": lambda c, s: jax.nn.softmax(s),
    "bias": lambda c, s: jnp.tanh(s + like(s, c.bias)),
    "double": lambda c, s: jnp.concatenate([s, s**2], axis=-1),
}
DRIVE = {
    "plain": lambda c, m, x: m @ c.rec.T + x @ c.into.T,
    "soft": lambda c, m, x: m @ jax.nn.softplus(c.rec).T + x @ c.into.T,
    "centred": lambda c, m, x: m @ (c.rec - jnp.mean(c.rec, axis=0, keepdims=True)).T,
    "gated": lambda c, m, x: (m @ c.rec.T) * (x @ c.into.T),
    "other": lambda c, m, x: m @ c.rec + x @ c.into.T,
    "own": lambda c, m, x: like(m, c.own) * (m @ c.rec.T),
}


def drawn(seed):
    """A neuron, or units, with parts of any kind."""
    draw = np.random.default_rng(seed)
    base = (Neuron, Units)[seed % 2]
    parts = {"emit": piece(SHOW, draw), "message": piece([k for k in SHOW if k != "double"], draw)}
    made: dict[str, Any] = {name: SHOW[kind] for name, kind in parts.items()}
    kinds = [k for k in INTEGRATE if base is Neuron or k not in ("both", "reads")]
    made["integrate"] = INTEGRATE[piece(kinds, draw)]
    if base is Units:
        made["drive"] = DRIVE[piece(DRIVE, draw)]
    for name in ("emit", "message"):
        if base is Units and parts[name] == "bias":
            made[name] = SHOW["tanh"]
    cell = type("Drawn", (base,), made)()
    return mpj.Filtered(cell, 0.6) if draw.random() < 0.3 else cell


SEEDS = [0, 1, 2, 3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 16))]


@pytest.mark.parametrize("seed", SEEDS)
def test_any_cell_is_right_or_refused(seed):
    verify(drawn(seed), ("bptt", "rtrl", "eprop", *(("mdgl", "modprop") if seed % 4 == 0 else ())))


# --- at no cost to those that are right ---


@pytest.mark.parametrize("name", [name for name in CELLS if name != "function"])
def test_the_cells_of_the_table_need_no_trial(name, monkeypatch):
    def trial(*_):
        raise AssertionError("tried out")

    monkeypatch.setattr("modprop_jax._cell._trial._tried", trial)
    cell = inner(name)
    check_claims(cell)
    assert not isinstance(cell, mpj.SeparableCell) or apart(cell, "integrate", "message", "emit")


class Wide(mpj.NeuronCell):
    """Of any size, with a trial in it."""

    def init(self, batch_shape: Any = ()) -> Any:
        return jnp.zeros((*batch_shape, self.hidden_size))

    def integrate(self, state, drive):
        return 0.7 * state + drive - 0.1 * jnp.mean(state, axis=-1, keepdims=True)

    def emit(self, state):
        return jnp.tanh(state)


@pytest.mark.slow
def test_weights_are_not_touched():
    """Those of a hundred thousand neurons, which no memory holds."""
    wide = eqx.filter_eval_shape(lambda: Wide(M, 10**5, key=jr.key(0)))  # pyright: ignore
    check_claims(wide)
    assert not apart(wide, "integrate") and apart(wide, "message", "emit")
