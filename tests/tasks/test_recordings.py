"""Data of one's own as a task: arrays, folders, generators, NeuroGym."""

import itertools
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import modprop_jax as mpj
from modprop_jax.experiments import _own as own, compare, main, resume
from modprop_jax.tasks import (
    Architecture,
    from_recordings,
    Optimizer,
    Preset,
    Schedule,
)


KEY = jr.key(0)
PRESET = Preset(
    network=Architecture(hidden_size=4),
    schedule=Schedule(iterations=2, eval_every=1, batch=4),
    optimizer=Optimizer(learning_rate=0.01),
)


def numbered(count=40, steps=5, features=2, seed=0):
    """Inputs whose first feature is the number of the sequence, and two classes."""
    inputs = np.random.default_rng(seed).normal(size=(count, steps, features))
    inputs[..., 0] = np.arange(count)[:, None]
    return inputs, np.arange(count) % 2


def parts_of(task) -> dict[str, set[int]]:
    """The numbers of the sequences in each part."""

    def numbers(drawn):
        return set(np.asarray(drawn[0][0, :, 0]).astype(int).tolist())

    fit, validation = task.validation
    return {
        "train": numbers(task.batch(KEY, 2000)),
        "fit": numbers(fit(KEY, 2000)),
        "validation": numbers(validation(KEY)),
        "test": numbers(task.evaluation(KEY)),
    }


def test_three_parts_that_never_meet():
    inputs, labels = numbered(100)
    parts = parts_of(from_recordings(inputs, labels, normalise=False))
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 80,
        "fit": 60,
        "validation": 20,
        "test": 20,
    }
    assert parts["train"] == parts["fit"] | parts["validation"]
    assert not parts["fit"] & parts["validation"] and not parts["train"] & parts["test"]
    again = parts_of(from_recordings(inputs, labels, normalise=False))
    other = parts_of(from_recordings(inputs, labels, normalise=False, seed=1))
    assert again == parts and other["test"] != parts["test"]
    few = parts_of(from_recordings(inputs, labels, normalise=False, test=0.5, validation=0.1))
    assert (len(few["test"]), len(few["validation"])) == (50, 10)


@pytest.mark.parametrize("groups", [np.arange(100) // 7, [f"mouse {i % 9}" for i in range(100)]])
def test_a_group_is_in_one_part(groups):
    inputs, labels = numbered(100)
    parts = parts_of(from_recordings(inputs, labels, groups=groups, normalise=False))
    seen = {name: {groups[i] for i in part} for name, part in parts.items()}
    for one, two in itertools.combinations(("fit", "validation", "test"), 2):
        assert seen[one] and not seen[one] & seen[two]
    assert len(parts["test"]) >= 20 and len(parts["validation"]) >= 20


def test_inputs_are_normalised_by_the_fitted_part_alone():
    inputs, labels = numbered(60)
    inputs[..., 1] = 3 + 2 * inputs[..., 1]
    inputs = np.concatenate([inputs, np.full((60, 5, 1), 0.1)], -1)  # one that never moves
    plain, task = (from_recordings(inputs, labels, normalise=each) for each in (False, True))
    fit = inputs[sorted(parts_of(plain)["fit"])]
    mean, sd = fit.mean((0, 1)), fit.std((0, 1))
    test = inputs[np.asarray(plain.evaluation(KEY)[0][0, :, 0]).astype(int)]
    sd[2] = 1
    expected = np.moveaxis((test - mean) / sd, 0, 1)
    np.testing.assert_allclose(task.evaluation(KEY)[0], expected, rtol=1e-12, atol=1e-12)
    assert abs(mean[0] - inputs[..., 0].mean()) > 0.1  # of all it would be another


def test_a_batch_is_drawn_by_its_key():
    inputs, labels = numbered()
    task = from_recordings(inputs, labels, normalise=False)
    xs, ys = task.batch(KEY, 6)
    number = np.asarray(xs[0, :, 0]).astype(int)
    np.testing.assert_array_equal(xs, np.moveaxis(inputs[number], 0, 1))
    np.testing.assert_array_equal(ys, labels[number])
    assert (xs.dtype, ys.dtype) == (jnp.result_type(float), jnp.int32)
    np.testing.assert_array_equal(task.batch(KEY, 6)[0], xs)
    assert not np.array_equal(task.batch(jr.key(1), 6)[0], xs)
    assert task.batch(KEY, 6, dtype=jnp.float32)[0].dtype == jnp.float32
    jitted = jax.jit(lambda key: task.batch(key, 6))(KEY)
    np.testing.assert_array_equal(jitted[0], xs)


@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan])
def test_what_is_padding_is_neither_read_nor_scored(padding):
    """One answer at the last step of each sequence; the loss by hand, without padding."""
    inputs, labels = numbered(30, 6)
    lengths = 2 + np.arange(30) % 5
    there = np.arange(6) < lengths[:, None]
    padded = np.where(there[..., None], inputs, padding)
    task = from_recordings(padded, labels, lengths, normalise=False)
    xs, (ys, weight) = task.batch(KEY, 8)
    number = np.asarray(xs[0, :, 0]).astype(int)
    assert task.readout == "every" and ys.shape == weight.shape == (6, 8)
    np.testing.assert_array_equal(np.asarray(weight).argmax(0), lengths[number] - 1)
    np.testing.assert_array_equal(np.asarray(weight).sum(0), 1)
    cut = np.where(there[..., None], inputs, 0)
    np.testing.assert_array_equal(xs, np.moveaxis(cut[number], 0, 1))
    outputs = jr.normal(jr.key(1), (6, 8, 2))
    log_p = np.asarray(jax.nn.log_softmax(outputs))
    last = [log_p[lengths[n] - 1, i, labels[n]] for i, n in enumerate(number)]
    right = [log_p[lengths[n] - 1, i].argmax() == labels[n] for i, n in enumerate(number)]
    loss, score = task.loss(outputs, (ys, weight))
    np.testing.assert_allclose([loss, score], [-np.mean(last), np.mean(right)], rtol=1e-12)
    # the statistics do not see it either
    seen = [from_recordings(each, labels, lengths) for each in (padded, inputs)]
    first, second = (each.evaluation(KEY)[0] for each in seen)
    np.testing.assert_array_equal(first, second)


