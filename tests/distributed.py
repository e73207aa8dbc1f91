"""One of two processes that share a network's neurons; run by `test_sharding.py`."""

import sys

import equinox as eqx
import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType

import modprop_jax as mpj
from modprop_jax.experiments._processes import join


def main(_: str, coordinator: str, __: str, processes: str, ___: str, process: str) -> None:
    join(coordinator, int(processes), int(process))
    import parts  # it makes arrays, which JAX can do once processes are joined

    assert (jax.device_count(), jax.local_device_count()) == (8, 4)
    rule, segment = mpj.ModProp(0.2, parts.TYPES), 4
    plain, model = (parts.network("leaky", rule, count) for count in (None, parts.PARTS))
    (want, _), expected = parts.gradient(plain, segment)
    mesh = jax.make_mesh((8,), ("neurons",), axis_types=(AxisType.Auto,))
    placed = mpj.over_neurons(model, mesh, model)
    weight = placed[0].cell.weight_rec.weight
    assert not weight.is_fully_addressable
    (value, _), gradients = parts.gradient(placed, segment)
    gathered = jax.tree.map(
        lambda a: process_allgather(a, tiled=True) if eqx.is_array(a) else a, gradients
    )
    np.testing.assert_allclose(value, want, rtol=1e-12)
    parts.same(gathered, model, expected, plain)
    print("8 devices, 4 here: the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
