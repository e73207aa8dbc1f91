"""How much credit a rule delivers how far back in time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, NeuronCell
from .._cell._base import dynamics
from .._grad import with_rule
from .._precision import wide
from .._rnn import is_layer, layers, RNN
from .._rule import AbstractRule, BPTT, Carry
from .._rule._base import as_rule
from ._pairs import cosine, named, norm, norm_ratio, Rules


class CreditProfile(eqx.Module):
    """Credit on the drive at each lag before the last step, by rule (rows, in order of `names`).

    `norm`: over batch and neurons. `ratio`: that over the reference's, `reference_norm`.
    `cosine`: of the angle to the reference's credit at the same lag; 0 where there is no credit.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    norm: Float[Array, "R T"]
    ratio: Float[Array, "R T"]
    cosine: Float[Array, "R T"]
    reference_norm: Float[Array, " T"]


def credit_profile(
    loss: Callable[..., Any],
    model: PyTree,
    *args: Any,
    rules: Rules,
    reference: AbstractRule = BPTT(),
) -> CreditProfile:
    r"""The credit that each rule brings to the recurrent layer's drive, lag by lag.

    \[ \delta_t = \lambda_t\, \frac{\partial s_t}{\partial drive_t}, \qquad
       drive_t = W_{rec}\,\mathrm{message}(s_{t-1}) + W_{in} x_t + b, \qquad lag = T - 1 - t \]

    The weight gradient is the sum over time of \(\delta_t\) times presynaptic activity. With a
    loss at the last step alone, the lag is how far credit has travelled; a loss at every step adds
    credit on the way.

    **Arguments:**

    - `loss`: `loss(model, *args) -> scalar`. It calls the model's recurrent layer once, on the
        whole batch and the whole sequence.
    - `model`: with one `RNN` layer, of a `NeuronCell` (also under `Filtered`).
    - `rules`: name -> rule, or a sequence of rules (which then go by their class's name).
    - `reference`: what `ratio` and `cosine` compare with; the exact credit by default.

    **Returns:** a `CreditProfile` whose arrays are (R, T), for R rules at lags 0 ... T-1. Runs
    under `jit` and `vmap`. Cost: a gradient with n more inputs, for each rule and the reference.

    **Errors:** ValueError for no or several recurrent layers, another kind of cell, and a loss
    that calls the layer never or more than once.
    """
    arguments.function("loss", loss, "loss(model, *args) -> scalar")
    names, rules = named(rules)
    reference = as_rule("reference", reference)
    shape = _probe_shape(loss, model, args)

    def credit(rule):
        ruled = with_rule(model, rule)
        zeros = jnp.zeros(shape, wide(_layer(ruled)[1].weight_in.dtype))
        by_time = jax.grad(lambda probe: loss(_probed(ruled, probe), *args))(zeros)
        return by_time[::-1].reshape(shape[0], -1)

    exact = credit(reference)
    found = jnp.stack([credit(rule) for rule in rules])

    def against(measure):
        return jax.vmap(lambda rows: jax.vmap(measure)(rows, exact))(found)

    return CreditProfile(
        names,
        norm=jax.vmap(jax.vmap(norm))(found),
        ratio=against(norm_ratio),
        cosine=against(cosine),
        reference_norm=jax.vmap(norm)(exact),
    )


class _Probe(eqx.Module):
    """An `RNN` with a perturbation added to its drive.

    n more inputs, each with a unit weight on its neuron: their gradient is the credit on the drive
    under any rule, which need not know of it.
    """

    cell: AbstractCell
    rule: AbstractRule
    probe: Float[Array, "T *batch n"]

    def init(self, batch_shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> Carry:
        return self._wide().init(batch_shape, key=key)

    def __call__(self, xs: Array, carry: PyTree = None, **options: Any) -> Any:
        wide = jnp.concatenate([xs.astype(self.probe.dtype), self.probe], axis=-1)
        return self._wide()(wide, carry, **options)

    def _wide(self) -> RNN:
        def into(cell):
            return dynamics(cell).weight_in  # pyright: ignore[reportAttributeAccessIssue]

        weight = into(self.cell)
        unit = jnp.eye(len(weight), dtype=weight.dtype)
        wide = jnp.concatenate([weight, unit], axis=1)
        return RNN(eqx.tree_at(into, self.cell, wide), rule=self.rule)


class _Witness(eqx.Module):
    """An `RNN` that tells the shape of what it is called with."""

    cell: AbstractCell
    rule: AbstractRule
    tell: Callable[[tuple[int, ...]], None] = eqx.field(static=True)

    def init(self, batch_shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> Carry:
        return RNN(self.cell, rule=self.rule).init(batch_shape, key=key)

    def __call__(self, xs: Array, carry: PyTree = None, **options: Any) -> Any:
        self.tell(xs.shape)
        return RNN(self.cell, rule=self.rule)(xs, carry, **options)


def _probe_shape(loss: Callable, model: PyTree, args: tuple) -> tuple[int, ...]:
    """(T, *batch, n), from an abstract evaluation of the loss."""
    _, cell = _layer(model)
    shapes = []

    def tell(shape):  # a function, since a list is no static field
        shapes.append(shape)

    witnessed = _replace(model, lambda rnn: _Witness(rnn.cell, rnn.rule, tell))
    eqx.filter_eval_shape(loss, witnessed, *args)
    if len(shapes) != 1:
        raise ValueError(
            "credit_profile needs a loss that calls the model's recurrent layer once, on the "
            f"whole sequence (as in model.rnn(xs)), but this loss calls it {len(shapes)} times."
        )
    return *shapes[0][:-1], cell.hidden_size


def _probed(model: PyTree, probe: Array) -> PyTree:
    return _replace(model, lambda rnn: _Probe(rnn.cell, rnn.rule, probe))


def _replace(model: PyTree, make: Callable[[RNN], Any]) -> PyTree:
    return jax.tree.map(
        lambda node: make(node) if is_layer(node) else node, model, is_leaf=is_layer
    )


def _layer(model: PyTree) -> tuple[RNN, NeuronCell]:
    """The only recurrent layer, and its neuron cell."""
    found = layers(model)
    if len(found) != 1:
        raise ValueError(
            f"credit_profile needs a model with one RNN layer, but {type(model).__name__} has "
            f"{len(found)}."
        )
    cell = dynamics(found[0].cell)
    if not isinstance(cell, NeuronCell):
        raise ValueError(
            "credit_profile needs a NeuronCell, whose neurons have a drive, but the cell is a "
            f"{type(cell).__name__}."
        )
    return found[0], cell
