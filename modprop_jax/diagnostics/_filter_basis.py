"""What filters are made of, and the rules that such parts make."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import _arguments as arguments
from .._rule import AbstractRule, TypeFilter
from .._static import FrozenArray, thawed
from .._tree import with_fields
from ._assigned import Assigned


class Basis(NamedTuple):
    """What filters are made of: exponentials (K,), or S taps; and how they arrive. Plain numbers,
    so that one program serves all that have the same."""

    types: tuple[int, ...]
    rates: tuple[float, ...]
    taps: int
    gated: bool
    own: tuple[float, ...] | None = None

    @property
    def kinds(self) -> int:
        """C."""
        return max(self.types) + 1

    @property
    def modes(self) -> int:
        """K, or S."""
        return len(self.rates) or self.taps

    @property
    def of_any_types(self) -> "Basis":
        """The same for all ways to group as many neurons into as many types: to be `Assigned`."""
        return self._replace(types=any_types(self.types))

    def rule(self, weights: Any) -> TypeFilter:
        """Of weights (K, C, C), or taps (S, C, C)."""
        filters = (np.array(self.rates), weights) if self.rates else weights
        own = None if self.own is None else np.array(self.own)
        return TypeFilter(filters, self.types, gated=self.gated, own=own)


def by_mode(
    weights: Float[np.ndarray, "C columns"], basis: Basis
) -> Float[np.ndarray, "modes C C"]:
    """[receiving, mode x secreting] as [mode, secreting, receiving]."""
    return weights.T.reshape(basis.modes, basis.kinds, basis.kinds)


def basis_of(types: Any, rates: Any, taps: Any, gated: Any) -> Basis:
    """What filters are made of, checked."""
    types = arguments.cell_types("types", types)
    gated = arguments.boolean("gated", gated)
    if (rates is None) == (taps is None):
        raise ValueError(
            f"Filters are exponentials of given rates or a number of taps, but rates={rates!r} and "
            f"taps={taps!r} came: pass one of them."
        )
    if rates is None:
        return Basis(types, (), arguments.size("taps", taps), gated)
    known = arguments.is_real(rates) and not arguments.is_traced(rates)
    if not known or np.ndim(rates) != 1 or np.size(rates) == 0:
        raise ValueError(
            "rates must be a vector of known numbers, such as [0.9, 0.99], but is "
            f"{arguments.shown(rates)}."
        )
    rates = np.asarray(rates, float)
    if len(np.unique(rates)) < len(rates):
        raise ValueError(f"rates must differ from each other, but are {rates.tolist()}.")
    TypeFilter((rates, np.zeros((len(rates), 1, 1))), [0])  # as large as it may be
    return Basis(types, tuple(rates.tolist()), 0, gated)


def told(rule: AbstractRule) -> AbstractRule:
    """The same as arguments of a program, which then serves all filters of one form."""
    if not isinstance(rule, TypeFilter):
        return rule
    types = jnp.asarray(rule.types)
    return Assigned(with_fields(as_arrays(rule), types=any_types(rule.types)), types)


def any_types(types: tuple[int, ...]) -> tuple[int, ...]:
    """Of as many neurons and types: what stands for all ways to group them."""
    return tuple(min(i, max(types)) for i in range(len(types)))


def as_arrays(rule: TypeFilter) -> TypeFilter:
    """The same of arrays that a program takes."""
    filters, own = jax.tree.map(thawed, (rule.filters, rule.own), is_leaf=is_frozen)
    return with_fields(rule, filters=filters, own=own)


def is_frozen(node: Any) -> bool:
    """Whether it is an array that does not train."""
    return isinstance(node, FrozenArray)
