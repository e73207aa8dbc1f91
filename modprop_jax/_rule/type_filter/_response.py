"""A filter between cell types: what it remembers of credit, and what it gives of that."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ... import _arguments as arguments
from ..._static import content, FrozenArray, thawed


class Response(eqx.Module):
    r"""What arrives at neurons of type b: \(\sum_{s \ge 1} \sum_a F_s[a, b]\, q_{t+s}[a]\), of
    direct credit q, summed by type.

    Its memory is flat, (*batch, modes * C): modes numbers for each secreting type. One of a step
    reads it before it grows `older`.
    """

    @property
    @abc.abstractmethod
    def modes(self) -> int:
        """Numbers that it remembers of each type."""

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """C."""

    @abc.abstractmethod
    def enter(self, summed: Float[Array, "*batch C"]) -> Float[Array, "*batch memory"]:
        """What a step's direct credit adds to the memory."""

    @abc.abstractmethod
    def read(self, memory: Float[Array, "*batch memory"]) -> Float[Array, "*batch C"]:
        """What arrives one step earlier."""

    @abc.abstractmethod
    def older(self, memory: Float[Array, "*batch memory"]) -> Float[Array, "*batch memory"]:
        """The memory one step earlier."""

    @abc.abstractmethod
    def series(self, n: int) -> Float[Array, "n C C"]:
        """F_1 ... F_n."""

    def apart(self, memory: Array) -> Float[Array, "*batch modes C"]:
        """The memory, mode by mode."""
        return memory.reshape(*memory.shape[:-1], self.modes, self.count)


class Exponentials(Response):
    r"""\(F_s = \mathrm{Re}\sum_k w_k \rho_k^{s-1}\), of arrays in one dtype; a complex ρ takes two
    modes, its real and its imaginary part."""

    rates: Array
    weights: Array

    @property
    def parts(self) -> int:
        """Real numbers that a mode takes."""
        return 2 if jnp.iscomplexobj(self.rates) else 1

    @property
    def modes(self) -> int:
        """K, or 2 K."""
        return self.parts * len(self.rates)

    @property
    def count(self) -> int:
        """C."""
        return self.weights.shape[-1]

    def enter(self, summed: Float[Array, "*batch C"]) -> Float[Array, "*batch memory"]:
        """It enters all modes alike, as a real number."""
        real = jnp.tile(summed, len(self.rates))
        return real if self.parts == 1 else jnp.concatenate([real, jnp.zeros_like(real)], axis=-1)

    def read(self, memory: Float[Array, "*batch memory"]) -> Float[Array, "*batch C"]:
        """Weighted."""
        return jnp.real(jnp.einsum("...ka,kab->...b", self.numbers(memory), self.weights))

    def older(self, memory: Float[Array, "*batch memory"]) -> Float[Array, "*batch memory"]:
        """Times ρ."""
        numbers = self.numbers(memory)
        moved = numbers * jnp.broadcast_to(self.rates[:, None], numbers.shape)
        return self.flat(moved)

    def series(self, n: int) -> Float[Array, "n C C"]:
        """Powers of ρ."""
        lags = jnp.arange(n, dtype=self.rates.dtype)
        return jnp.einsum("sk,kab->sab", self.rates[None] ** lags[:, None], self.weights).real

    def numbers(self, memory: Array) -> Array:
        """(*batch, K, C), complex where ρ is."""
        apart = self.apart(memory)
        if self.parts == 1:
            return apart
        real, imaginary = jnp.split(apart, 2, axis=-2)
        return jax.lax.complex(real, imaginary)

    def flat(self, numbers: Array) -> Array:
        """The inverse."""
        if self.parts == 2:
            numbers = jnp.concatenate([numbers.real, numbers.imag], axis=-2)
        return numbers.reshape(*numbers.shape[:-2], -1)


