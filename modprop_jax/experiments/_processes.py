"""Several processes whose devices JAX has joined: all compute, the first one reads and writes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join this process to the others; before any array is made.

    All None: JAX recognises the cluster (Slurm, Open MPI, Kubernetes, TPU pods).

    **Raises:** `ValueError` if there is no cluster, or no coordinator answers.
    """
    given = coordinator is not None, processes is not None, process is not None
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator HOST:PORT, --processes N and --process I (0 ... N-1) go together; "
            "without any of them JAX has to recognise the cluster."
        )
    # of JAX's ways between CPUs of different processes, the one that it comes with
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"JAX could not join the processes: {error} On a cluster that it does not recognise, "
            "start each with --distributed --coordinator HOST:PORT --processes N --process I."
        ) from error


def leads() -> bool:
    """Whether this process reads and writes: the first one does."""
    return jax.process_index() == 0


def whole(tree: PyTree) -> PyTree:
    """The same, with arrays that every process has whole."""
    if jax.process_count() == 1:
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    arrays = jax.jit(lambda arrays: arrays, out_shardings=everywhere)(arrays)
    return eqx.combine(jax.tree.map(lambda a: a.addressable_data(0), arrays), rest)


def said_by_first(content: bytes | None) -> bytes | None:
    """What the first process has read, in all of them; None: nothing."""
    if jax.process_count() == 1:
        return content
    size = _broadcast(np.int32(-1 if content is None else len(content)))
    if size < 0:
        return None
    mine = content if leads() and content is not None else bytes(int(size))
    return np.asarray(_broadcast(np.frombuffer(mine, np.uint8))).tobytes()


def check_divided(seeds: int, batch: int, mesh: Mesh | None) -> None:
    """Raise a ValueError where devices of some process would have nothing to do."""
    devices = jax.device_count()
    if jax.process_count() > 1 and (mesh is None or mesh.size != devices):
        raise ValueError(
            f"The {devices} devices of all processes must divide seeds x batch, seeds first, but "
            f"there are {seeds} seeds of {batch} trials: {devices} seeds do, or a batch that is a "
            "multiple."
        )


def check_alone() -> None:
    """Raise a ValueError where there are several processes."""
    if jax.process_count() > 1:
        raise ValueError("--distributed divides training on trials; streams run in one process.")


def _broadcast(value: Any) -> Any:
    return broadcast_one_to_all(jnp.asarray(value))
