"""What least squares by filters needs: products of gradients, batch by batch, in one compiled scan.

A gradient under `TypeFilter` is linear in the filter, and the part that arrives at a neuron moves
on inside of it alone. So the response to one secreting type and one exponential, to all neurons at
once, holds those of each receiving type side by side: K C reverse passes serve K C² weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, computing, NeuronCell
from .._cell._base import dynamics
from .._grad import value_and_grad, with_rule
from .._precision import widened
from .._rnn import layers
from .._rule import AbstractRule, BPTT, TypeFilter
from .._rule._base import require_neurons
from .._synapses import AbstractLocalSynapses, AbstractSynapses
from .._tree import inexact
from ._pairs import cosine, norm


class Basis(NamedTuple):
    """What filters are made of: exponentials (K,), or S taps; and how they arrive. Plain numbers,
    so that one program serves all that have the same."""

    types: tuple[int, ...]
    rates: tuple[float, ...]
    taps: int
    gated: bool
    own: tuple[float, ...] | None = None

    @property
    def kinds(self) -> int:
        """C."""
        return max(self.types) + 1

    @property
    def modes(self) -> int:
        """K, or S."""
        return len(self.rates) or self.taps

    def rule(self, weights: Any) -> TypeFilter:
        """Of weights (K, C, C), or taps (S, C, C)."""
        filters = (np.array(self.rates), weights) if self.rates else weights
        own = None if self.own is None else np.array(self.own)
        return TypeFilter(filters, self.types, gated=self.gated, own=own)


class Problem(NamedTuple):
    """A loss on batches that are stacked on a leading axis, and the model with one layer."""

    loss: Callable[..., Any]
    model: Any
    batches: Any

    @property
    def cell(self) -> AbstractCell:
        """Of the layer."""
        return layers(self.model)[0].cell


def moments(
    problem: Problem,
    basis: Basis,
    start: AbstractRule | None = None,
    groups: Sequence[int] | None = None,
    *,
    summed: bool = False,
) -> Float[np.ndarray, "N groups rows rows"]:
    """Products of gradients, of each batch and group of receiving neurons (of a type, or `groups`).

    Rows: the exact gradient, that of `start` (None: of the filter of zeros), and the responses
    [mode, secreting type]. `summed`: over batches, N = 1.
    """
    groups = basis.types if groups is None else tuple(groups)
    found = _products(problem, basis, start, groups, summed)
    return np.asarray(found[None] if summed else found, float)


class Judged(NamedTuple):
    """Gradients of rules, as they are, against the exact one, batch by batch."""

    cosine: Float[np.ndarray, "rules N"]
    error: Float[np.ndarray, "rules N"]
    exact: Float[np.ndarray, " N"]

    def residual(self, which: slice) -> Float[np.ndarray, " rules"]:
        """‖exact - g‖² / ‖exact‖² over these batches; NaN of none."""
        total = np.sum(self.exact[which] ** 2)
        error = np.sum(self.error[:, which] ** 2, axis=1)
        return error / total if total > 0 else np.full(len(error), np.nan)


def judge(problem: Problem, rules: Sequence[AbstractRule]) -> Judged:
    """Not by products, of which rounding may leave nothing: by each rule's own gradient."""
    cosine, error, exact = (np.asarray(a, float) for a in _judged(problem, tuple(rules)))
    return Judged(cosine.T, error.T, exact)


def precision_of(problem: Problem) -> float:
    """Of the gradients."""
    leaf = eqx.filter_eval_shape(lambda model: reached(inexact(model)), problem.model)
    return float(jnp.finfo(leaf.dtype).eps)


@eqx.filter_jit
def _judged(problem: Problem, rules: tuple[AbstractRule, ...]) -> tuple[Array, Array, Array]:
    def gradient(rule, args):
        return reached(value_and_grad(problem.loss, rule)(problem.model, *args)[1])

    def one(args):
        exact = gradient(BPTT(), args)
        each = [gradient(rule, args) for rule in rules]
        cosines = jnp.stack([cosine(g, exact) for g in each])
        return cosines, jnp.stack([norm(exact - g) for g in each]), norm(exact)

    return jax.lax.map(one, problem.batches)


