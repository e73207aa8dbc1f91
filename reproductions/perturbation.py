"""The variance of gradients by noise, by the number of neurons and of steps.

python reproductions/perturbation.py > docs/results/perturbation.md
"""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import modprop_jax as mpj


NETWORKS, DRAWS, INPUTS, OUTPUTS, SIGMA = 3, 400, 4, 2, 0.001
SETTINGS = [(16, 10), (16, 40), (16, 160), (32, 40), (64, 40)]
RULES = {
    "ForwardGradient": mpj.ForwardGradient(),
    "NodePerturbation": mpj.NodePerturbation(),
    "UORO": mpj.UORO(),
    "RKFRTRL": mpj.RKFRTRL(),
    "KFRTRL": mpj.KFRTRL(),
}
KINDS = {"weight, two runs": "weight", "node, two runs": "node", "activity, two runs": "activity"}

INTRODUCTION = f"""# The variance of perturbation

Output of `python reproductions/perturbation.py > docs/results/perturbation.md` (CPU).

How noisy is a gradient by noise? The variance of one draw, \\( E |g - E g|^2 / |\\nabla|^2 \\),
over {DRAWS} draws of noise ±1, of all parameters of a `RateCell` of n neurons (alpha 0.5, tanh,
{INPUTS} inputs, as it is made) that is read out by fixed random weights; one sequence of T steps of
normal inputs, and the squared error to normal targets at every step. Median of {NETWORKS} networks;
float64. The mean over k draws (`probes=k`, or a batch) has 1/k of it.

- Rules, which take derivatives forward in time: [`modprop_jax.ForwardGradient`][],
  [`modprop_jax.NodePerturbation`][], and the unbiased rules [`modprop_jax.UORO`][],
  [`modprop_jax.RKFRTRL`][] and [`modprop_jax.KFRTRL`][].
- By a second run of the loss, [`modprop_jax.perturbed_value_and_grad`][] with σ = {SIGMA}.
- "formula": \\( P - 1 \\) for P parameters, exact for the forward gradient; and
  \\( (n \\Lambda A + |\\nabla|^2 - 2 \\sum_t |\\lambda_t|^2 |\\hat a_t|^2) / |\\nabla|^2 \\) for
  nodes, exact as σ goes to 0.
"""

SIZES = """
The size of the noise, n = 16 and T = 10, in one run more and in two (`antithetic=True`):
"""

READING = """
The variance of a random direction in weight space is the number of parameters, whatever T. That of
noise on neurons does not know the number of synapses, and grows with neurons and with steps. The
rule has about half of it, .36 to .60 here, as it does not pair noise with errors before it. That of
UORO, whose two factors are balanced, does not grow with T here, and that of KF-RTRL stays near 2.

Two runs have the variance of the formulas, to the sampling error of {draws} draws; the size of the
noise hardly matters here. Where a readout trains too, it is perturbed in the same runs, and its own
noise comes on top for the neurons, and that of the neurons for it.

"activity" divides by the size of what happened, not by that of the noise, and its mean is not the
gradient: over all noise of a network of two neurons it has cosine 0.96 with it, as
`tests/test_perturbed.py` computes. The published comparison of activity-based perturbation with
BPTT (arXiv 2405.08967) pairs each step's loss with that step's noise, so that the mean is the
instantaneous part of the gradient, without credit through time.
"""


class Network(eqx.Module):
    """Neurons that are read out by fixed weights, those of a seed."""

    rnn: mpj.RNN
    seed: int = eqx.field(static=True)

    def loss(self, zs: Any, ys: Any) -> Any:
        """Squared error."""
        shape = OUTPUTS, zs.shape[-1]
        readout = np.random.default_rng(self.seed).normal(size=shape) / np.sqrt(shape[1])
        return 0.5 * jnp.sum((zs @ jnp.asarray(readout).T - ys) ** 2)


def network(n: int, seed: int) -> Network:
    """As the cell makes it, with a bias."""
    return Network(mpj.RNN(mpj.RateCell(INPUTS, n, alpha=0.5, key=jr.key(seed))), seed)


def data(steps: int, seed: int) -> tuple[Any, Any]:
    """Inputs and targets of one sequence."""
    rng = np.random.default_rng(100 + seed)
    xs = rng.normal(size=(steps, INPUTS))
    return jnp.asarray(xs), jnp.asarray(rng.normal(size=(steps, OUTPUTS)))


