"""Recordings: streams by their formulas, what is refused, and where data are read from."""

import os
import sys
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import modprop_jax as mpj
from modprop_jax import tasks
from modprop_jax.experiments import compare, main
from modprop_jax.tasks import _archive, _respiration, nmse, nrmse, recorded, TASKS
from modprop_jax.tasks._sources import _within, FOLDER, MissingData
from modprop_jax.tasks._time_series import read_ts
from modprop_jax.tasks._watch import subjects_of


SHARED = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(20, 3)).cumsum(0)


@pytest.fixture
def nowhere(monkeypatch):
    """No folder, and no package."""
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "Path" in repr(f)])
    _within.cache_clear()
    yield
    _within.cache_clear()


def shared(name: str) -> Path:
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} is not beside the repository")
    return SHARED / name


@pytest.mark.parametrize("horizon, lags, ddof", [(1, 1, 0), (3, 1, 1), (2, 4, 0)])
def test_steps_targets_and_delay(horizon, lags, ddof):
    found = recorded(VALUES, fit=8, horizon=horizon, lags=lags, ddof=ddof)
    normal = (VALUES - VALUES[:8].mean(0)) / VALUES[:8].std(0, ddof=ddof)
    steps = len(VALUES) - lags + 1 - horizon
    assert found.xs.shape == (steps, 3 * lags) and found.ys.shape == (steps, 3)
    assert found.delay == horizon - 1 and found.first == lags - 1
    for t in range(steps):
        row = t + lags - 1
        seen = np.concatenate([normal[row - lag] for lag in range(lags)])
        np.testing.assert_allclose(found.xs[t], seen, rtol=1e-12)
        np.testing.assert_allclose(found.ys[t], normal[row + horizon], rtol=1e-12)
    np.testing.assert_allclose(found.units(found.ys), VALUES[lags - 1 + horizon :], rtol=1e-12)


def test_only_the_past_normalises():
    """Nothing after the first rows changes what comes before."""
    changed = VALUES.copy()
    changed[12:] += 100
    before, after = (recorded(values, fit=8) for values in (VALUES, changed))
    np.testing.assert_array_equal(before.xs[:12], after.xs[:12])
    np.testing.assert_array_equal(recorded(VALUES, fit=None).xs, VALUES[:-1])


def test_labels_targets_and_dtypes():
    labels = np.arange(20) % 3
    found = recorded(VALUES, fit=8, labels=labels, lags=2, delay=4, dtype=jnp.float32)
    np.testing.assert_array_equal(found.ys, labels[1:])
    assert found.delay == 4 and found.ys.dtype == jnp.int32 and found.xs.dtype == jnp.float32
    assert len(found.xs) == 19
    one = recorded(VALUES, fit=8, columns=["2", "0"], targets=["0"])
    whole = recorded(VALUES, fit=8)
    np.testing.assert_array_equal(one.xs, whole.xs[:, [2, 0]])
    np.testing.assert_array_equal(one.ys, whole.ys[:, :1])
    alone = recorded(VALUES[:, 0], fit=8)
    np.testing.assert_allclose(alone.xs, whole.xs[:, :1], rtol=1e-12)
    floats = recorded(VALUES, fit=8, labels=VALUES[:, :2])
    np.testing.assert_array_equal(floats.ys, VALUES[:, :2])


NAMED = "time,a,b,class\n" + "\n".join(f"{t},{t * t},{-t},{t % 2}" for t in range(12))
PLAIN = "\n".join(f"{t * t} {-t}" for t in range(12))
DATES = "day;a\n" + "\n".join(f"2026-01-{t + 1:02};{t * t}" for t in range(12))


def test_files(tmp_path):
    squares = np.arange(12.0) ** 2
    (tmp_path / "named.csv").write_text("\ufeff" + NAMED + "\n\n", encoding="utf-8")
    found = recorded(tmp_path / "named.csv", fit=None, time="time", labels="class")
    np.testing.assert_array_equal(found.xs, np.stack([squares, -np.arange(12)], 1))
    np.testing.assert_array_equal(found.ys, np.arange(12) % 2)
    assert found.ys.dtype == jnp.int32
    (tmp_path / "plain.txt").write_text(PLAIN)
    plain = recorded(str(tmp_path / "plain.txt"), fit=None)
    np.testing.assert_array_equal(plain.xs, found.xs[:-1])
    (tmp_path / "dates.csv").write_text(DATES)
    np.testing.assert_array_equal(
        recorded(tmp_path / "dates.csv", fit=None, time="day").xs[:, 0], squares[:-1]
    )
    np.save(tmp_path / "one.npy", squares)
    np.testing.assert_array_equal(recorded(tmp_path / "one.npy", fit=None).xs[:, 0], squares[:-1])
    np.savez(tmp_path / "some.npz", a=squares, b=-squares, other=np.ones((2, 2)))
    some = recorded(tmp_path / "some.npz", fit=None, columns=["b", "a"])
    np.testing.assert_array_equal(some.xs, np.stack([-squares, squares], 1)[:-1])


