"""What can be seen at trace time and is wrong: one ValueError that says what came and the fix."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from . import _arguments as arguments
from ._cell import AbstractCell, computing, NeuronCell, SeparableCell
from ._cell._base import as_cell, dynamics, is_cell
from ._cell._claims import check_claims, check_examples
from ._cell._gated import GatedCell
from ._inputs import features, is_none
from ._precision import start_of, wide, widened
from ._program._base import AbstractProgram
from ._program._estimate import Estimate
from ._rule import AbstractRule, BPTT, Carry
from ._rule._base import as_rule, is_carry, require_real
from ._sharding import varying
from ._start import names_read, start_learns
from ._synapses import is_single
from ._trace._by_error import by_error, tokens
from ._tree import inexact


def as_inputs(xs: Array, dtype: np.dtype) -> Array:
    """Inputs in the dtype that the cell computes in, or a ValueError."""
    if not _means(xs.dtype, dtype):
        fix = f"cast the inputs with xs.astype({dtype})"
        if jnp.iscomplexobj(xs):
            fix = "give their real and imaginary parts as features side by side"
        raise ValueError(f"xs is {xs.dtype}, but the cell computes in {dtype}: {fix}.")
    return xs.astype(dtype)


def check_scan(
    cell: AbstractCell,
    carry: PyTree,
    xs: Array,
    rule: AbstractRule,
    chunk: int | None,
    unroll: int,
) -> Array:
    """The inputs, in the dtype to compute in; a ValueError if a call of `scan` can't be served."""
    as_cell("cell", cell)
    as_rule("rule", rule)
    if chunk is not None:
        arguments.size("chunk", chunk)
    arguments.size("unroll", unroll)
    state = carry.state if is_carry(carry) else carry
    require_real(rule, cell, state)
    _check_single(dynamics(cell))
    rule.check(cell)
    xs = as_inputs(xs, _check_shapes(cell, state, xs))
    check_claims(dynamics(cell))
    if not isinstance(rule, BPTT) and features(xs).ndim > 2:
        check_examples(dynamics(cell), features(xs).shape[-1])
    _check_closure(computing(cell), widened(state), xs)
    if is_carry(carry):
        check_carry(cell, carry, rule)
    elif rule.needs_key:
        raise ValueError(
            f"{type(rule).__name__} draws random numbers and so needs a carry, but got a bare "
            "state: start from rule.init(cell, state, key=key) or rnn.init(batch_shape, key=key)."
        )
    return xs


def _check_single(cell: AbstractCell) -> None:
    weights = {NeuronCell: "weight_rec", GatedCell: "weight_hh"}
    for kind, name in weights.items():
        if isinstance(cell, kind) and not is_single(getattr(cell, name)):
            leaf = jax.tree.leaves(inexact(getattr(cell, name)))[0]
            raise ValueError(
                f"scan runs one {type(cell).__name__}, but {name} has the shape {leaf.shape}, of "
                "an ensemble or of a stack of layers: call it as "
                "eqx.filter_vmap(lambda rnn: rnn(xs))(rnns), or in a lax.scan over the layers."
            )


def check_early(rule: AbstractRule, cell: object) -> None:
    """The rule's check of a cell that may not have its weights yet; `scan` repeats it.

    None, booleans, shapes or shared nodes may stand for arrays until the loss puts these in: the
    weights are no arrays then, or attributes are missing that are asked for.
    """
    if not is_cell(cell):
        return
    inner = dynamics(cell)
    if is_cell(inner) and all(eqx.is_array(getattr(inner, n)) for n in inner.matmul_parameters):
        with contextlib.suppress(AttributeError, TypeError):
            rule.check(cell)


def check_drive(cell: AbstractCell, xs: Array, drive: PyTree) -> PyTree:
    """The drive, in the cell's dtype; a ValueError unless it is shaped as what units receive."""
    if drive is None:
        return None
    inner = dynamics(cell)
    name = type(inner).__name__
    units = arguments.require(
        inner,
        SeparableCell,
        f"drive= is added to what the units of a NeuronCell (or another SeparableCell) "
        f"receive, but a {name} has no drive: make it more features of xs, which its step adds.",
    )
    own = jax.eval_shape(
        lambda x: units.drive(units.message(start_of(units, x.shape[:-1])), x), xs[0]
    )
    want = jax.tree.map(lambda d: jax.ShapeDtypeStruct((len(xs), *d.shape), d.dtype), own)
    drive = _by_name(want, drive)
    parts = jax.tree.leaves(want)
    given, structure = jax.tree.flatten(drive, is_leaf=is_none)
    if structure == jax.tree.structure(want) and all(map(_can_add, given, parts)):
        cast = [d if d is None else jnp.asarray(d, p.dtype) for d, p in zip(given, parts)]
        return jax.tree.unflatten(structure, cast)
    have = jax.tree.map(lambda d: (jnp.shape(d), jnp.result_type(d).name), drive)
    need = jax.tree.map(lambda d: (d.shape, d.dtype.name), want)
    raise ValueError(
        f"drive must be shaped as what the units of this {name} receive at T steps, {need}, but "
        f"is {have}: pass (T, *batch, n) in the cell's dtype; of several parts those that have an "
        "addition by name, as a dict, or all of them, with None for the others."
    )


