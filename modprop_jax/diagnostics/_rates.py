"""What the projection ρ on the exact gradient does to learning rates and curvature."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .. import _arguments as arguments


def curvature_bound(rate: ArrayLike, projection: ArrayLike = 1.0) -> Float[Array, "..."]:
    r"""The curvature below which gradient descent is locally stable, 2 / (η ρ).

    With the gradient \(\hat g = \rho g + e\), \(e \perp g\), a deviation δ along an eigenvector
    of the Hessian with eigenvalue λ > 0 becomes \((1 - \eta\rho\lambda)\,\delta\) in a step if ρ
    holds along that eigenvector too, and shrinks iff \(\lambda < 2 / (\eta\rho)\). So ρ < 1 lets
    a rule settle where the exact gradient (2 / η) would not.

    **Arguments:** `rate`: η of plain SGD (no bound of this form holds for Adam); `projection`:
    ρ, see `alignment`. They broadcast. NaN where ρ < 0: no minimum is stable.
    """
    rate, projection = _reals(rate=rate, projection=projection)
    return jnp.where(projection < 0, jnp.nan, 2 / (rate * projection))


def matched_rates(rates: ArrayLike, projection: ArrayLike) -> Float[Array, "..."]:
    """Learning rates ρη at which the exact gradient goes as far along itself as a rule does at η.

    A rule at `rates` η has the curvature bound (`curvature_bound`) of the exact gradient at these;
    what still differs between the two is the rule's error \\(e \\perp g\\). The other way round,
    a rule at η / ρ matches the exact gradient at η.

    **Arguments:** `rates`: η; `projection`: the rule's ρ > 0. They broadcast.
    """
    rates, projection = _reals(rates=rates, projection=projection)
    return rates * projection


def _reals(**values: ArrayLike) -> list[Array]:
    for name, value in values.items():
        if not arguments.is_real(value):
            raise ValueError(f"{name} must hold real numbers, but is {arguments.shown(value)}.")
    return [jnp.asarray(value, float) for value in values.values()]
