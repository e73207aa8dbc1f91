"""The gradients to measure: each rule in each mode, and what one compares them with."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from ..._grad import checkpointed_value_and_grad, online_value_and_grad, value_and_grad
from ..._rnn import RNN
from .._names import known
from .._rules import build_rule
from . import _peers
from ._networks import NETWORKS
from ._problem import (
    checkpoint_segment,
    Gradient,
    plain_scan,
    Problem,
    Program,
    squared_error,
    types,
)


# Matmuls of (batch, n) by (n, n + m + 1) that a step needs at the least: forward, weight gradient
# and, for rules that send credit through the recurrent weights, their transpose. Options as in
# `modprop-jax compare --rules`. None: of cells that no such matmul leads. Add a rule here.
RULES: dict[str, int | None] = {
    "bptt": 3,
    "rtrl": 3,
    "eprop": 2,
    "mdgl": 3,
    "mdgl_cell": 3,
    "modprop": 2,
    "modprop_cell": 3,
    "snap1": 2,
    "diagonal_rtrl": None,
    "gle": None,
}
EXACT = ("bptt", "rtrl", "diagonal_rtrl")
MU = 0.25

MODES = ("offline", "segment=1", "segment=50", "checkpointed")
YARDSTICK = "plain", "offline"


def names() -> tuple[str, ...]:
    """What `--rules` may name."""
    return *RULES, *_peers.PEERS


def programs(
    network: str,
    rules: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    devices: Sequence[int] = (1,),
) -> list[Program]:
    """The programs of these rules in these modes on so many devices, the yardstick first.

    None: those of the network.

    **Raises:** `ValueError` for an unknown network, rule, option or mode.
    """
    default = NETWORKS[known("network", network, NETWORKS)]
    given = default.rules if rules is None else rules
    offline = default.offline if rules is None else ()
    for rule in (*given, *offline):
        known("rule", rule.partition(":")[0], names())
    for rule in _ours((*given, *offline)):
        _rule(rule, _SMALL)  # its options
    if rules is not None:
        cell = default.cell(_SMALL, jr.key(0))
        for rule in _ours(rules):
            _rule(rule, _SMALL).check(cell)
    found = [Program(*YARDSTICK, 3, _plain)]
    for mode in default.modes if modes is None else modes:
        kind, _, length = mode.partition("=")
        if kind == "segment" and length.isdigit() and int(length) > 0:
            found += [_streamed(rule, mode, int(length)) for rule in _ours(given)]
            found += _peers.programs(given, network, mode, int(length))
        elif known("mode", mode, MODES) == "offline":
            found += [Program("forward", mode, 1, _forward)]
            # without segments RTRL is BPTT
            found += [_offline(rule) for rule in _ours((*given, *offline)) if rule != "rtrl"]
            found += _peers.programs(given, network, mode)
        else:
            found += [Program("plain", mode, 3, _plain_checkpointed, YARDSTICK)]
            found += [Program("bptt", mode, 3, _checkpointed, YARDSTICK)] * ("bptt" in given)
    return found + [split for count in devices if count > 1 for split in _split(found, count)]


def _split(found: Sequence[Program], devices: int) -> list[Program]:
    """Those of this package and plain JAX, with the batch split over devices."""
    return [
        dataclasses.replace(
            program,
            mode=f"{program.mode}, {devices} devices{', sharded' * sharded}",
            same_as=None if program.name == "forward" else program.key,
            devices=devices,
            sharded=sharded,
        )
        for program in found
        for sharded in (False, True)
        if program.name not in _peers.PEERS
    ]


def _ours(rules: Sequence[str]) -> list[str]:
    return [rule for rule in rules if rule not in _peers.PEERS]


# neurons of a network that only shows whether a rule is one for it
_SMALL = 5


def _rule(text: str, n: int) -> Any:
    return build_rule(text, types(n), mu=MU)


def _plain(problem: Problem) -> Callable:
    @eqx.filter_value_and_grad
    def gradient(model, xs, ys):
        cell, readout = model
        _, zs = plain_scan(cell, cell.init(xs.shape[1:-1]), xs)
        return squared_error(readout(zs), ys, len(xs))

    return _as_gradient(gradient)


def _plain_checkpointed(problem: Problem) -> Callable:
    segment = checkpoint_segment(len(problem.xs))

    @eqx.filter_value_and_grad
    def gradient(model, xs, ys):
        cell, readout = model

        @jax.checkpoint
        def one(state, seen):
            xs_seen, ys_seen = seen
            state, zs = plain_scan(cell, state, xs_seen)
            return state, squared_error(readout(zs), ys_seen, len(xs))

        seen = jax.tree.map(lambda a: a.reshape(-1, segment, *a.shape[1:]), (xs, ys))
        _, losses = lax.scan(one, cell.init(xs.shape[1:-1]), seen)
        return jnp.sum(losses)

    return _as_gradient(gradient)


def _forward(problem: Problem) -> Callable:
    def run(model, xs, ys):
        cell, readout = model
        _, zs = plain_scan(cell, cell.init(xs.shape[1:-1]), xs)
        return squared_error(readout(zs), ys, len(xs)), None

    return run


def _offline(text: str) -> Program:
    def loss(model, xs, ys):
        rnn, readout = model
        return squared_error(readout(rnn(xs)), ys, len(xs))

    def build(problem):
        rule = _rule(text, problem.size.n)
        gradient = value_and_grad(loss)

        def run(model, xs, ys):
            value, (rnn, readout) = gradient((RNN(model[0], rule=rule), model[1]), xs, ys)
            return value, Gradient.of(rnn.cell, readout)

        return run

    name = text.partition(":")[0]
    return Program(text, "offline", RULES[name], build, YARDSTICK if name in EXACT else None)


def _segment_loss(model, carry, xs, ys, *, steps: int):
    rnn, readout = model
    carry, zs = rnn(xs, carry)
    return squared_error(readout(zs), ys, steps), carry


def _streamed(text: str, mode: str, segment: int) -> Program:
    def build(problem):
        rule = _rule(text, problem.size.n)
        loss = functools.partial(_segment_loss, steps=len(problem.xs))
        gradient = online_value_and_grad(loss, segment=segment)

        def run(model, xs, ys):
            rnn = RNN(model[0], rule=rule)
            (value, _), (rnn, readout) = gradient((rnn, model[1]), rnn.init(xs.shape[1:-1]), xs, ys)
            return value, Gradient.of(rnn.cell, readout)

        return run

    name = text.partition(":")[0]
    # BPTT keeps no trace: streamed it is truncated, and equals nothing else here
    same = {"bptt": None, "rtrl": YARDSTICK}.get(name, (text, "offline"))
    return Program(text, mode, RULES[name], build, same, segment)


def _checkpointed(problem: Problem) -> Callable:
    steps = len(problem.xs)
    loss = functools.partial(_segment_loss, steps=steps)
    gradient = checkpointed_value_and_grad(loss, segment=checkpoint_segment(steps))

    def run(model, xs, ys):
        rnn = RNN(model[0])
        (value, _), (rnn, readout) = gradient(
            (rnn, model[1]), rnn.cell.init(xs.shape[1:-1]), xs, ys
        )
        return value, Gradient.of(rnn.cell, readout)

    return run


def _as_gradient(gradient: Callable) -> Callable:
    def run(model, xs, ys):
        value, found = gradient(model, xs, ys)
        return value, Gradient.of(*found)

    return run
