"""Seeds and trials over devices; of a CPU, over its cores."""

import os
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import joblib
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import PyTree

from .. import _arguments as arguments


# A batch split over two devices took 1 / 2 ** 0.5 of the time, where seeds side by side take half.
_GAIN_OF_A_SPLIT = 0.5


def use_cores(cores: int | None) -> None:
    """Have JAX count so many cores of the CPU as devices; None: all that this process may use.

    For a program of its own, before any array is made. With None, nothing changes where JAX has
    begun, or where the environment says how many devices there are.

    **Raises:** `ValueError` if these do not let it have so many.
    """
    said = "JAX_NUM_CPU_DEVICES" in os.environ
    said |= "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if cores is not None:
        arguments.size("cores", cores)
        if said:
            raise ValueError(
                f"cores={cores}, but JAX_NUM_CPU_DEVICES or XLA_FLAGS says it too: leave one out."
            )
    elif said:
        return
    try:
        # of a container its share, not the machine's
        jax.config.update("jax_num_cpu_devices", cores or joblib.cpu_count())
    except RuntimeError as error:
        if cores is not None:
            raise ValueError(f"cores={cores} came too late: {error}") from error


def layout(seeds: int, batch: int, devices: int, *, all_devices: bool = False) -> tuple[int, int]:
    """Over how many devices to lay seeds, and over how many each batch, so that a step takes least.

    Seeds need not divide: those of a device go in turn, and the last one may have fewer. A batch
    is only split evenly.
    """
    ways = [
        (rows, columns)
        for rows in range(1, min(seeds, devices) + 1)
        for columns in range(1, devices // rows + 1)
        if batch % columns == 0
    ]
    if all_devices:
        ways = [way for way in ways if way[0] * way[1] == devices]

    def cost(way: tuple[int, int]) -> float:
        return -(-seeds // way[0]) / way[1] ** _GAIN_OF_A_SPLIT

    return min(ways, key=cost, default=(1, 1))


def device_mesh(seeds: int, batch: int) -> Mesh | None:
    """The devices of a `layout`, with axes of seeds and of trials; None: a single one.

    Several processes have to use all devices.
    """
    several = jax.process_count() > 1
    shape = layout(seeds, batch, jax.device_count(), all_devices=several)
    if shape == (1, 1):
        return None
    return jax.make_mesh(
        shape,
        ("seeds", "batch"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=jax.devices()[: shape[0] * shape[1]],
    )


def over_seeds(
    function: Callable[[PyTree], PyTree], tree: PyTree, mesh: Mesh | None, *, in_turn: bool
) -> PyTree:
    """The arrays that the function makes of each seed's part of `tree`, whose arrays lead with
    seeds; over the mesh's axis of them if there is one.

    `in_turn`: those of one device go one after the other; else side by side.
    """
    arrays, static = eqx.partition(tree, eqx.is_array)

    def of_device(arrays):
        def one_seed(arrays):
            return function(eqx.combine(arrays, static))

        return jax.lax.map(one_seed, arrays) if in_turn else jax.vmap(one_seed)(arrays)

    if mesh is None or mesh.shape["seeds"] == 1:
        return of_device(arrays)
    seeds, devices = len(jax.tree.leaves(arrays)[0]), mesh.shape["seeds"]
    # the last seed again, until all devices have as many
    index = jnp.minimum(jnp.arange(devices * -(-seeds // devices)), seeds - 1)
    # Each device runs its own program: left to XLA, a dot product of gradients of two seeds came
    # out wrong on two devices (jaxlib 0.10.2).
    made = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=P("seeds"),
        out_specs=P("seeds"),
        axis_names={"seeds"},
        check_vma=False,
    )(jax.tree.map(lambda a: a[index], arrays))
    return jax.tree.map(lambda a: a[:seeds], made)


def placed(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Arrays that lead with seeds, each where it is computed if seeds divide; else whole on all
    devices."""
    if mesh is None:
        return tree

    def place(leaf):
        if not eqx.is_array(leaf):
            return leaf
        divides = leaf.ndim > 0 and leaf.shape[0] % mesh.shape["seeds"] == 0
        return eqx.filter_shard(leaf, NamedSharding(mesh, P("seeds") if divides else P()))

    return jax.tree.map(place, tree)


def mesh_of(tree: PyTree) -> Mesh | None:
    """Where `placed` has put it."""
    sharding = next(leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)).sharding
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return sharding.mesh
    return None