def check_program(program: AbstractProgram) -> None:
    """A ValueError where the start learns, but the rule has no credit for it.

    Of what streams, the trace has said so when the carry was made.
    """
    inner = dynamics(program.cell)
    if not program.credits_start and start_learns(inner):
        raise ValueError(
            f"{type(inner).__name__}.init reads {names_read(inner)}, which trains, but "
            f"{program.name} has no credit for the start: use BPTT, RTRL or EProp, or "
            "stop_gradient it in init."
        )


def check_mapped(program: AbstractProgram, came: tuple[PyTree, ...], axes: frozenset[str]) -> None:
    """A ValueError where the axes of a `jax.shard_map` split examples over devices, whose weights
    are the same, and the trace learns from all of them; or where JAX would sum its next value.

    `came`: cell, rule, carry and steps, as they came.
    """
    cell, _, carry, _ = came
    if not axes or program.trace is None:
        return
    if not program.trace.by_example and axes - varying(cell):
        raise ValueError(
            f"{program.name} learns from all examples of a batch, but in jax.shard_map a "
            "device sees its own alone: call it under jax.jit with inputs that are sharded over "
            "AxisType.Auto, or let each device learn for itself, by weights that "
            'jax.lax.pcast(..., to="varying").'
        )
    past = by_error(carry.trace) if program.streams else []
    if any(axes - varying(leaf) for leaf in jax.tree.leaves(past)):
        raise ValueError(
            "In jax.shard_map this carry is the same on all devices, and its next value would be "
            'summed over them: make it with jax.lax.pcast(carry, axis, to="varying"), or stream '
            "with online_value_and_grad, which does it."
        )


def check_explicit(program: AbstractProgram) -> None:
    """A ValueError if a rule is not served under Explicit mesh axes."""
    if isinstance(program, Estimate):
        raise ValueError(
            f"{program.name} is not served under Explicit mesh axes, as its trace goes on with the "
            "error: make the mesh with AxisType.Auto."
        )


def check_flags(xs: Array, done: Array | None, valid: Array | None) -> None:
    """A ValueError unless flags are boolean, one for each step and example."""
    for name, flag in (("done", done), ("valid", valid)):
        if flag is None:
            continue
        if jnp.shape(flag) != xs.shape[:-1] or jnp.result_type(flag) != jnp.bool_:
            raise ValueError(
                f"{name} must be boolean of shape (T, *batch) = {xs.shape[:-1]}, but is "
                f"{jnp.result_type(flag)} of shape {jnp.shape(flag)}."
            )


def check_ended(cell: AbstractCell, state: PyTree, ended: Array) -> None:
    """A ValueError unless `ended` is boolean, one for each example of a carry."""
    batch = _batch_of(cell, state)
    if ended.shape != batch or ended.dtype != jnp.bool_:
        raise ValueError(
            f"ended must be boolean of shape (*batch) = {batch}, but is {ended.dtype} of shape "
            f"{ended.shape}."
        )


def check_index(cell: AbstractCell, state: PyTree, index: Array) -> None:
    """A ValueError unless `index` holds integers, and there are examples to take."""
    batch = _batch_of(cell, state)
    if index.ndim != 1 or not jnp.issubdtype(index.dtype, jnp.integer) or not batch:
        raise ValueError(
            "index must be integers of shape (k,), places on the first axis of the batch "
            f"{batch}, but is {index.dtype} of shape {index.shape}."
        )


def _by_name(want: PyTree, drive: PyTree) -> PyTree:
    """Of a named tuple, parts that came in a dict."""
    names = getattr(want, "_fields", ())
    if not isinstance(drive, dict) or not names or not set(drive) <= set(names):
        return drive
    return type(want)(*map(drive.get, names))


def _can_add(given: ArrayLike | None, part: jax.ShapeDtypeStruct) -> bool:
    fits = given is None or jnp.shape(given) == part.shape
    return fits and (given is None or _means(jnp.result_type(given), part.dtype))


def _means(came: np.dtype, dtype: np.dtype) -> bool:
    """Whether data of one dtype have one meaning in another: booleans and integers (spikes, counts)
    and narrower floats; wider ones would lose digits."""
    exact = came == dtype or came == jnp.bool_ or jnp.issubdtype(came, jnp.integer)
    return exact or (jnp.issubdtype(came, jnp.floating) and came.itemsize <= dtype.itemsize)


def _batch_of(cell: AbstractCell, state: PyTree) -> tuple[int, ...]:
    """The axes of the batch of a state of this cell; a ValueError if it is none."""
    want = jax.eval_shape(lambda: start_of(cell))
    _check_arrays(state)
    leaves, given = jax.tree.flatten(state)
    needed, structure = jax.tree.flatten(want)
    if given == structure:
        first = jnp.shape(leaves[0])
        batch = first[: len(first) - needed[0].ndim]
        if all(jnp.shape(a) == (*batch, *b.shape) for a, b in zip(leaves, needed)):
            return batch
    raise ValueError(
        f"The carry is none of this {type(cell).__name__}: its state has the shapes "
        f"{[jnp.shape(a) for a in leaves]} in {given}, but cell.init(()) has "
        f"{[b.shape for b in needed]} in {structure}."
    )


