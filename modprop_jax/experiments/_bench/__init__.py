"""`modprop-jax bench`: what each rule costs, against plain JAX and against the arithmetic."""

from ._command import bench as bench
