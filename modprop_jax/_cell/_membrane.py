"""Which of a neuron's variables the drive enters."""

import jax
import jax.numpy as jnp

from .._precision import start_of, Starting
from ._neuron import NeuronCell
from ._reach import floating


def variables(cell: Starting) -> int:
    """How many variables of the state have credit: those of floats."""
    state = jax.eval_shape(lambda: start_of(cell))
    return sum(map(floating, jax.tree.leaves(state)))


def membrane_place(cell: NeuronCell) -> int | None:
    """The place of the membrane among these; None where `membrane` makes something of the state in
    place of selecting one of its variables."""
    state = jax.eval_shape(lambda: start_of(cell))
    made = jax.make_jaxpr(cell.membrane)(state).jaxpr
    floats = [v for v in made.invars if jnp.issubdtype(v.aval.dtype, jnp.inexact)]
    selects = len(made.outvars) == 1 and made.outvars[0] in floats
    return floats.index(made.outvars[0]) if selects else None


def has_membrane(cell: NeuronCell) -> bool:
    """Whether `membrane` selects one of its variables, and is said where there are several."""
    said = type(cell).membrane is not NeuronCell.membrane or variables(cell) == 1
    return said and membrane_place(cell) is not None