def test_values_of_each_step_and_lists_of_sequences():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 7, 20)
    inputs = [np.c_[np.full(n, i), rng.normal(size=n)] for i, n in enumerate(lengths)]
    targets = [rng.normal(size=(n, 3)) for n in lengths]
    task = from_recordings(inputs, targets, normalise=False)
    assert (task.out_size, task.score, task.readout) == (3, "R²", "every")
    xs, (ys, weight) = task.batch(KEY, 5)
    for i, n in enumerate(np.asarray(xs[0, :, 0]).astype(int)):
        np.testing.assert_array_equal(np.asarray(weight)[:, i], np.arange(len(xs)) < lengths[n])
        np.testing.assert_array_equal(ys[: lengths[n], i], targets[n])
    outputs = jr.normal(jr.key(1), ys.shape)
    errors = (np.asarray(outputs) - np.asarray(ys))[np.asarray(weight)]
    np.testing.assert_allclose(task.loss(outputs, (ys, weight))[0], (errors**2).sum(-1).mean())
    end = from_recordings(inputs, targets, normalise=False, readout="last")
    xs, (ys, weight) = end.batch(KEY, 5)
    for i, n in enumerate(np.asarray(xs[0, :, 0]).astype(int)):
        np.testing.assert_array_equal(ys[lengths[n] - 1, i], targets[n][-1])
        assert weight[:, i].sum() == 1


def test_of_one_length_answers_are_as_any_task_has_them():
    inputs, labels = numbered(30)
    each = from_recordings(inputs, np.tile(labels[:, None], (1, 5)), classes=4)
    assert (each.readout, each.out_size, each.batch(KEY, 3)[1].shape) == ("every", 4, (5, 3))
    values = from_recordings(inputs, inputs[:, -1])
    assert (values.readout, values.out_size, values.batch(KEY, 3)[1].shape) == ("last", 2, (3, 2))
    last = from_recordings(inputs, np.tile(labels[:, None], (1, 5)), readout="last")
    assert (last.readout, last.batch(KEY, 3)[1].shape) == ("last", (3,))
    wide = from_recordings(inputs, inputs[..., 1], readout="last")
    assert (wide.readout, wide.out_size) == ("last", 5)


X, Y = numbered(12)


def hole(step=2, value=np.nan):
    """The inputs with a hole in sequence 3."""
    found = X.copy()
    found[3, step, 1] = value
    return found


def bad(message: str, **given):
    return message, {"inputs": X, "targets": Y} | given


