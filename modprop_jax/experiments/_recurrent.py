"""How far the recurrent weights of networks in training are from the edge of stability."""

from typing import Any

import equinox as eqx
import numpy as np

from .._cell import NeuronCell
from .._cell._base import dynamics
from .._rnn import layers
from ..diagnostics._eigenvalues import recurrent_matrix
from ._processes import whole


MOST = 256
"""Neurons of a layer, at most: eigenvalues of larger ones would take longer than training does."""


def recurrent_radius(model: Any) -> np.ndarray | None:
    """Largest magnitude of an eigenvalue of the effective recurrent weights, over layers, by seed.

    None where a layer has no such matrix, a list of synapses, or more than `MOST` neurons.
    """
    cells = [dynamics(layer.cell) for layer in layers(model)]
    if not cells or not all(map(_served, cells)):
        return None
    found = [np.abs(np.linalg.eigvals(recurrent_matrix(whole(cell)))).max(-1) for cell in cells]
    return np.max(found, axis=0)


def _served(cell: Any) -> bool:
    weight: Any = cell.weight_rec if isinstance(cell, NeuronCell) else None
    return eqx.is_array(weight) and weight.shape[-1] <= MOST
