"""How GLE's gradient, and that of instantaneous errors, are aligned with BPTT's, by regime.

python reproductions/gle_alignment.py > docs/results/gle-alignment.md
"""

import dataclasses
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import modprop_jax as mpj


SEEDS, BATCH, DURATION, SINES = 8, 4, 40.0, 4
# compiling is what takes time here
FAST_TO_COMPILE: Any = {
    "compiler_options": {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
}
RULES = {"GLE": mpj.GLE(), "instantaneous": mpj.GLE(prospective_errors=False)}

INTRODUCTION = f"""# GLE: alignment with BPTT

Output of `python reproductions/gle_alignment.py` (two minutes). Cosine with the gradient of BPTT on
the same network, and the ratio of their norms, by layer, lowest first; means over {SEEDS} students,
each with a teacher and inputs of its own.

Teachers and students are 2-8-8-2 (deep: 2-8-8-8-8-2), hidden neurons tanh, output linear, weights
N(0, 1 / presynaptic neurons), no biases. Three in four hidden neurons lag, τ_m = 1 and τ_r =
"ratio"; the others, and the output, have 1 and 1. Inputs: sums of {SINES} sines, 0.02 to 0.15
cycles per unit of time unless said, at random phases. Loss: the squared error of every step of
{DURATION:.0f} units of time from rest, {BATCH} examples, float64.

"other": what an independent program (NumPy and PyTorch) has found in that regime with draws of its
own, four students. It can be compared as a pattern, not in its digits.
"""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A regime, and what another program has found: cosines and norms, GLE and instantaneous."""

    order: Literal["sweep", "sync"]
    dt: float
    ratio: float
    others: tuple[str, str, str, str]
    cycles: tuple[float, float] = (0.02, 0.15)
    depth: int = 3

    @property
    def label(self) -> str:
        """In words."""
        usual = Setting.cycles, Setting.depth
        cycles = "" if self.cycles == usual[0] else ", {}-{} cycles".format(*self.cycles)
        deep = "" if self.depth == usual[1] else ", deep"
        return f"{self.order}, dt {self.dt}, ratio {self.ratio}{cycles}{deep}"

    @property
    def sizes(self) -> list[int]:
        """Of the layers."""
        return [2, *[8] * (self.depth - 1), 2]


SETTINGS = [
    Setting("sweep", 0.05, 1.0, ("1 1 1", "1 1 1", "1 1 1", "1 1 1")),
    Setting("sweep", 0.05, 0.5, (".994 .998 1", ".997 .999 1", "1.42 1.18 1", "1.10 1.06 1")),
    Setting("sweep", 0.05, 0.1, (".988 .996 1", ".975 .991 1", "1.64 1.26 1", ".97 1.05 1")),
    Setting("sync", 0.05, 0.1, (".982 .995 1", ".955 .986 1", "1.64 1.25 1", ".85 1.01 1")),
    Setting("sync", 0.1, 0.1, (".975 .993 1", ".906 .980 1", "1.57 1.23 .99", ".72 .97 .99")),
    Setting(
        "sweep", 0.05, 0.1, (".999 1 1", ".999 1 1", "1.12 1.05 1", "1.02 1.02 1"),
        cycles=(0.005, 0.04),
    ),
    Setting(
        "sweep", 0.05, 0.1, (".861 .931 1", ".466 .894 1", "6.1 2.3 1", "1.4 1.2 1"),
        cycles=(0.1, 0.4),
    ),
    Setting(
        "sync", 0.05, 0.1, (".799 .917 .999", ".009 .798 .999", "6.2 2.2 .99", "1.3 1.1 .99"),
        cycles=(0.1, 0.4),
    ),
    Setting(
        "sweep", 0.05, 0.1, (".374 .499 1", ".287 .677 1", "52 4.8 1", "4.6 1.7 1"),
        cycles=(0.4, 1.0),
    ),
    Setting(
        "sweep", 0.05, 0.2,
        (".980 .986 .992 .997 1", ".834 .944 .973 .991 1", "2.5 .. 1", ".60 .. 1"), depth=5,
    ),
    Setting(
        "sync", 0.05, 0.2,
        (".973 .980 .990 .996 1", ".420 .887 .954 .985 1", "2.5 .. 1", ".40 .. 1"), depth=5,
    ),
]  # fmt: skip
# of the time constants: cosines over the neurons of a layer
CONSTANTS = [
    Setting("sweep", 0.1, 0.1, (".961 .984 1", ".404 .841 1", "", "")),
    Setting("sweep", 0.1, 0.5, (".987 .997 1", ".764 .896 1", "", "")),
]


def network(setting: Setting, key: Any) -> mpj.GLECell:
    """Three in four hidden neurons lag."""
    *hidden, out = setting.sizes[1:]
    lag = np.where(np.arange(hidden[0]) < 3 * hidden[0] // 4, setting.ratio, 1.0)
    cell = mpj.GLECell(
        setting.sizes,
        tau_m=1.0,
        tau_r=[*[lag] * len(hidden), np.ones(out)],
        dt=setting.dt,
        activations=[*[jnp.tanh] * len(hidden), jax.nn.identity],
        order=setting.order,
        use_bias=False,
        learn_tau=True,
        key=key,
    )
    weights = [
        jr.normal(key, layer.weight.shape) / np.sqrt(layer.in_size)
        for key, layer in zip(jr.split(key, setting.depth), cell.layers)
    ]
    return eqx.tree_at(lambda cell: [layer.weight for layer in cell.layers], cell, weights)


def waves(setting: Setting, key: Any) -> Any:
    """Sums of sines, (T, batch, 2)."""
    one, other = jr.split(key)
    low, high = setting.cycles
    cycles = jr.uniform(one, (BATCH, 2, SINES), minval=low, maxval=high)
    phases = jr.uniform(other, (BATCH, 2, SINES))
    time = setting.dt * np.arange(round(DURATION / setting.dt))[:, None, None, None]
    turns = time * cycles[None] + phases[None]
    return jnp.sin(2 * np.pi * turns).sum(-1) / np.sqrt(SINES)


def gradients(setting: Setting) -> tuple[Any, ...]:
    """By BPTT and by each rule, of every student; (layers of) weights and constants."""

    def one(key):
        *keys, waves_key = jr.split(key, 3)
        student, teacher = (network(setting, key) for key in keys)
        xs = waves(setting, waves_key)
        _, ys = mpj.scan(teacher, teacher.init((BATCH,)), xs)

        def loss(model):
            return 0.5 * jnp.sum((model(xs) - ys) ** 2)

        found = [
            mpj.value_and_grad(loss, rule)(mpj.RNN(student))[1].cell.layers
            for rule in (mpj.BPTT(), *RULES.values())
        ]
        return tuple(
            ([layer.weight for layer in layers], [layer.tau_m for layer in layers])
            for layers in found
        )

    return jax.vmap(one)(jr.split(jr.key(0), SEEDS))


gradients_jit = eqx.filter_jit(gradients, **FAST_TO_COMPILE)


def compared(found: Any, exact: Any) -> tuple[str, str]:
    """Mean cosine and ratio of norms of each layer."""
    cosines, ratios = [], []
    for a, b in zip(found, exact):
        a, b = np.reshape(a, (SEEDS, -1)), np.reshape(b, (SEEDS, -1))
        sizes = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        cosines.append(np.mean(np.sum(a * b, 1) / sizes[0] / sizes[1]))
        ratios.append(np.mean(sizes[0] / sizes[1]))
    return " ".join(f"{c:.3f}" for c in cosines), " ".join(f"{r:.2f}" for r in ratios)


def main() -> None:
    """Print the tables as Markdown."""
    jax.config.update("jax_enable_x64", True)
    print(INTRODUCTION)
    print("## Weights\n")
    print("| setting | rule | cosine | other | norm ratio | other |")
    print("|---|---|---|---|---|---|")
    for setting in SETTINGS:
        exact, *rules = gradients_jit(setting)
        for index, (name, (found, _)) in enumerate(zip(RULES, rules)):
            cosines, ratios = compared(found, exact[0])
            one, other = setting.others[index], setting.others[2 + index]
            row = setting.label, name, cosines, one, ratios, other
            print("| " + " | ".join(row) + " |", flush=True)
    print("\n## Time constants\n")
    print("| setting | rule | cosine | other | norm ratio |")
    print("|---|---|---|---|---|")
    for setting in CONSTANTS:
        exact, *rules = gradients_jit(setting)
        for index, (name, (_, found)) in enumerate(zip(RULES, rules)):
            cosines, ratios = compared(found, exact[1])
            row = setting.label, name, cosines, setting.others[index], ratios
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
