"""Tasks and networks of one's own: given as objects, or named as `FILE.py:NAME`."""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from ..tasks import Task, TASKS
from ..tasks._pool import PRESET
from ..tasks._weighted import approximated, classified
from ._names import known


# What `compare` was given in this process, by the name under which its folder has it.
_GIVEN: dict[str, Any] = {}


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


_DATA = "data of "


def sources(*names: str | None) -> dict[str, str]:
    """Digests of the files that names are of, and of the data of tasks that have some with them."""
    found: dict[str, str] = {}
    for name in filter(None, names):
        of_file, thing = digest(name), _GIVEN.get(name, TASKS.get(name))
        if of_file is not None:
            found[name] = of_file
        if isinstance(thing, Task) and thing.digest is not None:
            found[_DATA + name] = thing.digest
    return found


def changed(was: Mapping[str, str]) -> list[str]:
    """The names whose files are not what they were.

    **Raises:** `ValueError` where a task has other data: what follows would be another run.
    """
    now = sources(*(name for name in was if not name.startswith(_DATA)))
    for name in (name.removeprefix(_DATA) for name in was if name.startswith(_DATA)):
        now |= sources(name)
        if now.get(_DATA + name) != was[_DATA + name]:
            raise ValueError(
                f"task {name} has other data than the run began with (in content, order or split): "
                "put them back, or begin the run anew in another folder."
            )
    return [name for name in was if now.get(name) != was[name]]


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
            f"{type(error).__name__}: {first_line(error)}"
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
    stream = getattr(function, "stream", False)
    if stream and (mask is not None or len(shape) == 1 or not takes(function, "steps")):
        raise ValueError(
            f"task {name} has stream = True, so {name}(key, batch, steps) must have ys of every "
            "step, which all count: no pair with weights."
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
        loss=classified if whole else approximated,
        readout="last" if len(shape) == 1 else "every",
        presets={"small": PRESET},
        score="accuracy" if whole else "R²",
        stream=stream,
    )


def first_line(error: Exception) -> str:
    """Of its message."""
    return str(error).partition("\n")[0]


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether it has a parameter of this name."""
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
                f"{place} can't be run: {type(error).__name__}: {first_line(error)}"
            ) from error
        finally:
            sys.path.pop(0)
    return sys.modules[name]
