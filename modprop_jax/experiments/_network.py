"""The network, types and optimizer that a task's preset describes."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import optim
from .._cell import AbstractCell, EquilibriumCell, Filtered
from .._cell._base import dynamics
from .._cell._init import balanced_dale
from .._readout import Readout
from .._rnn import RNN
from .._rule import Carry
from .._synapses import AbstractSynapses
from ..tasks import Architecture, Preset, Task
from ..tasks._preset import defaults
from . import _schema as schema
from ._cells import CELLS, LAYERS
from ._names import known
from ._sparse import sparse_dale, sparse_signed
from ._wiring import seen, signs_of_synapses, Wires, wires_of


OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}


class Network(eqx.Module):
    """One recurrent layer and a linear readout of its last step, its last few, or of every step."""

    rnn: RNN
    readout: Readout
    at: Literal["last", "every"] | int = eqx.field(static=True, default="last")
    first: int = eqx.field(static=True, default=0)
    """What the readout sees of the emission begins here."""

    def __call__(self, xs: Float[Array, "T *batch m"]) -> Float[Array, "... k"]:
        return self.read(self.emissions(xs))

    def emissions(self, xs: Float[Array, "T *batch m"]) -> Float[Array, "T *batch features"]:
        """Of every step, from rest."""
        cell = self.rnn.cell
        after, zs = self.rnn(xs, cell.init(xs.shape[1:-1]))
        return _where_settled(cell, after, zs)

    def init(self, batch_shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> PyTree:
        """A carry with no past, for streams."""
        return self.rnn.init(batch_shape, key=key)

    def online(
        self, xs: Float[Array, "T *batch m"], carry: PyTree, *, context: Array | None = None
    ) -> tuple[PyTree, Float[Array, "... k"]]:
        """The carry, or bare state, to go on from, and the outputs; only rules read `context`."""
        carry, zs = self.rnn(xs, carry, context=context)
        state = carry.state if isinstance(carry, Carry) else carry
        return carry, self.read(_where_settled(self.rnn.cell, state, zs))

    def read(self, zs: Float[Array, "T *batch features"]) -> Float[Array, "... k"]:
        """The outputs, from the emissions; what counts spikes behind them is not read."""
        if self.at != "every":
            zs = zs[-1] if self.at == "last" else zs[-self.at :]
        return self.readout(zs[..., self.first :][..., : self.readout.weight.shape[-1]])


def _where_settled(cell: AbstractCell, state: PyTree, zs: Array) -> Array:
    """The emissions; NaN for examples with an equilibrium that was not reached."""
    if not isinstance(dynamics(cell), EquilibriumCell):
        return zs
    inner = state[0] if isinstance(cell, Filtered) else state
    return jnp.where(inner.converged[..., None], zs, jnp.nan)


def signs(network: Architecture) -> tuple[int, ...] | None:
    """+1 for excitatory neurons, then −1 for inhibitory; None without Dale's law."""
    if network.excitatory is None:
        return None
    if not 0 < network.excitatory < network.hidden_size:
        raise ValueError(
            "a network with Dale's law needs neurons of both signs, but got "
            f"{network.excitatory} excitatory neurons of {network.hidden_size}."
        )
    inhibitory = network.hidden_size - network.excitatory
    return (1,) * network.excitatory + (-1,) * inhibitory


def unit_signs(network: Architecture) -> tuple[int, ...] | None:
    """`signs` of all units of a network that settles: the inputs', then those of each layer."""
    dale = signs(network)
    if dale is None:
        return None
    if network.input_signs is None:
        raise ValueError(
            "input units obey Dale's law as all others do: give input_signs, +1 or -1 for each."
        )
    return (*network.input_signs, *dale * network.cell_options.get("layers", LAYERS))


def cell_types(network: Architecture) -> tuple[int, ...]:
    """1 = excitatory, 0 = inhibitory; without Dale's law, the layer's two halves."""
    dale, n = signs(network), network.hidden_size
    if dale is None:
        return tuple(int(2 * i < n) for i in range(n))
    return tuple(int(s > 0) for s in dale)


def build_network(
    task: Task, preset: Preset, key: PRNGKeyArray, wires: Wires | None = None
) -> Network:
    """The preset's network with fresh weights.

    `wires`: the lists of a preset with `wiring`, where a program shall have them among its
    arguments; drawn here if None.
    """
    cell_key, readout_key = jr.split(key)
    about = preset.network
    dale = signs(about)
    wires = wires_of(task, preset) if wires is None else wires
    cell = _build_cell(task, preset, cell_key, wires)
    emitted = jax.eval_shape(lambda: cell.emit(cell.init(()))).shape[-1]
    # of all units, a readout sees the last layer
    first = emitted - about.hidden_size if CELLS[about.cell].synapses == "units" else 0
    readout = Readout(
        emitted - first,
        task.out_size,
        feedback=about.feedback,
        use_bias=about.readout_bias,
        key=readout_key,
    )
    if readout.feedback_weight is not None:
        scaled = about.feedback_scale * readout.feedback_weight
        readout = eqx.tree_at(lambda r: r.feedback_weight, readout, scaled)
    if dale is not None and about.dale_readout:
        if task.out_size > about.hidden_size:
            raise ValueError(
                "a readout with Dale's law starts as rows of recurrent weights, so "
                f"{task.out_size} outputs need as many neurons, but hidden_size is "
                f"{about.hidden_size}."
            )
        # The recipe published with ModProp: columns of another draw of recurrent weights.
        weight = balanced_dale(readout_key, np.asarray(dale))[: task.out_size]
        if about.density < 1:
            weight = sparse_signed(readout_key, dale, task.out_size, about.density)
            weight = weight / math.sqrt(len(dale))
        readout = eqx.tree_at(lambda r: r.weight, readout, weight)
    motor = seen(about)
    if motor is not None:
        weight = jnp.where(motor[None], readout.weight * math.sqrt(motor.size / motor.sum()), 0)
        readout = eqx.tree_at(lambda r: r.weight, readout, weight)
    at = preset.objective.readout_steps or task.readout
    return Network(RNN(_filtered(preset, cell)), readout, at, first)