BAD = {
    "NaN": bad("inputs of sequence 3 hold NaN or infinity at step 2", inputs=hole()),
    "infinity": bad("inputs of sequence 3", inputs=hole(0, np.inf)),
    "NaN of targets": bad("targets of sequence 3", targets=hole()),
    "NaN of one target": bad("targets of sequence 3", targets=hole()[:, 2]),
    "NaN within lengths": bad("sequence 3", inputs=hole(), lengths=np.full(12, 3)),
    "no features": bad("inputs must have the shape", inputs=X[..., 0]),
    "nothing": bad("inputs must have the shape", inputs=X[:0], targets=Y[:0]),
    "an empty list": bad("inputs must hold a sequence", inputs=[]),
    "words": bad("inputs.0. must be an array of numbers", inputs=[["a"]]),
    "no targets": bad("targets must be an array of numbers, but is None", targets=None),
    "fewer targets": bad("one entry for each of the 12 sequences", targets=Y[:-1]),
    "fewer targets in a list": bad("one entry for each of the 12", targets=[np.zeros(5, int)] * 11),
    "one number": bad("one entry for each of the 12", targets=1),
    "numbers of each step without an axis": bad(r"targets\[..., None\]", targets=X[..., 0]),
    "numbers without an axis": bad("targets must be classes", targets=X[:, 0, 0]),
    "other steps": bad("targets must be classes", targets=np.zeros((12, 4), int)),
    "gaps": bad("without gaps, but hold .0, 2.", targets=2 * Y),
    "from 1": bad("without gaps", targets=Y + 1),
    "below 0": bad("without gaps", targets=Y - 1),
    "one class": bad("one class alone", targets=0 * Y),
    "too many classes": bad("classes=1 are 0 to 0, but targets hold 1", classes=1),
    "classes of numbers": bad("of targets that are integers", targets=X[:, 0], classes=2),
    "lengths of another number": bad("lengths must be 12", lengths=[1, 2]),
    "lengths that are no integers": bad("lengths must be 12 integers", lengths=np.full(12, 2.0)),
    "no length": bad("between 1 and the 5", lengths=np.arange(12) % 6),
    "longer": bad("lengths must be between", lengths=np.full(12, 6)),
    "lengths of a list": bad("lengths are those", inputs=[*X], lengths=np.full(12, 5)),
    "other features": bad("the same features", inputs=[X[0], X[1, :, :1]]),
    "other steps of a list": bad(
        r"targets\[11\] must have an entry for each of the 5 steps",
        inputs=[*X],
        targets=[np.zeros(5, int)] * 11 + [np.zeros(4, int)],
    ),
    "groups of another number": bad("groups must have one", groups=[1, 2]),
    "two groups": bad("groups are parted into three", groups=Y),
    "groups of numbers": bad("integers or words", groups=np.ones(12)),
    "a function": bad("function of a file's path", groups=str),
    "all for tests": bad("less than 1 together", test=0.6, validation=0.4),
    "every of a label": bad("needs targets of every step", readout="every"),
    "a name of two words": bad("name must be a word", name="my data"),
}


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("what", BAD)
def test_what_can_not_be_a_task_says_why(what):
    message, given = BAD[what]
    with pytest.raises(ValueError, match=message):
        from_recordings(**given)


def test_a_class_that_is_tested_and_never_learnt():
    alone = np.zeros(12, int)
    alone[min(parts_of(from_recordings(X, Y, normalise=False))["test"])] = 1
    with pytest.raises(ValueError, match="class 1 are in the part 'test', but not"):
        from_recordings(X, alone)


@pytest.mark.parametrize("seed", range(4))
def test_three_groups_are_a_part_each(seed):
    """Also where they are of very different size."""
    groups = [0] * 8 + [1, 1, 2, 2]
    parts = parts_of(from_recordings(X, Y, groups=groups, normalise=False, seed=seed))
    found = [parts[name] for name in ("fit", "validation", "test")]
    assert sorted(map(sorted, found)) == [[*range(8)], [8, 9], [10, 11]]


# --- folders ---


def write_npz(folder: Path, inputs, targets):
    folder.mkdir()
    for i, (x, y) in enumerate(zip(inputs, targets)):
        np.savez(folder / f"{i:03}.npz", inputs=x, targets=y)


def write_csv(folder: Path, inputs, targets):
    folder.mkdir()
    for i, (x, y) in enumerate(zip(inputs, targets)):
        lines = ["number,choice,rate"] + [f"{a!r},{y},{b!r}" for a, b in x.tolist()]
        (folder / f"{i:03}.csv").write_text("\n".join(lines) + "\n")


