"""Generalized Latent Equilibrium against the public program's figures, and its identities."""

import functools
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, distance, jit

import modprop_jax as mpj


GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "gle.npz")
FUNCTIONS = {"tanh": jnp.tanh, "softplus": jax.nn.softplus, "linear": jax.nn.identity}
TOL = 1e-10


@functools.cache
def figures(case: str) -> dict[str, Any]:
    """The arrays of a case, without its name."""
    names = [name for name in GOLDEN.files if name.startswith(f"{case}/")]
    return {name.partition("/")[2]: GOLDEN[name] for name in names}


def layers_of(golden: dict, name: str) -> list[Any]:
    return [golden[f"{name}{l}"] for l in range(1, len(golden["phi"]) + 1)]


def hyper(golden: dict) -> dict[str, float]:
    names = "dt", "gamma", "beta", "prospective", "full_forward", "learn_tau", "ce", "lr"
    return dict(zip(names, golden["hyper"]))


def layer(case: str, **options: Any) -> mpj.RNN:
    """The network of a case, under GLE."""
    golden = figures(case)
    values = hyper(golden)
    weights = layers_of(golden, "W")
    settings: dict[str, Any] = {
        "tau_m": layers_of(golden, "tau_m"),
        "tau_r": layers_of(golden, "tau_r"),
        "dt": float(values["dt"]),
        "activations": [FUNCTIONS[name] for name in golden["phi"]],
        "gamma": float(values["gamma"]),
        "order": "sync",
        "use_bias": "b1" in golden,
        "learn_tau": bool(values["learn_tau"]),
        **options,
    }
    sizes = [weights[0].shape[1], *(len(w) for w in weights)]
    cell = mpj.GLECell(sizes, key=jr.key(0), **settings)
    cell = eqx.tree_at(weights_of, cell, list(map(jnp.asarray, weights)))
    if settings["use_bias"]:
        biases = list(map(jnp.asarray, layers_of(golden, "b")))
        cell = eqx.tree_at(biases_of, cell, biases)
    return mpj.RNN(cell, rule=mpj.GLE(prospective_errors=bool(values["prospective"])))


def weights_of(cell: Any) -> list[Any]:
    return [layer.weight for layer in cell.layers]


def biases_of(cell: Any) -> list[Any]:
    return [layer.bias for layer in cell.layers]


def taus_of(cell: Any) -> list[Any]:
    return [layer.tau_m for layer in cell.layers]


def assert_golden(found: Any, golden: dict, name: str, tol: float = TOL) -> None:
    """The figures of each layer, relative to their maximum; NaN fails."""
    for l, one in enumerate(found, 1):
        want = golden[f"{name}{l}"]
        assert one.shape == want.shape, f"{name}{l}"
        assert np.abs(np.asarray(one) - want).max() <= tol * np.abs(want).max(), f"{name}{l}"


def batch_loss(model, carry, xs, ys, beta=1.0):
    """½ β Σ (r - y)², summed over steps and the batch."""
    carry, zs = model(xs, carry)
    return 0.5 * beta * jnp.sum((zs - ys) ** 2), carry


def offline_loss(model, xs, ys):
    """As the public program has it: a mean over the batch, here of two."""
    return 0.5 * jnp.sum((model(xs) - ys) ** 2) / 2


def data_of(case: str) -> tuple:
    return jnp.asarray(figures(case)["x"]), jnp.asarray(figures(case)["y"])


def online(case: str, optimizer: Any = None, floor: float = 0.0) -> Any:
    """Step by step: gradients of the batch's mean loss, states, traces and parameters.

    `optimizer`: what the parameters learn by; time constants then stay above `floor`.
    """
    golden = figures(case)
    batch = golden["x"].shape[1]
    loss = functools.partial(batch_loss, beta=float(hyper(golden)["beta"]))
    stream = mpj.online_value_and_grad(loss, segment=1)
    learn = optimizer or optax.set_to_zero()

    def run(model, xs, ys):
        params, static = eqx.partition(model, eqx.is_inexact_array)

        def body(before, at):
            params, carry, memory = before
            x, y = (a[None] for a in at)
            (_, carry), gradient = stream(eqx.combine(params, static), carry, x, y)
            gradient = jax.tree.map(lambda g: g / batch, gradient)
            with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
                updates, memory = learn.update(gradient, memory, params)
            params: Any = optax.apply_updates(params, updates)
            if floor:
                clamped = [jnp.maximum(tau, floor) for tau in taus_of(params.cell)]
                params = eqx.tree_at(lambda p: taus_of(p.cell), params, clamped)
            return (params, carry, memory), (gradient.cell, carry, params.cell)

        start = params, model.init((batch,)), learn.init(params)
        return jax.lax.scan(body, start, (xs, ys))[1]

    return jit(run)(layer(case), *data_of(case))


