"""Models that go on from a carry: a recurrent layer, layers one after the other, or one's own."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._grad import with_rule
from .._readout import Readout
from .._rnn import layers
from .._rule import BPTT
from .._rule._base import is_carry
from .._rule._estimating import AbstractEstimatingRule
from .._tree import each


@runtime_checkable
class Online(Protocol):
    """What goes on from a carry, as `RNN` does."""

    def init(self, batch_shape: tuple[int, ...] = ()) -> PyTree:
        """The carry of no past."""

    def __call__(self, xs: PyTree, carry: PyTree) -> tuple[PyTree, PyTree]:
        """The carry to go on from, and the outputs."""
        ...


def as_online(name: str, model: Any) -> Any:
    """The model, if it can go on from a carry; else a ValueError."""
    if isinstance(model, eqx.nn.Sequential):
        for layer in model.layers:
            if _carries(layer):
                as_online(name, layer)
            elif layers(layer):
                raise ValueError(
                    f"{name} runs its layers one after the other, but a {type(layer).__name__} "
                    "among them holds an RNN that it could not hand a carry: put the RNN into the "
                    "Sequential itself, or write a model with init and __call__(xs, carry)."
                )
        return model
    if isinstance(model, Online) and not isinstance(model, type):
        return model
    raise ValueError(
        f"{name} must be an RNN, an eqx.nn.Sequential of such layers and others, or a model of "
        "your own with init(batch_shape) -> carry and __call__(xs, carry) -> (carry, outputs), "
        f"but is {arguments.shown(model)}."
    )


def begin(model: Any, batch_shape: tuple[int, ...], key: PRNGKeyArray | None) -> PyTree:
    """The carry of no past, or those of layers in order, None for one without."""
    if not isinstance(model, eqx.nn.Sequential):
        return model.init(batch_shape) if key is None else model.init(batch_shape, key=key)
    count = len(model.layers)
    keys = [None] * count if key is None else list(jr.split(key, count))
    each_layer = zip(model.layers, keys, strict=True)
    return tuple(
        begin(layer, batch_shape, k) if _carries(layer) else None for layer, k in each_layer
    )


def run(model: Any, xs: Any, carry: PyTree, **flags: Array) -> tuple[PyTree, Any]:
    """The carry to go on from, and the outputs of every step.

    Layers without a carry but `Readout` are equinox's: functions of the features of one step.
    """
    if not isinstance(model, eqx.nn.Sequential):
        return model(xs, carry, **flags)
    after = []
    for layer, held in zip(model.layers, carry, strict=True):
        if _carries(layer):
            held, xs = run(layer, xs, held, **flags)
        elif isinstance(layer, Readout):
            xs = layer(xs)
        else:
            xs = each(layer, xs.ndim - 1)(xs)
        after.append(held)
    return tuple(after), xs


def plain(model: Any) -> Any:
    """The model as it predicts, without credit."""
    return with_rule(model, BPTT()) if layers(model) else model


def bare(carry: PyTree) -> PyTree:
    """The states in a carry, without traces."""
    return jax.tree.map(
        lambda node: node.state if is_carry(node) else node, carry, is_leaf=is_carry
    )


def reads_labels(model: Any) -> bool:
    """Whether a layer's rule reads labels as `context`."""
    rules = [layer.rule for layer in layers(model)]
    return any(isinstance(rule, AbstractEstimatingRule) and rule.context_size for rule in rules)


def _carries(layer: object) -> bool:
    return isinstance(layer, eqx.nn.Sequential | Online) and not isinstance(layer, type)
