"""Networks of one's own: made, put under a rule, checked, and called."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._cell._base import dynamics
from .._grad import with_rule
from .._rnn import is_layer, layers
from .._rule import AbstractRule, BPTT, Carry
from .._tree import nodes
from ..tasks import Preset, Task
from ._own import find, first_line, takes


def make_network(
    make: Callable[..., Any], task: Task, preset: Preset, key: PRNGKeyArray
) -> eqx.Module:
    """A network of one's own with fresh weights."""
    options = {"hidden_size": preset.network.hidden_size}
    if not takes(make, "hidden_size"):
        options = {}
    model = make(task.in_size(preset), task.out_size, key=key, **options)
    if not isinstance(model, eqx.Module) or not layers(model):
        raise ValueError(
            f"{getattr(make, '__qualname__', make)} returned a {type(model).__name__}, where an "
            "equinox module with RNN layers is due: network(in_size, out_size, *, key)."
        )
    return model


def under(model: PyTree, rule: Callable[[tuple[int, ...]], AbstractRule]) -> PyTree:
    """Each layer under the rule for its own cell types: by its signs, else its two halves."""

    def swap(node):
        if not is_layer(node):
            return node
        cell = dynamics(node.cell)
        n, signs = getattr(cell, "hidden_size", 0), getattr(cell, "signs", None)
        halves = tuple(int(2 * i < n) for i in range(n))
        its = rule(halves if signs is None else tuple(int(sign > 0) for sign in signs))
        its.check(node.cell)
        return node.under(its)

    return jax.tree.map(swap, model, is_leaf=is_layer)


def check_network(
    name: str, task: Task, preset: Preset, rules: Sequence[Callable[..., AbstractRule]]
) -> None:
    """Raise a ValueError where network, task and rules do not fit together, by shapes."""

    def outline(key):
        model = make_network(find(name), task, preset, key)
        for rule in rules:
            under(model, rule)
        batch = functools.partial(task.batch, batch=2, **preset.data)
        segment = preset.schedule.segment
        if segment is not None:
            xs, ys = batch(key, **{"steps": segment})
            outputs, cost = _online([under(model, rule) for rule in rules], xs, ys, key), None
        else:
            xs, ys = (with_key(batch) if takes_key(model) else batch)(key)
            reads = preset.objective.readout_steps or task.readout
            outputs, cost = outputs_of(model, xs, reads)
        if outputs.shape[-1] != task.out_size:
            raise ValueError(f"outputs of shape {outputs.shape}, where {task.out_size} are due.")
        return task.loss(outputs, ys), cost

    try:
        found, cost = jax.eval_shape(outline, jr.key(0))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"network {name} and task {task.name} do not fit: {first_line(error)}"
        ) from error
    shapes = [leaf.shape for leaf in jax.tree.leaves((found, cost))]
    if any(shapes):
        raise ValueError(
            f"network {name} and task {task.name}: loss, score and what the network adds to the "
            f"objective must be scalars, but have shapes {shapes}."
        )


def _online(models: Sequence[Any], xs: Array, ys: PyTree, key: PRNGKeyArray) -> Array:
    """Outputs of a segment; of one network under different rules, each is checked."""
    outputs, plain = None, with_rule(models[0], BPTT())
    for model in [plain, *models]:
        for method, argument in (("init", "key"), ("online", "context")):
            its = getattr(type(model), method, None)
            if its is None or not takes(its, argument):
                raise ValueError(
                    f"a {type(model).__name__} on a stream has init(batch_shape, *, key=None) -> "
                    "carry and online(xs, carry, *, context=None) -> (carry, outputs), but this "
                    f"one has no {method} with {argument}."
                )
        # what is not trained draws nothing
        carry = model.init(xs.shape[1:2], key=None if model is plain else key)
        carried, many = len(nodes(carry, Carry)), len(layers(model))
        if carried != many:
            raise ValueError(
                f"the carry of init has that of {carried} RNN layers, but there are {many}: what "
                "a layer remembers would be lost at each segment. Give layer.init(batch_shape, "
                "key=key) of each."
            )
        after, outputs = model.online(xs, carry, context=ys)
        if _shapes(after) != _shapes(carry):
            raise ValueError("online must give back a carry of the shapes of the one it got.")
        if outputs.shape[:2] != xs.shape[:2]:
            raise ValueError(
                f"online must give outputs of every step, but for xs of shape {xs.shape} they "
                f"have {outputs.shape}."
            )
    assert outputs is not None
    return outputs


def _shapes(tree: PyTree) -> tuple[Any, list[Any]]:
    leaves, structure = jax.tree.flatten(eqx.filter(tree, eqx.is_array))
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def takes_key(model: Any) -> TypeGuard[Callable[..., Any]]:
    """Whether a network draws something: its call has a `key`."""
    return takes(type(model).__call__, "key")


def outputs_of(model: Any, xs: PyTree, readout: str | int) -> tuple[Array, Array | None]:
    """What the loss reads of a network's outputs; and what the network adds to the objective."""
    found = model(xs[0], key=xs[1]) if takes_key(model) else model(xs)
    outputs, cost = found if isinstance(found, tuple) else (found, None)
    if outputs.ndim == 3 and readout != "every":
        outputs = outputs[-readout:] if isinstance(readout, int) else outputs[-1]
    return outputs, cost


def with_key(data: Callable[..., tuple[PyTree, PyTree]]) -> Callable[..., tuple[PyTree, PyTree]]:
    """The generator, with a key for the network beside xs."""

    def drawn(key, **options):
        xs, ys = data(key, **options)
        return (xs, jr.fold_in(key, 1)), ys

    return drawn
