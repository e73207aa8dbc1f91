"""What drives a layer from outside: its inputs, and what is added to its drive."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class Inputs(NamedTuple):
    """The inputs, and an addition to the drive, shaped as that; None for a part without one."""

    x: Array
    push: PyTree


def features(inputs: Array | Inputs) -> Array:
    """The inputs alone."""
    return inputs.x if isinstance(inputs, Inputs) else inputs


@runtime_checkable
class Driven(Protocol):
    """What has a drive: a separable cell, whatever else it is."""

    def drive(self, message: PyTree, x: Array) -> PyTree:
        """What each unit receives."""


def pushed(inputs: Array | Inputs) -> PyTree:
    """What is added to the drive; None: nothing."""
    return inputs.push if isinstance(inputs, Inputs) else None


def drive_of(cell: Driven, message: PyTree, inputs: Array | Inputs) -> PyTree:
    """What each unit of a separable cell receives, from all sides."""
    drive, push = cell.drive(message, features(inputs)), pushed(inputs)
    if push is None:
        return drive

    def one(push, drive):
        return drive if push is None else jnp.add(drive, push)

    return jax.tree.map(one, push, drive, is_leaf=is_none)


def is_none(node: object) -> bool:
    """Whether there is nothing."""
    return node is None