def changed(row, value, column=1):
    values = VALUES.copy()
    values[row, column] = value
    return values


@pytest.mark.parametrize(
    "values, options, match",
    [
        (changed(7, np.nan), {}, "1 gaps .* first in row 7 of column 1"),
        (changed(2, np.inf), {}, "gaps .* first in row 2"),
        (VALUES, {"horizon": 20}, "horizon=20 and lags=1 are longer than the data, which have 20"),
        (VALUES, {"horizon": 15, "lags": 6}, "at least 21 are needed"),
        (VALUES, {"labels": np.zeros(19, int)}, r"each of the 20 rows, but are of shape \(19,\)"),
        (VALUES, {"labels": np.full(20, np.nan)}, "labels have a gap .* in row 0"),
        (VALUES, {"labels": np.zeros(20, int), "horizon": 2}, "leave one out"),
        (VALUES, {"time": np.r_[0:10, 8:18]}, "goes from 9 to 8 after row 9: sort"),
        (VALUES, {"time": np.r_[0:10, 9:19]}, "goes from 9 to 9 after row 9"),
        (VALUES, {"time": np.r_[0:10, 15:25]}, "time has a gap after row 9: 6, where 1 is usual"),
        (VALUES, {"time": np.arange(19)}, "time must have a number for each of the 20 rows"),
        (VALUES, {"fit": 21}, "at most 20, but is 21"),
        (VALUES, {"fit": 1, "ddof": 1}, "more than ddof=1"),
        (np.ones((20, 1)), {}, "fit=8 rows do not move in column 0"),
        (np.full((20, 1), 0.1), {}, "do not move in column 0"),
        (VALUES, {"columns": ["4"]}, "columns must name columns, each once, of 0, 1, 2"),
        (VALUES, {"targets": ["1", "1"]}, "targets must name columns, each once"),
        (VALUES, {"delay": 1}, "delay is for labels"),
        (VALUES[None], {}, r"values must be numbers .* of shape \(1, 20, 3\)"),
        ("no.csv", {}, "names the file 'no.csv', which is not there"),
    ],
)
def test_what_is_refused(values, options, match, without_type_checks):
    with pytest.raises(ValueError, match=match):
        recorded(values, **{"fit": 8} | options)


