"""Unbiased rules, which keep the influence at rank one (or one Kronecker product) by noise."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ... import _arguments as arguments
from ..._cell import AbstractCell, NeuronCell
from ..._cell._emission import AbstractEmission
from ..._inputs import drive_of
from ..._precision import widened
from ..._program._base import AbstractProgram
from ..._trace._base import refusal
from ..._tree import inexact
from .._base import require_neurons
from .._influence import AbstractInfluenceRule
from .._noise import as_noise, Drawn, Given, Noise
from ._rank_one import Linearised, RankOne, Tangent


class AbstractStochasticRule(AbstractInfluenceRule):
    r"""A rule whose influence is a product, \(M_t \approx\) tangent ⊗ factor, in expectation.

    `move` says how one example's product goes one step on, `gradient` what it is worth. The noise
    that makes one product of a sum of two has mean 0 and variance 1.
    """

    noise: Drawn | Given
    probes: int = eqx.field(static=True)

    def __init__(self, noise: Noise, probes: int):
        """**Arguments:** as those of the rules."""
        self.probes = arguments.size("probes", probes)
        self.noise = as_noise(noise, self.probes)

    @property
    def needs_key(self) -> bool:
        """Always."""
        return True

    @property
    def by_place(self) -> bool:
        """With a table of noise for each example."""
        return self.noise.by_place

    def check(self, cell: AbstractCell) -> None:
        """Rows of given noise must have the right size."""
        self.check_noise(*cell.parts(), None)

    def influence(self, cell: AbstractCell, in_size: int | None) -> RankOne:
        """The product."""
        return RankOne()

    @abc.abstractmethod
    def draws(self, cell: Any, emission: AbstractEmission) -> int:
        """How many random numbers a step takes."""

    @abc.abstractmethod
    def columns(self, cell: Any) -> tuple[int, ...]:
        """Leading axes of the tangents: `()`, or `(columns,)`."""

    @abc.abstractmethod
    def factor(self, cell: Any) -> PyTree:
        """Zeros, shaped as the other factor of one example."""

    @abc.abstractmethod
    def move(
        self, step: Linearised, tangent: Tangent, factor: PyTree, noise: Float[Array, " k"]
    ) -> tuple[Tangent, PyTree]:
        """Both factors of one example after one more step."""

    @property
    def draws_once(self) -> bool:
        """Whether it draws a factor for each sequence (`of_start`), and nothing at its steps."""
        return False

    def start_draws(self, on: AbstractProgram) -> int:
        """How many random numbers a start that learns takes; a ValueError if it can't be."""
        raise refusal(on)

    def of_start(self, on: AbstractProgram, noise: Float[Array, " k"]) -> tuple[PyTree, PyTree]:
        """Both factors of one example where a sequence begins."""
        raise refusal(on)

    @abc.abstractmethod
    def gradient(self, cell: Any, credit: Array, factor: PyTree) -> PyTree:
        """`Σ_rows credit ⊗ factor` as a gradient of the cell.

        A row is a probe of an example: credit on its columns (rows, *columns), factor (rows, ...).
        """

    def check_noise(
        self, cell: AbstractCell, emission: AbstractEmission, batch: tuple[int, ...] | None
    ) -> None:
        """A ValueError if noise was given for another cell, or another batch; None: any."""
        if not self.noise.needs_key:
            names = type(self).__name__, type(cell).__name__
            self.noise.check(*names, batch, self.draws(cell, emission))


class AbstractBalancedRule(AbstractStochasticRule):
    """A rule that adds fresh products by signs, each factor by a share that keeps variance low."""

    epsilon: float = eqx.field(static=True)

    def __init__(self, noise: Noise, probes: int, epsilon: float | int):
        """**Arguments:** as those of the rules."""
        self.epsilon = arguments.number("epsilon", epsilon, arguments.NOT_NEGATIVE)
        AbstractStochasticRule.__init__(self, noise, probes)

    def ratio(self, above: PyTree, below: PyTree) -> Float[Array, ""]:
        """`√(|above| / (|below| + ε)) + ε`, the floor that makes zero factors safe."""
        above, below = optax.tree.norm(above), optax.tree.norm(below)
        return jnp.sqrt(above / (below + self.epsilon)) + self.epsilon


def mix(a: Array, x: PyTree, b: Array, y: PyTree) -> PyTree:
    """`a x + b y`."""
    return jax.tree.map(lambda x, y: a * x + b * y, x, y)


def require_weights(rule: AbstractInfluenceRule, cell: AbstractCell) -> None:
    """A ValueError unless the cell is a neuron cell whose weights are all that trains."""
    inner = require_neurons(rule, cell)
    others, _ = inner.split()
    if jax.tree.leaves(others):
        paths, _ = jax.tree_util.tree_flatten_with_path(others)
        names = ", ".join(jax.tree_util.keystr(path).lstrip(".") for path, _ in paths)
        raise ValueError(
            f"{type(rule).__name__} keeps the influence of weight_rec, weight_in and bias, but "
            f"{names} of this {type(inner).__name__} trains too: use UORO or RTRL, or give it as "
            "a float or a NumPy array, which does not train."
        )


def presynaptic(step: Linearised) -> Float[Array, " m"]:
    """What the synapses of each neuron see: messages, inputs and, for a bias, 1."""
    activity = step.cell.presynaptic(step.cell.message(step.before), step.x)
    return jnp.concatenate(list(activity.values()))


def scaled(credit: Float[Array, " rows"], factor: PyTree) -> PyTree:
    """`Σ (c · tangent) factor`, of one tangent a row."""
    return jax.tree.map(lambda b: jnp.tensordot(credit, b, 1), factor)


def parameters_read(cell: AbstractCell, function: Callable[[Any], PyTree]) -> PyTree:
    """A boolean for each parameter of the cell: whether `function(cell)` reads it."""
    parameters, rest = eqx.partition(cell, eqx.is_inexact_array)
    jaxpr = jax.make_jaxpr(lambda p: inexact(function(eqx.combine(p, rest))))(parameters).jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars} | set(map(id, jaxpr.outvars))
    return jax.tree.unflatten(jax.tree.structure(parameters), [id(v) in read for v in jaxpr.invars])


def size_of(tree: PyTree) -> int:
    """How many numbers its arrays hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def synapses(cell: NeuronCell) -> int:
    """How many of them a neuron has, the bias included."""
    return sum(afferent.shape[1] for afferent in cell.afferents.values())


def driven(step: Linearised) -> PyTree:
    """`∂integrate/∂drive`, elementwise: for each state variable one number a neuron."""
    drive = drive_of(step.cell, step.cell.message(step.before), step.inputs)

    def integrate(drive):
        return inexact(step.cell.integrate(step.before, drive))

    return jax.jvp(integrate, (drive,), (jnp.ones_like(drive),))[1]


def as_weights(
    cell: NeuronCell, post: Float[Array, "rows n"], pre: Float[Array, "rows m"]
) -> PyTree:
    """The gradient of all afferents, of credit that meets what the synapses see, side by side."""
    afferents = widened(cell).afferents
    cuts = np.cumsum([afferent.shape[1] for afferent in afferents.values()])[:-1]
    pairs = zip(afferents.items(), jnp.split(pre, cuts, axis=-1), strict=True)
    each = {name: afferent.gradient(post, seen) for (name, afferent), seen in pairs}
    others = jax.tree.map(jnp.zeros_like, inexact(cell))
    return eqx.combine(cell.with_afferents(each), others)
