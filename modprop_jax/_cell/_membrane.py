"""Which of a neuron's variables the drive enters."""

import jax
from jaxtyping import PyTree

from .._precision import start_of, Starting
from .._tree import inexact
from ._neuron import NeuronCell
from ._reach import floating


def variables(cell: Starting) -> int:
    """How many variables of the state have credit: those of floats."""
    state = jax.eval_shape(lambda: start_of(cell))
    return sum(map(floating, jax.tree.leaves(state)))


def membrane_place(cell: NeuronCell) -> int | None:
    """The place of the membrane among these; None where `membrane` is not said, or makes something
    of the state in place of selecting one of its variables."""
    if variables(cell) > 1 and type(cell).membrane is NeuronCell.membrane:
        return None
    places = []

    def find(state: PyTree) -> None:
        membrane = cell.membrane(state)
        found = jax.tree.leaves(inexact(state))
        places.extend(place for place, leaf in enumerate(found) if leaf is membrane)

    # each variable is an array of its own here, whatever `init` returns twice
    jax.eval_shape(find, jax.eval_shape(lambda: start_of(cell)))
    return places[0] if len(places) == 1 else None
