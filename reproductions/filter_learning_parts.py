"""What `filter_learning` compares: the network, and where its rule comes from while it learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import modprop_jax as mpj
from modprop_jax.experiments._network import build_network, cell_types, dales_law, weights
from modprop_jax.tasks import TASKS


TASK = TASKS["delayed_xor"]
# T = 80
PRESET = TASK.presets["small"].replace(iterations=600)
SCHEDULE, OPTIMIZER = PRESET.schedule, PRESET.optimizer
EXCITATORY, N = 39, 48
RATES = np.exp(-1 / np.array([10.0, 100.0]))
# 1 = excitatory, 0 = inhibitory; and both in parts, by which answer the readout hears of them
TWO = cell_types(PRESET.network)
SIX = (*np.repeat([0, 1, 2, 3], [9, 10, 10, 10]).tolist(), *np.repeat([4, 5], [4, 5]).tolist())
TYPES = {2: TWO, 6: SIX}
EVERY = 20
LEARNING_RATES = (3e-3, 1e-2, 3e-2)
OTHERS = 2000


def loss(model: Any, xs: Any, ys: Any) -> Any:
    """Cross-entropy."""
    return TASK.loss(model(xs), ys)[0]


def batch(key: Any) -> Any:
    """Of training."""
    return TASK.batch(key, SCHEDULE.batch, **PRESET.data)


def network(key: Any) -> Any:
    """The preset's, excitatory and inhibitory neurons each in order of their part in the answer."""
    made: Any = build_network(TASK, PRESET, key)
    side = made.readout.weight[1] - made.readout.weight[0]
    first, last = jnp.argsort(side[:EXCITATORY]), jnp.argsort(side[EXCITATORY:])
    order = jnp.concatenate([first, EXCITATORY + last])
    cell = made.rnn.cell
    return eqx.tree_at(
        lambda m: (m.rnn.cell.weight_rec, m.rnn.cell.weight_in, m.readout.weight),
        made,
        (cell.weight_rec[order][:, order], cell.weight_in[order], made.readout.weight[:, order]),
    )


def filters(given: Any) -> mpj.TypeFilter:
    """Of weights (K, C, C)."""
    return mpj.TypeFilter((RATES, given), TYPES[given.shape[-1]])


def nothing(count: int = 2) -> Any:
    """The weights of no credit between neurons, of so many types."""
    return jnp.zeros((len(RATES), count, count))


def optimizer_of(rate: Any) -> optax.GradientTransformation:
    """As the preset's, at this rate; its derivative exists where a gradient is 0."""
    return optax.chain(
        optax.add_decayed_weights(PRESET.objective.l2, mask=weights),
        optax.scale_by_adam(eps_root=1e-16),
        optax.scale_by_learning_rate(
            lambda i: rate * OPTIMIZER.decay ** jnp.floor(i / OPTIMIZER.decay_every)
        ),
        *dales_law(PRESET.network, mpj.optim.dale),
    )


def step(parts: Any, static: Any, rule: Any, seen: Any, optimizer: Any) -> Any:
    """One iteration: (parameters, state of the optimizer)."""
    params, state = parts
    _, gradients = mpj.value_and_grad(loss, rule)(eqx.combine(params, static), *seen)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


class Learner(NamedTuple):
    """Where a network's rule comes from while it learns.

    `start(model, key)` makes what is kept, `update(kept, model, i, key, batch)` is called before
    each iteration, and `rule(kept)` is what it learns by.
    """

    start: Callable[..., Any]
    update: Callable[..., Any]
    rule: Callable[[Any], mpj.AbstractRule]


def constant(rule: mpj.AbstractRule) -> Learner:
    """One rule for all of learning."""
    return Learner(lambda *_: (), lambda kept, *_: kept, lambda _: rule)


def equations_of(model: Any, key: Any, count: int, types: int = 2) -> mpj.FilterEquations:
    """Of so many batches of their own."""

    def one(key):
        return mpj.filter_equations(loss, model, *batch(key), rule=filters(nothing(types)))

    return jax.tree.map(lambda a: a.sum(0), jax.lax.map(one, jr.split(key, count)))


def once(count: int = 8, ridge: float = 1e-3, types: int = 2) -> Learner:
    """Fitted at the initial weights."""

    def start(model, key):
        equations = equations_of(model, key, count, types)
        return mpj.refit(filters(nothing(types)), equations, ridge=ridge).filters[1]

    return Learner(start, lambda kept, *_: kept, filters)


def scheduled(every: int, count: int = 8, ridge: float = 1e-3, types: int = 2) -> Learner:
    """Fitted anew each `every` iterations, to batches of its own."""
    first = once(count, ridge, types)

    def update(kept, model, i, key, _):
        return jax.lax.cond(
            i % every == 0, lambda: first.start(model, key).astype(kept.dtype), lambda: kept
        )

    return Learner(lambda model, key: nothing(types), update, filters)


def running(decay: float, ridge: float, trust: float | None = None, every: int = 1) -> Learner:
    """By a running average of the normal equations of the training batches; with `trust` in steps,
    and the ridge towards the last filters."""

    def start(model, key):
        shapes = jax.eval_shape(lambda: equations_of(model, key, 1))
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), nothing()

    def update(kept, model, i, key, seen):
        def take():
            equations, last = kept
            rule = filters(last)
            new = mpj.filter_equations(loss, model, *seen, rule=rule)
            equations = equations.averaged(new, decay)
            towards = None if trust is None else rule
            rule = mpj.refit(rule, equations, ridge=ridge, towards=towards, trust=trust)
            return equations, rule.filters[1]

        return jax.lax.cond(i % every == 0, take, lambda: kept)

    return Learner(start, update, lambda kept: filters(kept[1]))


