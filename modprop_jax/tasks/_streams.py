"""Recordings as tasks: one stream, which all networks see."""

from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from ._recorded import recorded


def check_stream(key: PRNGKeyArray, batch: int, **sizes: Any) -> None:
    """A ValueError for a wrong argument of a recorded stream, before anything is read; sizes may be
    None."""
    arguments.key("key", key)
    arguments.size("batch", batch)
    for name, size in sizes.items():
        if size is not None:
            arguments.size(name, size)


def stream_of(
    values: np.ndarray, batch: int, steps: int | None, **options: Any
) -> tuple[Float[Array, "T batch features"], Float[Array, "T batch k"]]:
    """The first steps of a recording, so many times side by side."""
    found = recorded(values, **options)
    count = len(found.xs)
    if steps is not None and steps > count:
        raise ValueError(f"steps must be at most {count}, which the recording has, but is {steps}.")

    def beside(a):
        cut = a[:steps]
        return jnp.broadcast_to(cut[:, None], (len(cut), batch, cut.shape[-1]))

    return beside(found.xs), beside(found.ys)


def no_tuning(*args: Any, **options: Any) -> NoReturn:
    """In place of data for choices, which what is reported must not see: there are no others."""
    del args, options
    raise ValueError(
        "learning_rates would be tuned on the very stream that is reported, as a recording is one: "
        "choose a rate on earlier steps with learn_stream, as reproductions/real_sequences.py does."
    )