class FiniteTaps(Response):
    """F_1 ... F_S, and nothing after them; the memory is the direct credit of S steps, newest
    first."""

    taps: Array

    @property
    def modes(self) -> int:
        """S."""
        return len(self.taps)

    @property
    def count(self) -> int:
        """C."""
        return self.taps.shape[-1]

    def enter(self, summed: Float[Array, "*batch C"]) -> Float[Array, "*batch memory"]:
        """As the newest, whose place is empty."""
        rest = jnp.zeros((*summed.shape[:-1], (self.modes - 1) * self.count), summed.dtype)
        return jnp.concatenate([summed, rest], axis=-1)

    def read(self, memory: Float[Array, "*batch memory"]) -> Float[Array, "*batch C"]:
        """Each by the tap of its age."""
        return memory @ self.taps.reshape(-1, self.count)

    def older(self, memory: Float[Array, "*batch memory"]) -> Float[Array, "*batch memory"]:
        """One place further."""
        newest = jnp.zeros_like(memory[..., : self.count])
        return jnp.concatenate([newest, memory[..., : -self.count]], axis=-1)

    def series(self, n: int) -> Float[Array, "n C C"]:
        """The taps, and zeros after them."""
        padding = jnp.zeros((n, *self.taps.shape[1:]), self.taps.dtype)
        return jnp.concatenate([self.taps, padding])[:n]


def response_of(filters: Any, dtype: DTypeLike) -> Exponentials | FiniteTaps:
    """Of checked filters."""

    real = jnp.dtype(dtype)
    imaginary = jnp.dtype(jnp.complex128 if real == jnp.float64 else jnp.complex64)
    if not isinstance(filters, tuple):
        return FiniteTaps(jnp.asarray(thawed(filters), real))
    rates, weights = map(thawed, filters)
    is_complex = jnp.iscomplexobj(rates) or jnp.iscomplexobj(weights)
    kept = imaginary if is_complex else real
    return Exponentials(jnp.asarray(rates, kept), jnp.asarray(weights, kept))


def as_filters(filters: Any) -> Any:
    """Taps, or (rates, weights), those that are no `jax.Array` frozen; else a ValueError."""
    wanted = (
        "filters must be taps (S, C, C), or (rates, weights) with shapes (K,) and (K, C, C), "
        "[lag or exponential, secreting type, receiving type]"
    )
    filters = jax.tree.map(content, filters, is_leaf=lambda node: isinstance(node, FrozenArray))
    if isinstance(filters, tuple | list) and len(filters) == 2 and _axes(filters[0]) == 1:
        rates, weights = (_array(value, wanted, of_complex=True) for value in filters)
        if _axes(rates) != 1 or _axes(weights) != 3 or len(weights) != len(rates):
            came = f"{np.shape(filters[0])} and {np.shape(filters[1])}"
            raise ValueError(f"{wanted}, but the shapes are {came}.")
        _square(weights, wanted)
        return _kept(rates), _kept(weights)
    taps = _array(filters, wanted)
    if _axes(taps) != 3:
        raise ValueError(f"{wanted}, but the shape is {np.shape(taps)}.")
    _square(taps, wanted)
    return _kept(taps)


def _axes(value: Any) -> int | None:
    try:
        return np.ndim(value)
    except ValueError:  # ragged
        return None


def _array(value: Any, wanted: str, *, of_complex: bool = False) -> Any:
    if isinstance(value, jax.Array):
        kinds = (jnp.inexact if of_complex else jnp.floating, jnp.integer)
        if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
            raise ValueError(f"{wanted}, but {value.dtype} came.")
        return value
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.asarray(None)
    if found.dtype.kind not in ("iufc" if of_complex else "iuf"):
        raise ValueError(f"{wanted}, but are {arguments.shown(value)}.")
    if not np.isfinite(found).all():
        raise ValueError(f"{wanted}, of finite numbers, but hold NaN or infinity.")
    return found.astype(complex if found.dtype.kind == "c" else float)


def _square(weights: Any, wanted: str) -> None:
    shape = np.shape(weights)
    if shape[1] != shape[2] or 0 in shape:
        raise ValueError(f"{wanted}, each axis at least one long, but the shape is {shape}.")


def _kept(value: Any) -> Any:
    return value if isinstance(value, jax.Array) else FrozenArray(value)