def same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_is_its_sequences(tmp_path):
    inputs, labels = numbered(20)
    ragged = [x[: 2 + i % 4] for i, x in enumerate(inputs)]
    expected = from_recordings(ragged, labels, groups=np.arange(20))
    write_npz(tmp_path / "npz", ragged, labels)
    found = from_recordings(tmp_path / "npz")
    same(found.batch(KEY, 7), expected.batch(KEY, 7))
    assert found.digest == expected.digest
    write_csv(tmp_path / "csv", ragged, labels)
    steps = from_recordings(str(tmp_path / "csv"), "choice", readout="last")
    same(steps.batch(KEY, 7), expected.batch(KEY, 7))
    # two columns are values, in the order in which they are named
    values = from_recordings(tmp_path / "csv", ["rate", "choice"], normalise=False)
    assert (values.out_size, values.in_size(PRESET), values.score) == (2, 1, "R²")
    (tmp_path / "csv" / ".hidden.csv").write_text("")
    hidden = from_recordings(tmp_path / "csv", "choice", readout="last")
    assert hidden.digest == steps.digest


def test_files_of_many_sequences_are_groups(tmp_path):
    inputs, labels = numbered(40, 6)
    lengths = 2 + np.arange(40) % 5
    (tmp_path / "sessions").mkdir()
    for i in range(8):
        mine = slice(5 * i, 5 * i + 5)
        arrays: dict[str, Any] = dict(
            inputs=inputs[mine], targets=labels[mine], lengths=lengths[mine]
        )
        np.savez(tmp_path / "sessions" / f"{i}.npz", **arrays)
    task = from_recordings(tmp_path / "sessions", normalise=False)
    for part in parts_of(task).values():
        assert all({5 * (i // 5) + k for k in range(5)} <= part for i in part)
    pairs = from_recordings(
        tmp_path / "sessions", groups=lambda path: int(path.stem) // 2, normalise=False
    )
    for part in parts_of(pairs).values():
        assert all({10 * (i // 10) + k for k in range(10)} <= part for i in part)


FOLDERS: dict[str, Any] = {
    "missing": ({}, None, "inputs names no folder"),
    "empty": ({"notes.txt": "hello"}, None, "but has none"),
    "both": ({"a.npz": "", "b.csv": ""}, None, "but has both"),
    "no archive": ({"a.npz": "hello"}, None, "a.npz can't be read as arrays"),
    "no rows": ({"a.csv": "x,y\n"}, "y", "must have a line of names and lines of numbers"),
    "an empty file": ({"a.csv": ""}, "y", "must have a line of names"),
    "words": ({"a.csv": "x,y\n1,up\n"}, "y", "holds what is no number"),
    "a cell less": ({"a.csv": "x,y\n1,2\n1\n"}, "y", "row 3, has 1 columns, where 2"),
    "no such column": ({"a.csv": "x,y\n1,2\n"}, "z", "has 0 columns 'z'; its columns: x, y"),
    "a column twice": ({"a.csv": "y,y,x\n1,2,3\n"}, "y", "has 2 columns 'y'"),
    "targets alone": ({"a.csv": "y\n1\n"}, "y", "has no column beside y"),
    "no targets": ({"a.csv": "x,y\n1,2\n"}, None, "targets must name the columns"),
    "targets of numbers": ({"a.csv": "x,y\n1,2\n"}, [1], "targets must name the columns"),
    "a column more": (
        {"a.csv": "x,y\n1,2\n", "b.csv": "x,y,z\n1,2,3\n"},
        "y",
        "a.csv has 1 features, but .*b.csv has 2",
    ),
    "NaN": ({f"{i}.csv": f"x,y\nnan,{i % 2}\n" for i in range(6)}, "y", "infinity at step 0"),
    "arrays of another name": ({"a.npz": {"x": X[0]}}, None, "has no array 'inputs'; it has x"),
    "no such targets": ({"a.npz": {"inputs": X[0]}}, "y", "targets: .*has no array 'y'"),
    "one axis": ({"a.npz": {"inputs": X[0, 0], "targets": 1}}, None, "must have inputs"),
    "objects": ({"a.npz": {"inputs": np.array([None]), "targets": 1}}, None, "can't be read"),
    "lengths": (
        {"a.npz": {"inputs": X, "targets": Y, "lengths": np.arange(12)}},
        None,
        "lengths: those of .*a.npz must be integers from 1 to 5",
    ),
    "columns of arrays": ({"a.npz": {"inputs": X, "targets": Y}}, ["y"], "targets names the array"),
}


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_that_can_not_be_read_says_why(what, tmp_path):
    files, targets, message = FOLDERS[what]
    folder = tmp_path / "data"
    if files:
        folder.mkdir()
    for name, content in files.items():
        if isinstance(content, str):
            (folder / name).write_text(content)
        else:
            np.savez(folder / name, **content)
    with pytest.raises(ValueError, match=message):
        from_recordings(folder, targets)


# --- in `compare` ---


def test_recordings_are_compared_tuned_and_resumed_with_the_same_data(tmp_path):
    inputs, labels = numbered(30)
    lengths = 3 + np.arange(30) % 3
    task = from_recordings(inputs, labels, lengths, preset=PRESET)
    options: dict[str, Any] = {"seeds": 2, "learning_rates": [0.01, 0.1], "tune_seeds": 1}
    result = compare(task, ["eprop", "bptt"], out=tmp_path / "run", quiet=True, **options)
    assert result.rows[0].accuracy is not None
    (tmp_path / "run" / "checkpoints" / "bptt-learning_rate=0.01.eqx").unlink(missing_ok=True)
    again = from_recordings(inputs, labels, lengths, preset=PRESET)
    resumed = resume(tmp_path / "run", task=again, quiet=True)
    assert [row.loss for row in resumed.rows] == [row.loss for row in result.rows]
    for other in (
        from_recordings(inputs + 1e-9, labels, lengths, preset=PRESET),
        from_recordings(inputs, labels, lengths, preset=PRESET, seed=1),
    ):
        with pytest.raises(ValueError, match="task :recordings has other data than the run began"):
            resume(tmp_path / "run", task=other, quiet=True)


def test_a_task_of_a_file_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "data", *numbered(12))
    Path("lab.py").write_text(
        "from modprop_jax.tasks import Architecture, from_recordings, Optimizer, Preset, Schedule\n"
        "small = Preset(network=Architecture(hidden_size=4),\n"
        "               schedule=Schedule(iterations=2, batch=4),\n"
        "               optimizer=Optimizer(learning_rate=0.01))\n"
        'spikes = from_recordings("data", preset=small)\n'
    )
    command = ["compare", "lab.py:spikes", "--rules", "eprop", "--seeds", "1", "--out", "run"]
    assert main(command) == 0
    assert main(["compare", "--resume", "run"]) == 0
    np.savez("data/000.npz", inputs=np.zeros((5, 2)), targets=0)
    monkeypatch.setattr(own, "_GIVEN", {})
    for name in [name for name in sys.modules if name.startswith("_modprop_jax_own")]:
        monkeypatch.delitem(sys.modules, name)
    capsys.readouterr()
    assert main(["compare", "--resume", "run"]) == 2
    assert "lab.py:spikes has other data than the run began with" in capsys.readouterr().err


def test_gradients_do_not_see_padding():
    """A rule's gradient of a padded batch is the mean of those of each sequence alone."""
    inputs, labels = numbered(30, 6)
    lengths = 2 + np.arange(30) % 5
    task = from_recordings(inputs, labels, lengths)
    k1, k2 = jr.split(KEY)
    rnn = mpj.RNN(mpj.LeakyCell(2, 4, tau=3.0, key=k1))
    model = (rnn, mpj.Readout(4, 2, key=k2))

    def loss(model, xs, ys):
        rnn, readout = model
        return task.loss(readout(rnn(xs)), ys)[0]

    xs, (ys, weight) = task.batch(KEY, 3)
    for rule in (mpj.BPTT(), mpj.EProp(), mpj.ModProp(0.5, [0, 0, 1, 1])):
        gradient = mpj.value_and_grad(loss, rule)
        _, whole = gradient(model, xs, (ys, weight))
        alone = []
        for i in range(3):
            steps = int(np.asarray(weight)[:, i].argmax()) + 1
            cut = xs[:steps, i : i + 1], (ys[:steps, i : i + 1], weight[:steps, i : i + 1])
            alone.append(gradient(model, *cut)[1])
        mean = jax.tree.map(lambda *g: sum(g) / 3, *(eqx.filter(g, eqx.is_array) for g in alone))
        for a, b in zip(jax.tree.leaves(eqx.filter(whole, eqx.is_array)), jax.tree.leaves(mean)):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
