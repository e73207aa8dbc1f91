"""Maps of synapses against their matrices in NumPy; and what is refused as no map.

A new map is one row in `MAPS`.
"""

from collections.abc import Callable
from typing import Any, cast, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import MASK, N, TYPES

import modprop_jax as mpj
from modprop_jax._synapses import Bias


C = max(TYPES) + 1
HOT = np.eye(C)[list(TYPES)]
rng = np.random.default_rng(0)
# where the matrix has zeros, no synapse is formed
WEIGHT = np.where(rng.random((N, N)) < 0.2, 0, rng.normal(size=(N, N)))
RING = (np.arange(N)[:, None] - np.arange(N)[None]) % N


class Circulant(mpj.AbstractSynapses):
    """W_ji = w_(j-i): n parameters, all of them shared."""

    weight: jax.Array

    @property
    def shape(self):
        return self.weight.size, self.weight.size

    def __call__(self, pre):
        return pre @ self.weight[RING].T


class Row(NamedTuple):
    """A map, the matrix that it is, the map's gradient from the matrix's, and which synapses are
    formed."""

    synapses: Any
    matrix: np.ndarray
    onto: Callable[[np.ndarray], Any]
    formed: np.ndarray = np.ones((N, N), bool)


MEANS, WEIGHTS = rng.normal(size=(C, C)), rng.normal(size=N)
# a list in no order, of which one weight is 0: it exists, and is not formed
ORDER = rng.permutation(MASK.sum())
POST, PRE = (ends[ORDER] for ends in np.nonzero(MASK))
LISTED = np.where(np.arange(MASK.sum()) == 3, 0, rng.normal(size=MASK.sum()))
IN_PLACE = np.zeros((N, N))
IN_PLACE[POST, PRE] = LISTED
ROWS = mpj.SparseRows(mpj.Sparse(POST, PRE, jnp.asarray(LISTED), (N, N)), 2)
LEFT, RIGHT = rng.normal(size=(N, 2)), rng.normal(size=(N, 2))
SHEET = eqx.nn.Conv1d(2, 2, 3, padding=1, use_bias=False, key=jr.key(3))


def convolved(kernel: Any) -> Any:
    """The matrix of a convolution over a row of N/2 places, two neurons each."""
    places, matrix = N // 2, np.zeros((2, N // 2, 2, N // 2))
    for k in range(3):
        at = np.arange(max(0, 1 - k), min(places, places + 1 - k))
        matrix[:, at, :, at + k - 1] += np.asarray(kernel)[:, :, k]
    return matrix.reshape(N, N)


def of_kernel(gradient: np.ndarray) -> np.ndarray:
    """What the gradient of the matrix is for the kernel."""
    units = np.eye(12).reshape(12, 2, 2, 3)
    return np.array([np.sum(gradient * convolved(unit)) for unit in units]).reshape(2, 2, 3)


