"""How one rule's gradient compares with another's."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _arguments as arguments
from .._grad import value_and_grad
from .._precision import widened
from .._rule import AbstractRule, BPTT
from .._rule._base import as_rule
from ._pairs import cosine, named, norm_ratio, projection, Rules, sign_agreement


class Alignment(eqx.Module):
    """Agreement of a rule's gradient g with a reference r; leaf by leaf, and in total.

    `cosine`, `projection`, `norm_ratio`, `sign_agreement` are scalars over all parameters
    together, and the `leaf_*` fields have the model's structure. A zero gradient has cosine 0,
    and two of them have norm ratio 1.
    """

    cosine: Float[Array, ""]
    projection: Float[Array, ""]
    norm_ratio: Float[Array, ""]
    sign_agreement: Float[Array, ""]
    leaf_cosine: PyTree
    leaf_projection: PyTree
    leaf_norm_ratio: PyTree
    leaf_sign_agreement: PyTree


class AlignmentMatrix(eqx.Module):
    """Agreement of every rule's gradient (row i) with every other's (column j).

    `names` are the R rules in order; `leaf_cosine` has the model's structure, with an (R, R)
    matrix in place of each parameter.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    cosine: Float[Array, "R R"]
    projection: Float[Array, "R R"]
    norm_ratio: Float[Array, "R R"]
    sign_agreement: Float[Array, "R R"]
    leaf_cosine: PyTree


_MEASURES = (cosine, projection, norm_ratio, sign_agreement)


def alignment(
    loss: Callable[..., Any],
    model: PyTree,
    *args: Any,
    rule: AbstractRule | None,
    reference: AbstractRule = BPTT(),
) -> Alignment:
    r"""Compare the gradients of two rules on the same model and data.

    \[ \cos = \frac{g \cdot r}{\|g\|\,\|r\|}, \qquad \rho = \frac{g \cdot r}{\|r\|^2}, \qquad
       ratio = \frac{\|g\|}{\|r\|}, \qquad
       agreement = \mathrm{mean}(\mathrm{sign}\,g = \mathrm{sign}\,r) \]

    with \(\rho\) the `projection`: \(g = \rho r + e\) with \(e \perp r\).

    **Arguments:** `loss(model, *args) -> scalar`; `rule` gives g (None: each layer's own rule) and
    `reference` r. Runs under `jit` and `vmap`. Cost: the two gradients.
    """
    arguments.function("loss", loss, "loss(model, *args) -> scalar")
    rule = None if rule is None else as_rule("rule", rule)
    reference = as_rule("reference", reference)
    _, gradient = value_and_grad(loss, rule)(model, *args)
    _, target = value_and_grad(loss, reference)(model, *args)

    def flat(tree):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(widened(tree))])

    return Alignment(
        *(measure(flat(gradient), flat(target)) for measure in _MEASURES),
        *(jax.tree.map(measure, gradient, target) for measure in _MEASURES),
    )


def alignment_matrix(
    loss: Callable[..., Any], model: PyTree, *args: Any, rules: Rules
) -> AlignmentMatrix:
    """Compare the gradients of several rules, each with each; see `alignment`.

    **Arguments:** `loss(model, *args) -> scalar`; `rules`: name -> rule, or a sequence of rules
    (which then go by their class's name). Include `BPTT()` to compare with the exact gradient.
    Runs under `jit` and `vmap`. Cost: one gradient a rule.

    **Errors:** ValueError if there are no rules, or one can't serve the model.

    Example, with a `loss(model, xs, ys)`:

    ```python
    found = mpj.alignment_matrix(
        loss, model, xs, ys, rules={"eprop": mpj.EProp(), "bptt": mpj.BPTT()}
    )
    found.projection[0, 1]  # of e-prop on the exact gradient
    ```
    """
    arguments.function("loss", loss, "loss(model, *args) -> scalar")
    names, rules = named(rules)
    gradients = [widened(value_and_grad(loss, rule)(model, *args)[1]) for rule in rules]
    stacked = jax.tree.map(lambda *rows: jnp.stack([row.ravel() for row in rows]), *gradients)
    whole = jnp.concatenate(jax.tree.leaves(stacked), axis=1)
    return AlignmentMatrix(
        names,
        *(_each_with_each(measure, whole) for measure in _MEASURES),
        leaf_cosine=jax.tree.map(lambda rows: _each_with_each(cosine, rows), stacked),
    )


def _each_with_each(measure: Callable, rows: Float[Array, "R P"]) -> Float[Array, "R R"]:
    of_row = jax.vmap(measure, (None, 0))
    return jax.vmap(of_row, (0, None))(rows, rows)
