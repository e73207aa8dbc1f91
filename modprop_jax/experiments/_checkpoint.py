"""A checkpoint: a line of JSON that says of what, and the arrays of a `State`.

Nothing in it is unpickled.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._files import FolderFault
from ._train import State


def packed(rule: str, state: State, lines: str, version: int) -> bytes:
    """`lines`: the digest of the rule's in `metrics.jsonl`."""
    buffer = io.BytesIO()
    eqx.tree_serialise_leaves(buffer, state)
    about = {
        "format": version,
        "rule": rule,
        "iteration": int(state.iteration),
        "metrics": lines,
        "arrays": _outline(state),
    }
    return sealed(about, buffer.getvalue())


def sealed(about: dict[str, Any], arrays: bytes) -> bytes:
    """With the checksum of both."""
    return json.dumps(about | {"sha256": _checksum(about, arrays)}).encode() + b"\n" + arrays


def unpacked(
    content: bytes, rule: str, like: State, iterations: int, version: int, file: Path
) -> tuple[State, str]:
    """The state, shaped as `like`, of at most so many iterations; and what was `lines`."""
    way_out = f"delete it to train {rule} from the start."
    try:
        head, _, arrays = content.partition(b"\n")
        about = json.loads(head)
        found, came, at = about["format"], about["rule"], about["iteration"]
        intact = about.pop("sha256") == _checksum(about, arrays)
        lines, outline = about["metrics"], dict(about.get("arrays", {}))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FolderFault(f"{file} is no checkpoint: {way_out}") from error
    if found != version:
        raise FolderFault(f"{file} is of another version of modprop_jax: {way_out}")
    if not intact:
        raise FolderFault(f"{file} is damaged, its checksum is another: {way_out}")
    if came != rule:
        raise FolderFault(f"{file} is a checkpoint of {came}, not of {rule}: {way_out}")
    fault = _difference(outline, _outline(like))
    if fault is not None:
        raise FolderFault(f"{file} holds other networks than this run's: {fault}; {way_out}")
    buffer = io.BytesIO(arrays)
    try:
        state = eqx.tree_deserialise_leaves(buffer, like)
    except Exception as error:  # whatever equinox and NumPy say of arrays that are others
        raise FolderFault(f"{file} holds other networks than this run's: {way_out}") from error
    if buffer.read(1):
        raise FolderFault(f"{file} holds more than this run's networks: {way_out}")
    if not isinstance(at, int) or state.iteration != at or not 0 <= at <= iterations:
        raise FolderFault(
            f"{file} is of iteration {int(state.iteration)}, where {at} of {iterations} is "
            f"written: {way_out}"
        )
    parameters = jax.tree.leaves(eqx.filter(state.model, eqx.is_inexact_array))
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in parameters):
        raise FolderFault(f"{file} holds NaN or infinity in a parameter: {way_out}")
    return state, lines


def _checksum(about: dict[str, Any], arrays: bytes) -> str:
    head = json.dumps(about, sort_keys=True).encode()
    return hashlib.sha256(head + b"\n" + arrays).hexdigest()


def _outline(tree: PyTree) -> dict[str, str]:
    """Type and shape of every array, by its place: two layers that change places are told apart."""
    arrays = jax.Array | np.ndarray | jax.ShapeDtypeStruct
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if isinstance(leaf, arrays)
    }


def _difference(found: dict[str, Any], due: dict[str, str]) -> str | None:
    """The first of the arrays that are others, or in another order."""
    for (name, mine), (place, its) in zip(found.items(), due.items()):
        if (name, mine) != (place, its):
            return f"{name} is {mine} where {place} is {its} here"
    return None if len(found) == len(due) else f"{len(found)} arrays where {len(due)} are here"
