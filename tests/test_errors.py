"""What can be seen before running is one ValueError that says what came, and the fix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    BATCH,
    cell,
    data,
    jit,
    KEY,
    M,
    meeting,
    N,
    net,
    offline_loss,
    OUT,
    rule,
    segment_loss,
    TYPES,
)

import modprop_jax as mpj


def run(c: Any, xs: Any = None, rule: Any = mpj.BPTT(), state: Any = None, **options):
    xs = data()[0] if xs is None else xs
    state = c.init(BATCH) if state is None else state
    return mpj.scan(c, state, xs, rule=rule, **options)


def leaky(**options):
    defaults: dict[str, Any] = {"tau": 4.0, "key": jr.key(0)}
    return mpj.LeakyCell(M, N, **(defaults | options))


# --- shapes and dtypes ---


@pytest.mark.parametrize("cell_name", ["leaky", "filtered_adaptive"])
def test_wrong_number_of_features(cell_name):
    with pytest.raises(ValueError, match="xs has 2 features.*in_size=3"):
        run(cell(cell_name), data()[0][..., :2])


def test_no_time_axis():
    with pytest.raises(ValueError, match=r"time first, but has shape \(3,\)"):
        run(cell("leaky"), jnp.ones(M), state=cell("leaky").init())


def test_no_time_steps():
    with pytest.raises(ValueError, match="xs has no time steps.*at least one"):
        run(cell("leaky"), data()[0][:0])


def test_state_of_another_batch():
    with pytest.raises(ValueError, match=r"batch axes \(2,\).*\(2, 6\), but has \(3, 6\).*init"):
        run(cell("leaky"), state=cell("leaky").init((3,)))


def test_state_of_another_cell():
    with pytest.raises(ValueError, match="state does not fit LeakyCell.*structure"):
        run(cell("leaky"), state=cell("adaptive").init(BATCH))


def test_state_of_another_dtype():
    with pytest.raises(ValueError, match="must have one dtype.*float32.*float64.*cast"):
        run(leaky(dtype=jnp.float32), state=jnp.zeros((*BATCH, N)))


def test_parameters_of_two_dtypes():
    c = eqx.tree_at(lambda c: c.weight_in, leaky(), jnp.zeros((N, M), jnp.float32))
    with pytest.raises(ValueError, match="must have one dtype.*float32.*float64.*dtype="):
        run(c)


def test_inputs_wider_than_the_cell():
    with pytest.raises(ValueError, match=r"xs is float64.*computes in float32.*xs\.astype"):
        run(leaky(dtype=jnp.float32))


def test_readout_of_another_size():
    with pytest.raises(ValueError, match="made for in_size=6, but its input has 3"):
        mpj.Readout(N, OUT, key=jr.key(0))(data()[0])


# --- rules ---


@pytest.mark.parametrize("name", ["mdgl_types", "modprop_types"])
def test_types_of_another_length(name):
    short = rule(name, 4)
    with pytest.raises(ValueError, match="types for 4 neurons, but the cell has 6"):
        run(cell("leaky"), rule=short)
    with pytest.raises(ValueError, match="types for 4 neurons, but the cell has 6"):
        mpj.with_rule(net("bptt", "leaky"), short)


@pytest.mark.parametrize(
    "types, message",
    [
        ((0, 2, 2), "without gaps, but holds"),
        ((1, 2, 3), "without gaps, but holds"),
        ((0.0, 1.0), "float64 of shape"),
        (((0, 1), (1, 0)), r"shape \(2, 2\)"),
        ((), r"shape \(0,\)"),
    ],
)
@pytest.mark.parametrize("cls", [mpj.MDGL, lambda types: mpj.ModProp(0.5, types)])
def test_types_that_are_not_numbered(cls, types, message):
    with pytest.raises(ValueError, match=message):
        cls(types)


@pytest.mark.parametrize("mu", [np.ones(2), np.ones(4), np.ones((6, 6)), jnp.ones(5)])
def test_mu_of_another_shape(mu):
    with pytest.raises(ValueError, match="mu must be a number.*but has shape"):
        run(cell("leaky"), rule=mpj.ModProp(mu, TYPES))


def test_mu_for_each_type_needs_types():
    with pytest.raises(ValueError, match=r"n=6\), but has shape \(3,\)"):
        run(cell("leaky"), rule=mpj.ModProp(np.ones(3)))


def test_mu_that_is_a_word(without_type_checks):
    with pytest.raises(ValueError, match="mu must be a number.*but is 'large'"):
        mpj.ModProp("large")  # pyright: ignore[reportArgumentType]


def test_diffuse_needs_types():
    with pytest.raises(ValueError, match="types=None came: pass types"):
        mpj.MDGL(diffuse=True)


UNKNOWN = [("eprop", "'eprop'"), (mpj.EProp, "the class EProp, not an instance"), (None, "None")]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("wrong, message", UNKNOWN)
def test_a_rule_that_is_none(wrong, message):
    with pytest.raises(ValueError, match=f"rule must be a credit rule such as EProp().*{message}"):
        run(cell("leaky"), rule=wrong)


@pytest.mark.parametrize("name", meeting("functions"))
@pytest.mark.parametrize("cell_name", ["function", "filtered_function"])
def test_a_local_rule_on_a_function(name, cell_name):
    message = f"{type(rule(name)).__name__} needs an? .*Cell.*the cell is a .*[uU]se BPTT"
    with pytest.raises(ValueError, match=message):
        run(cell(cell_name), rule=rule(name))
    with pytest.raises(ValueError, match=message):
        rule(name).init(cell(cell_name), cell(cell_name).init(BATCH), key=KEY)


def test_modprop_on_a_neuron_without_gain_or_membrane():
    class NoGain(mpj.NeuronCell):
        def init(self, batch_shape=()):
            return (jnp.zeros((*batch_shape, self.hidden_size)),) * 2

        def integrate(self, state, drive):
            return 0.5 * state[0] + drive, state[1]

        def emit(self, state):
            return state[0]

    class NoMembrane(NoGain):
        @property
        def gain(self):
            return 1.0

    with pytest.raises(ValueError, match="NoGain needs the gain.*define the property gain"):
        run(NoGain(M, N, key=jr.key(0)), rule=mpj.ModProp(0.5))  # pyright: ignore
    with pytest.raises(ValueError, match="which of its 2 state variables.*define membrane"):
        run(NoMembrane(M, N, key=jr.key(0)), rule=mpj.ModProp(0.5))  # pyright: ignore


def test_a_neurons_parameter_of_a_shape_that_does_not_stream():
    class Wide(mpj.NeuronCell):
        table: jax.Array

        def __init__(self, key):
            mpj.NeuronCell.__init__(self, M, N, key=key)
            self.table = jnp.ones((2, N))

        def init(self, batch_shape=()):
            return jnp.zeros((*batch_shape, self.hidden_size))

        def integrate(self, state, drive):
            return 0.5 * state * jnp.broadcast_to(self.table[0], state.shape) + drive

        def emit(self, state):
            return state

    c = Wide(jr.key(0))
    message = r"Wide\.table has shape \(2, 6\): reshape it, or use RTRL"
    with pytest.raises(ValueError, match=message):
        mpj.EProp().init(c, c.init(BATCH))


# --- models ---


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("wrong", ["eprop", mpj.EProp])
def test_with_rule_wants_a_rule(wrong):
    with pytest.raises(ValueError, match="rule must be a credit rule such as EProp()"):
        mpj.with_rule(net("bptt", "leaky"), wrong)


def test_a_model_without_a_recurrent_layer():
    linear = eqx.nn.Linear(M, OUT, key=jr.key(0))
    with pytest.raises(ValueError, match=r"found 0 in Linear: wrap a cell as RNN\(cell\)"):
        mpj.with_rule(linear, mpj.EProp())
    with pytest.raises(ValueError, match=r"found 0 in Linear: wrap a cell as RNN\(cell\)"):
        mpj.value_and_grad(lambda m, x: jnp.sum(m(x)), mpj.EProp())(linear, jnp.ones(M))


def test_a_selection_that_is_no_layer():
    with pytest.raises(ValueError, match="needs RNN layers.*or select RNN layers with `where`"):
        mpj.with_rule(net("bptt", "leaky"), mpj.EProp(), where=lambda m: m.readout)
    with pytest.raises(ValueError, match="needs RNN layers.*found 0"):
        mpj.with_rule(net("bptt", "leaky"), mpj.EProp(), where=lambda m: [])


def test_with_rule_checks_that_the_rule_serves_the_layers():
    with pytest.raises(ValueError, match=r"EProp needs a cell .* \(a NeuronCell"):
        mpj.with_rule(net("bptt", "function"), mpj.EProp())


@pytest.mark.usefixtures("without_type_checks")
def test_a_cell_that_is_none():
    message = r"cell must be a cell.*FunctionCell\(step, params, state\)"
    with pytest.raises(ValueError, match=message):
        run(lambda s, x: s, state=jnp.zeros(3))


# --- carries ---


CARRIES = [
    ("another rule", "eprop", "rtrl"),
    ("another rule of the same trace", "eprop", "mdgl"),
    ("types", "modprop_types", "modprop"),
    ("no types", "modprop", "modprop_types"),
    ("no trace", "bptt", "rtrl"),
    ("a trace", "rtrl", "bptt"),
]


@pytest.mark.parametrize("made_by, given_to", [c[1:] for c in CARRIES], ids=[c[0] for c in CARRIES])
def test_a_carry_of_another_rule(made_by, given_to):
    c = cell("leaky")
    carry = rule(made_by).init(c, c.init(BATCH))
    message = rf"made by {type(rule(made_by)).__name__}.*does not fit.*rule\.init\(cell, state\)"
    with pytest.raises(ValueError, match=message):
        mpj.scan(c, carry, data()[0], rule=rule(given_to))


def test_a_carry_of_other_types():
    # as many types, and so a trace of the same shape, but its channels belong to other neurons
    c = cell("leaky")
    carry = mpj.ModProp(0.5, TYPES).init(c, c.init(BATCH))
    with pytest.raises(
        ValueError, match=r"made by ModProp.*does not fit.*rule\.init\(cell, state\)"
    ):
        mpj.scan(c, carry, data()[0], rule=mpj.ModProp(0.5, TYPES[::-1]))


def test_a_carry_of_another_cell():
    # the state fits, the trace does not: the other cell has no bias, or other inputs
    c, other = cell("leaky"), mpj.LeakyCell(M + 1, N, tau=4.0, use_bias=True, key=jr.key(0))
    for foreign in (other, cell("leaky_tau"), cell("rate")):
        carry = mpj.EProp().init(foreign, foreign.init(BATCH))
        with pytest.raises(ValueError, match="made by EProp, or for another cell"):
            mpj.scan(c, carry, data()[0], rule=mpj.EProp())


def test_a_carry_of_another_batch():
    c = cell("leaky")
    with pytest.raises(ValueError, match=r"batch axes \(2,\)"):
        mpj.scan(c, mpj.EProp().init(c, c.init((3,))), data()[0], rule=mpj.EProp())


# --- what a cell closes over ---


def closing_function(w):
    def step(params, state, x):
        return jnp.tanh(state * params + x * w)

    return mpj.FunctionCell(step, jnp.asarray(0.5), np.zeros(M))


def closing_neuron(w):
    class Closing(mpj.NeuronCell):
        def init(self, batch_shape=()):
            return jnp.zeros((*batch_shape, self.hidden_size))

        def integrate(self, state, drive):
            return state * w + drive

        def emit(self, state):
            return state

    return Closing(M, N, key=jr.key(0))  # pyright: ignore


def closing_emission(w):
    return mpj.FunctionCell(
        lambda p, s, x: s * p + x, jnp.asarray(0.5), np.zeros(M), lambda s: s * w
    )


def filtered_closing(w):
    return mpj.Filtered(closing_function(w), 0.5)


@pytest.mark.parametrize("jitted", [False, True], ids=["grad", "jit(grad)"])
@pytest.mark.parametrize(
    "make", [closing_function, closing_neuron, closing_emission, filtered_closing]
)
def test_a_cell_that_closes_over_a_differentiated_value(make, jitted):
    def loss(w):
        c = make(w)
        return jnp.sum(run(c)[1] ** 2)

    take = jax.grad(loss)
    with pytest.raises(ValueError, match="closes over a traced array.*pass it in as a parameter"):
        (jax.jit(take) if jitted else take)(1.0)
    # a value that is not traced is welcome
    assert np.isfinite(loss(1.0))


def test_a_traced_initial_state_of_a_function_cell():
    def loss(start):
        c = mpj.FunctionCell(lambda p, s, x: s * p + x, jnp.asarray(0.5), start)
        return jnp.sum(run(c)[1])

    with pytest.raises(ValueError, match="initial state is a constant.*pass a bare state"):
        jax.grad(loss)(jnp.ones(M))


# --- constructors ---


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask": np.ones((N, N - 1), bool)}, r"boolean of shape \(6, 6\).*\(6, 5\)"),
        ({"mask": np.ones((N, N))}, "boolean of shape.*float64"),
        ({"mask": np.ones((N, N), int)}, "boolean of shape.*int64"),
        ({"signs": [1, -1]}, r"signs must hold \+1 or -1 for each of the 6.*2 entries"),
        ({"signs": [1, -1, 0, 1, 1, 1]}, r"signs must hold \+1 or -1.*\[1, -1, 0, 1, 1, 1\]"),
        ({"signs": [1] * N}, "all 6 entries of signs have the same sign"),
        ({"tau": np.ones(N + 1)}, r"tau must be one value or one for each of the 6.*\(7,\)"),
        ({"tau": 0.0}, "tau must be positive and finite, but is 0"),
        ({"tau": -1.0}, "tau must be positive and finite, but is -1"),
        ({"tau": jnp.asarray([1.0, 1.0, -2.0, 1.0, 1.0, 1.0])}, "tau must be positive.*-2"),
        ({"tau": np.nan}, "tau must be positive"),
    ],
)
def test_leaky_cell_options(options, message):
    with pytest.raises(ValueError, match=message):
        leaky(**options)


@pytest.mark.parametrize("alpha", [0.0, 1.5, -0.1, np.nan])
def test_rate_cell_alpha(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\], but is"):
        mpj.RateCell(M, N, alpha=alpha, key=jr.key(0))


@pytest.mark.parametrize("leak", [1.1, -0.1, np.array([0.5] * 5 + [1.2]), np.nan, (0.5, -1.0)])
def test_filtered_leak(leak):
    with pytest.raises(ValueError, match=r"leak must be in \[0, 1\], but (is|holds)"):
        mpj.Filtered(cell("leaky"), leak)


def test_filtered_leak_does_not_train():
    with pytest.raises(ValueError, match="constant, but a jax.Array came"):
        mpj.Filtered(cell("leaky"), jnp.asarray(0.5))


def test_filtered_twice():
    with pytest.raises(ValueError, match="filter the emission once"):
        mpj.Filtered(mpj.Filtered(cell("leaky"), 0.5), 0.5)


@pytest.mark.usefixtures("without_type_checks")
def test_unknown_feedback():
    with pytest.raises(ValueError, match="feedback must be.*but is 'aligned'"):
        mpj.Readout(N, OUT, feedback="aligned", key=jr.key(0))  # pyright: ignore


# --- segments ---


@pytest.mark.parametrize("chunk", [0, -3])
def test_chunk(chunk):
    message = f"chunk must be a whole number of at least 1, but is {chunk}"
    with pytest.raises(ValueError, match=message):
        run(cell("leaky"), chunk=chunk)


@pytest.mark.parametrize("segment", [0, -1])
@pytest.mark.parametrize("make", [mpj.online_value_and_grad, mpj.checkpointed_value_and_grad])
def test_segment(make, segment):
    model = net("rtrl", "leaky")
    message = f"segment must be a whole number of at least 1, but is {segment}"
    with pytest.raises(ValueError, match=message):
        make(segment_loss, segment=segment)(model, model.rnn.init(BATCH), *data())


@pytest.mark.parametrize("make", [mpj.online_value_and_grad, mpj.checkpointed_value_and_grad])
def test_sequences_of_unequal_length(make):
    model, (xs, ys) = net("rtrl", "leaky"), data()
    for targets in (ys[:-1], {"a": ys, "b": ys[1:]}):
        with pytest.raises(ValueError, match="same number of time steps.*10.*11|11.*10"):
            make(segment_loss, segment=4)(model, model.rnn.init(BATCH), xs, targets)
    with pytest.raises(ValueError, match="at least one"):
        make(segment_loss, segment=4)(model, model.rnn.init(BATCH), xs[:0], ys[:0])


@pytest.mark.parametrize("rule", [mpj.EProp(), mpj.MDGL(), mpj.FutureBPTT(3), mpj.QuasiStatic()])
def test_checkpoints_are_for_exact_rules(rule):
    """From a bare state most others have another gradient for other segments."""
    model = mpj.with_rule(net("bptt", "leaky"), rule)
    with pytest.raises(ValueError, match=f"exact gradients.*{type(rule).__name__}.*BPTT"):
        take = mpj.checkpointed_value_and_grad(segment_loss, segment=4)
        take(model, cell("leaky").init(BATCH), *data())


# --- what depends on values is checked at run time, if asked ---


def three_gradients(check):
    offline = mpj.value_and_grad(offline_loss, check=check)
    online = mpj.online_value_and_grad(segment_loss, segment=4, check=check)
    checkpointed = mpj.checkpointed_value_and_grad(segment_loss, segment=4, check=check)
    model = net("rtrl", "leaky")
    return {
        "offline": lambda xs, ys: offline(model, xs, ys),
        "online": lambda xs, ys: online(model, model.rnn.init(BATCH), xs, ys),
        "checkpointed": lambda xs, ys: checkpointed(model, cell("leaky").init(BATCH), xs, ys),
    }


@pytest.mark.parametrize(
    "form, value",
    [("offline", np.nan), ("offline", np.inf), ("online", np.nan), ("checkpointed", np.nan)],
)
def test_check_raises_at_run_time(form, value):
    xs, ys = data()
    take = jit(three_gradients(check=True)[form])
    loss, _ = take(xs, ys)
    assert np.isfinite(jax.tree.leaves(loss)[0]).all()
    with pytest.raises(RuntimeError, match="NaN or infinite: lower the learning rate"):
        jax.block_until_ready(take(xs, ys.at[3].set(value)))
    # off by default, so that it exports
    _, gradients = jit(three_gradients(check=False)[form])(xs, ys.at[3].set(value))
    assert not np.isfinite(gradients.readout.weight).all()


def test_streaming_with_a_hyperparameter_that_could_be_differentiated():
    # the outgoing trace is a constant: a derivative by mu would lack the past, silently
    c = cell("leaky")
    rule, state = mpj.ModProp(jnp.asarray(0.5), TYPES), c.init(BATCH)
    with pytest.raises(ValueError, match="holds a jax.Array.*Pass a float"):
        rule.init(c, state)
    carry = mpj.ModProp(0.5, TYPES).init(c, state)
    with pytest.raises(ValueError, match="holds a jax.Array.*Pass a float"):
        mpj.scan(c, carry, data()[0], rule=rule)
