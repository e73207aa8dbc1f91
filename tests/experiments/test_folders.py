"""Folders of runs that were damaged, by accident or on purpose: one line, no wrong number."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
import tyro
from folders import altered, resigned, unsigned

from modprop_jax.experiments import compare, main, resume, trained
from modprop_jax.experiments._checkpoint import sealed
from modprop_jax.experiments._cli import _COMMANDS
from modprop_jax.experiments._compare._study import _start
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._files import FolderFault
from modprop_jax.experiments._storage import RunFolder, signed


SIZES: dict[str, Any] = {"batch": 2, "hidden_size": 4, "excitatory": 3, "iterations": 4}
TINY: dict[str, Any] = SIZES | {"eval_every": 2, "data": {"cue": 2, "delay": 1}}
CHECKPOINT = Path("checkpoints/eprop.eqx")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was stopped: of its second rule nothing is left."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    compare("delayed_xor", ["eprop", "bptt"], seeds=2, out=out, quiet=True, **TINY)
    return out


@pytest.fixture
def folder(whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / "checkpoints" / "bptt.eqx").unlink()
    return path


def _bytes(change):
    def damage(file):
        file.write_bytes(change(file.read_bytes()))

    return damage


def _flipped(at):
    def flip(content):
        index = at % len(content)
        return content[:index] + bytes([content[index] ^ 4]) + content[index + 1 :]

    return _bytes(flip)


def _head(**changes):
    """What a checkpoint says of itself, as if it had been written so."""

    def change(content):
        head, _, arrays = content.partition(b"\n")
        about = json.loads(head)
        del about["sha256"]
        return sealed(about | changes, arrays)

    return _bytes(change)


def _as_folder(file):
    file.unlink()
    file.mkdir()


def _as_link(file):
    shutil.move(file, file.parent.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent.parent / "elsewhere")


def _as_pipe(file):
    file.unlink()
    os.mkfifo(file)


def _json(text):
    return lambda file: file.write_text(text)


def _fields(**changes):
    return lambda file: file.write_text(resigned(file, **changes))


def _settings(**changes):
    def damage(file):
        file.write_text(resigned(file, settings=altered(file, **changes)))

    return damage


def _without_parts(file):
    """As folders of format 2 had them."""
    settings = unsigned(file)["settings"]
    parts = [settings.pop(name) for name in ("network", "schedule", "optimizer", "objective")]
    for part in parts:
        settings |= part
    file.write_text(resigned(file, settings=settings))


def _without(name):
    def damage(file):
        changed = json.loads(file.read_text())
        del changed[name]
        file.write_text(json.dumps(changed))

    return damage


CONFIG = {
    "empty": (_bytes(lambda c: b""), "is no JSON"),
    "cut": (_bytes(lambda c: c[:200]), "is no JSON"),
    "noise": (_bytes(lambda c: bytes(range(256))), "is no JSON"),
    "a list": (_json("[]"), "is no object"),
    "a number": (_json("3"), "is no object"),
    "without a format": (_without("format"), "of format 1.*continue it with the version"),
    "of a later format": (
        lambda f: f.write_text(f.read_text().replace('"format": 4', '"format": 99')),
        "of format 99, and this version of modprop_jax reads 3",
    ),
    "of an earlier format": (
        lambda f: f.write_text(f.read_text().replace('"format": 4', '"format": 2')),
        "of format 2, and this version of modprop_jax reads 3: continue it with the version",
    ),
    "an edited rate": (
        lambda f: f.write_text(f.read_text().replace('"batch": 2', '"batch": 3')),
        "was changed after the run began",
    ),
    "a flipped bit": (_flipped(900), "was changed|is no JSON"),
    "a field more": (_fields(colour="red"), "colour is no field"),
    "a field less": (lambda f: f.write_text(_less(f, "rules")), "rules is missing"),
    "seeds of text": (_fields(seeds="two"), "seeds can't be 'two'"),
    "no seeds": (_fields(seeds=0), "seeds must be greater than 0"),
    "other seeds": (_fields(seeds=3), "holds other networks"),
    "a rule of none": (_fields(rules=["magic"]), "unknown rule 'magic'"),
    "rules of text": (_fields(rules="eprop"), "rules can't be 'eprop'"),
    "a task of none": (_fields(task="nothing"), "unknown task 'nothing'"),
    "a preset of none": (_fields(preset="huge"), "unknown preset 'huge'"),
    "another kind": (lambda f: f.write_text(resigned(f, "align")), "holds a run of align"),
    "a cell of none": (_settings(cell="magic"), "unknown cell 'magic'"),
    "settings of none": (_settings(colour=1), "settings.colour is no field"),
    "a rate of text": (_settings(learning_rate="fast"), "optimizer.learning_rate can't be 'fast'"),
    "a part of text": (_settings(objective="win"), "settings.objective must be an object"),
    "settings without parts": (_without_parts, "settings.(hidden_size|iterations|l2) is no field"),
    "fewer iterations": (_settings(iterations=3), "is of iteration 4, where 4 of 3"),
    "too many iterations": (_settings(iterations=2**31), "iterations can't be 2147483648"),
    "a seed before all": (_fields(first_seed=-1), "seeds are numbers from 0"),
    "a seed beyond all": (_fields(first_seed=2**70), "first_seed can't be 11805"),
    "no precision": (_fields(environment={}), "unknown precision ''"),
    "no time constant": (_settings(readout_tau=0), "readout_tau must be greater than 0"),
    "all synapses and more": (_settings(density=1.5), "density is a share"),
    "a module of none": (_fields(task=".evil:task"), "'.evil' is no module"),
    "deep": (_json("[" * 100_000), "is no JSON"),
    "a pipe": (lambda f: _as_pipe(f), "it is no file"),
    "other neurons": (_settings(hidden_size=6), "holds other networks"),
    "a folder": (_as_folder, "can't be read: Is a directory"),
    "a link": (lambda f: _link_beside(f), "is a link"),
    "missing": (lambda f: f.unlink(), "holds no run"),
}
CHECKPOINTS = {
    "empty": (_bytes(lambda c: b""), "is no checkpoint"),
    "cut in the head": (_bytes(lambda c: c[:20]), "is no checkpoint"),
    "cut in the arrays": (_bytes(lambda c: c[:-30]), "its checksum is another"),
    "zeros": (_bytes(lambda c: bytes(len(c))), "is no checkpoint"),
    "text": (_json("hello"), "is no checkpoint"),
    "JSON": (_json("{}\n"), "is no checkpoint"),
    "a list": (_json("[1]\n"), "is no checkpoint"),
    "a byte more": (_bytes(lambda c: c + b"\0"), "its checksum is another"),
    "twice": (_bytes(lambda c: c + c), "its checksum is another"),
    "without a head": (_bytes(lambda c: c.partition(b"\n")[2]), "is no checkpoint"),
    "a bit of the head": (_flipped(3), "checkpoint|another version"),
    "a bit of its lines' digest": (_flipped(80), "its checksum is another"),
    **{f"bit {at}": (_flipped(at), "its checksum is another") for at in (-400, -120, -5)},
    "another rule's": (_head(rule="bptt"), "is a checkpoint of bptt, not of eprop"),
    "another version's": (_head(format=1), "of another version"),
    "another iteration": (_head(iteration=2), "is of iteration 4, where 2 of 4"),
    "an iteration of none": (_head(iteration=2**31 - 3), "is of iteration 4, where 2147483645"),
    "an iteration of text": (_head(iteration="4"), "is of iteration 4|is no checkpoint"),
    "lines of another run": (_head(metrics="0" * 64), "the lines of eprop are not those"),
    "arrays in another order": (_head(arrays={}), "holds other networks.*0 arrays where"),
    "arrays of no names": (_head(arrays=3), "is no checkpoint"),
    "deep": (_json("[" * 100_000), "is no checkpoint"),
    "a folder": (_as_folder, "can't be read: Is a directory"),
    "a link": (_as_link, "is a link"),
    "a pipe": (lambda f: _as_pipe(f), "it is no file"),
}
METRICS = {
    "empty": (_bytes(lambda c: b""), "are not those that were written"),
    "missing": (lambda f: f.unlink(), "are not those that were written"),
    "a line less": (_bytes(lambda c: c.partition(b"\n")[2]), "are not those that were written"),
    "a line twice": (_bytes(lambda c: c.partition(b"\n")[0] + b"\n" + c), "are not those"),
    "noise in between": (_bytes(lambda c: b"\xff\xfe\n" + c), "line 1, is no record"),
    "a list in between": (_bytes(lambda c: b"[]\n" + c), "line 1, is no record"),
    "a rule less": (_bytes(lambda c: c.replace(b'"rule"', b'"role"', 1)), "line 1, is no record"),
    "an iteration of text": (
        _bytes(lambda c: c.replace(b'"iteration": 0', b'"iteration": "0"', 1)),
        "line 1, is no record",
    ),
    "deep": (_bytes(lambda c: b"[" * 100_000 + b"\n" + c), "line 1, is no record"),
    "a pipe": (lambda f: _as_pipe(f), "it is no file"),
    **{f"bit {at}": (_flipped(at), "are not those|is no record") for at in (60, 200, -3)},
    **{f"{at} bytes": (_bytes(lambda c, at=at: c[:at]), "are not those") for at in (1, 100)},
    "zeros": (_bytes(lambda c: bytes(len(c))), "are not those"),
    "lines in another order": (
        _bytes(lambda c: b"\n".join(c.split(b"\n")[2::-1]) + b"\n"),
        "are not those",
    ),
    "another number": (_bytes(lambda c: c.replace(b"0.", b"1.", 1)), "are not those"),
    "a folder": (_as_folder, "can't be read: Is a directory"),
    "a link": (lambda f: _link_beside(f), "is a link"),
}


def _less(file, name):
    return signed({k: v for k, v in unsigned(file).items() if k != name})


def _link_beside(file):
    target = file.parent.parent / "elsewhere"
    shutil.move(file, target)
    file.symlink_to(target)


DAMAGES = [
    pytest.param(name, *each, id=f"{name}: {what}")
    for name, damages in (
        ("config.json", CONFIG),
        (str(CHECKPOINT), CHECKPOINTS),
        ("metrics.jsonl", METRICS),
    )
    for what, each in damages.items()
]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name, damage, message", DAMAGES)
def test_a_damaged_file_is_one_line(name, damage, message, folder, capsys):
    damage(folder / name)
    (folder / ".lock").unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["compare", "--resume", str(folder)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("modprop-jax: "), said
    assert re.search(message, said[0]), said[0]
    # nothing was trained on, or written over
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {**after, folder / ".lock": b""} == {**before, folder / ".lock": b""}


def _nan(folder):
    """Weights that are NaN, in a checkpoint that is whole."""
    run = RunFolder(folder)
    config = Config.from_dict(unsigned(folder / "config.json"))
    like = eqx.filter_eval_shape(lambda: _start(config, "eprop"))
    found = run.load_state("eprop", like, 4)
    assert found is not None
    weight = found[0].model.readout.weight
    broken = eqx.tree_at(lambda s: s.model.readout.weight, found[0], weight.at[1, 0, 0].set(np.nan))
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if line["rule"] == "eprop":
            run._hashed("eprop").update(json.dumps(line).encode())
    run.save_state("eprop", broken)


def test_weights_that_are_nan(folder):
    _nan(folder)
    with pytest.raises(FolderFault, match="eprop.eqx holds NaN or infinity.*delete it"):
        resume(folder, quiet=True)


def test_a_checkpoint_of_another_rule_in_its_place(whole, folder):
    shutil.copy(whole / CHECKPOINT, folder / "checkpoints" / "bptt.eqx")
    with pytest.raises(FolderFault, match="is a checkpoint of eprop, not of bptt"):
        resume(folder, quiet=True)


def test_the_way_out_is_one(whole, folder):
    """As the message says: without the damaged file the rule is trained anew, to the same end."""
    (folder / CHECKPOINT).write_bytes(b"")
    with pytest.raises(FolderFault, match="delete it to train eprop from the start"):
        resume(folder, quiet=True)
    (folder / CHECKPOINT).unlink()
    resume(folder, quiet=True)
    for rule in ("eprop", "bptt"):
        np.testing.assert_array_equal(
            trained(folder, rule).readout.weight, trained(whole, rule).readout.weight
        )


def test_a_folder_of_links_and_a_file(folder, tmp_path, capsys):
    outside = tmp_path / "outside"
    shutil.move(folder / "checkpoints", outside)
    (folder / "checkpoints").symlink_to(outside)
    kept = sorted(path.name for path in outside.iterdir())
    assert main(["compare", "--resume", str(folder)]) == 2
    assert "checkpoints is a link" in capsys.readouterr().err
    assert sorted(path.name for path in outside.iterdir()) == kept
    (folder / "checkpoints").unlink()
    assert main(["compare", "--resume", str(folder)]) == 2
    assert "lacks the folder checkpoints" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_text("")
    assert main(["compare", "--resume", str(file)]) == 2
    assert main(["compare", "delayed_xor", "--out", str(file), "--rules", "eprop"]) == 2
    said = capsys.readouterr().err
    assert said.count("modprop-jax: ") == 2 == said.count("\n")


@pytest.mark.skipif(os.name == "nt", reason="no links")
@pytest.mark.parametrize(
    "name",
    (".lock", ".metrics.jsonl.tmp", "checkpoints/.bptt.eqx.tmp", ".table.md.tmp", "curves.png"),
)
def test_a_file_of_two_names_is_not_written_through_one(name, folder, tmp_path):
    """A hard link looks like a file; what has the other name, outside, stays as it is."""
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (folder / name).unlink(missing_ok=True)
    os.link(outside, folder / name)
    resume(folder, quiet=True)
    assert outside.read_text() == "precious"


def test_what_a_kill_or_somebody_left_in_the_way(folder, capsys):
    os.mkfifo(folder / ".table.md.tmp")
    assert main(["compare", "--resume", str(folder)]) == 0
    for name in (".lock", "table.md"):
        (folder / name).unlink()
        (folder / name).mkdir()
        capsys.readouterr()
        assert main(["compare", "--resume", str(folder)]) == 2
        assert f"{name} can't be written (Is a directory)" in capsys.readouterr().err
        (folder / name).rmdir()


@pytest.mark.parametrize("where", ("runs.run.evil:task", "runs/run/evil.py:task", "run.evil:task"))
def test_code_in_a_folder_is_not_run(where, folder, tmp_path, monkeypatch, capsys):
    """Nor as a module, where Python looks for modules in the current folder."""
    (tmp_path / "runs").mkdir()
    mine = tmp_path / "runs" / "run"
    shutil.move(folder, mine)
    (mine / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ntask = print\n")
    (mine / "config.json").write_text(resigned(mine / "config.json", task=where))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.syspath_prepend(str(tmp_path / "runs"))
    assert main(["compare", "--resume", str(mine)]) == 2
    said = capsys.readouterr().err
    assert "the run's own" in said and said.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_layers_that_changed_places(folder):
    """Of the same shapes, so that only their names tell them apart."""

    head = (folder / CHECKPOINT).read_bytes().partition(b"\n")[0]
    arrays = json.loads(head)["arrays"]
    names = {name.replace("weight_rec", "weight_other"): each for name, each in arrays.items()}
    _head(arrays=names)(folder / CHECKPOINT)
    with pytest.raises(FolderFault, match="weight_other is float.*weight_rec is float"):
        resume(folder, quiet=True)


def test_checkpoints_that_were_moved_away(folder, capsys):
    """Else all would begin anew, and the metrics of before be lost."""
    before = (folder / "metrics.jsonl").read_bytes()
    shutil.move(folder / "checkpoints", folder.parent / "moved")
    assert main(["compare", "--resume", str(folder)]) == 2
    assert "lacks the folder checkpoints" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tuned"
    options: dict[str, Any] = TINY | {"iterations": 2}
    tuning: dict[str, Any] = {"learning_rates": [0.01, 0.02], "tune_seeds": 1}
    compare("delayed_xor", ["eprop"], seeds=1, out=out, quiet=True, **tuning, **options)
    return out


TUNING = {
    "empty": (_bytes(lambda c: b""), "is damaged: delete it, and the choice is made anew"),
    "a list": (_json("[]"), "is damaged"),
    "deep": (_json("[" * 100_000), "is damaged"),
    "another choice": (_bytes(lambda c: c.replace(b"=0.01", b"=0.02")), "is damaged"),
    "the same choice": (_bytes(lambda c: c.replace(b"=0.02", b"=0.01")), "is damaged"),
    "a folder": (_as_folder, "can't be read: Is a directory"),
    "a link": (_link_beside, "is a link"),
    "a pipe": (_as_pipe, "it is no file"),
}


@pytest.mark.parametrize("what", TUNING)
def test_a_choice_that_was_damaged(what, tuned, tmp_path, capsys):
    folder, (damage, message) = tmp_path / "run", TUNING[what]
    shutil.copytree(tuned, folder)
    before = (folder / "tuning.json").read_bytes()
    damage(folder / "tuning.json")
    if what.endswith("choice") and (folder / "tuning.json").read_bytes() == before:
        return  # one of the two is what was chosen
    assert main(["compare", "--resume", str(folder)]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1, said


def test_the_tuning_of_another_run_and_one_elsewhere(tuned, tmp_path, capsys):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(tuned, folder)
    (folder / "tuning.json").unlink()
    config = folder / "tuning" / "config.json"
    config.write_text(resigned(config, settings=altered(config, l2=0.5)))
    assert main(["compare", "--resume", str(folder)]) == 2
    assert "tuning is the tuning of another run: delete it" in capsys.readouterr().err
    elsewhere.mkdir()
    shutil.rmtree(folder / "tuning")
    (folder / "tuning").symlink_to(elsewhere)
    assert main(["compare", "--resume", str(folder)]) == 2
    assert "tuning is a link" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


ALIGN = {
    "a list": ({"align": []}, "align must be an object"),
    "missing": ({"align": {}}, "optimizer is missing"),
    "seldom": ({"checkpoints": 1}, "checkpoints must be at least 2"),
    "no trials": ({"measure": 0}, "measure and noise must be greater than 0"),
    "text": ({"measure": "many"}, "measure can't be 'many'"),
    "more": ({"colour": 1}, "colour is no field"),
    "an optimizer of none": ({"optimizer": "magic"}, "unknown optimizer"),
}
STREAM = {
    "a list": ({"align": []}, "align must be an object"),
    "missing": ({"align": {}}, "learner is missing"),
    "a learner of none": ({"learner": "bptt"}, "unknown learner 'bptt'"),
    "other blocks": ({"blocks": 0}, "a stream has 24 blocks"),
    "text": ({"blocks": "many"}, "blocks can't be 'many'"),
}


@pytest.mark.parametrize(
    "kind, change, message",
    [("align", *each) for each in ALIGN.values()]
    + [("align_stream", *each) for each in STREAM.values()],
)
def test_what_align_can_not_have_begun(kind, change, message, tmp_path, capsys):
    typed = {
        "align": "delayed_xor --iterations 4 --checkpoints 2 --measure 2",
        "align_stream": "add --preset brief --iterations 24",
    }[kind]
    out = tmp_path / "run"
    line = f"align {typed} --rules eprop --seeds 1 --hidden-size 4 --batch 2 --out {out}".split()
    # begun, and stopped before it does anything
    work = tyro.extras.subcommand_cli_from_dict(_COMMANDS, args=line)
    assert work.again is not None
    config = out / "config.json"
    if "align" not in change:
        change = {"align": unsigned(config)["align"] | change}
    config.write_text(resigned(config, kind, **change))
    assert main(["align", "--resume", str(out)]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1, said


HOLD = """
import sys, time
from pathlib import Path
from modprop_jax.experiments._storage import RunFolder

with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks")
def test_two_processes_are_told_apart(folder, capsys):
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            assert main(["compare", "--resume", str(folder)]) == 2
            assert "another process is at work" in capsys.readouterr().err
        finally:
            process.kill()
    assert main(["compare", "--resume", str(folder)]) == 0


@pytest.mark.parametrize("iterations", [4294967297, 2**31])
def test_iterations_that_would_overflow(iterations, capsys):
    assert main(["compare", "delayed_xor", "--iterations", str(iterations)]) == 2
    assert "iterations must be less than 2³¹" in capsys.readouterr().err


def test_networks_of_the_start(whole):
    start, end = (trained(whole, "eprop", at=at) for at in ("start", "end"))
    assert start.readout.weight.shape == end.readout.weight.shape
    assert (start.readout.weight != end.readout.weight).any()
    np.testing.assert_array_equal(
        start.readout.weight, trained(whole, "bptt", at="start").readout.weight
    )
    with pytest.raises(ValueError, match='at must be "end" or "start"'):
        trained(whole, "eprop", at="middle")  # pyright: ignore[reportArgumentType]