@eqx.filter_jit
def _products(
    problem: Problem,
    basis: Basis,
    start: AbstractRule | None,
    groups: tuple[int, ...],
    summed: bool,
) -> Array:
    member = group_of_parameters(problem.cell, jnp.asarray(groups))
    shape = (basis.modes, basis.kinds, basis.kinds)

    def gradient(rule, args):
        return reached(value_and_grad(problem.loss, rule)(problem.model, *args)[1])

    def one(args):
        exact = gradient(BPTT(), args)
        nothing = jnp.zeros(shape, exact.dtype)
        zero = gradient(basis.rule(nothing), args)

        def mode(k):
            def response(c):
                return gradient(basis.rule(nothing.at[k, c].set(1.0)), args) - zero

            return jax.vmap(response)(jnp.arange(basis.kinds))

        responses = jax.lax.map(mode, jnp.arange(basis.modes)).reshape(-1, len(exact))
        base = zero if start is None else gradient(start, args)
        rows = jnp.concatenate([jnp.stack([exact, base]), responses])

        def product(group):
            mine = jnp.where(jnp.broadcast_to(member == group, rows.shape), rows, 0)
            return jnp.matmul(mine, rows.T, precision="highest")

        return jax.lax.map(product, jnp.arange(max(groups) + 1))

    if not summed:
        return jax.lax.map(one, problem.batches)
    like = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], problem.batches))

    def body(total, args):
        return total + one(args), ()

    return jax.lax.scan(body, jnp.zeros(like.shape, like.dtype), problem.batches)[0]


def problem_of(loss: object, model: PyTree, batches: object) -> Problem:
    """A checked problem: one recurrent layer, of neurons, and batches of one shape."""
    checked = arguments.function("loss", loss, "loss(model, *args) -> scalar")
    found = layers(model)
    if len(found) != 1:
        raise ValueError(
            f"Filters are fitted to one recurrent layer, but the model has {len(found)}: use a "
            "model with one RNN layer."
        )
    with_rule(model, BPTT())
    require_neurons(TypeFilter(np.zeros((1, 1, 1)), [0]), found[0].cell)
    if not isinstance(batches, list | tuple) or not batches:
        raise ValueError(
            "batches must be a list of the arguments of the loss after the model, such as "
            f"[(xs, ys), (xs2, ys2)], but is {arguments.shown(batches)}."
        )
    each = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    shapes = {str(jax.tree.map(jnp.shape, batch)) for batch in each}
    if len(shapes) > 1:
        raise ValueError(f"batches must all have the same shapes, but have {sorted(shapes)}.")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return Problem(checked, model, stacked)


def reached(gradients: PyTree) -> Float[Array, " P"]:
    """The gradient of what belongs to one neuron each, flat: weights, biases, own parameters."""
    cell = dynamics(layers(gradients)[0].cell)
    return jnp.concatenate([leaf.ravel() for _, leaf in _parameters(cell, cell)])


def group_of_parameters(cell: AbstractCell, groups: Array) -> Array:
    """(P,): the group of the neuron that each entry of `reached` belongs to."""
    inner = neurons_of(cell)
    neurons = jnp.arange(inner.hidden_size, dtype=float)
    found = []
    for name, leaf in _parameters(inner, eqx.filter(inner, eqx.is_inexact_array)):
        synapses: Any = inner.afferents.get(name)
        index = neurons if synapses is None else synapses.spread(neurons)
        index = jnp.broadcast_to(index, leaf.shape).ravel()
        found.append(groups[jnp.round(index).astype(int)])
    return jnp.concatenate(found)


def neurons_of(cell: AbstractCell) -> NeuronCell:
    """The dynamics, masks applied: what computes."""
    inner: Any = computing(dynamics(cell))
    return inner.effective()


def check_maps(cell: AbstractCell) -> None:
    """A ValueError where a parameter belongs to synapses of several neurons."""
    inner = neurons_of(cell)
    for name, synapses in inner.afferents.items():
        if not isinstance(synapses, AbstractLocalSynapses):
            raise ValueError(
                f"Filters are fitted neuron by neuron, but {name} is a {type(synapses).__name__}, "
                "whose parameters serve many neurons: use a matrix or Sparse."
            )


def _parameters(inner: Any, values: Any) -> list[tuple[str, Array]]:
    """(name, values) of what one neuron owns, in a fixed order."""
    found = []
    for name in ("weight_rec", "weight_in", "bias"):
        value: Any = getattr(values, name)
        if value is not None:
            of_map = isinstance(value, AbstractSynapses)
            found.append((name, widened(getattr(value, "weight") if of_map else value)))
    own, _ = values.split()
    n = inner.hidden_size
    each = [leaf for leaf in jax.tree.leaves(own) if leaf is not None and leaf.shape == (n,)]
    return found + [("own", widened(leaf)) for leaf in each]
