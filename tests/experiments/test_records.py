"""Records while a run writes them: to a function of one's own, and to TensorBoard."""

import json
import struct
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modprop_jax.experiments import compare, main, resume, tensorboard, TrainingDiverged
from modprop_jax.experiments._files import FolderFault
from modprop_jax.experiments._summary import SECONDS


TINY: dict[str, Any] = {"batch": 2, "hidden_size": 4, "excitatory": 3, "iterations": 4}
TINY |= {"eval_every": 2, "data": {"cue": 2, "delay": 1}, "seeds": 2, "quiet": True}
RULES = ["eprop", "bptt"]
SHELL = "compare delayed_xor --rules eprop --seeds 2 --batch 2 --hidden-size 4 --iterations 2"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != SECONDS} for line in found]


def events(folder: Path) -> dict[str, dict[int, float]]:
    """By tag and iteration, of all event files; a value that is written twice is a fault."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for path in folder.glob("events.out.tfevents.*"):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack_from("<Q", content)  # then its checksum, 4 bytes
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            for value in event.summary.value:
                assert event.step not in found[value.tag], (path, value.tag, event.step)
                found[value.tag][event.step] = value.simple_value
            content = content[16 + size :]
    return found


def test_each_record_as_it_is_written(tmp_path):
    seen, on_disk = [], []

    def on_record(record):
        on_disk.append(lines(tmp_path / "run")[-1] == record)
        seen.append(json.loads(json.dumps(record)))
        record["loss"].clear()  # of its own copy

    result = compare("delayed_xor", RULES, out=tmp_path / "run", on_record=on_record, **TINY)
    assert seen == lines(tmp_path / "run") == result.metrics and len(seen) == 6
    assert all(on_disk)
    assert {"rule", "iteration", "loss", "accuracy", "cosine"} <= seen[0].keys()


@pytest.mark.parametrize(
    "error", [KeyError("mine"), TrainingDiverged("mine", 0, 1), FolderFault("mine")]
)
def test_an_error_surfaces_and_nothing_is_lost(error, tmp_path):
    """Whatever it is, TrainingDiverged too, which from a rule would be a row of the table."""
    seen = []

    def on_record(record):
        seen.append(record)
        if len(seen) == 2:
            raise error

    with pytest.raises(type(error)) as raised:
        compare("delayed_xor", RULES, out=tmp_path / "run", on_record=on_record, **TINY)
    assert raised.value is error
    assert timeless(seen) == timeless(lines(tmp_path / "run"))
    result = resume(tmp_path / "run", quiet=True, on_record=seen.append)
    assert timeless(seen) == timeless(result.metrics)
    whole = compare("delayed_xor", RULES, out=tmp_path / "whole", **TINY)
    assert timeless(whole.metrics) == timeless(result.metrics)
    assert not any(row.diverged for row in result.rows)
    # all is done: nothing is new
    resume(tmp_path / "run", quiet=True, on_record=lambda record: pytest.fail("again"))


def test_those_of_tuning_are_marked(tmp_path):
    seen = []
    tuning = {"learning_rates": [0.01, 0.02], "tune_seeds": 1, "on_record": seen.append}
    compare("delayed_xor", ["eprop"], out=tmp_path / "run", **tuning, **TINY)
    trials = [record for record in seen if record.pop("tuning", False)]
    assert trials == lines(tmp_path / "run" / "tuning") and len(trials) == 6
    assert [record for record in seen if record not in trials] == lines(tmp_path / "run")


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_no_function(tmp_path):
    with pytest.raises(ValueError, match="on_record must be a function of one record"):
        compare("delayed_xor", RULES, out=tmp_path / "run", on_record="print", **TINY)  # pyright: ignore
    assert not (tmp_path / "run").exists()
    compare("delayed_xor", ["eprop"], out=tmp_path / "run", **TINY)
    with pytest.raises(ValueError, match="on_record must be a function of one record"):
        resume(tmp_path / "run", on_record=3)  # pyright: ignore


def test_event_files_say_what_the_records_do(tmp_path):
    """Of a run that was stopped in between too: no iteration is missing, and none is twice."""
    pytest.importorskip("tensorboardX")
    write, count = tensorboard(tmp_path / "events"), []

    def on_record(record):
        write(record)
        count.append(record)
        if len(count) == 5:
            raise KeyboardInterrupt

    tuning = {"learning_rates": [0.01, 0.02], "tune_seeds": 1}
    with pytest.raises(KeyboardInterrupt):
        compare(
            "delayed_xor", ["eprop"], out=tmp_path / "run", on_record=on_record, **tuning, **TINY
        )
    # on disk, though nobody has closed it
    half = events(tmp_path / "events" / "tuning" / "eprop-learning_rate=0.02")
    assert [*half["loss/mean"]] == [0, 2]
    resume(tmp_path / "run", quiet=True, on_record=tensorboard(tmp_path / "events"))
    for at, folder in (("tuning", tmp_path / "run" / "tuning"), (".", tmp_path / "run")):
        by_rule = defaultdict(list)
        for line in lines(folder):
            by_rule[line["rule"].replace(":", "-")].append(line)
        places = [path.name for path in (tmp_path / "events" / at).iterdir()]
        assert {*places} - {"tuning"} == {*by_rule}
        for rule, records in by_rule.items():
            found = events(tmp_path / "events" / at / rule)
            for name in ("loss", "accuracy"):
                mean = {line["iteration"]: np.mean(line[name]) for line in records}
                assert found[f"{name}/mean"] == pytest.approx(mean, rel=1e-6)
            for index in range(len(records[0]["loss"]) if at == "." else 0):
                one = {line["iteration"]: line["loss"][index] for line in records}
                assert found[f"loss/{index}"] == pytest.approx(one, rel=1e-6)
            timed = {line["iteration"]: line[SECONDS] for line in records if line[SECONDS]}
            assert found[SECONDS] == pytest.approx(timed, rel=1e-6)
    assert "loss/0" not in half  # one seed is its mean


def test_from_the_shell_and_on_resume(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    run = tmp_path / "run"
    assert main([*SHELL.split(), "--eval-every", "1", "--out", str(run), "--tensorboard"]) == 0
    assert [*events(run / "tensorboard" / "eprop")["accuracy/mean"]] == [0, 1, 2]
    (run / "checkpoints" / "eprop.eqx").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / "tensorboard").rename(tmp_path / "before")
    (run / "tensorboard").symlink_to(elsewhere)
    assert main(["compare", "--resume", str(run), "--tensorboard"]) == 2
    assert "tensorboard is a link" in capsys.readouterr().err
    (run / "tensorboard").unlink()
    (run / "tensorboard").write_text("")
    (run / "checkpoints" / "eprop.eqx").unlink()
    assert main(["compare", "--resume", str(run), "--tensorboard"]) == 2
    said = capsys.readouterr().err
    assert "can't be written" in said and said.count("\n") == 1
    assert not [*elsewhere.iterdir()]


def test_without_the_package_nothing_begins(tmp_path, monkeypatch, capsys):
    # another test may have imported its parts
    for name in [
        "tensorboardX",
        *(each for each in sys.modules if each.startswith("tensorboardX.")),
    ]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'tensorboardX.*pip install -e "\.\[tensorboard\]"'):
        tensorboard(tmp_path)
    assert main([*SHELL.split(), "--out", str(tmp_path / "run"), "--tensorboard"]) == 2
    said = capsys.readouterr().err
    assert "--tensorboard: event files" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
