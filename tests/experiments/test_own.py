"""Tasks and networks of one's own in `compare`, from Python and from the shell."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from folders import resigned, unsigned

import modprop_jax as mpj
from modprop_jax.experiments import _own as own, compare, main, resume, trained
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._rates import rates_of
from modprop_jax.experiments._setup import setup
from modprop_jax.tasks import (
    Architecture,
    Optimizer,
    Preset,
    Schedule,
    sequential_digits_split,
    Task,
    TASKS,
)


LAB = Path(__file__).with_name("own_lab.py")
DECISION = "lab/tasks.py:context_decision", "--network", "lab/tasks.py:TwoLayers"
SHORT = ["--iterations", "4", "--eval-every", "2", "--batch", "4", "--seeds", "2"]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A folder with a file of somebody's own, where the command is given."""
    monkeypatch.chdir(tmp_path)
    Path("lab").mkdir()
    shutil.copy(LAB, "lab/tasks.py")
    monkeypatch.setattr(own, "_GIVEN", {})
    return tmp_path


def _lines(folder):
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def test_a_task_and_a_network_from_the_shell_killed_and_resumed(lab, capsys):
    rules = ["--rules", "eprop", "mdgl:learning_rate=0.02", "bptt"]
    command = ["compare", *DECISION, *rules, "--hidden-size", "6", *SHORT, "--out", "whole"]
    assert main(command) == 0
    assert "context_decision" in capsys.readouterr().out
    whole = _lines("whole")
    config = Config.from_dict(unsigned(Path("whole/config.json")))
    assert (config.task, config.network) == (DECISION[0], DECISION[2])
    assert set(config.sources) == {DECISION[0], DECISION[2]}
    # every layer under the rule, of its own types: by signs, and halves
    network = trained("whole", "mdgl:learning_rate=0.02")
    assert network.first.rule.types == (1, 1, 1, 1, 0, 0)
    assert network.second.rule.types == (1, 1, 0, 0)
    first = {line["rule"]: line for line in whole if line["iteration"] == 0}
    last = {line["rule"]: line for line in whole if line["iteration"] == 4}
    assert first["eprop"]["loss"] == first["bptt"]["loss"]
    assert last["eprop"]["loss"] != last["bptt"]["loss"]
    np.testing.assert_allclose(first["bptt"]["cosine"], 1, atol=1e-5)
    assert max(first["eprop"]["cosine"]) < 0.9999
    # of a kill after the second rule began: what is left is done, with the same numbers
    shutil.copytree("whole", "killed")
    Path("killed/checkpoints/bptt.eqx").unlink()
    kept = [
        line
        for line in Path("whole/metrics.jsonl").read_text().splitlines(True)
        if '"bptt"' not in line
    ]
    Path("killed/metrics.jsonl").write_text("".join(kept))
    own._GIVEN.clear()
    assert main(["compare", "--resume", "killed"]) == 0
    assert _lines("killed") == whole


def test_the_networks_learn_by_what_their_own_code_says():
    """One step of `compare` by hand: the key, the cost, the masked loss and the rule."""
    from own_lab import context_decision, TwoLayers  # pyright: ignore[reportMissingImports]

    options = {"iterations": 1, "batch": 4, "optimizer": "sgd", "hidden_size": 6}
    config = Config.make(context_decision, "small", ["eprop"], 1, TwoLayers, **options)
    parts = setup(config)
    key = jr.key(3)
    model = TwoLayers(4, 2, key=jr.key(0), hidden_size=6)
    (xs, drawn), (labels, mask) = parts.data(key)
    expected, _ = context_decision(key, 4)
    np.testing.assert_array_equal(xs, expected)

    def by_hand(model):
        outputs, cost = model(xs, key=drawn)
        log_p = jax.nn.log_softmax(outputs)
        at = jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
        return -jnp.sum(jnp.where(mask, at, 0)) / 4 + cost

    value, gradient = eqx.filter_value_and_grad(by_hand)(model)
    (found, _), ours = mpj.value_and_grad(parts.loss, mpj.BPTT(), has_aux=True)(
        model, (xs, drawn), (labels, mask)
    )
    # the cost is in the gradient, and not in the loss that is reported
    assert 0 < float(value - found) < 0.01
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, gradient
    )
    _, local = mpj.value_and_grad(parts.loss, mpj.EProp(), has_aux=True)(
        model, (xs, drawn), (labels, mask)
    )
    assert not np.allclose(local.first.cell.weight_rec, ours.first.cell.weight_rec, rtol=1e-2)


