"""Which synapses exist: structure of a cell, its first weights, and zeros that stay zero."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import data, jit, M, MASK, N

import modprop_jax as mpj


pytestmark = pytest.mark.slow


# a quarter of the connections, and a neuron without any
SPARSE = np.random.default_rng(1).random((40, 40)) < 0.25
SPARSE[3] = False
DALE = np.where(np.arange(40) < 30, 1, -1)
INPUTS = np.arange(N) < M
GATES = np.random.default_rng(2).random((4 * N, N)) < 0.6

CELLS: dict[str, Any] = {
    "leaky": lambda mask, **o: mpj.LeakyCell(M, N, tau=4.0, mask=mask, **o),
    "dale": lambda mask, **o: mpj.RateCell(M, N, mask=mask, signs=DALE[::7], **o),
    "gru": lambda mask, **o: mpj.GRUCell(M, N, mask=mask, **o),
    "lstm": lambda mask, **o: mpj.LSTMCell(M, N, mask=mask, **o),
    "equilibrium": lambda mask, **o: mpj.EquilibriumCell(
        N,
        inputs=np.arange(N) < M,
        outputs=np.arange(N) >= N - 1,
        activation=jnp.tanh,
        mask=mask,
        **o,
    ),
}


def recurrent(cell: Any) -> Any:
    """The recurrent weights, [post, pre]."""
    names = ("weight_rec", "weight_hh", "weight")
    return next(getattr(cell, name) for name in names if name in vars(cell))


def loss_of(cell: Any, xs: Any, rule: Any = mpj.BPTT()) -> Any:
    return jnp.mean(mpj.RNN(cell, rule=rule)(xs) ** 2)


# --- structure ---


@pytest.mark.parametrize("name", CELLS)
def test_a_mask_is_no_leaf(name):
    cell = CELLS[name](MASK.tolist(), key=jr.key(0))
    assert all(map(eqx.is_inexact_array, jax.tree.leaves(eqx.filter(cell, eqx.is_array))))
    np.testing.assert_array_equal(cell.mask, MASK)
    assert jit(lambda cell: cell)(cell).mask is cell.mask
    assert CELLS[name](None, key=jr.key(0)).mask is None
    for other in (CELLS[name](np.array(MASK), key=jr.key(0)), CELLS[name](~MASK, key=jr.key(0))):
        same = jax.tree.structure(other) == jax.tree.structure(cell)
        assert same == (other.mask == MASK).all()


def test_lists_that_are_no_matrix():
    with pytest.raises(ValueError, match="mask must be a boolean matrix .post, pre., but"):
        mpj.LeakyCell(M, N, tau=4.0, mask=[[True], [True, False]], key=jr.key(0))


OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "lion": optax.lion(1e-2),
    "rmsprop": optax.rmsprop(1e-2, centered=True, momentum=0.9),
    "lamb": optax.lamb(1e-2, weight_decay=0.1),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=2),
    "clipped, every second step": optax.MultiSteps(
        optax.chain(optax.clip_by_global_norm(0.1), optax.nadam(1e-2)), 2
    ),
}


@pytest.mark.parametrize("name", ["leaky", "gru", "equilibrium"])
def test_missing_synapses_stay_zero_under_any_optimizer(name):
    """By the idiom `optimizer.init(eqx.filter(model, eqx.is_array))`, with masks and autapses."""
    cell, (xs, _) = CELLS[name](MASK, key=jr.key(0)), data()
    missing = np.asarray(recurrent(cell)) == 0
    lacking = ~MASK | (np.eye(N, dtype=bool) if name == "leaky" else False)
    lacking |= INPUTS[:, None] if name == "equilibrium" else False
    np.testing.assert_array_equal(missing, np.tile(lacking, (len(missing) // N, 1)))

    def trained(cell, xs, optimizer):
        _, gradients = mpj.value_and_grad(loss_of)(cell, xs)
        state = optimizer.init(eqx.filter(cell, eqx.is_array))
        for _ in range(4):
            updates, state = optimizer.update(gradients, state, eqx.filter(cell, eqx.is_array))
            cell = eqx.apply_updates(cell, updates)
        return cell

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = jit(lambda *seen: [trained(*seen, optimizer=each) for each in OPTIMIZERS.values()])(
            cell, xs
        )
    for label, after in zip(OPTIMIZERS, found, strict=True):
        weight = np.asarray(recurrent(after))
        assert (weight[missing] == 0).all(), label
        assert (weight != np.asarray(recurrent(cell))).sum() > (~missing).sum() / 2, label
        np.testing.assert_array_equal(weight, recurrent(after.effective()))


# --- first weights ---


def test_first_weights_have_the_size_of_the_connections_that_exist():
    """Row by row; a network keeps the radius that it would have without a mask."""
    mask = np.random.default_rng(3).random((200, 200)) < 0.1
    for autapses in (True, False):
        cell = mpj.LeakyCell(M, 200, tau=4.0, mask=mask, autapses=autapses, key=jr.key(0))
        weight = np.asarray(cell.weight_rec)
        exists = mask if autapses else mask & ~np.eye(200, dtype=bool)
        scaled = (weight * np.sqrt(exists.sum(1))[:, None])[exists]
        assert not weight[~exists].any() and abs(np.std(scaled) - 1) < 0.02
        assert abs(np.abs(np.linalg.eigvals(weight)).max() - 1) < 0.1
    dense = mpj.LeakyCell(M, N, tau=4.0, key=jr.key(0))
    with_diagonal = mpj.LeakyCell(M, N, tau=4.0, autapses=True, key=jr.key(0)).weight_rec
    expected = np.where(np.eye(N), 0, with_diagonal) * np.sqrt(N / (N - 1))
    np.testing.assert_allclose(dense.weight_rec, expected, rtol=1e-14)
    for make, gates in ((mpj.GRUCell, 3), (mpj.LSTMCell, 4)):
        mask = GATES[: gates * N]
        cell, full = (make(M, N, mask=m, key=jr.key(0)) for m in (mask, None))
        expected = np.where(mask, full.weight_hh, 0) * np.sqrt(N / mask.sum(1))[:, None]
        np.testing.assert_allclose(cell.weight_hh, expected, rtol=1e-14)
        np.testing.assert_array_equal(cell.mask, mask)


@pytest.mark.parametrize("traced", [False, True])
def test_the_dale_recipe_holds_for_the_connections_that_exist(traced):
    def make(mask):
        return mpj.LeakyCell(M, 40, tau=4.0, mask=mask, signs=DALE, key=jr.key(0)).weight_rec

    weight = np.asarray(jit(make)(jnp.asarray(SPARSE)) if traced else make(SPARSE))
    exists = SPARSE & ~np.eye(40, dtype=bool)
    np.testing.assert_array_equal(weight != 0, exists)
    assert (weight * DALE >= 0).all()
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(weight)).max(), 1, rtol=1e-9)
    both = exists[:, :30].any(1) & exists[:, 30:].any(1)
    assert 30 < both.sum() < 40
    np.testing.assert_allclose(weight.sum(1)[both], 0, atol=1e-14)
    if not traced:
        whole = np.asarray(make(None))
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(whole)).max(), 1, rtol=1e-9)
        np.testing.assert_allclose(whole.sum(1), 0, atol=1e-13)
        assert not np.diag(whole).any()


@pytest.mark.parametrize(
    "mask, norm",
    [
        (np.tril(np.ones((8, 8), bool), -1), np.sqrt(8)),
        (np.zeros((8, 8), bool), 0.0),
        (np.tile(np.arange(8) < 4, (8, 1)), None),
    ],
)
def test_connections_without_a_cycle_or_without_inhibition(mask, norm):
    """A radius that no weights can change leaves the size of random weights."""
    weight = np.asarray(mpj.balanced_dale(jr.key(0), [1] * 5 + [-1] * 3, mask=mask))
    np.testing.assert_array_equal(weight != 0, mask)
    if norm is None:
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(weight)).max(), 1, rtol=1e-9)
    else:
        np.testing.assert_allclose(np.linalg.norm(weight), norm, rtol=1e-12)