@pytest.mark.parametrize(
    "text, options, match",
    [
        (NAMED.replace("4,16,", "4,,"), {"time": "time"}, "gaps .* first in row 4 of column a"),
        (NAMED.replace("4,16,", "4,NA,"), {"time": "time"}, "gaps .* first in row 4 of column a"),
        (NAMED.replace("4,16,", "4,x,"), {}, "Line 6 of it.csv has 'x' in column 'a'"),
        (NAMED.replace("4,16,", "4,"), {}, "Line 6 of it.csv has 3 entries, but there are 4"),
        (NAMED.replace("4,16,", "2,16,"), {"time": "time"}, "goes from 3 to 2 after row 3"),
        (NAMED, {"time": "clock"}, "time must name columns, each once, of time, a, b, class"),
        (NAMED, {"labels": "kind"}, "labels must name columns"),
        (NAMED.replace("a,b", "a,a"), {}, "names of their own"),
        (DATES, {}, "is a date: name the column as time="),
        ("", {}, "which is empty"),
        ("time\n1\n2\n3", {"time": "time"}, "a column of numbers beside time and labels"),
    ],
)
def test_files_that_are_refused(text, options, match, tmp_path, without_type_checks):
    (tmp_path / "it.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        recorded(tmp_path / "it.csv", **{"fit": 8} | options)


def test_arrays_of_many_lengths_are_refused(tmp_path, without_type_checks):
    np.savez(tmp_path / "some.npz", a=np.arange(4.0), b=np.arange(5.0))
    with pytest.raises(ValueError, match="of one length, .* choose some by columns"):
        recorded(tmp_path / "some.npz", fit=None)


def test_errors_over_named_steps():
    outputs, ys = jnp.asarray(RNG.normal(size=(2, 9, 2, 3)))
    part = slice(2, 7)
    spread = ((ys[part] - ys[part].mean(0, keepdims=True)) ** 2).sum()
    expected = ((outputs - ys)[part] ** 2).sum() / spread
    np.testing.assert_allclose(nmse(outputs, ys, steps=(2, 7)), expected, rtol=1e-12)
    np.testing.assert_allclose(nrmse(outputs, ys, steps=(2, 7)), expected**0.5, rtol=1e-12)
    _, score = tasks.squared_error(outputs[:, :1], ys[:, :1])
    np.testing.assert_allclose(nmse(outputs[:, :1], ys[:, :1]), 1 - score, rtol=1e-12)
    mean = jnp.broadcast_to(ys.mean(0, keepdims=True), ys.shape)
    np.testing.assert_allclose(nmse(mean, ys), 1, rtol=1e-12)
    assert nmse(ys, ys) == 0 and np.isinf(nmse(outputs, jnp.ones_like(ys)))


@pytest.mark.parametrize("steps", [(0, 10), (3, 3), (5, 2), (1, 2, 3), (-1, 4), "all", 4])
def test_steps_outside_of_the_stream(steps, without_type_checks):
    with pytest.raises(ValueError, match="steps"):
        nmse(jnp.ones(9), jnp.ones(9), steps=steps)


def test_the_laser_as_a_task(tmp_path):
    series = RNG.integers(0, 255, 60).astype(np.uint8)
    np.save(tmp_path / "santafe_laser.npy", series[:, None])
    options = {"fit": 30, "lags": 2, "horizon": 3, "path": tmp_path}
    xs, ys = tasks.laser(jr.key(0), 2, steps=20, **options)
    expected = recorded(series, fit=30, lags=2, horizon=3)
    assert xs.shape == (20, 2, 2) and ys.shape == (20, 2, 1)
    for example in range(2):
        np.testing.assert_array_equal(xs[:, example], expected.xs[:20])
        np.testing.assert_array_equal(ys[:, example], expected.ys[:20])
    assert len(tasks.laser(jr.key(1), **options)[0]) == 56
    with pytest.raises(ValueError, match="steps must be at most 56"):
        tasks.laser(jr.key(0), steps=57, **options)


def test_sunspots_as_silso_gives_them(tmp_path):
    numbers = RNG.uniform(0, 300, 40).round(1)
    rows = (f"{1749 + t // 12};{t % 12 + 1:02};1749.0;{n:6};-1;-1;1" for t, n in enumerate(numbers))
    (tmp_path / "SN_m_tot_V2.0.csv").write_text("\n".join(rows))
    (tmp_path / "plain.txt").write_text("\n".join(map(str, numbers)))
    for path in (tmp_path, tmp_path / "plain.txt"):
        xs, _ = tasks.sunspots(jr.key(0), fit=20, path=path)
        np.testing.assert_array_equal(xs[:, 0], recorded(numbers, fit=20).xs)


def test_the_markers_are_shipped_with_their_licence(monkeypatch, tmp_path):
    whole = tasks.respiration_signals(2, every=1)
    assert whole.shape == (1383, 9) and not whole[0].any()
    np.testing.assert_array_equal(tasks.respiration_signals(2), whole[::3][:461])
    xs, ys = tasks.respiration(jr.key(0), sequence=2, horizon=4, lags=12)
    assert xs.shape == (461 - 11 - 4, 1, 108) and ys.shape == (446, 1, 9)
    past = whole[::3][:100]
    np.testing.assert_allclose(
        ys[:, 0], (whole[::3][15:461] - past.mean(0)) / past.std(0), rtol=1e-9, atol=1e-12
    )
    licence = _respiration.MARKERS.with_suffix(".LICENSE.md").read_text()
    assert "CC BY 4.0" in licence and "1508.00749" in licence and "2013" in licence
    alone = tmp_path / _respiration.MARKERS.name
    alone.write_bytes(_respiration.MARKERS.read_bytes())
    monkeypatch.setattr(_respiration, "MARKERS", alone)
    with pytest.raises(ValueError, match="LICENSE.md is missing"):
        tasks.respiration(jr.key(0))
    with pytest.raises(ValueError, match="sequence must be a number from 1 to 9"):
        tasks.respiration(jr.key(0), sequence=10)


TS = """#comment
@problemName Two
@data
1,2,3:4,5,6:b
7,8:9,10:a
1,1,2:0,0,1:b
"""


def test_series_of_many_lengths(tmp_path):
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"JapaneseVowels_{part}.ts").write_text(TS)
    series, labels = read_ts(tmp_path / "JapaneseVowels_TEST.ts")
    assert [one.shape for one in series] == [(3, 2), (2, 2), (3, 2)] and labels == ["b", "a", "b"]
    np.testing.assert_array_equal(series[1], [[7, 9], [8, 10]])
    xs, ys = tasks.japanese_vowels_split("test", path=tmp_path)
    assert xs.shape == (29, 3, 2)
    np.testing.assert_array_equal(ys, [1, 0, 1])
    frames = np.concatenate(series)
    np.testing.assert_allclose(
        xs[-2:, 1], (series[1] - frames.mean(0)) / frames.std(0), rtol=1e-5, atol=1e-6
    )
    assert not xs[:-2, 1].any()
    drawn, labels = tasks.japanese_vowels(jr.key(0), 5, path=tmp_path)
    for one, label in zip(jnp.moveaxis(drawn, 1, 0), labels):
        same = [np.array_equal(one, xs[:, i]) and label == ys[i] for i in range(3)]
        assert any(same)
    (tmp_path / "JapaneseVowels_TEST.ts").unlink()
    _archive._read.cache_clear()
    with pytest.raises(ValueError, match="JapaneseVowels_TEST.ts is not beside it"):
        tasks.japanese_vowels(jr.key(0), path=tmp_path)


