"""The neuron cell: one drive, `W_rec message + W_in x + b`."""

import functools
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import start_of, wide
from .._static import FrozenArray
from .._synapses import AbstractSynapses, as_map, as_synapses, Bias, Dense, Masked
from .._tree import inexact, nothing, with_fields
from ._base import Final
from ._constants import as_mask, connectivity, synapses
from ._init import balanced_dale, scaled_normal
from ._separable import SeparableCell


class NeuronCell(SeparableCell):
    r"""Base of cells whose neurons are coupled only through a linear drive.

    \[ s_t = \mathrm{integrate}(s_{t-1},\; W_{rec}\,\mathrm{message}(s_{t-1}) + W_{in} x_t + b) \]

    Define `init`, `integrate` and `emit`, and, if it differs from the emission, `message` (what a
    neuron sends through the recurrent weights): every local credit rule then serves your neuron.
    ModProp also needs `gain`, and `membrane` where the state has several variables. Every state
    variable has shape `(*batch, n)`, and all but the drive is elementwise over neurons. Parameters
    of your own are one value (shape `()`) or one value a neuron (shape `(n,)`).

    `weight_rec` is (post, pre) = (n, n), `weight_in` (n, m), `bias` (n,) or None. Weights are
    effective, that is, signed. Entries where `mask` (boolean connectivity) is False, and the
    diagonal unless `autapses`, are no synapses: 0 at the start, 0 in the drive whatever is stored,
    and of zero gradient. Optimizers that leave a zero with a zero gradient where it is, as those of
    optax do, keep them at 0. After anything else (noise added to gradients, weights put in by
    `eqx.tree_at`) `cell.effective().weight_rec` is what the cell computes with.

    The mask is structure: it is no leaf, and is not saved with the leaves.
    """

    _final: ClassVar[Final] = Final(
        (
            "weight_rec",
            "weight_in",
            "bias",
            "drive",
            "received_own",
            "recurrent",
            "afferents",
            "presynaptic",
            "with_afferents",
            "in_size",
            "hidden_size",
            "drive_parameters",
            "unit_parameters",
        ),
        "For another drive (weights through a function, more terms) subclass SeparableCell.",
    )

    # arrays (n, n) and (n, m), or maps: a union would make every reader of an array tell them apart
    weight_rec: Any
    weight_in: Any
    bias: Float[Array, " n"] | None
    connectivity: FrozenArray | Bool[Array, "n n"] | None
    autapses: bool = eqx.field(static=True)
    signs: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        use_bias: bool = False,
        autapses: bool = False,
        mask: Numbers | None = None,
        signs: Numbers | None = None,
        recurrent: AbstractSynapses | None = None,
        inputs: AbstractSynapses | None = None,
        dtype: DTypeLike | None = None,
    ):
        """**Arguments:**

        - `in_size`, `hidden_size`: m inputs, n neurons.
        - `key`: for the initial weights. Without `signs`, `W_rec ~ N(0, 1/k)` with k the synapses
            that the neuron has, and `W_in ~ N(0, 1/m)`; with `signs`, the balanced Dale recipe on
            the synapses that exist (`balanced_dale`), and `W_in ~ N(0, 1)`.
        - `use_bias`: add a bias, initially zero.
        - `autapses`: allow a neuron to drive itself.
        - `mask`: boolean (n, n) connectivity [post, pre], a constant. (A traced one is an array
            leaf of the cell: a mask of its own for each member of an ensemble, for example.)
        - `signs`: ±1 for each presynaptic neuron (Dale's law at the start;
            `optim.dale` keeps it).
        - `recurrent`, `inputs`: maps (n, n) and (n, m) in place of the dense default: as
            `weight_rec` and `weight_in` they are what trains. A map says itself which synapses it
            has, autapses among them: no `mask` or `signs` beside `recurrent`.
        - `dtype`: of the parameters; the JAX default if None.
        """
        n, in_size = arguments.size("hidden_size", hidden_size), arguments.size("in_size", in_size)
        dtype = arguments.dtype("dtype", dtype, real=False)
        key_rec, key_in = jax.random.split(arguments.key("key", key))
        use_bias = arguments.boolean("use_bias", use_bias)
        self.autapses = arguments.boolean("autapses", autapses)
        self.connectivity = connectivity(mask, n)
        if signs is not None:
            signs = arguments.signs("signs", signs, n)
        if recurrent is not None:
            if mask is not None or signs is not None:
                raise ValueError(
                    "recurrent came with a mask or signs, but a map says itself which synapses "
                    "there are and of what sign: leave these at None."
                )
            self.weight_rec = as_map("recurrent", recurrent, (n, n))
            self.autapses = recurrent.has_autapses
        else:
            exists = synapses(self.connectivity, n, self.autapses)
            if signs is None:
                self.weight_rec = scaled_normal(key_rec, (n, n), dtype, exists)
            else:
                self.weight_rec = balanced_dale(key_rec, signs, dtype, mask=exists)
        if inputs is not None:
            self.weight_in = as_map("inputs", inputs, (n, in_size))
        elif signs is None:
            self.weight_in = scaled_normal(key_in, (n, in_size), dtype)
        else:
            self.weight_in = jax.random.normal(key_in, (n, in_size), dtype)
        self.bias = jnp.zeros(n, self.dtype) if use_bias else None
        self.signs = signs

    @property
    def mask(self) -> Bool[np.ndarray, "n n"] | Bool[Array, "... n n"] | None:
        """Which synapses exist [post, pre], as given; None: all."""
        return as_mask(self.connectivity)

    @property
    def in_size(self) -> int:
        """Number of input features, m."""
        return self.weight_in.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Number of neurons, n."""
        return self.weight_rec.shape[-1]

    @property
    def dtype(self) -> Any:
        """Of the recurrent weights."""
        return self.weight_rec.dtype

    @property
    def recurrent(self) -> AbstractSynapses:
        """The recurrent weights as a map, which knows the synapses that exist."""
        weight = self.weight_rec
        if isinstance(weight, AbstractSynapses):
            return weight
        if self.autapses and self.connectivity is None:
            return Dense(weight)
        return Masked(weight, self.connectivity, autapses=self.autapses)

    @property
    def afferents(self) -> dict[str, AbstractSynapses]:
        """The maps whose sum is the drive, by the name of their parameters."""
        maps = {"weight_rec": self.recurrent, "weight_in": as_synapses(self.weight_in)}
        return maps if self.bias is None else maps | {"bias": Bias(self.bias)}

    def presynaptic(
        self, message: Float[Array, "*batch n"], x: Float[Array, "*batch m"]
    ) -> dict[str, Array]:
        """What each of the afferents gets: messages, inputs and, for a bias, 1."""
        activity = {"weight_rec": message, "weight_in": x}
        if self.bias is None:
            return activity
        return activity | {"bias": jnp.ones((*message.shape[:-1], 1), message.dtype)}

    def with_afferents(self, gradients: dict[str, Any]) -> PyTree:
        """Gradients of the afferents, as a gradient of the cell."""

        def of_field(name, gradient):
            return gradient.weight if name in (*self._matrices, "bias") else gradient

        fields = {name: of_field(name, gradient) for name, gradient in gradients.items()}
        return with_fields(nothing(inexact(self)), **fields)

    @property
    def drive_parameters(self) -> tuple[str, ...]:
        """The weights and the bias."""
        return "weight_rec", "weight_in", "bias"

    @property
    def matmul_parameters(self) -> tuple[str, ...]:
        """Weights that are matrices."""
        return self._matrices

    @property
    def _matrices(self) -> tuple[str, ...]:
        names = "weight_rec", "weight_in"
        return tuple(n for n in names if not isinstance(getattr(self, n), AbstractSynapses))

    def membrane(self, state: PyTree) -> Float[Array, "*batch n"]:
        """The variable that the drive enters (selects one; ModProp filters credit on it)."""
        leaves = jax.tree.leaves(inexact(state))
        if len(leaves) != 1:
            raise ValueError(
                f"ModProp on {type(self).__name__} needs to know which of its {len(leaves)} "
                "state variables the drive enters: define membrane(self, state)."
            )
        return leaves[0]

    @property
    def gain(self) -> Any:
        """How much one unit of drive adds to the membrane: a number, or one a neuron."""
        raise ValueError(
            f"ModProp on {type(self).__name__} needs the gain with which the drive enters "
            "the membrane: define the property gain(self)."
        )

    @property
    def leak(self) -> Any:
        """Nominal leak: `∂membrane_t / ∂membrane_{t-1}` at rest; a number, or one a neuron."""
        rest = start_of(self)
        silent = jnp.zeros(self.hidden_size, wide(self.dtype))
        unit = jnp.ones_like(self.membrane(rest))
        _, into = jax.vjp(self.membrane, rest)

        def next_membrane(state):
            return self.membrane(self.integrate(state, silent))

        return jax.jvp(next_membrane, (rest,), into(unit))[1]

    @property
    def uniform_leak(self) -> bool:
        """Whether credit on the membrane passes every step as `leak` times itself, to nothing else,
        and reaches the drive as `gain`, one number for all neurons.

        True lets the filters of e-prop, MDGL and type-specific ModProp act on presynaptic activity
        alone: what `integrate` makes of the membrane is then `leak · membrane + gain · drive`, and
        terms without a derivative. Where neurons have other variables, which may depend on
        anything of their neuron, e-prop and MDGL keep traces a synapse of these alone.
        """
        return False

    def drive(
        self, message: Float[Array, "*batch n"], x: Float[Array, "*batch m"]
    ) -> Float[Array, "*batch n"]:
        """Linear drive `W_rec message + W_in x + b`."""
        activity = self.presynaptic(message, x)
        each = [synapses(activity[name]) for name, synapses in self.afferents.items()]
        return functools.reduce(jnp.add, each)

    def received(self, drive: Array, like: PyTree, x: Array) -> Float[Array, "*batch n"]:
        """`W_recᵀ drive`, of a cell whose mask is applied (`effective`)."""
        del like, x
        return self.recurrent.back(drive)

    def received_own(self, drive: Array, like: Array) -> Float[Array, "*batch n"]:
        """`diag(W_rec) drive`, of a cell whose mask is applied."""
        del like
        own = self.recurrent.own().astype(drive.dtype)
        return drive * jnp.broadcast_to(own, drive.shape)

    def effective(self) -> "NeuronCell":
        """The same cell with masked weights and no mask (so the mask is applied only once)."""
        synapses = self.recurrent.resolved()
        fields: dict[str, Any] = {"weight_rec": synapses}
        if "weight_rec" in self._matrices:
            fields = {"weight_rec": synapses.as_matrix(), "connectivity": None, "autapses": True}
        if isinstance(self.weight_in, AbstractSynapses):
            fields["weight_in"] = self.weight_in.resolved()
        return with_fields(self, **fields)
