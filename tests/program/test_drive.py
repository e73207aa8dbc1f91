"""An additive drive: as inputs with unit weights of their own, under every rule."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, BATCH, cell, jit, M, N, rule

import modprop_jax as mpj
from modprop_jax._cell._gru import GRUDrive


pytestmark = pytest.mark.slow


STEPS = 5
OWN: dict[str, Any] = {
    "snap": lambda: mpj.SnAp(2, like=cell("leaky_taus")),
    "kernl": lambda: mpj.KeRNL(),
    "dni": lambda: mpj.DNI(learn=optax.sgd(0.1)),
    "quasi_static": lambda: mpj.QuasiStatic(),
    "readout_only": lambda: mpj.ReadoutOnly(),
    "future_bptt": lambda: mpj.FutureBPTT(3, driven=True),
    "uoro": lambda: mpj.UORO(),
    "kf_rtrl": lambda: mpj.KFRTRL(),
    "rkf_rtrl": lambda: mpj.RKFRTRL(),
}
CASES = [
    ("eprop", "gru"),
    ("modprop_types", "leaky"),
    ("future_bptt", "leaky_taus"),
    ("snap", "leaky_taus"),
]
SLOW = [
    ("rtrl", "adaptive"),
    ("dni", "rate"),
    ("mdgl_online", "filtered_adaptive"),
    ("eprop", "filtered_adaptive"),
    ("modprop_taps", "leaky"),
    ("kernl", "leaky"),
]


def rule_of(name):
    return OWN[name]() if name in OWN else rule(name)


def cell_of(name) -> Any:
    return mpj.GRUCell(M, N, key=jr.key(1)) if name == "gru" else cell(name)


def widened(c):
    """The cell with an input for each of its drives, of unit weight."""
    if isinstance(c, mpj.Filtered):
        return eqx.tree_at(lambda f: f.cell, c, widened(c.cell))
    into = (lambda c: c.weight_ih) if isinstance(c, mpj.GRUCell) else (lambda c: c.weight_in)
    weight = into(c)
    return eqx.tree_at(into, c, jnp.concatenate([weight, jnp.eye(len(weight))], axis=1))


def drive_from(c, d):
    """Columns of an array as what the units of a cell receive."""
    if isinstance(c, mpj.GRUCell):
        return dict(zip(("reset", "update", "candidate"), jnp.split(d, 3, axis=-1)))
    return d


def given(c):
    """Inputs, columns of drive, and flags under which nothing of the padding may be read."""
    gates = 3 if isinstance(c, mpj.GRUCell) else 1
    rng = np.random.default_rng(1)
    xs = jnp.asarray(rng.normal(size=(STEPS, *BATCH, M)))
    d = jnp.asarray(0.5 * rng.normal(size=(STEPS, *BATCH, gates * N)))
    mask = jnp.asarray(np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1]]).T, bool)
    done = jnp.asarray(np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).T, bool)
    return xs, d, (done, mask)


def loss_of(zs):
    return jnp.sum(0.5 * zs**2 + 0.1 * zs**3)


def everything(c, rule, call, seen):
    """Offline gradients by cell and inputs, streamed ones, and the inputs' of one step."""
    rnn = mpj.RNN(c, rule=rule)
    *_, (done, mask) = given(inner(c))
    erased = jax.tree.map(lambda a: jnp.where(mask[..., None], a, jnp.nan), seen)

    def loss(both):
        rnn, seen = both
        start = rnn.init(BATCH, key=jr.key(2)) if rule.needs_key else rnn.cell.init(BATCH)
        return loss_of(call(rnn, seen, start, done=done, valid=mask)[1])

    def segment_loss(rnn, carry, seen, _):
        carry, zs = call(rnn, seen, carry)
        return loss_of(zs), carry

    carry, first = rnn.init(BATCH, key=jr.key(2)), jax.tree.map(lambda a: a[:1], seen)
    stream = mpj.online_value_and_grad(segment_loss, segment=2)
    (value, _), gradients = stream(rnn, carry, seen, seen)
    by_inputs = jax.grad(lambda seen: loss_of(call(rnn, seen, carry)[1]))(first)
    return mpj.value_and_grad(loss)((rnn, erased)), value, gradients, by_inputs


def inner(c):
    return c.cell if isinstance(c, mpj.Filtered) else c


@pytest.mark.parametrize(
    "rule_name, cell_name", [*CASES, *(pytest.param(*c, marks=pytest.mark.slow) for c in SLOW)]
)
def test_a_drive_is_an_input_with_unit_weights(rule_name, cell_name):
    c, rule = cell_of(cell_name), rule_of(rule_name)
    xs, d, _ = given(inner(c))

    def driven(rnn, seen, carry, **flags):
        return rnn(seen[0], carry, drive=drive_from(inner(rnn.cell), seen[1]), **flags)

    def wide(rnn, seen, carry, **flags):
        return rnn(jnp.concatenate(seen, axis=-1), carry, **flags)

    actual = jit(lambda c: everything(c, rule, driven, (xs, d)))(c)
    expected = jit(lambda c: everything(c, rule, wide, (xs, d)))(widened(c))

    def cut(tree):
        """Without the weights of the added inputs, which a driven cell does not have."""

        def one(node):
            if not isinstance(node, mpj.SeparableCell):
                return node
            name = "weight_ih" if isinstance(node, mpj.GRUCell) else "weight_in"
            return eqx.tree_at(lambda c: getattr(c, name), node, getattr(node, name)[:, :M])

        return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, mpj.SeparableCell))

    assert_close(actual, cut(expected))


