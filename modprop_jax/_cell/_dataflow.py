"""What a traced function's outputs depend on, and whether units and examples stay apart in it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal


# how far a value is known to stay apart: of no example at all, and the same for all; of none, but
# perhaps another at another place; entry by entry (as all arrays (examples, n) of units do);
# example by example along the first axis; or not
EVEN, FIXED, ENTRIES, EXAMPLES, MIXED = 4, 3, 2, 1, 0


@dataclasses.dataclass(frozen=True)
class Flow:
    """`labels`: of the inputs that a value depends on, or more; `apart`: how far it stays apart."""

    labels: frozenset[str]
    apart: int


def flow(jaxpr: Jaxpr, given: Sequence[Flow]) -> list[Flow]:
    """Of each output, from that of each input. Loops are taken to mix all that they touch."""
    known = dict(zip(jaxpr.invars, given, strict=True))
    even, fixed = (Flow(frozenset(), apart) for apart in (EVEN, FIXED))

    def of(atom):
        return even if isinstance(atom, Literal) else known.get(atom, fixed)

    for equation in jaxpr.eqns:
        into = [of(atom) for atom in equation.invars]
        inner = _called(equation)
        if inner is not None:
            out = flow(inner, into)
        else:
            labels = frozenset().union(*(part.labels for part in into))
            out = [Flow(labels, _apart(equation, into))] * len(equation.outvars)
        known.update(zip(equation.outvars, out))
    return [of(atom) for atom in jaxpr.outvars]


def _called(equation: JaxprEqn) -> Jaxpr | None:
    """The function that an equation calls once; None for loops, and for what calls none."""
    if equation.primitive.name in ("scan", "while"):
        return None
    for value in equation.params.values():
        inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
        if isinstance(inner, Jaxpr):
            fits = len(inner.invars) == len(equation.invars)
            return inner if fits and len(inner.outvars) == len(equation.outvars) else None
    return None


def _apart(equation: Any, into: list[Flow]) -> int:
    name, params = equation.primitive.name, equation.params
    least = min((part.apart for part in into), default=FIXED)
    if least >= FIXED:
        if name == "broadcast_in_dim":
            return FIXED if 0 in params["broadcast_dimensions"] else EVEN
        return least if name in _ELEMENTWISE else FIXED
    moving = [v.aval for v, part in zip(equation.invars, into) if part.apart < FIXED]
    uneven = [v.aval.ndim for v, part in zip(equation.invars, into) if part.apart == FIXED]
    if any(uneven) and name != "dot_general":
        return MIXED
    if least == MIXED or name in _ELEMENTWISE:
        return least
    keeps = _KEEPS.get(name)
    if keeps is None or any(aval.ndim == 0 for aval in moving):
        return MIXED
    return EXAMPLES if keeps(params, moving, into) else MIXED


def _dot(params: dict, moving: list, into: list[Flow]) -> bool:
    (left, right), (batched, _) = params["dimension_numbers"]
    first = into[0].apart < FIXED
    free = 0 not in (left if first else right)
    return len(moving) == 1 and first and free and not batched


# primitives that keep examples along the first axis, and when
_KEEPS = {
    "dot_general": _dot,
    "broadcast_in_dim": lambda params, moving, into: (
        params["broadcast_dimensions"][:1] == (0,) and params["shape"][0] == moving[0].shape[0]
    ),
    "reshape": lambda params, moving, into: params["new_sizes"][:1] == moving[0].shape[:1],
    "squeeze": lambda params, moving, into: 0 not in params["dimensions"],
    "transpose": lambda params, moving, into: params["permutation"][0] == 0,
    "slice": lambda params, moving, into: (
        params["start_indices"][0] == 0 and params["limit_indices"][0] == moving[0].shape[0]
    ),
    "pad": lambda params, moving, into: params["padding_config"][0] == (0, 0, 0),
    "concatenate": lambda params, moving, into: params["dimension"] != 0,
    "split": lambda params, moving, into: params["axis"] != 0,
} | dict.fromkeys(
    ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
    lambda params, moving, into: 0 not in params["axes"],
)

_ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp complex conj "
    "convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 "
    "floor ge gt imag integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg "
    "nextafter not optimization_barrier or pow real reduce_precision rem round rsqrt select_n sign "
    "sin sinh sqrt square stop_gradient sub tan tanh xor".split()
)
