"""Two gradients against each other, as flat arrays; and the rules that diagnostics compare."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._precision import wide, widened
from .._rule import AbstractRule
from .._rule._base import as_rule


Rules = Mapping[str, AbstractRule] | Sequence[AbstractRule] | AbstractRule


def named(rules: Rules) -> tuple[tuple[str, ...], tuple[AbstractRule, ...]]:
    """Names and rules; without names of their own, rules go by their class's."""
    if isinstance(rules, AbstractRule):
        rules = (rules,)
    if not isinstance(rules, Mapping | list | tuple):
        raise ValueError(
            "rules must be a sequence of rules, or name -> rule, such as {'eprop': EProp()}, but "
            f"is {arguments.shown(rules)}."
        )
    if not rules:
        raise ValueError("rules is empty: pass at least one, such as {'eprop': EProp()}.")
    if isinstance(rules, Mapping):
        for name, rule in rules.items():
            as_rule(f"rules[{name!r}]", rule)
        return tuple(rules), tuple(rules.values())
    checked = tuple(as_rule("an entry of rules", rule) for rule in rules)
    return tuple(type(rule).__name__ for rule in checked), checked


def cosine(g: Float[Array, "..."], r: Float[Array, "..."]) -> Float[Array, ""]:
    """Of the angle between g and r; 0 if either is zero."""
    return jnp.sum(_polar(g)[1] * _polar(r)[1])


def projection(g: Float[Array, "..."], r: Float[Array, "..."]) -> Float[Array, ""]:
    """ρ = g·r / ‖r‖²: the length of g along r, in units of r; 0 if r is zero."""
    along = cosine(g, r) * norm_ratio(g, r)
    return jnp.where(norm(r) > 0, along, 0)


def norm_ratio(g: Float[Array, "..."], r: Float[Array, "..."]) -> Float[Array, ""]:
    """‖g‖ / ‖r‖; 1 if both are zero."""
    ours, theirs = norm(g), norm(r)
    both_zero = (ours == 0) & (theirs == 0)
    return jnp.where(both_zero, 1, ours / jnp.where(both_zero, 1, theirs))


def sign_agreement(g: Float[Array, "..."], r: Float[Array, "..."]) -> Float[Array, ""]:
    """The share of entries with the same sign."""
    return jnp.mean((jnp.sign(g) == jnp.sign(r)).astype(wide(g.dtype)))


def norm(g: Float[Array, "..."]) -> Float[Array, ""]:
    """‖g‖."""
    return _polar(g)[0]


def _polar(g: Array) -> tuple[Array, Array]:
    """Norm and direction. Credit that has faded over many steps must not underflow if squared."""
    g = widened(g)
    peak = jnp.max(jnp.abs(g), initial=0)
    scaled = g / jnp.where(peak == 0, 1, peak)
    length = jnp.sqrt(jnp.sum(scaled**2))
    return peak * length, scaled / jnp.where(length == 0, 1, length)
