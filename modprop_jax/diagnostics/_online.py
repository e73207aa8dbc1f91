"""How the gradients of many rules compare, step by step, while one of them trains the network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _arguments as arguments
from .._grad import online_value_and_grad, with_rule
from .._precision import widened
from .._rnn import layers
from .._rule import AbstractRule, BPTT, FutureBPTT
from .._rule._base import as_rule
from .._stream._model import bare
from .._tree import slice_time, stop
from ._pairs import cosine, named, norm, Rules


class OnlineAlignment(eqx.Module):
    """Agreement of the rules' gradients over a training run, block by block.

    `names` are the R rules in order, `steps` how many gradients of each a block compares. Of rule i
    with rule j: `cosine`, a mean over these steps; `weighted`, the same weighted by the product of
    both norms; `weight`, the mean of that product, all (blocks, R, R). `norm` of each rule's
    gradient, (blocks, R), and `loss` while learning, (blocks,). A zero gradient has cosine 0.

    Over several blocks: the mean of `cosine` by `steps`, that of `weighted` by `steps · weight`.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    steps: Int[Array, " blocks"]
    cosine: Float[Array, "blocks R R"]
    weighted: Float[Array, "blocks R R"]
    weight: Float[Array, "blocks R R"]
    norm: Float[Array, "blocks R"]
    loss: Float[Array, " blocks"]


def online_alignment(
    segment_loss: Callable[..., tuple[Any, PyTree]],
    model: PyTree,
    xs: PyTree,
    ys: PyTree,
    *,
    init: Callable[[Any, PRNGKeyArray], PyTree],
    rules: Rules,
    learner: str | AbstractRule,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    blocks: int = 1,
) -> tuple[PyTree, OnlineAlignment]:
    r"""Train online under one rule, with any number of others running beside it.

    At each time step every rule gives its gradient of the recurrent layers, at the same weights and
    from a trace of its own; the optimizer steps by the learner's. What is measured are cosines of
    these single-step gradients, rule with rule.

    **Arguments:**

    - `segment_loss`: as in `online_value_and_grad`.
    - `model`, `xs`, `ys`: the model, and the stream, pytrees of (T, ...) arrays.
    - `init(model, key)`: a carry of no past, such as
        `lambda model, key: model.rnn.init(batch_shape, key=key)`.
    - `rules`: name -> rule, or a sequence of rules; what is compared.
    - `learner`: the name of the one of them that trains the model, by `optimizer`; or a rule beside
        them, which is not compared.
    - `blocks`: the stream is divided into so many parts, as even as can be, with means of each.

    **Returns:** the trained model, under the learner, and an `OnlineAlignment`.

    `FutureBPTT(h)` is future-facing: the credit of a step is known h - 1 steps later. Its gradient
    of a step is compared with what the other rules gave at that same step: their gradients wait.
    Each of the last h steps is run again for this, at the weights of now. With a lag of h - 1 for
    the largest h, T - lag gradients are compared; the first lag steps of the stream learn, too.

    Runs under `jit` and `vmap`. Cost: one streamed gradient a rule, for `FutureBPTT` that of h
    steps; memory of lag + 1 gradients a rule.

    **Errors:** ValueError for no rules, an unknown learner, or T too short for blocks and lag.

    Source: the alignment study of Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """
    study = make_study(segment_loss, init, rules, learner, optimizer)
    arguments.sequences(xs=xs, ys=ys)
    key, blocks = arguments.key("key", key), arguments.size("blocks", blocks)
    bounds = study.bounds(jax.tree.leaves(xs)[0].shape[0], blocks)
    arrays, static = eqx.partition(study.start(model, key), eqx.is_array)

    def block(arrays, bounds):
        running, found = study.advance(eqx.combine(arrays, static), xs, ys, *bounds)
        return eqx.filter(running, eqx.is_array), found

    arrays, found = lax.scan(block, arrays, jnp.asarray(bounds))
    return eqx.combine(arrays, static).model, OnlineAlignment(study.names, *found)


