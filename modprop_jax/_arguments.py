"""Checks of arguments, where they are given: one ValueError with name, value and fix.

All run in Python, when an object is made or a function is traced, and cost nothing at run time. A
traced array passes where only its value is unknown.
"""

import functools
import math
import reprlib
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree


Numbers = ArrayLike | Sequence[ArrayLike] | Sequence[Sequence[ArrayLike]]
"""Numbers as they are given: one, an array, JAX's or NumPy's, or nested sequences."""


Kinds = type | types.UnionType | tuple[type, ...]


class Range(NamedTuple):
    """Values that an argument may have, an interval: in words, and by its ends."""

    words: str
    low: float | int | jax.Array = -math.inf
    high: float | int | jax.Array = math.inf
    with_low: bool = False
    with_high: bool = False

    def holds(self, value: np.ndarray | jax.Array) -> Any:
        """Whether each entry of an array, which may be traced, is inside; NaN never is."""
        above = value >= self.low if self.with_low else value > self.low
        return above & (value <= self.high if self.with_high else value < self.high)

    def includes(self, low: float, high: float) -> bool:
        """Whether the open interval between these ends lies inside."""
        return bool(self.low <= low and high <= self.high)


FINITE = Range("finite")
POSITIVE = Range("positive and finite", 0)
NOT_NEGATIVE = Range("0 or more, and finite", 0, with_low=True)
FRACTION = Range("in [0, 1]", 0, 1, with_low=True, with_high=True)
POSITIVE_FRACTION = Range("in (0, 1]", 0, 1, with_high=True)
BELOW_ONE = Range("in [0, 1)", 0, 1, with_low=True)


def size(name: str, value: object) -> int:
    """A whole number, 1 or more."""
    return whole(name, value, 1)


def count(name: str, value: object) -> int:
    """A whole number, 0 or more."""
    return whole(name, value, 0)


def whole(name: str, value: object, least: int | None = None) -> int:
    """A whole number; no bool, no float, no array."""
    if isinstance(value, int | np.integer) and type(value) is not bool:
        if least is None or value >= least:
            return int(value)
    bound = "" if least is None else f" of at least {least}"
    raise ValueError(f"{name} must be a whole number{bound}, but is {shown(value)}.")


def sizes(**values: object) -> None:
    """Check whole numbers, 1 or more."""
    for name, value in values.items():
        size(name, value)


def counts(**values: object) -> None:
    """Check whole numbers, 0 or more."""
    for name, value in values.items():
        count(name, value)


def amounts(**values: object) -> None:
    """Check finite numbers, which may be traced."""
    for name, value in values.items():
        amount(name, value)


def number(name: str, value: object, within: Range = FINITE) -> float:
    """A number that is part of the structure: it does not train, and can't be traced."""
    if isinstance(value, jax.Array):
        raise ValueError(
            f"{name} is a constant, which does not train, but a jax.Array came "
            f"({shown(value)}): pass a float."
        )
    return float(amount(name, value, within))


def amount(name: str, value: object, within: Range = FINITE) -> Any:
    """A number, also as an array of no axes; what is traced can't be checked."""
    if not is_real(value) or np.shape(value) != ():
        raise ValueError(f"{name} must be a number that is {within.words}, but is {shown(value)}.")
    check_range(name, value, within)
    return value


def check_range(name: str, value: object, within: Range) -> None:
    """A ValueError unless all entries of what is no tracer are in the range."""
    if is_traced(value):
        return
    entries = np.asarray(value)
    ok = np.asarray(within.holds(entries))
    if not ok.all():
        verb = "holds" if entries.ndim else "is"
        raise ValueError(f"{name} must be {within.words}, but {verb} {entries[~ok].ravel()[0]}.")


def is_traced(tree: PyTree) -> bool:
    """Whether it is, or holds, an array whose value is not known yet; or not here, as other
    processes have parts of it."""

    def one(leaf):
        if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
            return isinstance(leaf, Tracer)
        return not (leaf.is_fully_addressable or leaf.is_fully_replicated)

    return any(map(one, jax.tree.leaves(tree)))


def is_real(value: object) -> TypeGuard[npt.ArrayLike]:
    """Whether it is a real number, or holds nothing else; a bool is none."""
    if isinstance(value, jax.Array):
        return jnp.issubdtype(value.dtype, jnp.number) and not jnp.iscomplexobj(value)
    try:
        kind = np.asarray(value).dtype.kind
    except (TypeError, ValueError):  # what NumPy can't hold: ragged lists, objects of one's own
        return False
    return kind in "iuf"


def boolean(name: str, value: object) -> bool:
    """True or False."""
    return bool(instance(name, value, bool | np.bool_, "True or False"))


def instance(name: str, value: object, kinds: Kinds, words: str) -> Any:
    """The value, if it is of one of these kinds."""
    return require(value, kinds, f"{name} must be {words}, but is {shown(value)}.")


