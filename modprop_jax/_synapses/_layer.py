"""Any linear layer of equinox as synapses: a convolution over a sheet of neurons, for example."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._tree import inexact
from ._base import AbstractSynapses


class Layer(AbstractSynapses):
    r"""A linear equinox layer on the neuron axis, or on the axes of a sheet of neurons.

    `layer` maps an array of shape `sheet`, (channels, height, width) for `eqx.nn.Conv2d`, to one of
    any shape; both are read as one neuron axis, in the order of `jnp.reshape`. It has no bias
    (`use_bias=False`: the cell has one). Weights that many synapses share get no eligibility trace
    of a synapse: see `LowRank` on what streams. Time and memory are those of the layer.
    """

    layer: Callable
    sheet: tuple[int, ...] = eqx.field(static=True)
    outcome: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, layer: Callable, sheet: Sequence[int] | None = None):
        """**Arguments:**

        - `layer`: `eqx.nn.Linear`, `eqx.nn.Conv1d` ..., or a module of one's own that is linear.
        - `sheet`: the shape that it takes; None: (in_features,) of `eqx.nn.Linear`.
        """
        if not arguments.is_function(layer) or not jax.tree.leaves(inexact(layer)):
            raise ValueError(
                f"layer must be an equinox layer with weights, but is {arguments.shown(layer)}."
            )
        if getattr(layer, "bias", None) is not None:
            raise ValueError(
                f"layer must be linear, but this {type(layer).__name__} has a bias: make it with "
                "use_bias=False; the cell's own bias is its use_bias=True."
            )
        if sheet is None:
            features = getattr(layer, "in_features", None)
            if not isinstance(features, int):
                raise ValueError(
                    f"sheet must be the shape that this {type(layer).__name__} takes, such as "
                    "(channels, height, width), but none came."
                )
            sheet = (features,)
        if not isinstance(sheet, tuple | list) or not sheet:
            raise ValueError(
                f"sheet must be the shape that layer takes, but is {arguments.shown(sheet)}."
            )
        self.layer = layer
        self.sheet = tuple(arguments.size(f"sheet[{k}]", size) for k, size in enumerate(sheet))
        like = jax.ShapeDtypeStruct(self.sheet, self.dtype)
        try:
            self.outcome = eqx.filter_eval_shape(layer, like).shape
        except Exception as error:  # a layer may raise anything
            raise ValueError(
                f"layer must take an array of the shape of sheet, {self.sheet}, but this "
                f"{type(layer).__name__} raised {type(error).__name__}: {error}"
            ) from error

    @property
    def shape(self) -> tuple[int, int]:
        """Of what comes out and what goes in, each as one axis."""
        return math.prod(self.outcome), math.prod(self.sheet)

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """The layer, on each sheet."""
        sheets = pre.reshape(-1, *self.sheet)
        made: Any = jax.vmap(self.layer)(sheets)
        return made.reshape(*pre.shape[:-1], -1)
