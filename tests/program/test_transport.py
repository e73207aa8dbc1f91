"""Credit back in time, in one order and in another."""

import chex
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import modprop_jax as mpj
from modprop_jax._credit import Credit
from modprop_jax._program._reverse import points_of, step_by_step
from modprop_jax._program._run import by_drive, run
from modprop_jax._program._side_by_side import side_by_side
from modprop_jax._tree import inexact


CELLS = {
    "leaky": lambda: mpj.LeakyCell(2, 4, tau=5.0, key=jr.key(0)),
    "lif": lambda: mpj.LIFCell(2, 4, tau=5.0, threshold=0.2, key=jr.key(0)),
    "learnt": lambda: mpj.LeakyCell(2, 4, tau=mpj.Positive(5.0), key=jr.key(0)),
}


class Fading(mpj.EProp):
    """Another step back: what the leak says of e-prop's is not true of it."""

    def back(self, on, point, credit, direct):
        """Half of it."""
        back = mpj.EProp.back(self, on, point, credit, direct)
        return back._replace(credit=jax.tree.map(lambda c: c / 2, back.credit))


class Claiming(mpj.NeuronCell):
    """What it says of its leak is not so."""

    def __init__(self):
        """Four neurons."""
        mpj.NeuronCell.__init__(self, 2, 4, key=jr.key(0))

    @property
    def uniform_leak(self):
        """A claim."""
        return True

    @property
    def gain(self):
        """Of small drives."""
        return 0.5

    def init(self, batch_shape=()):
        """Silent."""
        return jnp.zeros((*batch_shape, self.hidden_size))

    def integrate(self, state, drive):
        """With a slope that depends on the drive."""
        return 0.5 * state + 0.5 * jnp.tanh(drive)

    def emit(self, state):
        """The state."""
        return state


RULES = {
    "eprop": mpj.EProp(),
    "modprop": mpj.ModProp(0.4, (0, 1, 1, 0)),
    "one type": mpj.ModProp([0.3, 0.2, 0.5, 0.4], (0, 0, 0, 0)),
}


@pytest.mark.parametrize("steps", [1, 13])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CELLS)
def test_side_by_side_is_step_by_step(name, rule, steps):
    cell = CELLS[name]()
    on = RULES[rule].on(cell, streams=False)
    decay = on.rule.decay(on)
    assert decay is not None
    xs = jr.normal(jr.key(1), (steps, 3, 2))
    _, record = run(by_drive(on.cell), on.cell, cell.init((3,)), xs)
    states = inexact(record.states)
    direct = jax.tree.map(lambda a: jr.normal(jr.key(2), a.shape), states)
    last = jax.tree.map(lambda a: jr.normal(jr.key(3), a.shape[1:]), states)
    modulator = on.rule.modulator(on.cell, (3,))
    modulator = jax.tree.map(lambda a: jr.normal(jr.key(4), a.shape), modulator)
    credit = Credit(last, modulator, ())
    points = points_of(on.cell, record)
    found = side_by_side(decay, direct, credit)
    expected = step_by_step(on, points, direct, credit)
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-13)


def test_autapses_are_not_credited_twice():
    """Without them, types' sums leave a neuron's own part out: it is in what stays with it."""
    rule = RULES["modprop"]

    def own(autapses):
        cell = mpj.LeakyCell(2, 4, tau=5.0, autapses=autapses, key=jr.key(0))
        on = rule.on(cell, streams=False)
        return on.rule.decay(on).own

    assert jnp.ptp(own(True)) == 0 and jnp.ptp(own(False)) > 1e-3


def test_only_credit_that_goes_back_alike_has_one_decay():
    key, taus = jr.key(0), jnp.array([2.0, 3.0, 4.0, 5.0])
    typed = RULES["modprop"]
    for cell in (
        mpj.LeakyCell(2, 4, tau=taus, key=key),
        mpj.RateCell(2, 4, alpha=0.5, key=key),
        mpj.ALIFCell(2, 4, tau=5.0, tau_adaptation=50.0, beta=1.0, key=key),
        mpj.GRUCell(2, 4, key=key),
    ):
        for rule in (mpj.EProp(), typed) if isinstance(cell, mpj.NeuronCell) else (mpj.EProp(),):
            on = rule.on(cell, streams=False)
            assert on.rule.decay(on) is None
    leaky = mpj.LeakyCell(2, 4, tau=5.0, key=key)
    assert Fading().decay(Fading().on(leaky, streams=False)) is None
    others = mpj.BPTT(), mpj.ModProp(0.4), mpj.ModProp("auto", typed.types), mpj.MDGL(typed.types)
    for rule in (*others, mpj.ModProp(0.4, typed.types, taps=3)):
        on = rule.on(mpj.LeakyCell(2, 4, tau=5.0, key=key), streams=False)
        assert on.rule.decay(on) is None


def test_a_wrong_claim_is_refused_offline_too():
    cell = Claiming()
    with pytest.raises(ValueError, match="uniform_leak is True"):
        jax.grad(lambda xs: jnp.sum(mpj.RNN(cell, rule=mpj.EProp())(xs)))(jnp.ones((3, 2)))