def require(value: object, kinds: Kinds, refusal: str) -> Any:
    """As `instance`, with words of one's own."""
    if not isinstance(value, kinds):
        raise ValueError(refusal)
    return value


def entries(value: Sequence, least: int, words: str) -> None:
    """A ValueError unless it is a list or tuple of so many entries at least."""
    if not isinstance(value, list | tuple) or len(value) < least:
        raise ValueError(f"{words}, but is {shown(value)}.")


def choice(name: str, value: object, choices: Sequence[str]) -> Any:
    """One of these words."""
    if not isinstance(value, str) or value not in choices:
        words = [f'"{word}"' for word in choices]
        listed = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
        raise ValueError(f"{name} must be {listed}, but is {shown(value)}.")
    return value


def key(name: str, value: object) -> Any:
    """One PRNG key, typed or raw, also traced."""
    typed = is_array(value) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if not is_array(value) or not (typed or value.dtype == jnp.uint32):
        raise ValueError(
            f"{name} must be a PRNG key such as jax.random.key(0), but is {shown(value)}."
        )
    if value.ndim != (0 if typed else 1):
        raise ValueError(
            f"{name} must be one PRNG key such as jax.random.key(0), but is an array of shape "
            f"{value.shape}: take one of them, or use jax.vmap."
        )
    return value


def dtype(name: str, value: DTypeLike | None, *, real: bool = True) -> np.dtype:
    """A dtype of floats (or of complex numbers, unless `real`); the JAX default if None."""
    if value is None:
        return jnp.result_type(float)
    try:
        found = jnp.dtype(value)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating if real else jnp.inexact):
        kind = "a real float" if real else "a dtype of floats"
        came = shown(value) if found is None else found.name
        if came.startswith("complex"):
            came += ": complex numbers are kept as pairs"
        raise ValueError(f"{name} must be {kind} such as jnp.float32, or None, but is {came}.")
    return found


def floats(name: str, value: object) -> jax.Array:
    """An array of real floats, which has a derivative."""
    real = isinstance(value, jax.Array | np.ndarray | float)
    if not real or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(f"{name} must be an array of floats, but is {shown(value)}.")
    return jnp.asarray(value)


def parameters(name: str, value: object, axes: int) -> Any:
    """A `jax.Array` of floats, which trains, with so many axes (more in an ensemble)."""
    known = isinstance(value, jax.Array | jax.ShapeDtypeStruct)
    if not known or value.ndim < axes or not jnp.issubdtype(value.dtype, jnp.inexact):
        hint = ": make it one with jax.numpy.asarray" if isinstance(value, np.ndarray) else ""
        raise ValueError(
            f"{name} must be a jax.Array of floats with {axes} axes, as it trains, but is "
            f"{shown(value)}{hint}."
        )
    return value


def cell_types(name: str, value: object) -> tuple[int, ...]:
    """Cell types as a static tuple of the integers 0 ... C - 1, each of them in use."""
    known = is_real(value) and not is_traced(value)
    found = np.asarray(value) if known else np.zeros(0)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iu":
        came = f"{found.dtype} of shape {found.shape}" if known else shown(value)
        raise ValueError(
            f"{name} must be a vector with one integer cell type a neuron, but is {came}."
        )
    numbers = np.unique(found)
    if not np.array_equal(numbers, np.arange(numbers.size)):
        raise ValueError(
            f"{name} must number the cell types 0, 1, ... without gaps, but holds "
            f"{numbers.tolist()}."
        )
    return tuple(int(t) for t in found)


def array(name: str, value: object, what: str) -> Any:
    """An array; `what` says of what."""
    return instance(name, value, jax.Array | np.ndarray, f"an array, {what}")


def sequences(**values: PyTree) -> None:
    """Check pytrees of arrays (T, ...), each with at least one."""
    for name, value in values.items():
        leaves = jax.tree.leaves(value)
        if not leaves:
            raise ValueError(f"{name} must hold arrays (T, ...), but is {shown(value)}.")
        for leaf in leaves:
            if not np.ndim(array(name, leaf, "(T, ...), or hold such arrays")):
                raise ValueError(f"{name} must hold arrays (T, ...), but one has no axes.")


def as_labels(name: str, value: object, shape: tuple[int, ...]) -> Any:
    """An array of integers of this shape."""
    labels = array(name, value, f"integers of shape {shape}")
    if labels.shape != shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{name} must hold integers of shape {shape}, but is {labels.dtype} of shape "
            f"{labels.shape}."
        )
    return labels


def is_function(value: object) -> TypeGuard[Callable]:
    """Whether it is something to call; a class is not."""
    return callable(value) and not isinstance(value, type)


def function(name: str, value: object, what: str) -> Any:
    """Something to call; `what` says as what."""
    if not is_function(value):
        raise ValueError(f"{name} must be a function, {what}, but is {shown(value)}.")
    return value