# --- the public program's figures ---


@pytest.mark.parametrize("case", "ABCDEF")
def test_golden_step_by_step(case):
    golden = figures(case)
    gradients, after, _ = online(case)
    assert_golden([after.state.out], {"out1": golden["out"]}, "out")
    for name in ("u", "ub", "r"):
        assert_golden(getattr(after.state, name), golden, name)
    assert_golden(after.trace.value.v, golden, "v")
    assert_golden(weights_of(gradients), golden, "gW")
    assert_golden(biases_of(gradients), golden, "gb")
    if case == "F":
        assert_golden(taus_of(gradients), golden, "gtau")


@pytest.mark.slow
@pytest.mark.parametrize("case", "IK")
def test_golden_training_in_the_stream(case):
    """I: plain SGD. K: the lag line, whose time constants learn too, nudged by its errors."""
    golden, rate = figures(case), float(hyper(figures(case))["lr"])
    optimizer, floor = (optax.sgd(rate), 0.0) if case == "I" else (optax.adam(rate), 0.1)
    _, after, trained = online(case, optimizer, floor)
    assert_golden(after.state.u, golden, "u")
    assert_golden(after.state.r, golden, "r")
    assert_golden(weights_of(trained), golden, "Wt")
    if case == "I":
        assert_golden(biases_of(trained), golden, "bt")
    else:
        assert_golden(taus_of(trained), golden, "taut")


gradient = jit(mpj.value_and_grad(offline_loss))


@pytest.mark.parametrize("case", "ABCD")
def test_golden_offline(case):
    _, found = gradient(layer(case), *data_of(case))
    assert_golden(weights_of(found.cell), figures(case), "gWsum")
    assert_golden(biases_of(found.cell), figures(case), "gbsum")


def test_golden_backpropagation_of_a_constant_input():
    """With τ_m = τ_r, layer l has the gradient of the static network from step 2L - l on."""
    golden = figures("B")
    gradients, *_ = online("B")
    for l, (weight, bias) in enumerate(zip(weights_of(gradients), biases_of(gradients)), 1):
        arrived = 2 * len(golden["phi"]) - l
        for found, exact in ((weight, golden[f"bpW{l}"]), (bias, golden[f"bpb{l}"])):
            error = np.abs(np.asarray(found) - exact).reshape(len(found), -1).max(axis=1)
            assert (error[arrived:] < 1e-15).all()
            assert (error[:arrived] > 1e-3).all()


def test_golden_exact_gradient_and_alignment_with_it():
    """Case C: neurons that lag. What errors that look ahead are good for, layer by layer."""
    golden, model, problem = figures("C"), layer("C"), data_of("C")
    loss, exact = gradient(mpj.with_rule(model, mpj.BPTT()), *problem)
    assert abs(loss - golden["bptt_loss"]) < TOL
    assert_golden(weights_of(exact.cell), golden, "bptt_gW")
    assert_golden(biases_of(exact.cell), golden, "bptt_gb")

    def compared(rule):
        _, found = gradient(mpj.with_rule(model, rule), *problem)
        pairs = zip(weights_of(found.cell), weights_of(exact.cell))
        rows = [(np.ravel(a), np.ravel(b), np.linalg.norm(a), np.linalg.norm(b)) for a, b in pairs]
        return [a @ b / norm / of for a, b, norm, of in rows], [n / of for *_, n, of in rows]

    cosines, norms = compared(mpj.GLE())
    np.testing.assert_allclose(cosines, [0.968, 0.9995, 0.9998], atol=5e-4)
    np.testing.assert_allclose(norms, [1.45, 1.18, 1.00], atol=5e-3)
    cosines, _ = compared(mpj.GLE(prospective_errors=False))
    np.testing.assert_allclose(cosines, [0.917, 0.9996, 0.9998], atol=5e-4)


