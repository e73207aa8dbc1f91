"""A study of another kind: it says what its runs are, and `conduct` does the rest."""

from typing import Any

import jax.numpy as jnp
import pytest
from rich.console import Console

from modprop_jax.experiments._align import Align
from modprop_jax.experiments._align_stream import AlignStream
from modprop_jax.experiments._compare import Compare
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._runs import Run
from modprop_jax.experiments._storage import RunFolder
from modprop_jax.experiments._study import AbstractStudy, begun, conduct, reopened, Report
from modprop_jax.experiments._summary import SECONDS
from modprop_jax.experiments._train import State


class Killed(Exception):
    pass


class Doubling(AbstractStudy[list[float]]):
    """The second run begins where the first one's metrics end."""

    kind = "doubling"
    command = "compare"

    def __init__(self, config, *, dies_at=None):
        self.config, self.dies_at, self.did = config, dies_at, []

    @property
    def run(self):
        return self.config

    def options(self):
        return {"factor": 2}

    def fresh(self):
        state = State(jnp.ones(1), None, jnp.zeros((), jnp.int32))
        return dict.fromkeys(self.config.rules, state)

    def runs(self, fresh, metrics, say):
        first, second = self.config.rules
        yield Run(first, fresh[first], lambda state: self.lines(first, state))
        say(f"so far {metrics[-1]['loss']}")
        start = State(jnp.array(metrics[-1]["loss"]), None, fresh[second].iteration)
        yield Run(second, start, lambda state: self.lines(second, state))

    def lines(self, label, state):
        for at in range(int(state.iteration) + 2, self.config.settings.schedule.iterations + 1, 2):
            if (label, at) == self.dies_at:
                raise Killed
            self.did.append((label, at))
            state = State(2 * state.model, None, jnp.int32(at))
            line = {"rule": label, "iteration": at, "accuracy": [0.0], SECONDS: 0.1}
            yield state, line | {"loss": state.model.tolist()}

    def report(self, folder, metrics, diverged, style):
        losses = [line["loss"][0] for line in metrics]
        return Report(losses, {"losses.txt": str(losses)}, lambda reporter: reporter.say("shown"))


@pytest.fixture(scope="module")
def config():
    sizes: dict[str, Any] = {"hidden_size": 4, "batch": 2, "iterations": 4, "eval_every": 2}
    return Config.make("delayed_xor", "small", ["eprop", "bptt"], 1, **sizes)


@pytest.mark.parametrize("dies_at", [("eprop", 2), ("eprop", 4), ("bptt", 2), ("bptt", 4)])
def test_a_study_goes_on_where_it_was_killed(dies_at, config, tmp_path, capsys):
    study = Doubling(config, dies_at=dies_at)
    folder = begun(study, tmp_path / "run")
    with pytest.raises(Killed):
        conduct(study, folder, Console())
    again = Doubling(config)
    assert conduct(again, RunFolder(folder.path), Console()) == [2, 4, 8, 16]
    assert study.did + again.did == [("eprop", 2), ("eprop", 4), ("bptt", 2), ("bptt", 4)]
    assert (folder.path / "losses.txt").read_text() == "[2.0, 4.0, 8.0, 16.0]"
    assert capsys.readouterr().out.count("shown") == 1
    done = Doubling(config)
    assert conduct(done, RunFolder(folder.path), Console()) == [2, 4, 8, 16] and not done.did


def test_kinds_are_told_apart(config, tmp_path):
    kinds = [each.kind for each in (Compare, Align, AlignStream, Doubling)]
    assert kinds == ["compare", "align", "align_stream", "doubling"]
    folder = begun(Doubling(config), tmp_path / "run")
    assert reopened(folder, "doubling", lambda data: Doubling(config)).run is config
    with pytest.raises(ValueError, match="holds a run of doubling"):
        reopened(folder, "align", lambda data: Doubling(config))


def test_programs_are_forgotten_where_there_is_no_room_for_more(tmp_path, monkeypatch):
    """A process of Linux has 65,530 mappings."""
    from modprop_jax.experiments import _runs as runs

    cleared = []
    monkeypatch.setattr(runs.jax, "clear_caches", lambda: cleared.append(True))
    maps = tmp_path / "maps"
    monkeypatch.setattr(runs, "_MAPS", maps)
    runs.forget_programs()  # another system
    maps.write_text("a mapping\n" * 30_000)
    runs.forget_programs()
    assert not cleared
    maps.write_text("a mapping\n" * 30_001)
    runs.forget_programs()
    assert cleared == [True]
