"""The causal form of MDGL's hop: a modulator broadcast at one step meets the traces of the last."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..._cell import NeuronCell
from ..._credit import Back, Credit, Point, Record
from ..._flags import erase
from ..._precision import start_of, wide
from ..._program._base import AbstractProgram
from ..._program._reverse import points_of
from ..._synapses import AbstractSynapses
from ..._trace import AbstractTrace, ByMembrane, PerSynapse
from ..._tree import pullback, stop
from ..._vjp import with_derivative
from .._eprop import EProp
from .._transport import AbstractObserver, AbstractTransportRule


class CausalHop(AbstractTransportRule):
    """`MDGL(online=True)`: credit stays with its neuron, and the error on the emission's memory is
    also broadcast, to the step before.

    Source: Liu, Smith, Mihalas, Shea-Brown & Sümbül, PNAS 118 (2021).
    """

    rule: AbstractTransportRule

    def prepare(self, cell: NeuronCell) -> AbstractSynapses:
        """Ŵ."""
        return self.rule.prepare(cell)

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """That of e-prop."""
        return ByMembrane() if ByMembrane.serves(on) else PerSynapse(filter_is_local=True)

    @property
    def observer(self) -> AbstractObserver:
        """How drives move the filtered emission."""
        return Broadcast()

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """As e-prop."""
        return EProp().back(on, point, credit, direct)


class Broadcast(AbstractObserver):
    r"""Observes \(F_k(s_{in}\psi)\), how a neuron's drive moves its emission, filtered as that.

    A tuple of leaks: by the first.
    """

    def init(self, on: AbstractProgram, batch: tuple[int, ...]) -> Float[Array, "*batch n"]:
        """Before the first step; a ValueError unless each neuron emits one feature."""
        cell = on.cell
        emission = jax.eval_shape(lambda: cell.emit(start_of(cell, batch)))
        if emission.shape[-1] != cell.hidden_size:
            raise ValueError(
                f"MDGL(online=True) needs one emitted feature a neuron, but {type(cell).__name__} "
                f"of {cell.hidden_size} neurons emits {emission.shape[-1]}."
            )
        return jnp.zeros(emission.shape, wide(emission.dtype))

    def steps(self, on: AbstractProgram, record: Record, seen: PyTree) -> tuple[tuple[()], PyTree]:
        """Nothing that `back` needs."""
        return (), seen

    def on_memory(
        self, on: AbstractProgram, record: Record, before: PyTree, memories: PyTree, seen: PyTree
    ) -> tuple[PyTree, PyTree]:
        """The hop: from each step's unfiltered error to the step before it."""
        points = stop(points_of(on.cell, record))

        def emitted(drive):
            return on.cell.emit(on.cell.integrate(points.before, drive))

        (slope,) = pullback(emitted, points.drive)(jnp.ones_like(points.drive))
        seen, slopes = on.emission.first.run(seen, slope, record.flags, 1)
        fresh = None if record.flags is None else record.flags.fresh
        return broadcast(before, memories, slopes, on.weights, fresh), seen


def broadcast(
    before: PyTree, memories: PyTree, slopes: Array, weight: AbstractSynapses, fresh: Array | None
) -> PyTree:
    r"""The memories, on which each step's error L also becomes credit one step earlier.

    \[ \Gamma_{p,t} = \sum_j \hat W_{jp}\, L_{j,t+1}\, slopes_{j,t+1} \]

    `before`: the memory before the first step; a tuple of memories: on the first of them.
    """
    (before, *_), (first, *others) = jax.tree.leaves(before), jax.tree.leaves(memories)

    def run(pack):
        return pack[0][1:], ()

    def backward(pack, _, error):
        _, slopes, weight, fresh = pack
        earlier = weight.back(error * slopes)
        if fresh is not None:
            earlier = erase(fresh, earlier)
        silent = jnp.zeros_like(error[:1])
        credit = jnp.concatenate([earlier, silent]) + jnp.concatenate([silent, error])
        return credit, None, None, None

    whole = jnp.concatenate([before[None], first])
    first = with_derivative(run, backward)((whole, *stop((slopes, weight, fresh))))
    return jax.tree.unflatten(jax.tree.structure(memories), [first, *others])