@pytest.mark.parametrize("text", ["@data\n1,2:x,4:a\n", "@data\n1,2:3:a\n", "1,2:a\n"])
def test_files_that_are_no_series(text, tmp_path):
    (tmp_path / "it.ts").write_text(text)
    with pytest.raises(ValueError, match=r"it\.ts (is|has) no series"):
        read_ts(tmp_path / "it.ts")


def watched(path: Path) -> np.ndarray:
    """Ten people, one exercise each, 40 samples."""
    milli = RNG.integers(-1000, 1000, (400, 6)).astype(np.int16)
    people = np.arange(1, 11)
    np.savez(
        path / "watch.npz",
        milli=milli,
        lengths=np.full(10, 40),
        exercise=people % 7,
        subject=people,
    )
    return milli.reshape(10, 40, 6) / 1000


def test_people_that_are_left_out(tmp_path):
    recordings = watched(tmp_path)
    options = {"fold": 1, "window": 16, "every": 3, "path": tmp_path}
    xs, ys = tasks.watch_split("test", **options)
    # of people 3 and 4; windows from 0, 8, 16, 24
    assert xs.shape == (6, 8, 6)
    np.testing.assert_array_equal(ys, [3] * 4 + [4] * 4)
    learnt = recordings[[0, 1, *range(4, 10)]].reshape(-1, 6)
    expected = (recordings[2, 8:24:3] - learnt.mean(0)) / learnt.std(0)
    np.testing.assert_allclose(xs[:, 1], expected, rtol=1e-5, atol=1e-6)
    _, labels = tasks.watch_split("train", **options)
    assert set(np.asarray(labels)) == {n % 7 for n in (1, 2, *range(5, 11))}
    for fold in range(5):
        tested, chosen, fitted = (set(subjects_of(s, fold)) for s in ("test", "validation", "fit"))
        assert tested | chosen | fitted == set(range(1, 11)) and not tested & chosen
        assert set(subjects_of("train", fold)) == chosen | fitted and not fitted & tested
    with pytest.raises(ValueError, match="fold must be a number from 0 to 4"):
        tasks.watch(jr.key(0), fold=5, path=tmp_path)
    with pytest.raises(ValueError, match="window must be shorter"):
        tasks.watch_split(window=41, path=tmp_path)
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="must be an .npz file"):
        tasks.watch_split(path=tmp_path / "pickle.npy")


def test_packages_are_searched_and_not_imported(tmp_path, monkeypatch, nowhere):
    inside = tmp_path / "reservoirpy" / "datasets"
    inside.mkdir(parents=True)
    (tmp_path / "reservoirpy" / "__init__.py").write_text("raise RuntimeError('imported')")
    np.save(inside / "santafe_laser.npy", np.arange(50) % 7)
    with pytest.raises(MissingData, match=r"in the package reservoirpy: pip install -e"):
        tasks.laser(jr.key(0), fit=20)
    _within.cache_clear()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    xs, _ = tasks.laser(jr.key(0), fit=20)
    np.testing.assert_array_equal(xs[:, 0], recorded(np.arange(50) % 7, fit=20).xs)
    # a folder of the user's comes first
    folder = tmp_path / "mine"
    folder.mkdir()
    np.savez(folder / "santafe_laser.npz", intensity=np.arange(40) % 5)
    monkeypatch.setenv(FOLDER, os.fspath(folder))
    assert len(tasks.laser(jr.key(0), fit=20)[0]) == 39


