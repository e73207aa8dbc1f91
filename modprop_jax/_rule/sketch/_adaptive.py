"""The rank of a sketch by what it drops."""

import equinox as eqx
import jax.numpy as jnp

from ... import _arguments as arguments
from .._base import Carry
from ._rule import maker_of


class AdaptiveRank(eqx.Module):
    r"""The rank of an `SKRTRL` by what it drops: a larger one where that is much, else a smaller.

    \[ c = \big\langle \eta_t / \textstyle\sqrt{|S|^2 + |Z|^2} \big\rangle_{batch} : \quad
       r \leftarrow \min(2r, r_{max}) \ \text{where}\ c > c_{high}, \quad
       r \leftarrow \max(r/2, r_{min}) \ \text{where}\ c < c_{low} \]

    the latter at `patience` checks running. Call it between segments, every hundred steps or so,
    outside of `jit`: a rank is a shape, so each one compiles once. The moments of an optimizer are
    layers too:

    ```python
    carry, calm = adapt(carry, calm)
    model, opt_state = mpj.with_rule((model, opt_state), carry.rule)
    ```

    **Arguments:** `least`, `most`: r_min and r_max. `low`, `high`: c_low and c_high.

    Exact: the certificate stays a bound. Where a sketch shrinks, the norm of what is dropped is
    added to e and η. Locality: none; one number decides for all units.

    Source: the program `sonaradarcn/sketched-rtrl` (commit bb6055e), with its defaults.
    """

    least: int = eqx.field(static=True)
    most: int = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    patience: int = eqx.field(static=True)

    def __init__(
        self,
        least: int = 4,
        most: int = 32,
        low: float = 0.003,
        high: float = 0.02,
        patience: int = 3,
    ):
        self.least, self.most = arguments.size("least", least), arguments.size("most", most)
        self.low = arguments.number("low", low, arguments.NOT_NEGATIVE)
        self.high = arguments.number("high", high, arguments.NOT_NEGATIVE)
        self.patience = arguments.size("patience", patience)
        if self.least > self.most:
            raise ValueError(f"least={least} must not be above most={most}.")
        if self.low > self.high:
            raise ValueError(f"low={low} must not be above high={high}.")

    def __call__(self, carry: Carry, calm: int = 0) -> tuple[Carry, int]:
        """The carry at the rank that is due, under `carry.rule`, and checks running below `low`.

        **Arguments:** `carry`: of one layer, with a certificate. `calm`: what the last call
        returned.
        """
        calm = arguments.count("calm", calm)
        rule = maker_of(carry)
        known = rule.certificate(carry)
        share = jnp.mean(jnp.where(known.size > 0, known.lost / known.size, 0))
        if arguments.is_traced(share):
            raise ValueError("AdaptiveRank chooses a shape: call it outside of jit.")
        calm = calm + 1 if share < self.low else 0
        rank = rule.rank
        if share > self.high:  # never less, where the rank was beyond `most` before
            rank = max(rank, min(max(2 * rank, self.least), self.most))
        elif calm >= self.patience:
            rank, calm = min(rank, max(rank // 2, self.least)), 0
        return (carry, calm) if rank == rule.rank else (rule.resized(carry, rank), calm)