def by_rule(model: Network, rule: Any, xs: Any, ys: Any) -> float:
    """By `gradient_spread`."""

    def segment_loss(model, carry, xs, ys):
        carry, zs = model.rnn(xs, carry)
        return model.loss(zs, ys), carry

    spread = jax.jit(
        lambda key: (
            mpj.gradient_spread(
                segment_loss,
                model,
                xs,
                ys,
                init=lambda model, key: model.rnn.init((), key=key),
                rule=rule,
                key=key,
                draws=DRAWS,
                reference=mpj.BPTT(),
            ).variance
        )
    )
    return float(spread(jr.key(0)))


def by_runs(
    model: Network,
    kind: Any,
    xs: Any,
    ys: Any,
    exact: Any,
    sigma: float = SIGMA,
    both: bool = False,
) -> float:
    """By further runs of the loss."""

    @jax.jit
    def spread(keys):
        def one(key):
            found = mpj.perturbed_value_and_grad(loss, kind, key=key, sigma=sigma, antithetic=both)
            return flat(found(model, xs, ys)[1])

        each = jax.vmap(one)(keys)
        return jnp.sum((each - each.mean(0)[None]) ** 2) / (len(keys) - 1) / jnp.sum(exact**2)

    return float(spread(jr.split(jr.key(1), DRAWS)))


def loss(model: Network, xs: Any, ys: Any) -> Any:
    """Offline."""
    return model.loss(model.rnn(xs), ys)


def flat(gradients: Any) -> Any:
    """Of the cell, as one vector."""
    return jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(gradients.rnn.cell)])


def formula(model: Network, xs: Any, ys: Any, exact: Any) -> float:
    """Of node perturbation without causality."""
    zs = model.rnn(xs)
    drive = jnp.zeros_like(zs)
    credit = jax.grad(lambda d: model.loss(model.rnn(xs, drive=d), ys))(drive)
    before = jnp.concatenate([jnp.zeros_like(zs[:1]), zs[:-1]])
    seen = jnp.sum(before**2, 1) + jnp.sum(xs**2, 1) + 1
    square, received = jnp.sum(exact**2), jnp.sum(credit**2, 1)
    whole = drive.shape[1] * received.sum() * seen.sum() + square - 2 * jnp.sum(received * seen)
    return float(whole / square)


def variances(n: int, steps: int, seed: int) -> list[float]:
    """Of one network: the formulas, rules and kinds."""
    model, (xs, ys) = network(n, seed), data(steps, seed)
    exact = flat(mpj.value_and_grad(loss)(model, xs, ys)[1])
    return [
        exact.size - 1,
        formula(model, xs, ys, exact),
        *(by_rule(model, rule, xs, ys) for rule in RULES.values()),
        *(by_runs(model, kind, xs, ys, exact) for kind in KINDS.values()),
    ]


def of_size(sigma: float, seed: int) -> list[float]:
    """Of weights and nodes, one-sided and antithetic, of a network of the first setting."""
    n, steps = SETTINGS[0]
    model, (xs, ys) = network(n, seed), data(steps, seed)
    exact = flat(mpj.value_and_grad(loss)(model, xs, ys)[1])
    pairs = itertools.product(("weight", "node"), (False, True))
    return [by_runs(model, kind, xs, ys, exact, sigma, both) for kind, both in pairs]


def row(*entries: Any) -> str:
    """Of a table."""
    shown = [e if isinstance(e, str) else f"{e:,.0f}" if e >= 20 else f"{e:.1f}" for e in entries]
    return "| " + " | ".join(shown) + " |"


def main() -> None:
    """Print the page."""
    jax.config.update("jax_enable_x64", True)
    print(INTRODUCTION)
    titles = ["formula, forward", "formula, node", *RULES, *KINDS]
    print(row("n", "T", *titles) + "\n|---:|---:|" + "---:|" * len(titles))
    for n, steps in SETTINGS:
        found = np.median([variances(n, steps, seed) for seed in range(NETWORKS)], axis=0)
        print(row(str(n), str(steps), *found), flush=True)
    print(SIZES)
    print(row("σ", "weight", "weight, antithetic", "node", "node, antithetic"))
    print("|---:|" + "---:|" * 4)
    for sigma in (0.1, 0.01, 0.001):
        found = np.median([of_size(sigma, seed) for seed in range(NETWORKS)], axis=0)
        print(row(f"{sigma:g}", *found), flush=True)
    print(READING.format(draws=DRAWS), end="")


if __name__ == "__main__":
    main()
