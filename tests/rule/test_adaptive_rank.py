"""A sketch at another rank: what is kept is the best, the certificate stays a bound, and when."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, jit, M, N

import modprop_jax as mpj


XS = jr.normal(jr.key(5), (120, 2, M))
CELL = mpj.RateCell(M, N, key=jr.key(3))
CELL = eqx.tree_at(
    lambda c: c.weight_rec, CELL, 0.9 * CELL.weight_rec / jnp.linalg.norm(CELL.weight_rec, 2)
)


def loss(model, carry, xs, ys):
    carry, zs = model(xs, carry)
    return jnp.sum(jnp.sin(zs)), carry


STREAM = jit(mpj.online_value_and_grad(loss, segment=1))


def onward(carry: Any, xs: Any = XS[:5]) -> Any:
    for x in xs:
        (_, carry), _ = STREAM(mpj.RNN(CELL, rule=carry.rule), carry, x[None], x[None])
    return carry


def begun(rule: Any) -> Any:
    return mpj.RNN(CELL, rule=rule).init((2,))


def sketch(carry):
    """U Zᵀ, (batch, n, n p), of the rest alone."""
    held = carry.trace.state
    rest = held.rest[0].reshape(*held.rest.shape[1:3], N * (N + M + 1))
    return held.basis[0][..., : rest.shape[1]] @ rest


def influence(carry):
    """M, (batch, n, n p)."""
    own = jnp.einsum("bnp,nm->bnmp", carry.trace.state.own[0, :, 0], jnp.eye(N))
    return own.reshape(2, N, -1) + sketch(carry)


def check_orthonormal(carry):
    basis = carry.trace.state.basis[0]
    eye = np.broadcast_to(np.eye(basis.shape[-1]), (2, *basis.shape[-1:] * 2))
    assert_close(jnp.swapaxes(basis, -1, -2) @ basis, eye, 1e-12)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_best_of_a_smaller_rank_is_kept(extra):
    rule = mpj.SKRTRL(3, extra=extra)
    carry = onward(begun(rule))
    values = np.linalg.svd(sketch(carry), compute_uv=False)
    before = rule.certificate(carry)
    for rank in (2, 1, 0):
        after: Any = rule.resized(carry, rank)
        assert after.rule.rank == rank and after.rule.extra == extra
        check_orthonormal(after)
        lost = np.linalg.norm(sketch(carry) - sketch(after), axis=(1, 2))
        assert_close(lost, np.linalg.norm(values[:, rank:3], axis=1), 1e-9)
        now = after.rule.certificate(after)
        assert_close(now.bound - before.bound, lost, 1e-9)
        assert_close(now.lost - before.lost, lost, 1e-9)
        assert lost.min() > 1e-3, "it drops something"
        onward(after, XS[5:6])


def test_a_larger_rank_begins_empty_and_drops_less():
    rule = mpj.SKRTRL(1)
    carry = onward(begun(rule))
    for rank in (1, 3, N, N + 2):
        after: Any = rule.resized(carry, rank)
        check_orthonormal(after)
        assert_close(sketch(after), sketch(carry), 1e-14)
        assert_close(after.rule.certificate(after), rule.certificate(carry), 1e-12)
    one, three, all_ = (
        r.rule.certificate(r).lost
        for r in (onward(rule.resized(carry, rank), XS[5:6]) for rank in (1, 3, N))
    )
    assert (three < one).all() and (all_ == 0).all()


def test_from_nothing_to_some():
    carry = onward(mpj.SKRTRL(0).resized(begun(mpj.SKRTRL(0)), 2))
    assert_close(influence(carry), influence(onward(begun(mpj.SKRTRL(2)))), 1e-12)


def test_the_bound_holds_whatever_the_rank():
    carry, exact = begun(mpj.SKRTRL(2)), begun(mpj.SKRTRL(N))
    found = []
    for cut, rank in enumerate((2, 1, 4, 3, 0, 2)):
        carry: Any = carry.rule.resized(carry, rank)
        for x in XS[20 * cut : 20 * cut + 20]:
            carry, exact = onward(carry, x[None]), onward(exact, x[None])
            truth = np.linalg.norm(influence(carry) - influence(exact), axis=(1, 2))
            found.append((truth, np.asarray(carry.rule.certificate(carry).bound)))
    truth, bound = np.array(found).swapaxes(0, 1)
    assert truth[5:].min() > 1e-3
    assert (bound >= truth - 1e-12).all()


def test_a_rule_without_a_certificate_is_resized_too():
    rule = mpj.SKRTRL(3, certificate=False)
    carry: Any = rule.resized(onward(begun(rule)), 1)
    assert not carry.rule.keeps_certificate
    assert_close(carry.trace.state.bound, np.zeros((1, 2)))
    assert np.isfinite(influence(onward(carry, XS[5:6]))).all()


def dropping(rank, share):
    """A carry whose last step has dropped such a share of the influence."""
    carry: Any = onward(begun(mpj.SKRTRL(rank)), XS[:3])
    size = carry.rule.certificate(carry).size
    return eqx.tree_at(lambda c: c.trace.state.lost, carry, share * size[None])


def moved(adapt: Any, carry: Any, calm: int = 0) -> tuple[int, int]:
    carry, calm = adapt(carry, calm)
    return carry.rule.rank, calm


@pytest.mark.parametrize(
    ("rank", "share", "calm", "then"),
    [
        (2, 0.5, 2, (4, 0)),
        (3, 0.5, 0, (5, 0)),
        (0, 0.5, 0, (1, 0)),
        (5, 0.5, 0, (5, 0)),
        (4, 0.05, 2, (4, 0)),
        (4, 0.0, 0, (4, 1)),
        (4, 0.0, 2, (2, 0)),
        (1, 0.0, 2, (1, 0)),
    ],
)
def test_the_rank_follows_what_is_dropped(rank, share, calm, then):
    adapt = mpj.AdaptiveRank(least=1, most=5, low=0.01, high=0.1)
    assert moved(adapt, dropping(rank, share), calm) == then


def test_a_rank_outside_of_its_bounds_is_not_moved_the_wrong_way():
    adapt = mpj.AdaptiveRank(least=2, most=3, low=0.01, high=0.1)
    assert moved(adapt, dropping(5, 0.5)) == (5, 0)
    assert moved(adapt, dropping(1, 0.0), 2) == (1, 0)


def test_nothing_was_dropped_yet():
    assert moved(mpj.AdaptiveRank(), begun(mpj.SKRTRL(4))) == (4, 1)


def test_a_run_goes_on_at_another_rank():
    """As the docstring has it: model, moments and carry."""
    optimizer = optax.sgd(1e-2, momentum=0.9)

    @eqx.filter_jit
    def update(model, state, carry, x):
        (_, carry), grads = mpj.online_value_and_grad(loss, segment=1)(model, carry, x, x)
        updates, state = optimizer.update(eqx.filter(grads, eqx.is_inexact_array), state)
        return eqx.apply_updates(model, updates), state, carry

    adapt, calm = mpj.AdaptiveRank(least=1, most=N, high=0.0, low=0.0), 0
    model: Any = mpj.RNN(CELL, rule=mpj.SKRTRL(2))
    ranks = []
    state, carry = optimizer.init(eqx.filter(model, eqx.is_inexact_array)), model.init((2,))
    for x in XS[:3]:
        model, state, carry = update(model, state, carry, x[None])
        carry, calm = adapt(carry, calm)
        model, state = mpj.with_rule((model, state), carry.rule)
        ranks.append(model.rule.rank)
    assert ranks == [2, 4, N], "the first step has nothing to drop"
    assert not eqx.tree_equal(model.cell, CELL)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="least=5 must not be above most=4"):
        mpj.AdaptiveRank(least=5, most=4)
    with pytest.raises(ValueError, match=r"low=0.5 must not be above high=0.1"):
        mpj.AdaptiveRank(low=0.5, high=0.1)
    adapt = mpj.AdaptiveRank()
    with pytest.raises(ValueError, match="must be one that SKRTRL has made"):
        adapt(mpj.RNN(CELL, rule=mpj.EProp()).init((2,)))
    with pytest.raises(ValueError, match="there is none in it|keeps no certificate"):
        adapt(begun(mpj.SKRTRL(1, certificate=False)))
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda: adapt(begun(mpj.SKRTRL(1)))[1])()