# --- against NumPy, and identities ---


def classifier(**options: Any) -> Any:
    """Two hidden layers and an output, of neurons that lag, that lead and that do neither."""
    settings: dict[str, Any] = {
        "tau_m": [np.array([0.6, 1.2, 1.2, 0.3]), 1.0, 0.5],
        "tau_r": [np.array([0.2, 0.2, 1.2, 0.9]), 0.4, 0.6],
        "dt": 0.2,
        "activations": [jnp.tanh, jnp.tanh, jax.nn.identity],
        "learn_tau": True,
        "key": jr.key(3),
        **options,
    }
    return mpj.GLECell([2, 4, 5, 3], **settings)


def nudged(gamma: float = 0.3) -> Any:
    """With rates that are not 0 at rest, and errors that move membranes."""
    softplus = jax.nn.softplus
    functions = [softplus, jnp.tanh, softplus]
    return classifier(order="sync", gamma=gamma, activations=functions)


CELLS = {"sweep": classifier, "sync": lambda: classifier(order="sync"), "nudged": nudged}


def sequences(batch: tuple[int, ...] = (2,), steps: int = 9) -> tuple:
    """Inputs and classes."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(steps, *batch, 2))
    return jnp.asarray(xs), jnp.asarray(rng.integers(3, size=(steps, *batch)))


def entropy(outputs, ys, mask=None):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, ys)
    return jnp.sum(losses, where=mask)


def segment_loss(model, carry, seen, ys):
    xs, done, mask = seen
    carry, zs = model(xs, carry, done=done, valid=mask)
    return entropy(zs, ys, mask), carry


@functools.cache
def stream(segment: int) -> Any:
    return jit(mpj.online_value_and_grad(segment_loss, segment=segment))


def run(cell, xs, ys, *, segment=1, rule=mpj.GLE(), carry=None, done=None, mask=None):
    """`((loss, carry), gradients of the cell)`."""
    model = mpj.RNN(cell, rule=rule)
    carry = model.init(xs.shape[1:-1]) if carry is None else carry
    value, gradients = stream(segment)(model, carry, (xs, done, mask), ys)
    return value, gradients.cell


def swept(cell: Any, xs: Any, labels: Any, prospective: bool) -> Any:
    """The "sweep" order by NumPy, on one example: the summed gradients of each layer."""
    layers = [
        (np.asarray(l.weight), np.asarray(l.bias), np.asarray(l.tau_m), np.asarray(l.tau_r))
        for l in cell.layers
    ]
    u = [np.zeros(len(bias)) for _, bias, *_ in layers]
    v = [np.zeros(len(bias)) for _, bias, *_ in layers]
    sums = [[np.zeros_like(a) for a in (*row[:2], v)] for row, v in zip(layers, v)]
    for x, label in zip(np.asarray(xs), np.asarray(labels)):
        rates, changes, slopes = [x], [], []
        for l, (weight, bias, tau_m, tau_r) in enumerate(layers):
            changes.append((weight @ rates[-1] + bias - u[l]) / tau_m)
            look = u[l] + tau_r * changes[-1]
            u[l] = u[l] + float(cell.dt) * changes[-1]
            linear = l == len(layers) - 1
            rates.append(look if linear else np.tanh(look))
            slopes.append(1.0 if linear else 1 - np.tanh(look) ** 2)
        share = np.exp(rates[-1]) / np.exp(rates[-1]).sum()
        arriving = np.eye(len(share))[label] - share
        for l, (weight, _, tau_m, tau_r) in reversed(list(enumerate(layers))):
            error = slopes[l] * arriving
            if prospective:
                change = (error - v[l]) / tau_r
                error = v[l] + tau_m * change
                v[l] = v[l] + float(cell.dt) * change
            arriving = weight.T @ error
            for total, term in zip(
                sums[l], (-np.outer(error, rates[l]), -error, error * changes[l])
            ):
                total += term
    return jax.tree.map(jnp.asarray, [tuple(row) for row in sums])


@pytest.mark.slow
@pytest.mark.parametrize("prospective", [True, False])
def test_sweep_against_numpy(prospective):
    cell, (xs, ys) = classifier(), sequences(())
    _, found = run(cell, xs, ys, rule=mpj.GLE(prospective_errors=prospective))
    expected = swept(cell, xs, ys, prospective)
    assert_close([(l.weight, l.bias, l.tau_m) for l in found.layers], expected)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["sweep", "sync"])
def test_segments_do_not_matter(order):
    cell, (xs, ys) = CELLS[order](), sequences()
    whole, one, some = (run(cell, xs, ys, segment=k) for k in (9, 1, 4))
    assert_close(one, whole)
    assert_close(some, whole)

    def offline(model):
        return entropy(model(xs), ys)

    loss, gradients = jit(mpj.value_and_grad(offline))(mpj.RNN(cell, rule=mpj.GLE()))
    assert_close((loss, gradients.cell), (whole[0][0], whole[1]))


@pytest.mark.slow
def test_errors_undo_what_the_activity_does():
    """Forward filter, then error filter: the identity, neuron by neuron."""
    settings: dict[str, Any] = {"dt": 0.1, "activations": jax.nn.identity, "use_bias": False}
    taus: dict[str, Any] = {
        "tau_m": [np.array([1.0, 0.1, 2.0, 0.5])],
        "tau_r": [np.array([0.1, 0.7, 2.0, 0.3])],
    }
    cell = mpj.GLECell([4, 4], **settings, **taus, key=jr.key(0))
    cell = eqx.tree_at(lambda c: c.layers[0].weight, cell, jnp.eye(4))
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(30, 4)))

    def loss(xs):
        _, zs = mpj.scan(cell, cell.init(), xs, rule=mpj.GLE())
        return -0.5 * jnp.sum(zs**2), zs

    errors, zs = jax.grad(loss, has_aux=True)(xs)
    assert distance(zs, xs) > 0.5
    assert_close(-errors, xs, 1e-13)


def test_without_lag_it_is_backpropagation_at_every_instant():
    taus = [np.array([0.6, 1.2, 1.2, 0.3]), 1.0, 0.5]
    cell, (xs, ys) = classifier(tau_m=taus, tau_r=taus), sequences()

    def loss(both, rule):
        cell, xs = both
        return entropy(mpj.RNN(cell, rule=rule)(xs), ys)

    def static(both):
        cell, rates = both
        for layer in cell.layers:
            bias = layer.bias[None, None]
            rates = layer.activation(rates @ layer.weight.T + bias)
        return entropy(rates, ys)

    by_gle, by_bptt = (jit(eqx.filter_grad(loss))((cell, xs), r) for r in (mpj.GLE(), mpj.BPTT()))
    assert_close(by_gle, by_bptt, 1e-12)
    expected, credit = jit(eqx.filter_grad(static))((cell, xs))
    assert_close(weights_of(by_gle[0]), weights_of(expected), 1e-12)
    assert_close(biases_of(by_gle[0]), biases_of(expected), 1e-12)
    assert_close(by_gle[1], credit, 1e-12)
    assert min(np.abs(np.asarray(tau)).max() for tau in taus_of(by_gle[0])) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("order", ["sweep", "sync"])
def test_convolution_is_a_dense_layer_of_shared_weights(order):
    """Six rates as (2 channels, 3 positions), to (3, 2); its time constants are those of rates."""
    convolution = eqx.nn.Conv1d(2, 3, kernel_size=2, key=jr.key(5))
    settings: dict[str, Any] = {
        "tau_m": [0.5, np.linspace(0.3, 1.5, 6), 0.4],
        "learn_tau": True,
        "tau_r": [0.2, 0.4, 0.4],
        "dt": 0.2,
        "activations": jnp.tanh,
        "order": order,
        "key": jr.key(6),
    }
    shared = mpj.GLECell([2, 6, convolution, 3], **settings)
    dense = mpj.GLECell([2, 6, 6, 3], **settings)

    def spread(synapses):
        def drive(rates):
            return synapses(rates.reshape(2, 3)).reshape(-1)

        zeros = jnp.zeros(6)
        return jax.jacobian(drive)(zeros), drive(zeros)

    where = lambda c: (c.layers[1].weight, c.layers[1].bias)  # noqa: E731
    (weight, bias), back = jax.vjp(spread, convolution)
    dense = eqx.tree_at(where, dense, (weight, bias))
    assert np.sum(np.asarray(weight) == 0) == 12

    (_, state), found = run(shared, *sequences(), segment=4)
    (_, same), expected = run(dense, *sequences(), segment=4)
    assert_close(state, same)
    assert_close(found.layers[::2], expected.layers[::2])
    (kernel,) = back(where(expected))
    assert_close(found.layers[1].synapses, kernel)
    assert taus_of(found)[1].shape == (6,)
    assert_close(taus_of(found), taus_of(expected))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["sweep", "sync"])
def test_second_derivatives(order):
    """Of <gradient by GLE, weighting>, against central differences of that gradient."""
    cell, (xs, ys) = CELLS[order](), sequences(steps=7)
    params, static = eqx.partition(cell, eqx.is_inexact_array)
    weighting, direction = (
        jax.tree.map(lambda p: jr.normal(jr.key(seed + p.size), p.shape), params)
        for seed in (0, 100)
    )

    def slope(params):
        model = mpj.RNN(eqx.combine(params, static), rule=mpj.GLE())
        _, found = mpj.value_and_grad(lambda model: entropy(model(xs), ys))(model)
        products = jax.tree.map(jnp.vdot, found.cell, weighting)
        return sum(jax.tree.leaves(products)), products

    @jit
    def both(size):
        _, tangents = mpj.value_and_grad(lambda p: slope(p)[0])(params)
        moved = [
            slope(jax.tree.map(lambda p, d: p + step * d, params, direction))[0]
            for step in (size, -size)
        ]
        return tangents, (moved[0] - moved[1]) / (2 * size)

    tangents, expected = both(jnp.asarray(1e-5))
    found = jax.tree.map(jnp.vdot, tangents, direction)
    assert_close(sum(jax.tree.leaves(found)), expected, 1e-7)


# --- regimes ---


def student(key: Any) -> Any:
    """2-8-8-2: three in four hidden neurons lag, with a tenth of τ_m to look ahead."""
    lag = np.where(np.arange(8) < 6, 0.1, 1.0)
    cell = mpj.GLECell(
        [2, 8, 8, 2],
        tau_m=1.0,
        tau_r=[lag, lag, 1.0],
        dt=0.1,
        activations=[jnp.tanh, jnp.tanh, jax.nn.identity],
        use_bias=False,
        learn_tau=True,
        key=key,
    )
    pairs = zip(jr.split(key, 3), cell.layers)
    drawn = [jr.normal(k, l.weight.shape) / np.sqrt(l.in_size) for k, l in pairs]
    return eqx.tree_at(weights_of, cell, drawn)


@jit
def alignment(keys: Any, low: float, high: float) -> Any:
    """Cosines with BPTT in the lowest layer, (weights, τ_m), of GLE and instantaneous errors.

    Inputs are sums of four sines of `low` to `high` cycles in a unit of time; targets are a
    teacher's. Means over the keys.
    """
    instantaneous = mpj.GLE(prospective_errors=False)

    def one(key):
        *networks, cycles, phases = jr.split(key, 4)
        learner, teacher = map(student, networks)
        cycles = jr.uniform(cycles, (1, 4, 2, 4), minval=low, maxval=high)
        time = 0.1 * np.arange(400)[:, None, None, None]
        turns = time * cycles + jr.uniform(phases, cycles.shape)
        xs = jnp.sin(2 * np.pi * turns).sum(-1) / 2
        _, ys = mpj.scan(teacher, teacher.init((4,)), xs)

        def lowest(rule):
            loss = lambda m: 0.5 * jnp.sum((m(xs) - ys) ** 2)  # noqa: E731
            _, found = mpj.value_and_grad(loss, rule)(mpj.RNN(learner))
            return found.cell.layers[0].weight, found.cell.layers[0].tau_m

        def cosine(a, b):
            return jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b)

        exact, *rules = (lowest(rule) for rule in (mpj.BPTT(), mpj.GLE(), instantaneous))
        return [tuple(map(cosine, rule, exact)) for rule in rules]

    return jax.tree.map(jnp.mean, jax.vmap(one)(keys))


@pytest.mark.slow
def test_alignment_where_errors_have_to_look_ahead():
    """Fast inputs for the weights; for time constants the usual ones are enough."""
    keys = jr.split(jr.key(0), 16)
    (weights, _), (instantaneous, _) = alignment(keys, 0.1, 0.4)
    assert weights > 0.8 and instantaneous < 0.6
    (_, taus), (_, instantaneous) = alignment(keys, 0.02, 0.15)
    assert taus > 0.85 and instantaneous < 0.6


# --- streams ---


@pytest.mark.slow
@pytest.mark.parametrize("name, segment", [("sweep", 3), ("nudged", 1)])
def test_sequences_that_end_inside_a_stream(name, segment):
    """One after the other, as two streams; and padding leaves no mark."""
    cell, (xs, ys) = CELLS[name](), sequences(())
    together = run(cell, xs, ys, done=jnp.arange(9) == 3, segment=segment)
    _, first = run(cell, xs[:4], ys[:4], segment=segment)
    (_, last), second = run(cell, xs[4:], ys[4:], segment=segment)
    assert_close(together[0][1], last)
    assert_close(together[1], jax.tree.map(jnp.add, first, second))

    # step 3, which ends a sequence, is now the fifth; the stream ends with padding
    mask = jnp.array([True, True, False, True, True, True, True, False, True, True, True, False])
    wide = jnp.full((12, 2), np.nan).at[mask].set(xs)
    labels = jnp.zeros(12, ys.dtype).at[mask].set(ys)
    padded = run(cell, wide, labels, done=jnp.arange(12) == 4, mask=mask, segment=segment)
    nudges = padded[0][1].trace.value.nudge
    assert all((nudge == 0).all() for nudge in nudges)
    settled = eqx.tree_at(lambda c: c.trace.value.nudge, last, nudges)
    assert_close(padded[0][1], settled)
    assert_close(padded[1], together[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sync", "nudged"])
def test_interrupted_and_continued(name, tmp_path):
    cell, (xs, ys) = CELLS[name](), sequences()
    (_, end), _ = run(cell, xs, ys)
    (_, half), _ = run(cell, xs[:4], ys[:4])
    eqx.tree_serialise_leaves(tmp_path / "carry.eqx", half)
    like = mpj.RNN(cell, rule=mpj.GLE()).init((2,))
    read = eqx.tree_deserialise_leaves(tmp_path / "carry.eqx", like)
    (_, again), _ = run(cell, xs[4:], ys[4:], carry=read)
    assert_close(again, end, tol=0)
    # what is carried depends on the past
    assert distance(end.trace.value.v, half.trace.value.v) > 1e-2


@pytest.mark.slow
def test_a_nudge_is_the_rules():
    """Without errors the nudged network runs as any other: for evaluation."""
    xs, _ = sequences()
    _, with_errors = mpj.scan(nudged(), nudged().init((2,)), xs)
    rest = nudged(gamma=0.0)
    assert_close(with_errors, mpj.scan(rest, rest.init((2,)), xs)[1], tol=0)


def test_what_trains():
    def names(cell):
        parameters = eqx.filter(cell, eqx.is_inexact_array)
        paths = jax.tree_util.tree_flatten_with_path(parameters)[0]
        return [str(path[-1].name) for path, _ in paths]

    assert names(classifier(learn_tau=False)) == ["weight", "bias"] * 3
    assert names(classifier(learn_tau=True, use_bias=False)) == ["weight", "tau_m"] * 3
    assert [tau.shape for tau in taus_of(classifier())] == [(4,), (5,), (3,)]


@pytest.mark.slow
def test_single_precision():
    single = classifier(dtype=jnp.float32)
    double = jax.tree.map(lambda a: a.astype(jnp.float64), single)
    xs, ys = sequences()
    (_, carry), found = run(single, xs.astype(jnp.float32), ys, segment=4)
    _, expected = run(double, xs, ys, segment=4)
    arrays = jax.tree.leaves((carry, found))
    assert {leaf.dtype for leaf in arrays} == {jnp.dtype(jnp.float32)}
    assert distance(found, expected) < 1e-5


# --- refusals ---


def test_nudging_needs_a_stream_of_single_steps():
    cell, (xs, ys) = nudged(), sequences()
    model = mpj.RNN(cell, rule=mpj.GLE())
    with pytest.raises(ValueError, match="9 steps from a bare state came: stream it with"):
        mpj.value_and_grad(lambda m: entropy(m(xs), ys))(model)
    with pytest.raises(ValueError, match="1 steps from a bare state"):
        model(xs[:1])
    with pytest.raises(ValueError, match="4 steps from a Carry came"):
        run(cell, xs, ys, segment=4)
    with pytest.raises(ValueError, match=r"under BPTT, as in with_rule\(model, BPTT\(\)\)"):
        model(xs, model.init((2,)))


@pytest.mark.usefixtures("without_type_checks")
def test_refusals():
    def cell(sizes, **options):
        settings = {"tau_m": 1.0, "tau_r": 1.0, "dt": 0.1, "activations": jnp.tanh, **options}
        return mpj.GLECell(sizes, key=jr.key(0), **settings)

    convolution = eqx.nn.Conv1d(2, 3, kernel_size=2, key=jr.key(0))
    with pytest.raises(ValueError, match="number of inputs and one entry a layer"):
        cell([3])
    with pytest.raises(
        ValueError, match="first entry of sizes must be a whole number .* is Conv1d"
    ):
        cell([convolution, 3])
    with pytest.raises(ValueError, match="sizes that is no layer of equinox must be .* is 'conv'"):
        cell([3, "conv"])
    with pytest.raises(ValueError, match="2 channels came after 5 rates"):
        cell([5, convolution])
    with pytest.raises(ValueError, match='"sweep" or "sync", but is \'forward\''):
        cell([2, 3], order="forward")
    with pytest.raises(ValueError, match="gamma=0.1 came with order='sweep'"):
        cell([2, 3], gamma=0.1)
    with pytest.raises(ValueError, match=r"gamma must be 0 or more, and finite, but is -0\.1"):
        cell([2, 3], gamma=-0.1, order="sync")
    with pytest.raises(ValueError, match="tau_m has 3 entries, but there are 2 layers"):
        cell([2, 3, 4], tau_m=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="one for each of the 3 neurons"):
        cell([2, 3], tau_r=[np.ones(2)])
    with pytest.raises(ValueError, match="tau_r must be at least dt=0.1"):
        cell([2, 3], tau_r=0.05)
    with pytest.raises(ValueError, match="xs has 3 features, but this GLECell was made for"):
        mpj.scan(cell([2, 3]), cell([2, 3]).init(), jnp.zeros((4, 3)))
    rate = mpj.RateCell(2, 3, key=jr.key(0))
    with pytest.raises(ValueError, match="GLE needs a GLECell"):
        mpj.scan(rate, rate.init(), jnp.zeros((4, 2)), rule=mpj.GLE())
    with pytest.raises(ValueError, match="GLE needs a GLECell"):
        mpj.GLE().init(mpj.Filtered(cell([2, 3]), 0.5), cell([2, 3]).init())


@pytest.mark.parametrize(
    "synapses, message",
    [
        (lambda key: eqx.nn.Conv2d(1, 1, 2, key=key), "Layer 2 is a convolution over 2 dimensions"),
        (lambda key: eqx.nn.Linear(4, 3, key=key), r"Layer 2 \(Linear\) does not take 16 rates"),
        (lambda key: eqx.nn.Conv1d(16, 3, 2, key=key), "Layer 2 drives no neurons after 16 rates"),
    ],
)
def test_layers_that_do_not_fit(synapses, message):
    options: dict[str, Any] = {"tau_m": 1.0, "tau_r": 1.0, "dt": 0.1, "activations": jnp.tanh}

    def make():
        return mpj.GLECell([3, 16, synapses(jr.key(1))], key=jr.key(0), **options).init()

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make)  # compiles nothing


def test_traced_constants_train():
    options: dict[str, Any] = {"dt": 0.1, "activations": jnp.tanh}

    def make(tau_m, tau_r, learn_tau):
        taus = {"tau_m": tau_m, "tau_r": tau_r, "learn_tau": learn_tau}
        return mpj.GLECell([2, 3], key=jr.key(0), **taus, **options).layers[0].tau_m

    assert jax.eval_shape(lambda tau: make(tau, 1.0, False), 1.0).shape == ()
    assert jax.eval_shape(lambda tau: make(tau, 1.0, True), 1.0).shape == (3,)
