"""What experiments compare beside credit rules: other networks, with learning of their own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import PRNGKeyArray

from .._rule import AbstractRule, LAST, ReadoutOnly
from ._force_network import force_network, ForceNetwork


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of a comparison that is more than a credit rule: it makes another network of the one
    that all rows start from, and says how that learns.

    - `network(network, key, **options)`: what it trains, made of the common network; with layers
      `rnn`, and `init` and `online`, as it learns from a stream.
    - `rule`: of the layers of what it trains.
    - `settings`: what it replaces in every preset, by name.
    - `options`: the numbers that may come with its name, int for counts.
    - `papers`: where it comes from, as in `Card.papers`.
    - `place`: rows are listed in this order.
    """

    description: str
    network: Callable[..., Any]
    rule: AbstractRule
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, type] = dataclasses.field(default_factory=dict)
    papers: tuple[str, ...] = ()
    place: int = LAST
    online: ClassVar[bool] = True

    def build(self, types: tuple[int, ...], **options: Any) -> AbstractRule:
        """The rule of the layers, whatever the cell types; options are of the network."""
        del types, options
        return self.rule


@eqx.filter_jit
def _force(network: Any, key: PRNGKeyArray, **options: float) -> ForceNetwork:
    return force_network(network.rnn, network.readout, key, **options)


# a step is what the readout says it is, and nothing else moves
_LEAST_SQUARES = {
    "optimizer": "sgd",
    "learning_rate": 1.0,
    "decay": 1.0,
    "l2": 0.0,
    "shrink": 0.0,
    "connectivity": 0.0,
    "dale_readout": False,
    "feedback": "symmetric",
}

METHODS: dict[str, Method] = {
    "force": Method(
        "FORCE: recursive least squares in the readout, fed back to a fixed network; alpha, gain=1",
        _force,
        ReadoutOnly(),
        settings=_LEAST_SQUARES,
        options={"alpha": float, "gain": float},
        papers=("sussillo2009force",),
        place=230,
    ),
}
"""By name: `--rules` takes them beside the rules."""