def _build_cell(task: Task, preset: Preset, key: PRNGKeyArray, wires: Wires | None) -> AbstractCell:
    about = preset.network
    entry, dale = CELLS[known("cell", about.cell, CELLS)], signs(about)
    if entry.synapses != "neurons":
        _check_unset(preset)
    sizes, options = (task.in_size(preset), about.hidden_size), dict(about.cell_options)
    if dale is not None:
        if entry.synapses is None:
            raise ValueError(f"cell {about.cell!r} has no Dale's law: leave excitatory at None.")
        options["signs"] = unit_signs(about) if entry.synapses == "units" else dale
    if wires is not None:
        _check_lists(preset)
        options.pop("signs", None)
        scales = about.recurrent_scale, about.input_scale
        recurrent, inputs = wires.weighted(key, dale, scales)
        options |= {"recurrent": recurrent, "inputs": inputs}
        return entry(*sizes, key=key, **options)
    cell = entry(*sizes, key=key, **options)
    if entry.synapses != "neurons":
        return cell
    # published recipes are of all entries: the autapses go after the weights were scaled
    weight_rec = entry(*sizes, key=key, **options | {"autapses": True}).weight_rec
    weight_in = cell.weight_in
    if about.input_signs is not None:
        if len(about.input_signs) != weight_in.shape[1]:
            raise ValueError(
                f"input_signs must have one sign for each of the {weight_in.shape[1]} inputs, but "
                f"has {len(about.input_signs)}."
            )
        weight_in = sparse_signed(
            jr.fold_in(key, 2), about.input_signs, about.hidden_size, about.density
        )
    if about.orthogonal:
        if dale is not None:
            raise ValueError("orthogonal weights have both signs: leave excitatory at None.")
        draw = jax.nn.initializers.orthogonal()
        weight_rec = draw(jr.fold_in(key, 3), weight_rec.shape, weight_rec.dtype)
    if about.density < 1:
        if dale is None:
            raise ValueError(
                f"density={about.density} is of the synapses of a network with Dale's law: give "
                "excitatory too."
            )
        weight_rec = sparse_dale(jr.fold_in(key, 1), dale, about.density)
    return eqx.tree_at(
        lambda c: (c.weight_rec, c.weight_in),
        cell,
        (about.recurrent_scale * weight_rec, about.input_scale * weight_in),
    )


def _check_unset(preset: Preset) -> None:
    """Raise a ValueError for settings that only a cell with `weight_rec` and `weight_in` has."""
    cell = preset.network.cell
    names = ["density", "orthogonal", "input_scale", "recurrent_scale", "shrink", "connectivity"]
    names.append("rate_cost" if CELLS[cell].synapses == "units" else "input_signs")
    why = f"cell {cell!r} has no weight_rec and weight_in, which"
    _refuse(preset, [*names, "wiring"], why)


def _check_lists(preset: Preset) -> None:
    """Raise a ValueError for settings of matrices, where there are lists."""
    names = ["density", "orthogonal", "input_signs", "shrink", "connectivity"]
    _refuse(preset, names, "wiring makes lists of synapses, which are no matrices that")


def _refuse(preset: Preset, names: Sequence[str], why: str) -> None:
    settings, default = preset.flat(), defaults(*names)
    given = [name for name in names if settings[name] != default[name]]
    if given:
        name = given[0]
        raise ValueError(f"{why} {name}={settings[name]} is for: leave it at {default[name]}.")


def _filtered(preset: Preset, cell: AbstractCell) -> AbstractCell:
    """The cell with the emission that the readout sees, and with a count where rates cost."""
    about = preset.network
    leak = 0.0 if about.readout_tau is None else math.exp(-1 / about.readout_tau)
    if preset.objective.rate_cost:
        return Filtered(cell, (leak, 1.0), scale=about.scale_readout)
    return Filtered(cell, leak, scale=about.scale_readout) if leak else cell


