"""What a layer makes of its cell's emissions: nothing, or leaky sums with a memory of their own."""

import abc
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._credit import Flags
from .._flags import erase, select, where_valid
from .._precision import wide
from .._sharding import over_steps
from .._static import Constant, is_constant, numeric


class AbstractEmission(eqx.Module):
    """How what a cell emits becomes what the loss and the next layer see. It is linear.

    A layer's state is the cell's, or, where the emission has a memory, the pair of both.
    """

    @property
    @abc.abstractmethod
    def remembers(self) -> bool:
        """Whether what is seen depends on earlier emissions."""

    @property
    @abc.abstractmethod
    def first(self) -> "AbstractEmission":
        """The first of its filters alone."""

    @abc.abstractmethod
    def split(self, state: PyTree) -> tuple[PyTree, PyTree]:
        """A layer's state, as the cell's and the memory."""

    @abc.abstractmethod
    def join(self, state: PyTree, memory: PyTree) -> PyTree:
        """The cell's state and the memory, as the layer's state."""

    @abc.abstractmethod
    def silent(self, z: Float[Array, "..."]) -> PyTree:
        """The memory before the first step, for emissions shaped as z."""

    @abc.abstractmethod
    def filter(self, memory: PyTree, z: Float[Array, "..."]) -> PyTree:
        """The memory after one more emission."""

    @abc.abstractmethod
    def read(self, memory: PyTree, z: Float[Array, "..."]) -> Array:
        """What is seen, of the memory after the emission z."""

    @abc.abstractmethod
    def run(
        self, memory: PyTree, zs: Float[Array, "T ..."], flags: Flags | None, unroll: int
    ) -> tuple[PyTree, PyTree]:
        """`filter` over the steps of a segment: the last memory, and that after each step."""

    @abc.abstractmethod
    def back(self, memory: PyTree) -> tuple[PyTree, Array | None]:
        """Credit on the memory after a step, as credit on the memory before it and on what is
        emitted in it (None: on nothing)."""

    @abc.abstractmethod
    def run_back(
        self, memory: PyTree, flags: Flags | None, steps: int
    ) -> tuple[PyTree, Array | None]:
        """`back` over the steps of a segment: credit on the memory before it, and on each step's
        emission."""


class Plain(AbstractEmission):
    """What is emitted is seen as it is: the memory is `()`."""

    @property
    def remembers(self) -> bool:
        """No."""
        return False

    @property
    def first(self) -> "Plain":
        """It has none."""
        return self

    def split(self, state: PyTree) -> tuple[PyTree, tuple[()]]:
        """All is the cell's."""
        return state, ()

    def join(self, state: PyTree, memory: tuple[()]) -> PyTree:
        """The cell's."""
        return state

    def silent(self, z: Float[Array, "..."]) -> tuple[()]:
        """Nothing."""
        return ()

    def filter(self, memory: tuple[()], z: Float[Array, "..."]) -> tuple[()]:
        """Nothing."""
        return ()

    def read(self, memory: tuple[()], z: Float[Array, "..."]) -> Array:
        """z."""
        return z

    def run(
        self, memory: tuple[()], zs: Float[Array, "T ..."], flags: Flags | None, unroll: int
    ) -> tuple[tuple[()], tuple[()]]:
        """Nothing."""
        return (), ()

    def back(self, memory: tuple[()]) -> tuple[tuple[()], Array | None]:
        """Nothing."""
        return (), None

    def run_back(
        self, memory: tuple[()], flags: Flags | None, steps: int
    ) -> tuple[tuple[()], Array | None]:
        """Nothing."""
        return (), None


class Leaky(AbstractEmission):
    r"""\( \bar z_t = k \bar z_{t-1} + s_{out} z_t \), of one leak k, or of several side by side."""

    leak: Constant | tuple[Constant, ...]
    scale: bool = eqx.field(static=True)

    @property
    def remembers(self) -> bool:
        """Yes."""
        return True

    def split(self, state: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        """It is that pair."""
        return state

    def join(self, state: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        """The pair."""
        return state, memory

    def silent(self, z: Float[Array, "..."]) -> PyTree:
        """Zeros."""
        return self._each(lambda k: jnp.zeros(z.shape, wide(z.dtype)))

    def filter(self, memory: PyTree, z: Float[Array, "..."]) -> PyTree:
        """`k memory + s_out z`."""

        def one(k, memory):
            leak, gain = self._coefficients(k, memory)
            return leak * memory + gain * z.astype(memory.dtype)

        return self._each(one, memory)

    def read(self, memory: PyTree, z: Float[Array, "..."]) -> Array:
        """The memory."""
        return self.beside(memory)

    def beside(self, memory: PyTree) -> Array:
        """The features of all filters side by side."""
        return jnp.concatenate(jax.tree.leaves(memory), axis=-1)

    def run(
        self, memory: PyTree, zs: Float[Array, "T ..."], flags: Flags | None, unroll: int
    ) -> tuple[PyTree, PyTree]:
        """From silence where a sequence begins; as it was where no step takes place."""

        def body(memory, at):
            z, flags = at
            if flags is not None:
                memory = erase(flags.fresh, memory)
            memory = where_valid(flags, self.filter(memory, z), memory)
            return memory, memory

        return over_steps(body, memory, (zs, flags), unroll=unroll)

    def back(self, memory: PyTree) -> tuple[PyTree, Array]:
        """`k credit` to the memory before, and `s_out credit` to z."""

        def one(k, credit):
            leak, gain = self._coefficients(k, credit)
            return leak * credit, gain * credit

        both = self._each(one, memory)
        earlier, emitted = (self._each(lambda _, pair: pair[i], both) for i in (0, 1))
        return earlier, functools.reduce(jnp.add, jax.tree.leaves(emitted))

    def run_back(self, memory: PyTree, flags: Flags | None, steps: int) -> tuple[PyTree, Array]:
        """None past a beginning; as it came where no step takes place."""

        def body(credit, flags):
            earlier, z = self.back(credit)
            if flags is not None:
                earlier = erase(flags.fresh, select(flags.keep, earlier, credit))
                z = erase(~flags.keep, z)
            return earlier, z

        return over_steps(body, memory, flags, steps, reverse=True)

    @property
    def first(self) -> "Leaky":
        """The first of the filters."""
        return Leaky(jax.tree.leaves(self.leak, is_leaf=is_constant)[0], self.scale)

    def _each(self, function: Callable, *trees: PyTree) -> PyTree:
        """`function(leak, ...)` of each filter, one or a tuple of them."""
        return jax.tree.map(function, self.leak, *trees, is_leaf=is_constant)

    def _coefficients(self, k: Constant, z: Array) -> tuple[Array, Array]:
        """`(k, s_out)`, each shaped as z."""
        leak = jnp.broadcast_to(jnp.asarray(numeric(k, z.dtype), z.dtype), z.shape)
        if not self.scale:
            return leak, jnp.ones_like(leak)
        # 1 - k of the number that was given: of one near 1, the rounded k has few digits left
        value = np.asarray(k)
        gain = jnp.asarray(np.where(value < 1, 1 - value, 1), z.dtype)
        return leak, jnp.broadcast_to(gain, z.shape)