class Running(NamedTuple):
    """A study between two time steps."""

    model: PyTree
    """Under the learner."""
    opt_state: PyTree
    carries: tuple[PyTree, ...]
    """Of the rules that stream: the learner's, then the others'."""
    states: PyTree
    """What each of the last lag + 1 steps started from, step t in row t mod lag + 1; ..."""
    gradients: Float[Array, "streams lag P"]
    """... and what the rules that stream gave at it."""


class Block(NamedTuple):
    """Means over some steps; the fields of `OnlineAlignment`."""

    steps: Int[Array, ""]
    cosine: Float[Array, "R R"]
    weighted: Float[Array, "R R"]
    weight: Float[Array, "R R"]
    norm: Float[Array, " R"]
    loss: Float[Array, ""]


class Study(eqx.Module):
    """What `online_alignment` does from step to step.

    `streams` are the rules that stream, the learner first. `sources` has, for each name, the index
    of its rule there; of a `FutureBPTT`, which looks ahead instead, the rule itself.
    """

    segment_loss: Callable = eqx.field(static=True)
    init: Callable = eqx.field(static=True)
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    streams: tuple[AbstractRule, ...]
    sources: tuple[int | FutureBPTT, ...] = eqx.field(static=True)

    @property
    def lag(self) -> int:
        """Steps until the gradient of a step is known under every rule."""
        horizons = [source.horizon for source in self.sources if isinstance(source, FutureBPTT)]
        return max(horizons, default=1) - 1

    def bounds(self, total: int, blocks: int) -> list[tuple[int, int]]:
        """Where blocks begin and end, for `advance`; the first one takes the lag in addition."""
        compared = total - self.lag
        if not 1 <= blocks <= compared:
            raise ValueError(
                f"The stream has {total} steps, too few for {blocks} blocks after a lag of "
                f"{self.lag} steps: make it longer, or take fewer blocks."
            )
        ends = [self.lag + compared * (b + 1) // blocks for b in range(blocks)]
        return list(zip([0, *ends], ends))

    def start(self, model: PyTree, key: PRNGKeyArray) -> Running:
        """Before the first step."""
        keys = jax.random.split(key, len(self.streams))
        under = [with_rule(model, rule) for rule in self.streams]
        carries = tuple(self.init(each, k) for each, k in zip(under, keys, strict=True))
        params = eqx.filter(under[0], eqx.is_inexact_array)
        rows = self.lag + 1
        states = jax.tree.map(lambda a: jnp.zeros((rows, *a.shape), a.dtype), bare(carries[0]))
        size = flat(params)
        gradients = jnp.zeros((len(carries), rows, len(size)), size.dtype)
        return Running(under[0], self.optimizer.init(params), carries, states, gradients)

    def advance(
        self,
        running: Running,
        xs: PyTree,
        ys: PyTree,
        first: Int[ArrayLike, ""],
        last: Int[ArrayLike, ""],
    ) -> tuple[Running, Block]:
        """Steps `first` to `last` - 1 of the stream, integers that may be traced."""
        arrays, static = eqx.partition(running, eqx.is_array)
        dtype, count = running.gradients.dtype, len(self.names)
        pairs = jnp.zeros((count, count), dtype)
        sums = pairs, pairs, pairs, jnp.zeros(count, dtype), jnp.zeros((), dtype)

        def body(t, so_far):
            arrays, sums = so_far
            running, rows, loss = self._step(eqx.combine(arrays, static), xs, ys, t)
            each = jax.vmap(jax.vmap(cosine, (None, 0)), (0, None))(rows, rows)
            lengths = jax.vmap(norm)(rows)
            weight = jnp.outer(lengths, lengths)
            fresh = each, each * weight, weight, lengths, loss.astype(dtype)
            # a dynamic number of steps, so that the first block shares the others' compiled code
            sums = jax.tree.map(lambda s, new: s + jnp.where(t < self.lag, 0, new), sums, fresh)
            return eqx.filter(running, eqx.is_array), sums

        arrays, sums = lax.fori_loop(first, last, body, (arrays, sums))
        each, products, weight, lengths, loss = sums
        steps = jnp.asarray(last - jnp.maximum(first, self.lag))
        n, weighted = steps.astype(dtype), products / jnp.where(weight > 0, weight, 1)
        block = Block(steps, each / n, weighted, weight / n, lengths / n, loss / n)
        return eqx.combine(arrays, static), block

    def _step(
        self, running: Running, xs: PyTree, ys: PyTree, t: Array
    ) -> tuple[Running, Float[Array, "R P"], Array]:
        """One step: the gradients of the step `lag` steps ago, and the loss."""
        model, opt_state, carries, states, gradients = running
        gradient = online_value_and_grad(self.segment_loss, segment=1)
        seen, rows = slice_time((xs, ys), t, 1), self.lag + 1
        now, then = t % rows, (t + 1) % rows
        states = jax.tree.map(lambda all, a: all.at[now].set(a), states, bare(carries[0]))
        found = [
            gradient(with_rule(model, rule), carry, *seen)
            for rule, carry in zip(self.streams, carries, strict=True)
        ]
        fresh = jnp.stack([flat(grads) for _, grads in found])
        gradients = gradients.at[:, now].set(fresh)
        begin = jax.tree.map(lambda a: a[then], states)

        def of(source: int | FutureBPTT):
            if isinstance(source, FutureBPTT):
                return self._ahead(model, source.horizon, begin, xs, ys, t - self.lag)
            return gradients[source, then]

        compared = jnp.stack([of(source) for source in self.sources])
        (loss, _), update = found[0]
        params = eqx.filter(model, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
            update, opt_state = self.optimizer.update(update, opt_state, params)
        model = eqx.apply_updates(model, update)
        carries = tuple(carry for (_, carry), _ in found)
        return Running(model, opt_state, carries, states, gradients), compared, loss

    def _ahead(
        self, model: PyTree, horizon: int, begin: PyTree, xs: PyTree, ys: PyTree, t: Array
    ) -> Float[Array, " P"]:
        """Gradient of step t from the state `begin`, by its own and the next h - 1 losses."""

        def total(model):
            exact = with_rule(model, BPTT())
            loss, carry = self.segment_loss(exact, begin, *slice_time((xs, ys), t, 1))
            if horizon > 1:
                later = slice_time((xs, ys), t + 1, horizon - 1)
                more, _ = self.segment_loss(stop(exact), carry, *later)
                loss = loss + more
            return loss

        return flat(eqx.filter_grad(total)(model))


def make_study(
    segment_loss: Callable[..., tuple[Any, PyTree]],
    init: Callable[[Any, PRNGKeyArray], PyTree],
    rules: Rules,
    learner: str | AbstractRule,
    optimizer: optax.GradientTransformation,
) -> Study:
    """A study of these rules; arguments as in `online_alignment`."""
    arguments.function("segment_loss", segment_loss, "(model, carry, xs, ys) -> (loss, carry)")
    arguments.function("init", init, "init(model, key) -> carry")
    optimizer = arguments.transformation("optimizer", optimizer)
    names, compared = named(rules)
    if not isinstance(learner, str):
        as_rule("learner", learner)
    if isinstance(learner, str) and learner not in names:
        raise ValueError(
            f"learner {learner!r} is none of the rules ({', '.join(names)}): name one of them, or "
            "pass a rule."
        )
    streams = [compared[names.index(learner)] if isinstance(learner, str) else learner]
    sources: list[int | FutureBPTT] = []
    for name, rule in zip(names, compared, strict=True):
        if isinstance(rule, FutureBPTT):
            sources.append(rule)
        elif name == learner:
            sources.append(0)
        else:
            sources.append(len(streams))
            streams.append(rule)
    return Study(segment_loss, init, optimizer, names, tuple(streams), tuple(sources))


def flat(grads: PyTree) -> Float[Array, " P"]:
    """The gradient of the recurrent layers; half precision is compared in float32."""
    leaves = [leaf for layer in layers(grads) for leaf in jax.tree.leaves(layer)]
    return jnp.concatenate([widened(leaf).ravel() for leaf in leaves])