CONVOLUTION = convolved(SHEET.weight)
MAPS = {
    "dense": Row(mpj.Dense(jnp.asarray(WEIGHT)), WEIGHT, lambda g: g, WEIGHT != 0),
    "masked": Row(
        mpj.Masked(jnp.asarray(WEIGHT), MASK),
        np.where(MASK, WEIGHT, 0),
        lambda g: np.where(MASK, g, 0),
        MASK & (WEIGHT != 0),
    ),
    "no autapses": Row(
        mpj.Masked(jnp.asarray(WEIGHT), MASK, autapses=False),
        np.where(MASK & ~np.eye(N, dtype=bool), WEIGHT, 0),
        lambda g: np.where(MASK & ~np.eye(N, dtype=bool), g, 0),
        MASK & ~np.eye(N, dtype=bool) & (WEIGHT != 0),
    ),
    "blocks": Row(
        mpj.Blocks(jnp.asarray(MEANS), TYPES), HOT @ MEANS @ HOT.T, lambda g: HOT.T @ g @ HOT
    ),
    "sparse": Row(
        mpj.Sparse(POST, PRE, jnp.asarray(LISTED), (N, N)),
        IN_PLACE,
        lambda g: g[POST, PRE],
        IN_PLACE != 0,
    ),
    "sparse rows": Row(
        ROWS,
        IN_PLACE,
        lambda g: np.where(ROWS.exists, g[ROWS._post(), ROWS.lists.pre], 0),
        IN_PLACE != 0,
    ),
    "low rank": Row(
        mpj.LowRank(jnp.asarray(LEFT), jnp.asarray(RIGHT)),
        LEFT @ RIGHT.T,
        lambda g: [g @ RIGHT, g.T @ LEFT],
    ),
    "low rank and dense": Row(
        mpj.LowRank(jnp.asarray(LEFT), jnp.asarray(RIGHT), mpj.Dense(jnp.asarray(WEIGHT))),
        LEFT @ RIGHT.T + WEIGHT,
        lambda g: [g @ RIGHT, g.T @ LEFT, g],
    ),
    "layer": Row(mpj.Layer(SHEET, (2, N // 2)), CONVOLUTION, of_kernel),
    "circulant": Row(
        Circulant(jnp.asarray(WEIGHTS)),
        WEIGHTS[RING],
        lambda g: np.array([g[RING == k].sum() for k in range(N)]),
    ),
}


def parameters(synapses: Any) -> list:
    return jax.tree.leaves(eqx.filter(synapses, eqx.is_inexact_array))


def pulled(row: Row, matrix: np.ndarray) -> list:
    """A gradient of the matrix, as one of the map's parameters."""
    found = row.onto(matrix)
    return found if isinstance(found, list) else [found]


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def normal(*shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_its_matrix(name):
    synapses, matrix = MAPS[name][:2]
    pre, post = normal(2, 3, N), normal(3, 2, N)
    close(synapses.as_matrix(), matrix)
    close(synapses(pre), np.asarray(pre) @ matrix.T)
    close(synapses(pre[0, 0]), matrix @ np.asarray(pre[0, 0]))
    close(synapses.back(post), np.asarray(post) @ matrix)
    close(synapses.own(), np.diag(matrix))
    close(synapses.resolved().as_matrix(), matrix)


@pytest.mark.parametrize("name", MAPS)
def test_the_gradient_is_a_contraction_over_all_axes(name):
    pre, post = normal(2, 3, N), normal(3, 2, N).reshape(2, 3, N)
    found = MAPS[name].synapses.gradient(post, pre)
    assert isinstance(found, type(MAPS[name].synapses))
    contracted = np.einsum("abj,abi->ji", post, pre)
    for mine, expected in zip(parameters(found), pulled(MAPS[name], contracted), strict=True):
        close(mine, expected)


@pytest.mark.parametrize("name", MAPS)
def test_sums_counts_and_means_by_type(name):
    synapses, matrix = MAPS[name][:2]
    gain, mu = rng.random(N), rng.random(N)
    close(synapses.type_sums(TYPES), HOT.T @ matrix @ HOT)
    weighted = HOT.T @ (gain[:, None] * matrix * mu) @ HOT
    close(synapses.type_sums(TYPES, jnp.asarray(gain), jnp.asarray(mu)), weighted)
    formed = MAPS[name].formed
    close(synapses.type_counts(TYPES), HOT.T @ formed @ HOT)
    means = normal(C, C)
    expected = np.where(formed, HOT @ np.asarray(means) @ HOT.T, 0)
    close(synapses.formed(mpj.Blocks(means, TYPES)).as_matrix(), expected)


def by_type(types: tuple[int, ...], local: Any, summed: Any, channels: Any) -> np.ndarray:
    """Σ_batch (local_j e[a_j] + Σ_c summed_c M[c, a_j]), neuron by neuron."""
    rows = []
    for j, a in enumerate(types):
        modulated = channels[C:].reshape(C, C, *channels.shape[1:])[:, a]
        own = np.einsum("b,bi->i", local[:, j], channels[a])
        rows.append(own + np.einsum("bc,cbi->i", summed, modulated))
    return np.stack(rows)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("types", [TYPES, (0, 0, 1, 1, 1, 2)])
def test_the_gradient_by_type(name, types):
    local, summed, channels = normal(2, N), normal(2, C), normal(C + C**2, 2, N)
    found = MAPS[name].synapses.type_gradient(types, local, summed, channels)
    matrix = by_type(types, *map(np.asarray, (local, summed, channels)))
    for mine, expected in zip(parameters(found), pulled(MAPS[name], matrix), strict=True):
        close(mine, expected)


# --- maps with a parameter a synapse ---


@pytest.mark.parametrize("rows, steps", [(1, 4), (3, 4), (3, 1)])
@pytest.mark.parametrize("name", ["dense", "bias"])
def test_local_maps_gather_and_contract(name, rows, steps):
    post = normal(rows, steps, 2, N)
    pre = normal(steps, 2, N) if name == "dense" else jnp.ones((steps, 2, 1))
    synapses = MAPS["dense"].synapses if name == "dense" else Bias(normal(N))
    gathered = np.asarray(synapses.gather(pre))
    seen = np.broadcast_to(gathered if name == "dense" else gathered[..., None], (steps, 2, N, N))
    if name == "dense":
        close(np.asarray(post[0, 0, 0])[:, None] * seen[0, 0], np.outer(post[0, 0, 0], pre[0, 0]))
    expected = np.einsum("rtbj,tbji->rbji", post, seen)
    found = synapses.outer(post, pre)
    close(found, expected if name == "dense" else expected[..., 0])
    weight = found[0, 0]
    of_one = synapses.of_weight(weight)
    assert isinstance(of_one, type(synapses)) and of_one.weight is weight


def test_of_a_bias():
    bias = Bias(normal(N))
    close(bias.as_matrix(), bias.weight[:, None])
    close(bias(jnp.ones((2, 3, 1))), np.broadcast_to(bias.weight, (2, 3, N)))
    filtered, post = normal(2, 3, 1), normal(3, 2, N).reshape(2, 3, N)
    close(bias.gradient(post, filtered).weight, np.einsum("abj,ab->j", post, filtered[..., 0]))
    terms = normal(2, N), normal(2, C), normal(C + C**2, 2, 1)
    close(bias.type_gradient(TYPES, *terms).weight, by_type(TYPES, *map(np.asarray, terms))[:, 0])


# --- what is none ---


class Variant(Circulant):
    """A circulant matrix with something wrong."""

    wrong: str = eqx.field(static=True)

    def __call__(self, pre):
        received = Circulant.__call__(self, pre)
        match self.wrong:
            case "affine":
                return received + 1.0
            case "nonlinear":
                return jnp.tanh(received)
            case "piecewise":
                return jnp.where(pre > 0, received, 0.5 * received)
            case "shape":
                return received[..., :-1]
            case "one axis":
                return self.weight[RING] @ pre
            case "mixes":
                return received - received.mean(0, keepdims=True)
            case "raises":
                raise KeyError("no such synapse")
        return received

    def back(self, post):
        scale = 2.0 if self.wrong == "back" else 1.0
        return scale * Circulant.back(self, post)

    def gradient(self, post, pre):
        right = cast(Circulant, Circulant.gradient(self, post, pre))
        match self.wrong:
            case "gradient":
                return eqx.tree_at(lambda s: s.weight, right, 2 * right.weight)
            case "gradient's shape":
                return eqx.tree_at(lambda s: s.weight, right, right.weight[:, None])
        return right


CAUSES = {
    "affine": "W 0 is not 0",
    "nonlinear": "is not linear",
    "piecewise": "is not linear",
    "shape": "where .2, 3, 6. is due",
    "one axis": "raised",
    "mixes": "mixes",
    "raises": "raised KeyError",
    "back": "not the transpose",
    "gradient": "not that of its call",
    "gradient's shape": "gradient of shapes",
}
# of what is traced, shapes and structure say it
BY_STRUCTURE = ["nonlinear", "shape", "one axis", "raises", "gradient's shape"]


def cell_of(synapses: Any, argument: str) -> Any:
    return mpj.LeakyCell(N, N, tau=4.0, key=jr.key(0), **{argument: synapses})


@pytest.mark.parametrize("argument", ["recurrent", "inputs"])
@pytest.mark.parametrize("wrong", CAUSES)
def test_what_is_no_linear_map_is_refused(wrong, argument):
    with pytest.raises(ValueError, match=f"^{argument} .*{CAUSES[wrong]}"):
        cell_of(Variant(normal(N), wrong), argument)
    if wrong in BY_STRUCTURE:
        with pytest.raises(ValueError, match=f"^{argument} .*{CAUSES[wrong]}"):
            eqx.filter_eval_shape(lambda w: cell_of(Variant(w, wrong), argument), normal(N))


def test_maps_are_taken_concrete_and_traced():
    for synapses in (*(row.synapses for row in MAPS.values()), Variant(normal(N), "")):
        assert cell_of(synapses, "recurrent").weight_rec is synapses
        eqx.filter_eval_shape(cell_of, synapses, "inputs")
        cells = eqx.filter_vmap(cell_of, in_axes=(eqx.if_array(0), None))
        lead = jax.tree.map(lambda a: jnp.stack([a, a]) if eqx.is_array(a) else a, synapses)
        made = eqx.filter_eval_shape(cells, lead, "recurrent").weight_rec
        assert jax.tree.leaves(made)[0].shape == jax.tree.leaves(lead)[0].shape


def test_a_map_needs_parameters():
    with pytest.raises(ValueError, match="recurrent .* Circulant has no parameter"):
        cell_of(Circulant(jnp.arange(N)), "recurrent")


class Neighbours(mpj.AbstractLocalSynapses):
    """Every neuron hears the two after it on a ring."""

    weight: jax.Array
    wrong: str = eqx.field(static=True, default="")
    scale: Any = eqx.field(default_factory=lambda: None)

    @property
    def shape(self):
        return N, N

    def _seen(self, pre):
        return pre[..., (np.arange(N)[:, None] + np.arange(1, 3)) % N]

    def __call__(self, pre):
        scale = 1.0 if self.scale is None else self.scale
        return scale * jnp.einsum("jk,...jk->...j", self.weight, self._seen(pre))

    def gather(self, pre):
        match self.wrong:
            case "gather":
                return self._seen(pre)[..., ::-1]
            case "gather's shape":
                return self._seen(pre)[..., 0]
        return self._seen(pre)

    def spread(self, post):
        match self.wrong:
            case "spread":
                return post[..., ::-1, None]
            case "spread's shape":
                return post
            case "spread's scale":
                return 2 * post[..., None]
            case "spread's examples":
                return jnp.flip(post, -2)[..., None]
        return post[..., None]

    def outer(self, post, pre):
        match self.wrong:
            case "outer":
                return jnp.einsum("rtbj,tbjk->rbjk", post, self._seen(pre[::-1]))
            case "outer's shape":
                return jnp.einsum("rtbj,tbjk->rjk", post, self._seen(pre))
            case "outer's examples":
                summed = jnp.einsum("rtbj,tbjk->rjk", post, self._seen(pre)) / post.shape[2]
                return jnp.broadcast_to(
                    summed[:, None], (len(post), post.shape[2], *self.weight.shape)
                )
        return jnp.einsum("rtbj,tbjk->rbjk", post, self._seen(pre))


OF_LOCAL = {
    "gather": "what its synapses do not see",
    "gather's shape": "has a gather of shape",
    "spread": "what its synapses do not see",
    "spread's shape": "has a spread of shape",
    "spread's scale": "what its synapses do not see",
    "spread's examples": "what its synapses do not see",
    "outer": "has an outer that is not",
    "outer's shape": "has an outer of shape",
    "outer's examples": "each row and example apart",
}


@pytest.mark.parametrize("wrong", OF_LOCAL)
def test_local_synapses_that_see_something_else_are_refused(wrong):
    with pytest.raises(ValueError, match=f"^recurrent .* this Neighbours .*{OF_LOCAL[wrong]}"):
        cell_of(Neighbours(normal(N, 2), wrong), "recurrent")
    cell_of(Neighbours(normal(N, 2)), "recurrent")


def test_local_synapses_have_one_parameter():
    both = Neighbours(normal(N, 2), scale=jnp.ones(()))
    with pytest.raises(ValueError, match="parameters beside its weight"):
        cell_of(both, "recurrent")


def test_autapses_are_of_square_maps():
    with pytest.raises(ValueError, match="autapses=False .* shape .6, 7."):
        mpj.Masked(normal(N, N + 1), autapses=False)
    close(mpj.Masked(normal(N, N + 1)).as_matrix(), normal(N, N + 1))


def test_a_map_of_another_shape_is_refused():
    for argument in ("recurrent", "inputs"):
        with pytest.raises(ValueError, match=f"{argument} must be a map of shape .6, 6."):
            cell_of(mpj.Dense(normal(N, N + 1)), argument)
