"""Tasks and networks of one's own: given as objects, or named as `FILE.py:NAME`."""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._cell._base import dynamics
from .._rnn import is_layer, layers
from .._rule import AbstractRule
from ..tasks import cross_entropy, Preset, Task, TASKS
from ._names import known


# What `compare` was given in this process, by the name under which its folder has it.
_GIVEN: dict[str, Any] = {}

_PRESET = Preset(hidden_size=64, iterations=1000, learning_rate=0.01, eval_every=50)
"""Of a task that is a function, where nothing else is said."""


def name_of(thing: Any) -> str:
    """The name of what was given: as it is, or `FILE.py:NAME`, `MODULE:NAME` of a function.

    A function that has none (a lambda, one made inside of another, or typed at a prompt) gets one
    that only this process knows: its run is resumed by giving it again.
    """
    if isinstance(thing, str):
        return thing
    own = thing.name if isinstance(thing, Task) else getattr(thing, "__qualname__", None)
    name = type(thing).__qualname__ if own is None else str(own)
    module = str(getattr(thing, "__module__", None))
    found = not isinstance(thing, Task) and _attribute(sys.modules.get(module), name) is thing
    if found and module != "__main__":
        spec = f"{module}:{name}"
    elif found and (file := _source(thing)) is not None:
        spec = f"{file}:{name}"
    else:
        spec = f":{name}"
    _GIVEN[spec] = thing
    return spec


def is_own(name: str) -> bool:
    """Whether a task's name is that of somebody's own."""
    return ":" in name


def find(name: str) -> Any:
    """The object that a name stands for.

    **Raises:** `ValueError` where there is none.
    """
    if name in _GIVEN:
        return _GIVEN[name]
    place, _, attribute = name.rpartition(":")
    if not place:
        raise ValueError(
            f"{attribute} was given as an object, which no other process can find: give it again "
            "(resume(folder, task=..., network=...)), or define it in a file and name it as "
            f"FILE.py:{attribute}."
        )
    found = _attribute(_module(place), attribute)
    if found is None:
        raise ValueError(f"{place} defines no {attribute!r}.")
    _GIVEN[name] = found
    return found


def again(name: str, thing: Any, folder: Path) -> None:
    """Find what a run began with: `thing`, where it is given, else by its name.

    A folder may come from somebody else. So code is run only if it lies under the current folder
    and outside of the run's, or in an installed module.

    **Raises:** `ValueError` where it does not.
    """
    if thing is not None:
        _GIVEN[name] = thing
        return
    path = Path(name.rpartition(":")[0])
    if name not in _GIVEN and path.suffix == ".py":
        at = path.resolve()
        outside = not at.is_relative_to(Path.cwd()) or at.is_relative_to(folder.resolve())
        if path.is_absolute() or outside:
            raise ValueError(
                f"{folder} was begun with {name}, which is not under the current folder, or is in "
                "the run's own: go on from where that file is yours, or from Python with "
                "resume(folder, task=..., network=...)."
            )
    elif name not in _GIVEN and _lies_in(name.rpartition(":")[0], folder.resolve()):
        raise ValueError(
            f"{folder} was begun with {name}, a module in the run's own folder, which is not run: "
            "go on from Python with resume(folder, task=..., network=...)."
        )
    find(name)


def _lies_in(place: str, folder: Path) -> bool:
    """Whether a module, wherever Python looks for it, would be found in this folder."""
    parts = place.split(".")
    return any(Path(root, *parts).resolve().is_relative_to(folder) for root in sys.path)


def digest(name: str | None) -> str | None:
    """Of the file that a name `FILE.py:NAME` is of; None where there is no file."""
    place = (name or "").rpartition(":")[0]
    path = Path(place)
    if path.suffix != ".py" or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_task(name: str) -> Task:
    """A task by name: the package's, or one's own."""
    if not is_own(name):
        return TASKS[known("task", name, TASKS)]
    thing = find(name)
    if isinstance(thing, Task):
        return thing
    if not callable(thing):
        raise ValueError(
            f"{name} is a {type(thing).__name__}, where a function of a key and a batch size is "
            "due, (key, batch) -> (xs, ys), or a modprop_jax.tasks.Task."
        )
    return _task_of(thing, name.rpartition(":")[2])


