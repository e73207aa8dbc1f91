"""What a rule is, as plain data: its place in the taxonomy, its bias, its cost, its names."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple


LAST = 10_000
"""Of what has no place of its own."""


def _with_options(rule: type, types: tuple[int, ...], **options: float | int | str) -> Any:
    return rule(**options)


class Named(NamedTuple):
    """A rule as experiments and the command line know it: `"future_bptt:horizon=5"`.

    - `options`: the numbers that may come with the name, int for counts.
    - `build`: `build(rule, types, **options)` makes it, `rule` being its class and `types` the cell
        type of each neuron. By default the options are the rule's own arguments.
    - `online`: it learns on a stream only (`Schedule.segment`).
    - `settings`: what it replaces in every preset, by name.
    - `place`: names are listed in this order.
    """

    name: str
    description: str
    options: Mapping[str, type] = {}
    build: Callable[..., Any] = _with_options
    online: bool = False
    settings: Mapping[str, Any] = {}
    place: int = LAST


class Card(NamedTuple):
    """A rule's entry in the taxonomy; `cards` has those of all rules, `taxonomy` is their table.

    Formulas are Python expressions in n (neurons), m (inputs), h (horizon), C (cell types; n where
    every neuron is its own), K (exponentials of a filter, `TypeFilter`), k (labels) and r (neurons
    that a weight reaches, `SnAp`, or columns of a sketch, `SKRTRL`), for neurons of one state
    variable with a bias, such as `RateCell`; on other cells a trace may hold that much for each
    variable. Indices: s a state variable, i and j the neurons that a weight goes to and comes from.

    - `facing`: "past": the influence of parameters on the state is carried forward, to meet each
        error as it comes; "future": each step gets (an estimate of) the credit of errors to come;
        "both": one linear transport, evaluated forward or backward with the same result.
    - `structure`: what stands for the influence M_sij or for the credit λ_i.
    - `stochastic`: whether it draws noise at every step.
    - `learned`: whether it learns something on the way, in place of a closed form.
    - `bias`: of the summed gradient at fixed weights, for one recurrent layer; `when` says for
        which runs this holds, and where a biased rule is exact.
    - `memory`: floats of trace that each example (and probe) takes, the states of a segment aside.
    - `time`: operations of a step of one example, with the forward pass and streamed step by step,
        up to a constant.
    - `synapse`: what a synapse must know.
    - `source`: of the rule, or of the form that it has here.
    - `called`: its names in the field, such as "KF-RTRL".
    - `credit`: what credit it delivers, in words.
    - `use`: what to take it for.
    - `papers`: what `cite` prints: keys of the package's entries, or BibTeX entries.
    - `shared`: floats of trace that all examples share, next to the states of optimizers.
    - `leaky`: `memory` on a `LeakyCell` of one tau (with types), where it is less.
    - `place`: rules are listed in this order.
    - `names`: what experiments call it, and ways to build it.
    """

    facing: Literal["past", "future", "both", "neither"]
    structure: str
    bias: Literal["exact", "unbiased", "biased"]
    when: str
    memory: str
    time: str
    synapse: str
    source: str
    called: str | None = None
    credit: str | None = None
    use: str | None = None
    papers: tuple[str, ...] = ()
    stochastic: bool = False
    learned: bool = False
    shared: str = "0"
    leaky: str | None = None
    place: int = LAST
    names: tuple[Named, ...] = ()
