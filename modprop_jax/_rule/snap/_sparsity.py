"""Sparse Jacobians: where they can be nonzero, and all their entries from few derivatives."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jaxtyping import Array, Float

from ..._sharding import vary, varying
from ..._tree import pullback


class Sparse:
    """The places where a Jacobian can be nonzero, coloured.

    `rows`, `cols`: one for each place. Rows of one colour have no column in common, so that one
    cotangent serves them all (or columns and tangents, where these are fewer); `index` says where
    `evaluate` leaves each place's entry.
    """

    def __init__(self, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]):
        asdex = _asdex()
        self.rows, self.cols, self.shape = rows, cols, shape
        pattern = asdex.SparsityPattern.from_coo(rows, cols, shape)
        colours, count = asdex.color_rows(pattern)
        self.reverse = True
        # the entries of a row are in different columns, so no fewer colours of columns will do
        if rows.size and np.bincount(rows).max() < count:
            columns, fewer = asdex.color_cols(pattern)
            if fewer < count:
                self.reverse, colours, count = False, columns, fewer
        seeded, read = (rows, cols) if self.reverse else (cols, rows)
        width, left = shape if self.reverse else shape[::-1]
        # no seed for what is not in the pattern: it could be nonzero, where a mask is applied later
        self.seeds = np.zeros((count if rows.size else 0, width), bool)
        self.seeds[colours[seeded], seeded] = True
        self.index = colours[seeded] * left + read
        self.size = len(self.seeds) * left

    def evaluate(self, function: Callable[[Array], Array], at: Array) -> Float[Array, " size"]:
        """Derivatives of `function`, array -> vector, that hold all entries; see `index`."""
        if not self.size:
            return jnp.zeros(0, at.dtype)
        seeds = vary(jnp.asarray(self.seeds, at.dtype), varying(at))
        if self.reverse:
            (found,) = jax.vmap(pullback(function, at))(seeds)
        else:
            seeds = seeds.reshape(-1, *at.shape)
            found = jax.vmap(lambda seed: jax.jvp(function, (at,), (seed,))[1])(seeds)
        return found.reshape(-1)

    def dense(self) -> np.ndarray:
        """As a boolean matrix."""
        full = np.zeros(self.shape, bool)
        full[self.rows, self.cols] = True
        return full


def detect(functions: Sequence[Callable[..., Array]], at: np.ndarray, *rest: Any) -> Sparse:
    """Where the derivative of any of `functions(at, *rest)`, vectors, by `at` can be nonzero.

    For any values of `at` and `rest`. Arrays that a function closes over count as known, and their
    zeros as structure. What is looked at is the pullback: a derivative of its own (a surrogate)
    counts, and what is stopped or only shown (`jax.debug.print`) does not.
    """
    asdex = _asdex()

    def found(function):
        def back(cotangent, at, *rest):
            return pullback(lambda at: function(at, *rest), at)(cotangent)[0]

        out = jax.eval_shape(function, at, *rest)
        # inlined: asdex forgets at the end of a jitted function which values are known
        with jax.disable_jit(), np.errstate(all="ignore"):
            return asdex.jacobian_sparsity(_silent(back), np.zeros(out.shape, out.dtype), at, *rest)

    try:
        patterns = [found(function) for function in functions]
    except (NotImplementedError, ValueError) as error:  # asdex raises both
        raise ValueError(
            f"The sparsity of this cell can't be detected ({str(error).split('.')[0]}): use RTRL, "
            "or write its step with other operations."
        ) from error
    # of the pullback: the transpose
    width, height = patterns[0].shape
    flat = [pattern.cols.astype(int) * width + pattern.rows for pattern in patterns]
    return Sparse(*np.divmod(np.unique(np.concatenate(flat)), width), (height, width))


def _silent(function: Callable) -> Callable:
    """The function without what it only shows (`jax.debug.print`), which nothing depends on."""

    def run(*args):
        traced, out = jax.make_jaxpr(function, return_shape=True)(*args)
        if not traced.effects:
            return function(*args)
        values = jaxpr_as_fun(_without_effects(traced))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), values)

    return run


def _without_effects(value: Any) -> Any:
    """A jaxpr, or a parameter of an equation that may hold some, without what has no output."""
    if isinstance(value, ClosedJaxpr):
        return ClosedJaxpr(_without_effects(value.jaxpr), value.consts)
    if type(value) is tuple:
        return tuple(map(_without_effects, value))
    if not isinstance(value, Jaxpr):
        return value
    equations = [
        equation.replace(params={k: _without_effects(v) for k, v in equation.params.items()})
        for equation in value.eqns
        if equation.outvars
    ]
    return value.replace(eqns=equations, effects=frozenset())


def _asdex() -> Any:
    try:
        import asdex  # here, as it takes a second or two, and one rule needs it
    except ImportError as error:
        raise ImportError(
            "SnAp finds a cell's sparsity with asdex. In a clone of the repository: "
            'pip install -e ".[snap]"'
        ) from error
    return asdex
