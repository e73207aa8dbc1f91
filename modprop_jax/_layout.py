"""How what a loop multiplies by lies in memory: the choice that is made for each backend."""

import jax
from jax import lax
from jaxtyping import Array, Float


def transposed(matrix: Float[Array, "post pre"]) -> Float[Array, "pre post"]:
    """The transpose; on CPU as an array of its own, which XLA then makes once, before a loop.

    Its CPU kernels take a matrix as it lies: a transpose that XLA has folded into a product, in a
    scan over leaky neurons of 32 to 512, cost 3 to 23 % of its time for 32 rows and 26 to 67 % for
    4. Elsewhere it is left to XLA.
    """
    compiles = not jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
    apart = compiles and jax.default_backend() == "cpu"
    return lax.optimization_barrier(matrix.T) if apart else matrix.T
