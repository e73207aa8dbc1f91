"""Pseudo-derivatives ψ(u) of spikes, for `LIFCell(surrogate=...)` and `spike`.

Each is 1 at the threshold, u = 0. Its width is a scale of u: `lambda u: fast_sigmoid(10 * u)`.
"""

from ._cell._surrogate import (
    arctan as arctan,
    boxcar as boxcar,
    exponential as exponential,
    fast_sigmoid as fast_sigmoid,
    gaussian as gaussian,
    triangular as triangular,
)