def transformation(name: str, value: object) -> optax.GradientTransformation:
    """An optax transformation."""
    words = "an optax transformation such as optax.sgd(0.05)"
    return instance(name, value, optax.GradientTransformation, words)


def signs(name: str, value: object, n: int | None = None) -> tuple[int, ...]:
    """+1 or -1 for each presynaptic neuron, exactly."""
    found = np.asarray(value) if is_real(value) and not is_traced(value) else None
    if found is None or found.ndim != 1 or not found.size or not np.isin(found, (-1, 1)).all():
        raise ValueError(
            f"{name} must hold +1 or -1 for each presynaptic neuron, but is {shown(value)}."
        )
    if n is not None and found.size != n:
        raise ValueError(
            f"{name} must hold +1 or -1 for each of the {n} neurons, but has {found.size} entries."
        )
    return tuple(map(int, found))


def both_signs(signs: np.ndarray) -> None:
    """Check that there are neurons of both to balance."""
    if len(np.unique(signs)) < 2:
        raise ValueError(
            "signs must have excitatory and inhibitory neurons to balance, but all "
            f"{signs.size} entries of signs have the same sign; mix +1 and -1 or pass signs=None."
        )


def elementwise(name: str, value: object, n: int | None = None) -> Callable:
    """A function that acts on each entry alone: one of arrays that it holds would never learn.

    `n`: the number of neurons, for a function that has a constant for each.
    """
    if not is_function(value):
        raise ValueError(
            f"{name} must be an elementwise function such as jax.numpy.tanh, but is {shown(value)}."
        )
    if any(map(is_array, _held(value))):
        raise ValueError(
            f"{name} holds arrays ({type(value).__name__}), but it is part of a cell's structure, "
            "so that they would never learn: write a NeuronCell of your own with them as fields "
            "of shape () or (n,), and the function in its integrate or emit."
        )
    try:
        hash(value)
    except TypeError:
        raise ValueError(
            f"{name} must be hashable, as it is part of a cell's structure, but is {shown(value)}: "
            "pass a plain function."
        ) from None
    fault = None if value in _KNOWN else _fault(value, 4)
    if fault is not None and fault.startswith("raised") and n not in (None, 4):
        fault = _fault(value, n)
    if fault is not None:
        raise ValueError(
            f"{name} must be an elementwise function such as jax.numpy.tanh, but {shown(value)} "
            f"{fault}."
        )
    return value


def is_array(value: object) -> TypeGuard[jax.Array | np.ndarray]:
    """Whether it is an array, JAX's or NumPy's."""
    return isinstance(value, jax.Array | np.ndarray)


def shown(value: object) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, Tracer):
        return f"a traced array of shape {value.shape} and dtype {value.dtype}"
    if is_array(value) and value.size > 6:
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}, not an instance"
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _held(value: object) -> list:
    """What a module, or a partial function, holds."""
    if isinstance(value, functools.partial):
        inside = (value.args, value.keywords)
        return [*_held(value.func), *jax.tree.leaves(inside)]
    if isinstance(value, types.MethodType):
        return _held(value.__self__)
    return jax.tree.leaves(value)


# what needs no trial, which takes a tenth of a second
_KNOWN = frozenset(
    [
        *(jnp.tanh, jnp.sin, jax.nn.identity, jax.nn.tanh, jax.nn.relu, jax.nn.relu6),
        *(jax.nn.sigmoid, jax.nn.softplus, jax.nn.gelu, jax.nn.silu, jax.nn.elu, jax.nn.selu),
        *(jax.nn.celu, jax.nn.leaky_relu, jax.nn.hard_tanh, jax.nn.soft_sign),
    ]
)


@functools.lru_cache(maxsize=256)
def _fault(function: Callable, n: int) -> str | None:
    """What is wrong with an elementwise function, by a trial on n numbers; None if nothing is."""
    some = np.linspace(-1.3, 1.7, n)
    other = some.copy()
    # what comes of all other entries must stay
    other[n // 2] = 2.6
    try:
        with jax.ensure_compile_time_eval():
            one, two = (function(jnp.asarray(v, jnp.result_type(float))) for v in (some, other))
    except Exception as error:  # a function of the user's may raise anything
        return f"raised {type(error).__name__} on a vector: {error}"
    if is_traced(one):
        return "closes over a traced array, which would get no gradient"
    if not isinstance(one, jax.Array) or one.shape != (n,):
        return f"made {shown(one)} of a vector of shape {(n,)}"
    if not jnp.issubdtype(one.dtype, jnp.inexact):
        return f"made {one.dtype} of floats, which has no derivative"
    one, two = (np.delete(np.asarray(v), n // 2) for v in (one, two))
    if not np.allclose(one, two, rtol=1e-5, atol=1e-6, equal_nan=True):
        return "mixes the entries of a vector"
    return None