def test_rates_are_chosen_on_other_seeds_and_a_killed_tuning_goes_on(lab, capsys):
    """Also of a network of one's own, and where the kill came among the trials."""
    network = "lab/tasks.py:average", "--network", "lab/tasks.py:Plain"
    options = "--rules eprop modprop:mu=0.5 bptt:learning_rate=0.05 --tune-seeds 1 --first-seed 7"
    tuned = "--learning-rates", "0.001..0.1/3", *options.split(), *SHORT, "--out", "whole"
    assert main(["compare", *network, *tuned]) == 0
    assert "tuning: 7 trials of 1 seeds" in capsys.readouterr().out
    found = json.loads(Path("whole/tuning.json").read_text())
    trials = Config.from_dict(unsigned(Path("whole/tuning/config.json")))
    assert (trials.seeds, trials.first_seed, trials.tuning) == (1, 1_000_000, True)
    for rule in ("eprop", "modprop:mu=0.5"):
        mine = {name: loss for name, loss in found["loss"].items() if name.startswith(rule)}
        assert [name.rpartition("=")[2] for name in mine] == ["0.001", "0.01", "0.1"]
        assert found["chosen"][rule] == min(mine, key=mine.__getitem__)
        assert len({*mine.values()}) == 3
    assert found["chosen"]["bptt:learning_rate=0.05"] == "bptt:learning_rate=0.05"
    whole = _lines("whole")
    assert [*dict.fromkeys(line["rule"] for line in whole)] == [*found["chosen"].values()]
    np.testing.assert_array_equal(
        trained("whole", found["chosen"]["eprop"]).readout.weight.shape, (2, 1, 5)
    )
    # other seeds, other losses
    assert found["loss"]["bptt:learning_rate=0.05"] not in whole[-1]["loss"]
    text = Path("whole/tuning.md").read_text()
    assert "1000000 to 1000000, which are reported nowhere" in text and text.count("**") == 4

    shutil.copytree("whole/tuning", "killed/tuning")
    shutil.copy("whole/config.json", "killed")
    Path("killed/checkpoints").mkdir()
    lost = [*trials.rules][4:]
    for rule in lost:
        Path(
            "killed/tuning/checkpoints", rule.replace(":", "-").replace(",", "-") + ".eqx"
        ).unlink()
    assert main(["compare", "--resume", "killed"]) == 0
    assert _lines("killed") == whole and _lines("killed/tuning") == _lines("whole/tuning")
    assert json.loads(Path("killed/tuning.json").read_text()) == found


def test_what_tuning_sees_of_limited_data():
    """A part of the training data, judged by the rest of them; nothing of the test data."""
    config = Config.make(
        "sequential_digits", "small", ["eprop"], 1, learning_rates=[0.1], tune_seeds=1
    )
    assert config.tune is not None
    parts = setup(config.of_tuning(config.tune))

    def images(xs):
        return {image.tobytes() for image in np.asarray(jnp.moveaxis(xs, 1, 0))}

    judged = images(parts.evaluate(jr.key(0))[0])
    learnt = images(TASKS["sequential_digits"].of_tuning().batch(jr.key(0), 4000, hold=2)[0])
    reported = images(setup(config).evaluate(jr.key(0))[0])
    training = images(sequential_digits_split("train", hold=2)[0])
    assert judged and learnt and judged | learnt <= training
    assert not judged & learnt and not reported & (judged | learnt)


