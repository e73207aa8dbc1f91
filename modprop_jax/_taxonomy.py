"""The taxonomy of the rules, made from their cards."""

from . import _rule
from ._rule import AbstractRule, Card


_HEAD = """# Taxonomy of the credit rules

Made by `modprop-jax list --taxonomy` from the rules' cards (`modprop_jax.cards()`). The axes are
those of Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).

- **Facing**: a past-facing rule carries the influence of the parameters on the state, M_sij,
  forward to meet each error as it comes; a future-facing one gives each step (an estimate of) the
  credit λ_i of errors to come; "both" is one linear transport, evaluated in either order with the
  same result.
- **Influence or credit**: what stands for M_sij or λ_i. s is a state variable, and the weight of
  W = [W_rec | W_in | b] goes from j to i.
- **Noise**: drawn at every step. **Learned**: in place of a closed form.
- **Gradient**: summed over time at fixed weights, of one recurrent layer.
- **Floats of trace** of each example (and probe), for n neurons of one state variable and a bias,
  such as `RateCell`, with m inputs, horizon h, C cell types (n if every neuron is its own), K
  exponentials of a filter (`TypeFilter`), k labels, and r neurons that a weight reaches (`SnAp`) or
  columns of a sketch (`SKRTRL`); `LeakyCell`: of one tau, with types if the rule has them. What a
  rule learns is shared by a batch, and the states of its optimizers come with it. Any rule also
  keeps the states of a segment.
- **Operations** of a step of one example, the forward pass included, streamed step by step, up to a
  constant. A rule that faces both ways touches its trace once a segment, and offline needs none,
  in about the time of BPTT.
"""

_COLUMNS = (
    "rule",
    "facing",
    "influence or credit",
    "noise",
    "learned",
    "gradient",
    "floats of trace",
    "operations",
    "a synapse must know",
    "source",
)


def rules() -> list[type[AbstractRule]]:
    """The rules that the package exports with a card of their own, by place."""
    found = [
        value
        for name, value in vars(_rule).items()
        if isinstance(value, type) and issubclass(value, AbstractRule) and value.__name__ == name
    ]
    return sorted(
        (rule for rule in found if "card" in vars(rule)), key=lambda rule: rule.card.place
    )


def cards() -> dict[str, Card]:
    """The card of each rule, by the name of its class."""
    return {rule.__name__: rule.card for rule in rules()}


def taxonomy() -> str:
    """The rules side by side, a table in Markdown."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    rows += [_row(name, card) for name, card in cards().items()]
    return "\n".join([_HEAD, *(f"| {' | '.join(row)} |" for row in rows)])


def _row(name: str, card: Card) -> tuple[str, ...]:
    trace = f"`{card.memory}`"
    if card.leaky is not None:
        trace += f"; `{card.leaky}` on `LeakyCell`"
    if card.shared != "0":
        trace += f"; shared `{card.shared}`"
    return (
        f"`{name}`" if card.called is None else f"`{name}`: {card.called}",
        card.facing,
        card.structure,
        "yes" if card.stochastic else "no",
        "yes" if card.learned else "no",
        f"{card.bias}: {card.when}",
        trace,
        f"`{card.time}`",
        card.synapse,
        card.source,
    )