def build_optimizer(preset: Preset) -> optax.GradientTransformation:
    """Adam or SGD with staircase decay, of a clipped gradient and the L2 term of the objective;
    Dale's law and rewiring.

    For the networks of `build_network`. `optax.add_decayed_weights` ahead of Adam adds
    `l2 · W` to the gradient, which is the gradient of `l2 · ½ ‖W‖²`. The learning rate is part of
    the state: presets that differ in it alone share `update`, and what is compiled of it.
    """
    about = preset.optimizer
    known("optimizer", about.optimizer, OPTIMIZERS)
    shared = _at_any_rate(schema.as_text(preset.replace(learning_rate=1.0)))

    def init(params):
        rated: Any = shared.init(params)
        return _Rated(jnp.asarray(about.learning_rate, float), rated.inner)

    return optax.GradientTransformation(init, shared.update)


class _Rated(NamedTuple):
    """As `optax.inject_hyperparams` has it, but for the rate's dtype, which there is that of the
    first parameter."""

    learning_rate: Float[Array, ""]
    inner: optax.OptState


@functools.lru_cache(maxsize=64)
def _at_any_rate(settings: str) -> optax.GradientTransformation:
    preset = schema.from_text(Preset, settings)
    about, network = preset.optimizer, preset.network

    def made(learning_rate):
        rate = optax.exponential_decay(
            learning_rate, about.decay_every, about.decay, staircase=True
        )
        steps = [] if about.clip is None else [optax.clip_by_global_norm(about.clip)]
        steps.append(optax.add_decayed_weights(preset.objective.l2, mask=weights))
        # Neither the moments of a synapse that does not exist nor its weight move.
        step = OPTIMIZERS[about.optimizer](rate)
        steps = [*steps, *only_existing(network), step, *only_existing(network)]
        keep = optim.dale
        if about.shrink or about.connectivity:
            keep = functools.partial(
                optim.rewire,
                shrink=lambda i: about.shrink * rate(i),
                connectivity=about.connectivity,
            )
        return optax.chain(*steps, *dales_law(network, keep))

    def init(params):
        return _Rated(jnp.ones(()), made(1.0).init(params))

    def update(updates, state, params=None):
        updates, inner = made(state.learning_rate).update(updates, state.inner, params)
        return updates, state._replace(inner=inner)

    made(1.0)  # a setting that is none is said here, not where it compiles
    return optax.GradientTransformation(init, update)


def weights(params: PyTree) -> PyTree:
    """Which parameters the L2 term is of: matrices and lists, but not fixed feedback."""

    def is_whole(node):
        return isinstance(node, AbstractSynapses | Readout)

    def learns(node):
        if not isinstance(node, Readout):
            return isinstance(node, AbstractSynapses) or node.ndim >= 2
        matrices = jax.tree.map(lambda p: p.ndim >= 2, node)
        if node.feedback != "random":
            return matrices
        return eqx.tree_at(lambda readout: readout.feedback_weight, matrices, False)

    return jax.tree.map(learns, params, is_leaf=is_whole)


def dales_law(
    network: Architecture, keep: Callable[[Any], optax.GradientTransformation]
) -> list[optax.GradientTransformation]:
    """`keep(signs)` of the weights that have presynaptic signs, for `optax.chain`."""

    def to_readout(net):
        return (net.readout.weight,) if network.dale_readout else ()

    def from_neurons(net):
        return _cell(net).weight_rec, *to_readout(net)

    def from_list(net):
        return (_cell(net).weight_rec.weight,)

    def from_inputs(net):
        return (_cell(net).weight_in,)

    def from_units(net):
        return (_cell(net).weight,)

    dale = signs(network)
    if CELLS[network.cell].synapses == "units":
        found = ((unit_signs(network), from_units), (dale, to_readout))
    elif network.wiring is None:
        found = ((dale, from_neurons), (network.input_signs, from_inputs))
    else:
        found = ((signs_of_synapses(network, dale), from_list), (dale, to_readout))
    return [optax.masked(keep(sign), _only(where)) for sign, where in found if sign is not None]


def _to_readout(net: PyTree) -> tuple[Any, ...]:
    return (net.readout.weight,)


def _cell(net: PyTree) -> Any:
    return dynamics(net.rnn.cell)


def only_existing(network: Architecture) -> list[optax.GradientTransformation]:
    """Where synapses may be lacking: no update of those that are at zero, for `optax.chain`."""
    existing = optax.stateless_with_tree_map(_where_nonzero)
    if seen(network) is not None:
        return [optax.masked(existing, _only(_to_readout))]
    return [] if network.density == 1 else dales_law(network, lambda _: existing)


def _only(where: Callable[[Any], tuple]) -> Callable[[Any], PyTree]:
    """A mask of the parameters that `where` selects."""

    def mask(params):
        nothing = jax.tree.map(lambda p: False, params)
        return eqx.tree_at(where, nothing, replace_fn=lambda _: True)

    return mask


def recurrent_weights(network: Architecture) -> Callable[[Any], tuple[Any, ...]]:
    """A function of the network: its recurrent parameters."""
    recurrent = CELLS[network.cell].recurrent
    return lambda net: recurrent(dynamics(net.rnn.cell))


def _where_nonzero(update: ArrayLike, weight: ArrayLike | None) -> Array:
    return jnp.where(weight != 0, update, 0)