@pytest.mark.parametrize(
    "rates, found",
    [
        ("1e-4..1e-2/3", (1e-4, 1e-3, 1e-2)),
        ("0.1..0.2", (0.1, 0.119, 0.141, 0.168, 0.2)),
        ("0.1, 0.2", (0.1, 0.2)),
        ([0.3], (0.3,)),
        *[(bad, None) for bad in ("", "a..b", "0..1", "-1", "0.1 0.1", "1..2/0", "1..2/-1", "nan")],
    ],
)
def test_learning_rates(rates, found):
    if found is None:
        with pytest.raises(ValueError, match="learning rates (are such as|must be)"):
            rates_of(rates)
    else:
        assert rates_of(rates) == found


def test_objects_are_resumed_by_giving_them_again(lab):
    def task(key, batch):
        xs = jr.normal(key, (5, batch, 2))
        return xs, (xs.sum((0, 2)) > 0).astype(int)

    def network(in_size, out_size, *, key):
        return own.find("lab/tasks.py:Plain")(in_size, out_size, key=key)

    options: dict[str, Any] = {"iterations": 2, "eval_every": 1, "batch": 4}
    result = compare(task, ["eprop"], network=network, seeds=1, out="run", quiet=True, **options)
    assert result.rows[0].accuracy is not None
    own._GIVEN.clear()
    with pytest.raises(ValueError, match="given as an object.*give it again"):
        resume("run", quiet=True)
    again = resume("run", task=task, network=network, quiet=True)
    assert again.rows[0].loss == result.rows[0].loss


def test_the_packages_networks_learn_a_task_that_is_a_function(lab):
    result = compare(
        "lab/tasks.py:average",
        ["eprop", "bptt"],
        seeds=1,
        iterations=2,
        eval_every=2,
        batch=4,
        hidden_size=4,
        out="run",
        quiet=True,
    )
    assert result.config.entry.score == "R²"
    assert result.config.entry.out_size == 1


