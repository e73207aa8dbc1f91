"""How the gradient of `QuasiStatic` is aligned with BPTT's, by the speed of inputs and recurrence.

python reproductions/quasi_static.py
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import modprop_jax as mpj


SEEDS, BATCH, STEPS, TAU = 3, 8, 400, 10.0
INPUTS, NEURONS, OUTPUTS = 4, 40, 2
# spectral radius, and correlation time of the inputs in units of the neurons' time constant
SETTINGS = [(radius, correlation) for radius in (0.5, 0.9, 1.2) for correlation in (0.3, 10.0)]
RULES = {
    "e-prop": mpj.EProp(),
    "1 sweep": mpj.QuasiStatic(sweeps=1),
    "solution": mpj.QuasiStatic(),
    "ridge 0.1": mpj.QuasiStatic(ridge=0.1),
}

INTRODUCTION = f"""Output of `python reproductions/quasi_static.py` (30 seconds). Mean cosine with
the gradient of BPTT, of all parameters of {NEURONS} leaky tanh neurons without autapses; {SEEDS}
students, each with a teacher and inputs of its own. Weights are normal: the recurrent ones scaled
to the spectral radius ("radius"), the others of variance 1 / presynaptic units; no biases. Inputs:
{INPUTS} Ornstein-Uhlenbeck processes of variance 1 ("inputs": their correlation time in units of
the neurons' time constant, {TAU:.0f} steps). Loss: the squared error of {OUTPUTS} outputs by fixed
weights, over {STEPS} steps from rest; {BATCH} examples, float64.
"""


def network(radius: float, key: Any) -> tuple[mpj.RNN, Any]:
    """Neurons and output weights."""
    rec_key, in_key, out_key = jr.split(key, 3)
    weight = jr.normal(rec_key, (NEURONS, NEURONS)) * (1 - jnp.eye(NEURONS))
    weight = weight * (radius / np.abs(np.linalg.eigvals(weight)).max())
    cell = mpj.LeakyCell(INPUTS, NEURONS, tau=TAU, activation=jnp.tanh, key=key)
    weight_in = jr.normal(in_key, (NEURONS, INPUTS)) / np.sqrt(INPUTS)
    cell = eqx.tree_at(lambda c: (c.weight_rec, c.weight_in), cell, (weight, weight_in))
    return mpj.RNN(cell), jr.normal(out_key, (OUTPUTS, NEURONS)) / np.sqrt(NEURONS)


def inputs(correlation: float, key: Any) -> Any:
    """Stationary from the start, (T, batch, INPUTS)."""
    keep = np.exp(-1 / (correlation * TAU))
    noise = jr.normal(key, (STEPS, BATCH, INPUTS))

    def step(x, drawn):
        x = keep * x + np.sqrt(1 - keep**2) * drawn
        return x, x

    return jax.lax.scan(step, noise[0], noise)[1]


@eqx.filter_jit
def gradient(rule: mpj.AbstractRule, student: Any, teacher: Any, xs: Any) -> Any:
    """Of the student's neurons, as one vector."""
    (rnn, weight), (other, other_weight) = student, teacher
    ys = other(xs) @ other_weight.T

    def loss(rnn):
        return 0.5 * jnp.sum((rnn(xs) @ weight.T - ys) ** 2)

    _, grads = mpj.value_and_grad(loss, rule)(rnn)
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(grads.cell)])


def cosines(radius: float, correlation: float) -> list[float]:
    """Of each rule, a mean over students."""
    found = []
    for key in jr.split(jr.key(0), SEEDS):
        student_key, teacher_key, inputs_key = jr.split(key, 3)
        parts = network(radius, student_key), network(radius, teacher_key)
        xs = inputs(correlation, inputs_key)
        exact, *others = (gradient(rule, *parts, xs) for rule in (mpj.BPTT(), *RULES.values()))
        found.append([float(unit(each) @ unit(exact)) for each in others])
    return np.mean(found, axis=0).tolist()


def unit(vector: Any) -> Any:
    """Of length 1."""
    return vector / jnp.linalg.norm(vector)


def main() -> None:
    """Print the table as Markdown."""
    jax.config.update("jax_enable_x64", True)
    print(INTRODUCTION)
    print("| radius | inputs | " + " | ".join(RULES) + " |")
    print("|---|---|" + "---|" * len(RULES))
    for radius, correlation in SETTINGS:
        row = [f"{radius:g}", f"{correlation:g}"]
        row += [f"{cosine:.3f}" for cosine in cosines(radius, correlation)]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