@pytest.mark.parametrize("name", ["laser", "watch", "sunspots", "japanese_vowels", "basic_motions"])
def test_data_that_are_not_here(name, nowhere):
    with pytest.raises(MissingData, match=f"name a folder with .* {FOLDER}"):
        getattr(tasks, name)(jr.key(0))
    with pytest.raises(ValueError, match="neither a file nor a folder with"):
        getattr(tasks, name)(jr.key(0), path="nowhere")


def test_the_list_shows_licences(capsys):
    main(["list"])
    lines = {
        line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line[:1] == " "
    }
    for name, licence in {"respiration": "CC BY 4.0", "sunspots": "CC BY-NC 4.0"}.items():
        assert licence in lines[name]
    recordings = {name for name, task in TASKS.items() if task.licence}
    assert recordings == {
        *("laser", "respiration", "watch", "sunspots", "japanese_vowels", "basic_motions")
    }
    assert all("Data: " in lines[name] for name in recordings)


def test_a_stream_is_not_tuned_on_what_is_reported():
    with pytest.raises(ValueError, match="tuned on the very stream that is reported"):
        TASKS["respiration"].of_tuning().batch(jr.key(0), 1)


def test_the_golden_files():
    """Shapes and figures of the data's description, where they are beside the repository."""
    key = jr.key(0)
    xs, ys = tasks.laser(key, path=shared("santafe_laser.npz"))
    assert xs.shape == (10_092, 1, 1)
    # persistence over the steps that are reported
    np.testing.assert_allclose(nmse(xs, ys, steps=(5000, 10_092)), 0.927, atol=5e-4)
    xs, ys = tasks.sunspots(key, path=shared("sunspots_silso_v2.txt"))
    # the months 2,000 to 3,328
    np.testing.assert_allclose(nmse(xs, ys, steps=(1999, 3328)), 0.139, atol=5e-4)
    counts = [tasks.watch_split(fold=f, path=shared("watch.npz"))[1].size for f in range(5)]
    assert sum(counts) == 2229
    xs, ys = tasks.japanese_vowels_split(path=shared("japanese_vowels.npz"))
    assert xs.shape == (29, 370, 12)
    np.testing.assert_allclose(np.bincount(ys).max() / 370, 0.238, atol=5e-4)
    xs, _ = tasks.basic_motions_split(path=shared("basic_motions.npz"))
    assert xs.shape == (100, 40, 6)


@pytest.mark.slow
def test_compare_learns_a_recording(tmp_path):
    found = compare(
        "respiration",
        ["eprop", "readout_only"],
        seeds=2,
        iterations=40,
        eval_every=20,
        hidden_size=8,
        out=tmp_path / "run",
        quiet=True,
    )
    assert [row.rule for row in found.rows] == ["eprop", "readout_only"]
    with pytest.raises(ValueError, match="tuned on the very stream"):
        compare(
            "respiration", ["eprop"], learning_rates=[1e-3, 1e-2], out=tmp_path / "no", quiet=True
        )


def test_a_recording_is_learnt_as_it_comes():
    """`delay` of the recording is that of the learner: no output knows a row that had not come."""
    late = VALUES.copy()
    late[12] += 1
    cell = mpj.RateCell(3, 4, key=jr.key(0))
    model = eqx.nn.Sequential([mpj.RNN(cell, rule=mpj.EProp()), mpj.Readout(4, 3, key=jr.key(1))])

    def loss(outputs, ys):
        return jnp.sum((outputs - ys) ** 2)

    def outputs_of(values):
        found = recorded(values, fit=8, horizon=4)
        options = {"optimizer": optax.sgd(0.1), "delay": found.delay}
        return mpj.learn_stream(model, found.xs, found.ys, loss=loss, **options)[1]

    moved = np.flatnonzero(np.any(outputs_of(VALUES) != outputs_of(late), axis=1))
    # row 12 is an input of step 12, and a truth that is known then
    assert moved[0] == 12