def test_what_ys_say():
    key = jr.key(0)

    def task(ys):
        return own.find_task(own.name_of(lambda key, batch: (jnp.zeros((3, batch, 2)), ys(batch))))

    labels = task(lambda batch: jnp.arange(batch) % 5)
    assert (labels.readout, labels.out_size, labels.score) == ("last", 5, "accuracy")
    each = task(lambda batch: jnp.ones((3, batch), int))
    assert (each.readout, each.out_size) == ("every", 2)
    values = task(lambda batch: jnp.ones((batch, 4)))
    assert (values.readout, values.out_size, values.score) == ("last", 4, "R²")
    masked = task(
        lambda batch: (jnp.ones((3, batch, 4)), jnp.arange(3.0)[:, None] * jnp.ones((1, batch)))
    )
    # steps with weights 0, 1, 2: (1·1 + 2·9) / 3 of each of four outputs
    outputs = 1 + jnp.array([7.0, 1.0, 3.0])[:, None, None] * jnp.ones((3, 2, 4))
    np.testing.assert_allclose(masked.loss(outputs, masked.batch(key, 2)[1])[0], 4 * 19 / 3)
    for bad in (jnp.ones(3), jnp.ones((2, 2, 2)), (jnp.ones((3, 2), int), jnp.ones(2))):
        with pytest.raises(ValueError, match="ys of .* must be classes"):
            task(lambda batch, bad=bad: bad)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("lab/none.py:context_decision", "there is no file lab/none.py"),
        ("no_such_module:task", "there is no module 'no_such_module'"),
        ("lab/tasks.py:decision", "lab/tasks.py defines no 'decision'"),
        ("lab/tasks.py:NUMBER", "is a int, where a function"),
        ("lab/tasks.py:flat", "must have the shape .T, 2, features., but has .2, 3."),
        ("lab/broken.py:task", "lab/broken.py can't be run: NameError"),
        ("lab/tasks.py:average --network lab/tasks.py:linear", "an equinox module with RNN layers"),
        ("lab/tasks.py:average --network lab/tasks.py:wrong_shape", "do not fit"),
        (
            "lab/tasks.py:average --network lab/tasks.py:Plain --cell gru",
            "cell=gru is of the package",
        ),
        (
            "lab/tasks.py:average --network lab/tasks.py:Plain --segment 1",
            "trials that end.*stream",
        ),
        ("lab/tasks.py:echo --network lab/tasks.py:Plain --segment 1 --rules eprop", "has no init"),
        (
            "lab/tasks.py:echo --network lab/tasks.py:Forgetting --segment 2 --rules eprop",
            "the carry of init has that of 1 RNN layers, but there are 2",
        ),
        (
            "lab/tasks.py:echo --network lab/tasks.py:Stuck --segment 2 --rules eprop",
            "must give back a carry of the shapes",
        ),
        (
            "lab/tasks.py:echo --network lab/tasks.py:Late --segment 2 --rules eprop",
            "outputs of every step",
        ),
        (
            "lab/tasks.py:echo --network lab/tasks.py:Online --segment 2 --rules force",
            "'force' makes a network of its own",
        ),
        ("lab/tasks.py:masked_echo --segment 2 --rules eprop", "which all count: no pair"),
        ("delayed_xor --tune-seeds 2", "tune_seeds=2 is for tuning"),
        ("delayed_xor --first-seed -1", "seeds are numbers from 0"),
        ("delayed_xor --first-seed 4294967296", "seeds are numbers from 0"),
        ("delayed_xor --learning-rates 1 --first-seed 1000000", "meets the reported ones"),
        ("delayed_xor --network lab/tasks.py:Plain --rules gle", "GLE"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, message, lab, capsys, without_type_checks):
    Path("lab/broken.py").write_text("undefined\n")
    assert main(["compare", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1, captured.err
    assert re.search(message, captured.err), captured.err
    assert not Path("runs").exists()


def test_a_folder_from_elsewhere_runs_no_code(lab, capsys):
    """What a run's folder names is not run if it lies in that folder, or where nobody stands."""
    options: dict[str, Any] = {"iterations": 1, "eval_every": 1, "batch": 2, "hidden_size": 4}
    compare("lab/tasks.py:average", ["eprop"], seeds=1, out="run", quiet=True, **options)
    evil = 'open("harm", "w").close()\n'
    config = Path("run/config.json")
    for place in ("run/code.py", str(lab.parent / "code.py"), "../code.py"):
        Path(place).write_text(evil)
        config.write_text(resigned(config, task=f"{place}:average"))
        own._GIVEN.clear()
        assert main(["compare", "--resume", "run"]) == 2
        assert "not under the current folder, or is in the run's own" in capsys.readouterr().err
    assert not Path("harm").exists()


def test_another_task_of_the_same_name_is_another_task(lab):
    """Made by one function twice, as in a notebook: nothing is left of the first one."""

    def made(label):
        def task(key, batch):
            return jr.normal(key, (3, batch, 2)), jnp.full((batch,), label)

        return task

    def network(bias):
        def make(in_size, out_size, *, key):
            plain = own.find("lab/tasks.py:Plain")(in_size, 2, key=key)
            return eqx.tree_at(lambda m: m.readout.bias, plain, jnp.array([bias, 0.0]))

        return make

    options: dict[str, Any] = {"seeds": 1, "iterations": 1, "batch": 4, "quiet": True}
    scores = [
        compare(task, ["eprop"], network=make, out=f"run-{index}", **options).metrics[0]["accuracy"]
        for index, (task, make) in enumerate(
            [(made_, network(bias)) for bias in (9.0, -9.0) for made_ in _two(made)]
        )
    ]
    # the bias says class 0, then 1
    assert scores == [[1.0], [0.0], [0.0], [1.0]]


def _two(made):
    tasks = made(0), made(1)
    for task in tasks:
        task.classes = 2
    return tasks


def test_a_task_record_is_taken_as_it_is(lab):
    shared = TASKS["delayed_match"]
    parts = Architecture(4), Schedule(iterations=1, batch=2), Optimizer(0.1)
    presets = {"small": Preset(network=parts[0], schedule=parts[1], optimizer=parts[2])}
    task = Task(
        "mine",
        "Of my own.",
        shared.out_size,
        shared.batch,
        shared.evaluation,
        shared.loss,
        shared.readout,
        presets,
    )
    result = compare(task, ["eprop"], seeds=1, out="run", quiet=True)
    assert result.config.entry is task
