"""How credit is written down: the terms that rules, traces and the segment primitive share."""

from typing import NamedTuple

from jaxtyping import Array, PyTree

from ._inputs import features, Inputs


class Credit(NamedTuple):
    """What reaches the end of a step from later steps; linear in the loss's cotangents.

    `state`: credit on the state, shaped as its differentiable leaves. `modulator`: whatever else
    the rule transports (ModProp: the type-summed credit), else `()`. `memory`: credit on the memory
    of a `Filtered` emission, else `()`. `start`: the sum of what has come to the starts of
    sequences that begin on the way, shaped as `state`, where it is asked for; else `()`.
    """

    state: PyTree
    modulator: PyTree = ()
    memory: PyTree = ()
    start: PyTree = ()


class Flags(NamedTuple):
    """What is not the rule at a step, a boolean an example: (*batch), or (T, *batch) of all steps.

    `fresh`: a sequence begins, the step starts from the initial state. `keep`: the step takes
    place; else the state stays as it is.
    """

    fresh: Array
    keep: Array


class Point(NamedTuple):
    """Where a step is linearised: the state before it, its input and its drive (else None).

    `observed`: what the rule made of the steps before it (`AbstractObserver`), else `()`.
    """

    before: PyTree
    inputs: Array | Inputs
    drive: PyTree
    observed: PyTree = ()
    flags: Flags | None = None

    @property
    def x(self) -> Array:
        """The input, without what is added to the drive."""
        return features(self.inputs)


class Back(NamedTuple):
    """One step back.

    `total`: credit on the state after the step, with which its parameters are charged, or None;
    `credit`: on the state before it; `message`: on the message sent, or None.
    """

    total: PyTree
    credit: Credit
    message: PyTree


class Record(NamedTuple):
    """A segment as it ran: the state before it, the states and drives (else None), the inputs.

    `observed`: for each step, what the rule made of the steps before it, else `()`. `start`: the
    state that sequences inside begin with, if it depends on parameters; None: `cell.init`.
    """

    before: PyTree
    states: PyTree
    drives: PyTree
    inputs: Array | Inputs
    observed: PyTree = ()
    flags: Flags | None = None
    start: PyTree = None

    @property
    def xs(self) -> Array:
        """The inputs, without what is added to the drive."""
        return features(self.inputs)
