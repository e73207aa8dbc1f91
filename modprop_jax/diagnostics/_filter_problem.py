"""The loss whose gradient filters are fitted to, and the parameters that it is taken over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, computing, NeuronCell
from .._cell._base import dynamics
from .._grad import with_rule
from .._precision import widened
from .._rnn import layers
from .._rule import BPTT, TypeFilter
from .._rule._base import require_neurons
from .._synapses import AbstractLocalSynapses, AbstractSynapses
from .._tree import inexact


class Problem(NamedTuple):
    """A loss on batches that are stacked on a leading axis, and the model with one layer."""

    loss: Callable[..., Any]
    model: Any
    batches: Any

    @property
    def cell(self) -> AbstractCell:
        """Of the layer."""
        return layers(self.model)[0].cell

    def first(self, count: int) -> "Problem":
        """Of the first batches alone."""
        return self._replace(batches=jax.tree.map(lambda leaf: leaf[:count], self.batches))


def precision_of(problem: Problem) -> float:
    """Of the gradients."""
    leaf = eqx.filter_eval_shape(lambda model: reached(inexact(model)), problem.model)
    return float(jnp.finfo(leaf.dtype).eps)


def check_layer(model: PyTree) -> None:
    """A ValueError unless it has one recurrent layer, of neurons with a parameter a synapse."""
    found = layers(model)
    if len(found) != 1:
        raise ValueError(
            f"Filters are fitted to one recurrent layer, but the model has {len(found)}: use a "
            "model with one RNN layer."
        )
    with_rule(model, BPTT())
    require_neurons(TypeFilter(np.zeros((1, 1, 1)), [0]), found[0].cell)
    check_maps(found[0].cell)


def problem_of(loss: object, model: PyTree, batches: object) -> Problem:
    """A checked problem: one recurrent layer, of neurons, and batches of one shape."""
    checked = arguments.function("loss", loss, "loss(model, *args) -> scalar")
    check_layer(model)
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