@pytest.mark.parametrize("name", ["uoro", "kf_rtrl", "rkf_rtrl"])
def test_a_constant_drive_is_a_bias(name):
    """Of rules whose random factors weigh the inputs' weights too."""
    c, rule, (xs, d, _) = cell("leaky"), rule_of(name), given(cell("leaky"))
    constant = jnp.broadcast_to(d[0, 0], d.shape)

    def run(c, drive):
        rnn = mpj.RNN(c, rule=rule)
        carry = rnn.init(BATCH, key=jr.key(0))

        def segment_loss(rnn, carry, seen, _):
            carry, zs = rnn(seen[0], carry, drive=seen[1])
            return loss_of(zs), carry

        stream = mpj.online_value_and_grad(segment_loss, segment=2)
        (loss, _), gradients = stream(rnn, carry, (xs, drive), xs)
        return loss, gradients

    shifted = eqx.tree_at(lambda c: c.bias, c, c.bias + d[0, 0])
    assert_close(jit(run)(c, constant), jit(run)(shifted, None))


@pytest.mark.parametrize("name", ["bptt", "diagonal"])
def test_a_drive_of_complex_units(name):
    """JAX's own derivative, of a scan that adds to the drive; the skip connection gets nothing."""
    c = mpj.LRUCell(M, N, r_min=0.8, max_phase=1.0, key=jr.key(3))
    rule = mpj.BPTT() if name == "bptt" else mpj.DiagonalRTRL()
    xs, d, _ = given(c)
    pushes = d, 0.3 * d[::-1]

    def by_scan(both):
        c, (re, im) = both
        return loss_of(mpj.scan(c, c.init(BATCH), xs, rule=rule, drive=(re, im, None))[1])

    def plain(both):
        c, pushes = both

        def step(state, at):
            x, (re, im) = at
            into_re, into_im, skip = c.drive(None, x)
            state = c.integrate(state, (into_re + re, into_im + im, skip))
            return state, c.emit(state)

        return loss_of(jax.lax.scan(step, c.init(BATCH), (xs, pushes))[1])

    actual = jit(eqx.filter_value_and_grad(by_scan))((c, pushes))
    expected = jit(eqx.filter_value_and_grad(plain))((c, pushes))
    assert_close(actual[0], expected[0])
    assert_close(actual[1][0], expected[1][0])
    if name == "bptt":
        assert_close(actual[1][1], expected[1][1])


def test_no_drive_is_no_other_program():
    c, (xs, *_) = cell("leaky"), given(cell("leaky"))

    def program(**options):
        loss = lambda c: loss_of(mpj.scan(c, c.init(BATCH), xs, **options)[1])  # noqa: E731
        return str(jax.make_jaxpr(eqx.filter_grad(loss))(c))

    assert program() == program(drive=None)
    assert program() != program(drive=jnp.zeros((STEPS, *BATCH, N)))


def test_what_a_drive_cannot_be():
    xs, d, _ = given(cell("leaky"))
    gru = cell_of("gru")
    for c, drive, match in [
        (cell("function"), d, "has no drive"),
        (cell("leaky"), d[..., :-1], "T steps"),
        (cell("leaky"), d[:-1], "T steps"),
        (cell("leaky"), d[:, 0], "T steps"),
        (cell("leaky"), d.astype(complex), "T steps"),
        (cell("leaky"), (d,), "T steps"),
        (gru, d, "GRUDrive"),
        (gru, {"forget": d}, "GRUDrive"),
        (gru, {"reset": d[..., 1:]}, "GRUDrive"),
    ]:
        with pytest.raises(ValueError, match=match):
            mpj.scan(c, c.init(BATCH), xs, drive=drive)
    rnn = mpj.RNN(cell("leaky"), rule=mpj.FutureBPTT(3))
    with pytest.raises(ValueError, match="driven=True"):
        rnn(xs, rnn.init(BATCH), drive=d)
    narrow = mpj.scan(cell("leaky"), cell("leaky").init(BATCH), xs, drive=d.astype(jnp.float32))
    parts = GRUDrive(*[None, d, None, None])  # pyright: ignore[reportArgumentType]
    by_name = mpj.scan(gru, gru.init(BATCH), xs, drive={"update": d})
    assert_close(by_name, mpj.scan(gru, gru.init(BATCH), xs, drive=parts))
    wide = d.astype(jnp.float32).astype(d.dtype)
    assert_close(narrow, mpj.scan(cell("leaky"), cell("leaky").init(BATCH), xs, drive=wide))