def _check_arrays(state: PyTree) -> None:
    for leaf in jax.tree.leaves(state):
        if not isinstance(leaf, int | float | complex | np.generic):
            arguments.array("The state of a carry", leaf, "or hold arrays")


def _check_shapes(cell: AbstractCell, state: PyTree, xs: Array) -> np.dtype:
    if jnp.ndim(xs) < 2:
        raise ValueError(
            f"xs must be (T, *batch, features), time first, but has shape {jnp.shape(xs)}."
        )
    if xs.shape[0] == 0:
        raise ValueError(
            f"xs has no time steps (shape {xs.shape}): scan needs at least one; skip empty "
            "segments."
        )
    cell.check_input(xs.shape[-1])
    batch = xs.shape[1:-1]
    want = jax.eval_shape(lambda: start_of(cell, batch))
    _check_arrays(state)
    if jax.tree.structure(want) != jax.tree.structure(state):
        raise ValueError(
            f"The carry's state does not fit {type(cell).__name__}: it has the structure "
            f"{jax.tree.structure(state)}, but cell.init(batch_shape) gives "
            f"{jax.tree.structure(want)}."
        )
    for have, need in zip(jax.tree.leaves(state), jax.tree.leaves(want)):
        if jnp.shape(have) != need.shape:
            raise ValueError(
                f"xs of shape {xs.shape} has the batch axes {batch}, so the carry's state must "
                f"have the shape {need.shape}, but has {jnp.shape(have)}: start from "
                f"cell.init({batch}) or rule.init(cell, cell.init({batch}))."
            )
        if jnp.iscomplexobj(have) != jnp.iscomplexobj(need):
            raise ValueError(
                f"The state is {have.dtype}, but {type(cell).__name__}.init makes it {need.dtype}: "
                "a real and a complex state are not of one kind."
            )
    floats = {wide(leaf.dtype) for leaf in jax.tree.leaves(inexact((cell, state)))}
    # complex numbers of two such floats
    if len({jnp.finfo(dtype).dtype for dtype in floats}) > 1:
        found = {str(leaf.dtype) for leaf in jax.tree.leaves(inexact((cell, state)))}
        raise ValueError(
            "The cell's parameters and state must have one dtype, but have "
            f"{sorted(found)}: cast them, or make the cell with dtype=."
        )
    return max(floats, key=lambda d: d.itemsize, default=jnp.dtype(jnp.result_type(float)))


def check_carry(cell: AbstractCell, carry: Carry, rule: AbstractRule) -> None:
    """A ValueError unless a rule like this one made the carry, for a cell like this one."""
    name = type(rule).__name__
    if tokens(carry.trace):
        raise ValueError(
            f"The trace of {name} goes on with the error, so a carry that scan returned has none "
            "until the gradient is taken: stream with online_value_and_grad, which hands it on."
        )
    fits = carry.made_by == name and carry.types == rule.cell_types
    if fits:
        want = jax.eval_shape(lambda: rule.init(cell, carry.state, key=jax.random.key(0)))
        want, have = (want.trace, want.observed), (carry.trace, carry.observed)
        have = jax.eval_shape(lambda: have)
        fits = jax.tree.structure(want) == jax.tree.structure(have) and all(
            a.shape == b.shape for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want))
        )
    if not fits:
        raise ValueError(
            f"The carry was made by {carry.made_by}, or for another cell or other options, and "
            f"does not fit rule={name}: make one with rule.init(cell, state)."
        )


def _check_closure(cell: AbstractCell, state: PyTree, xs: Array) -> None:
    """A traced value that the cell closes over would silently get no gradient."""
    inner, emission = cell.parts()
    state, _ = emission.split(state)
    arrays, static = eqx.partition((inner, state, xs[0]), eqx.is_array)

    def run(arrays):
        cell, state, x = eqx.combine(arrays, static)
        after = cell.step(state, x)
        _check_dtypes(inner, state, after)
        return eqx.filter((after, cell.emit(after)), eqx.is_array)

    closed = jax.make_jaxpr(run)(arrays).consts
    traced = [c for c in closed if arguments.is_traced(c) and eqx.is_inexact_array(c)]
    if traced:
        raise ValueError(
            f"{type(inner).__name__} closes over a traced array of shape {traced[0].shape}, which "
            "would get no gradient: pass it in as a parameter (FunctionCell's params, or a field "
            "of your cell)."
        )


def _check_dtypes(cell: AbstractCell, before: PyTree, after: PyTree) -> None:
    """A step that rounds its state would lose in long memories what the sums of many steps hold."""
    pairs = zip(jax.tree.leaves(inexact(before)), jax.tree.leaves(inexact(after)))
    for old, new in pairs:
        if wide(new.dtype) == old.dtype != new.dtype:
            raise ValueError(
                f"A step of this {type(cell).__name__} takes a state in {old.dtype}, and returns "
                f"it in {new.dtype}: states are float32 at least, so do not cast them down."
            )
