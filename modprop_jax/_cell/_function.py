from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _arguments as arguments
from .._static import FrozenArray
from ._base import AbstractCell, batch_axes, BatchShape


def _frozen(leaf: PyTree) -> FrozenArray:
    # NumPy alone: under jit, jnp.asarray would make a tracer of a constant
    dtype = leaf.dtype if eqx.is_array(leaf) else np.asarray(leaf).dtype
    if not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)):
        raise ValueError(f"state must hold arrays of numbers, but holds {arguments.shown(leaf)}.")
    return FrozenArray(leaf)


def _identity(state: PyTree) -> PyTree:
    return state


class FunctionCell(AbstractCell):
    r"""Any pure function as a cell: \( s_t = \mathrm{step}(\theta, s_{t-1}, x_t) \).

    `step(params, state, x)` and `emit(state)`, or `emit(params, state)` if `emit_params`, treat
    each example on its own, with any leading batch axes. What they need to learn goes into
    `params`: a value that they close over has no gradient, and a traced one raises. Serves the
    rules that need no neuron structure (BPTT, RTRL, SnAp, UORO, DNI, ReadoutOnly).
    """

    params: PyTree
    state: PyTree
    function: Callable = eqx.field(static=True)
    emission: Callable = eqx.field(static=True)
    emit_params: bool = eqx.field(static=True)

    def __init__(
        self,
        step: Callable[[Any, Any, Array], Any],
        params: PyTree,
        state: PyTree,
        emit: Callable[..., Array] = _identity,
        *,
        emit_params: bool = False,
    ):
        """**Arguments:**

        - `step`: pure function `(params, state, x) -> state`.
        - `params`: pytree of parameters.
        - `state`: initial state of one example (shapes without batch axes), a constant.
        - `emit`: pure function `state -> z`; the state itself by default.
        - `emit_params`: `emit` is `(params, state) -> z`.
        """
        arguments.function("step", step, "step(params, state, x) -> state")
        self.emit_params = arguments.boolean("emit_params", emit_params)
        takes = "emit(params, state)" if emit_params else "emit(state)"
        arguments.function("emit", emit, f"{takes} -> z")
        self.params = params
        if arguments.is_traced(state):
            raise ValueError(
                "FunctionCell's initial state is a constant, but a traced array came: make the "
                "cell outside of the transformed function, or pass a bare state to scan."
            )
        self.state = jax.tree.map(_frozen, state)
        self.function = step
        self.emission = emit

    def init(self, batch_shape: BatchShape = ()) -> PyTree:
        """The initial state, repeated over the batch (a learnable one: pass a bare state)."""
        axes = batch_axes(batch_shape)

        def repeat(leaf):
            return jnp.broadcast_to(jnp.asarray(leaf.numpy()), (*axes, *leaf.shape))

        return jax.tree.map(repeat, self.state, is_leaf=lambda x: isinstance(x, FrozenArray))

    def step(self, state: PyTree, x: Array) -> PyTree:
        """One time step."""
        return self.function(self.params, state, x)

    def emit(self, state: PyTree) -> Array:
        """What the loss sees."""
        return self.emission(self.params, state) if self.emit_params else self.emission(state)