def of_other_networks(networks: int = 4) -> np.ndarray:
    """The filters that are best on average over networks that BPTT trains: each batch of gradients
    counts alike, at every `EVERY` iterations."""
    exact, rate = mpj.BPTT(), LEARNING_RATES[1]

    @jax.jit
    def one(key):
        make, learn, draw = jr.split(key, 3)
        params, static = eqx.partition(network(make), eqx.is_inexact_array)
        optimizer = optimizer_of(rate)

        def block(carry, first):
            parts, total = carry
            model = eqx.combine(parts[0], static)
            new = equations_of(model, jr.fold_in(draw, first), 1).products
            total = total + new / new[:, 0, 0].sum()

            def iteration(i, parts):
                return step(parts, static, exact, batch(jr.fold_in(learn, i)), optimizer)

            return (jax.lax.fori_loop(first, first + EVERY, iteration, parts), total), ()

        rows = 2 + 2 * len(RATES)
        start = (params, optimizer.init(params)), jnp.zeros((2, rows, rows))
        firsts = jnp.arange(0, SCHEDULE.iterations, EVERY)
        return jax.lax.scan(block, start, firsts)[0][1]

    total = sum(one(jr.key(OTHERS + seed)) for seed in range(networks))
    found = mpj.refit(filters(nothing()), mpj.FilterEquations(jnp.asarray(total)))
    return np.asarray(found.filters[1])


def meta_learnt(networks: int = 4, unroll: int = 10, passes: int = 4) -> np.ndarray:
    """Filters that learn well: what lowers the loss after `unroll` iterations by them.

    By Adam on the derivative through these iterations, of `networks` that go on from where they
    are, and begin anew with other weights after each of `passes`.
    """
    rate, outer = LEARNING_RATES[1], optax.adam(optax.exponential_decay(0.02, 100, 0.7))
    # so that 1 is about as much credit from a type as neurons have of their own
    scale = jnp.asarray((1 - RATES) / N)[:, None, None]

    def after(given, parts, static, first, learn, draw):
        """The loss of fresh batches after some iterations, and where these end."""
        optimizer = optimizer_of(rate)

        @jax.checkpoint
        def iteration(parts, i):
            seen = batch(jr.fold_in(learn, i))
            return step(parts, static, filters(scale * given), seen, optimizer), ()

        parts, _ = jax.lax.scan(iteration, parts, first + jnp.arange(unroll))
        return loss(eqx.combine(parts[0], static), *batch(draw)), parts

    @jax.jit
    def one_pass(given, state, key):
        def start(key):
            params, _ = eqx.partition(network(key), eqx.is_inexact_array)
            return params, optimizer_of(rate).init(params)

        static = eqx.partition(network(key), eqx.is_inexact_array)[1]
        make, learn, draw = (jr.split(k, networks) for k in jr.split(key, 3))
        parts = jax.lax.map(start, make)

        def meta_step(carry, first):
            given, state, parts = carry

            def one(args):
                parts, learn, draw = args
                taken = jax.value_and_grad(after, has_aux=True)
                (value, parts), slope = taken(
                    given, parts, static, first, learn, jr.fold_in(draw, first)
                )
                # late in learning losses and slopes are small: each counts relative to its loss
                return value, parts, slope / value

            values, parts, slopes = jax.lax.map(one, (parts, learn, draw))
            slope = jnp.where(jnp.isfinite(slopes), slopes, 0).mean(0)
            slope = slope / jnp.maximum(1, jnp.linalg.norm(slope))
            updates, state = outer.update(slope, state)
            return (optax.apply_updates(given, updates), state, parts), values.mean()

        firsts = jnp.arange(0, SCHEDULE.iterations, unroll)
        (given, state, _), values = jax.lax.scan(meta_step, (given, state, parts), firsts)
        return given, state, values

    given = nothing()
    state = outer.init(given)
    for number in range(passes):
        given, state, values = one_pass(given, state, jr.key(OTHERS + 100 + number))
        print(f"meta-learning, pass {number}: mean loss {float(values.mean()):.3f}", flush=True)
    return np.asarray(scale * given)


def learner(name: str, given: Any = None) -> Learner:
    """By its name; `given`: weights of filters that other networks have led to."""
    made = {
        "BPTT": lambda: constant(mpj.BPTT()),
        "e-prop": lambda: constant(mpj.EProp()),
        "MDGL": lambda: constant(mpj.MDGL(TWO)),
        "ModProp, μ = 0.25": lambda: constant(mpj.ModProp(0.25, TWO)),
        "ModProp, μ measured": lambda: constant(mpj.ModProp("auto", TWO)),
        "fitted at the start": once,
        "refitted each 100": lambda: scheduled(100),
        "refitted each 20": lambda: scheduled(20),
        "refitted each 20, six types": lambda: scheduled(20, count=4, types=6),
        "running average": lambda: running(0.95, 1e-3, every=2),
        "running average, trust": lambda: running(0.95, 1e-2, 0.05, every=2),
    }
    return made[name]() if name in made else constant(filters(given))


FROM_OTHERS = {"of other networks": of_other_networks, "meta-learnt": meta_learnt}
METHODS = (
    "BPTT", "e-prop", "MDGL", "ModProp, μ = 0.25", "ModProp, μ measured", "fitted at the start",
    "refitted each 100", "refitted each 20", "refitted each 20, six types", "running average",
    "running average, trust", "of other networks", "meta-learnt",
)  # fmt: skip