@functools.lru_cache(maxsize=64)
def _task_of(function: Callable[..., Any], name: str) -> Task:
    """A task from its generator; `ys` say what is to be learnt."""
    key = jr.key(0)
    try:
        xs, ys = jax.eval_shape(lambda key: function(key, 2), key)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"task {name}: {name}(key, 2) must return two arrays or pytrees, xs and ys, but: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    first = jax.tree.leaves(xs)[0]
    if first.ndim != 3 or first.shape[1] != 2:
        raise ValueError(
            f"task {name}: xs of {name}(key, 2) must have the shape (T, 2, features), but has "
            f"{first.shape}."
        )
    targets, mask = ys if isinstance(ys, tuple) else (ys, None)
    steps = first.shape[0]
    whole = jnp.issubdtype(targets.dtype, jnp.integer)
    shape = targets.shape if whole else targets.shape[:-1]
    if shape not in ((2,), (steps, 2)) or (mask is not None and mask.shape != shape):
        raise ValueError(
            f"task {name}: ys of {name}(key, 2) must be classes (2,) or ({steps}, 2), integers, or "
            f"values (2, k) or ({steps}, 2, k), or a pair of these and of weights, but "
            f"{jax.tree.map(lambda y: (y.shape, str(y.dtype)), ys)} came."
        )
    if whole:
        out_size = getattr(function, "classes", None)
        if out_size is None:
            drawn = function(key, 1000)[1]
            out_size = int(jnp.max(drawn[0] if isinstance(drawn, tuple) else drawn)) + 1
    else:
        out_size = targets.shape[-1]
    return Task(
        name=name,
        description=(inspect.getdoc(function) or "").partition("\n")[0],
        out_size=out_size,
        batch=lambda key, batch, **options: function(key, batch, **options),
        evaluation=lambda key, **options: function(key, 256, **options),
        loss=_classified if whole else _approximated,
        readout="last" if len(shape) == 1 else "every",
        presets={"small": _PRESET},
        score="accuracy" if whole else "R²",
    )


def _classified(outputs: Array, ys: PyTree) -> tuple[Array, Array]:
    """Cross-entropy and accuracy, over what has weight."""
    if not isinstance(ys, tuple):
        return cross_entropy(outputs, ys)
    labels, weight = ys[0], ys[1].astype(outputs.dtype)
    each = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[..., None], -1)[..., 0]
    right = (jnp.argmax(outputs, -1).astype(labels.dtype) == labels).astype(outputs.dtype)
    return -_mean(each, weight), _mean(right, weight)


def _approximated(outputs: Array, ys: PyTree) -> tuple[Array, Array]:
    """Mean squared error, a sum over outputs, and R², over what has weight."""
    targets, weight = ys if isinstance(ys, tuple) else (ys, jnp.ones(ys.shape[:-1]))
    weight = weight.astype(outputs.dtype)
    error = _mean(jnp.sum((outputs - targets) ** 2, -1), weight)
    centre = jax.vmap(_mean, (-1, None))(targets, weight)
    centre = jnp.broadcast_to(centre, targets.shape)
    spread = _mean(jnp.sum((targets - centre) ** 2, -1), weight)
    moves = spread > 0
    return error, jnp.where(moves, 1 - error / jnp.where(moves, spread, 1), 0)


def _mean(values: Array, weight: Array) -> Array:
    total = weight.sum()
    return jnp.sum(values * weight) / jnp.where(total > 0, total, 1)


def make_network(name: str, task: Task, preset: Preset, key: PRNGKeyArray) -> eqx.Module:
    """A network of one's own with fresh weights."""
    make = find(name)
    options = {"hidden_size": preset.hidden_size}
    if not _takes(make, "hidden_size"):
        options = {}
    model = make(task.in_size(preset), task.out_size, key=key, **options)
    if not isinstance(model, eqx.Module) or not layers(model):
        raise ValueError(
            f"{name} returned a {type(model).__name__}, where an equinox module with RNN layers "
            "is due: network(in_size, out_size, *, key)."
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
        model = make_network(name, task, preset, key)
        for rule in rules:
            under(model, rule)
        batch = functools.partial(task.batch, batch=2, **preset.data)
        xs, ys = (with_key(batch) if takes_key(model) else batch)(key)
        outputs, cost = outputs_of(model, xs, preset.readout_steps or task.readout)
        if outputs.shape[-1] != task.out_size:
            raise ValueError(f"outputs of shape {outputs.shape}, where {task.out_size} are due.")
        return task.loss(outputs, ys), cost

    try:
        found, cost = jax.eval_shape(outline, jr.key(0))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"network {name} and task {task.name} do not fit: {_first_line(error)}"
        ) from error
    shapes = [leaf.shape for leaf in jax.tree.leaves((found, cost))]
    if any(shapes):
        raise ValueError(
            f"network {name} and task {task.name}: loss, score and what the network adds to the "
            f"objective must be scalars, but have shapes {shapes}."
        )


def takes_key(model: Any) -> TypeGuard[Callable[..., Any]]:
    """Whether a network draws something: its call has a `key`."""
    return _takes(type(model).__call__, "key")


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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _takes(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


def _attribute(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def _source(thing: Any) -> Path | None:
    try:
        file = inspect.getsourcefile(thing)
    except TypeError:
        return None
    return None if file is None or not Path(file).is_file() else Path(file)


def _module(place: str) -> Any:
    path = Path(place)
    if path.suffix != ".py":
        if not all(part.isidentifier() for part in place.split(".")):
            raise ValueError(f"{place!r} is no module: name a task as FILE.py:NAME or MODULE:NAME.")
        try:
            return importlib.import_module(place)
        except ImportError as error:
            raise ValueError(f"there is no module {place!r}: {error}.") from error
    if not path.is_file():
        raise ValueError(f"there is no file {place}: name a task as FILE.py:NAME.")
    name = f"_modprop_jax_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look themselves up there
        sys.path.insert(0, str(path.resolve().parent))  # as of a script: its neighbours are found
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ValueError(
                f"{place} can't be run: {type(error).__name__}: {_first_line(error)}"
            ) from error
        finally:
            sys.path.pop(0)
    return sys.modules[name]
