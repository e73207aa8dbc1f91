"""What can be seen at trace time and is wrong: one ValueError that says what came and the fix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._cell import AbstractCell
from ._reverse import inner_cell
from ._tree import inexact


def check_scan(
    cell: AbstractCell, carry: Any, state: PyTree, xs: Any, rule: Any, chunk: int | None
) -> None:
    """Raise a ValueError if a call of `scan` can't be served."""
    del cell, carry, state, xs, rule, chunk
