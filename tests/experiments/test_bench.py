"""The bench: what it measures, what it leaves out, and that it measures nothing twice."""

import json
import re

import jax
import numpy as np
import pytest

from modprop_jax.experiments import main
from modprop_jax.experiments._bench import _peers
from modprop_jax.experiments._bench._measure import measure, Settings
from modprop_jax.experiments._bench._memory import growth
from modprop_jax.experiments._bench._networks import NETWORKS
from modprop_jax.experiments._bench._problem import checkpoint_segment, Size
from modprop_jax.experiments._bench._programs import programs
from modprop_jax.experiments._bench._report import notes
from modprop_jax.experiments._bench._results import Line, summarise


B, T, n, m = 2, 6, 8, 32
PEERS = _peers.PEERS
BRAINTRACE = "braintrace_d_rtrl", "braintrace_pp_prop"
ONE = Settings(batch=2, runs=1)
ARGUMENTS = [
    *("--sizes", f"{n}x{T}", "--batch", str(B), "--runs", "1"),
    *("--rules", "eprop", "rtrl", "--modes", "offline", "segment=4", "checkpointed"),
]
EXPECTED = {
    ("plain", "offline"): 3,
    ("forward", "offline"): 1,
    ("eprop", "offline"): 2,
    ("eprop", "segment=4"): 2,
    ("rtrl", "segment=4"): 3,
    ("plain", "checkpointed"): 3,
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny"
    assert main(["bench", *ARGUMENTS, "--out", str(path)]) == 0
    return path


def _rows(path):
    rows = json.loads(path.with_suffix(".json").read_text())["rows"]
    return {(row["program"], row["mode"]): row for row in rows}


@pytest.mark.slow
def test_floor_is_the_flops_at_the_measured_rate(out):
    rows = _rows(out)
    assert rows.keys() == EXPECTED.keys()
    for key, matmuls in EXPECTED.items():
        row = rows[key]
        floor = 2 * matmuls * B * T * n * (n + m + 1) / (1e9 * row["gigaflops"])
        np.testing.assert_allclose(row["over_floor"], row["milliseconds"] / 1e3 / floor)


@pytest.mark.slow
def test_gradients_are_those_that_the_names_promise(out):
    rows = _rows(out)
    for key in (("eprop", "segment=4"), ("rtrl", "segment=4"), ("plain", "checkpointed")):
        assert rows[key]["difference"] < 1e-5, key
    assert rows["rtrl", "segment=4"]["cosine"] > 1 - 1e-5 > rows["eprop", "offline"]["cosine"]


@pytest.mark.slow
def test_table_and_figure(out):
    table = out.with_suffix(".md").read_text()
    for (name, mode), row in _rows(out).items():
        shown = name if mode == "offline" else f"{name}, {mode}"
        assert re.search(rf"\| {shown} \| [0-9.]+ \|.*\| {row['compile_seconds']:.1f} \|", table)
    assert f"n = {n}, T = {T}, batch {B}" in table and "float32" in table
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_goes_on_without_measuring_twice(out, tmp_path, capsys):
    whole = json.loads(out.with_suffix(".json").read_text())
    lost = whole["rows"].pop(3)
    again = tmp_path / "again"
    again.with_suffix(".json").write_text(json.dumps(whole))
    assert main(["bench", *ARGUMENTS, "--out", str(again)]) == 0
    *kept, new = json.loads(again.with_suffix(".json").read_text())["rows"]
    # times to the last digit: none of these ran again
    assert kept == whole["rows"]
    assert (new["program"], new["mode"]) == (lost["program"], lost["mode"])
    capsys.readouterr()
    assert main(["bench", *ARGUMENTS, "--batch", "3", "--out", str(again)]) == 2
    assert "batch = 2, but now it is 3" in capsys.readouterr().err


@pytest.mark.slow
def test_traces_that_do_not_fit_are_left_out():
    size, batch = Size(40, 3), 4
    settings = Settings(batch=batch, runs=1, memory=1e-3)
    rows = {
        row["program"]: row for row in measure(size, ("rtrl", "eprop"), ("segment=1",), settings)
    }
    trace = 4 * batch * size.n**2 * (size.n + m)
    needed, limit = map(float, re.findall(r"[0-9.]+", rows["rtrl"]["skipped"]))
    assert limit == 1e-3 < 1e-9 * trace < needed
    assert "ratios" in rows["eprop"] and "ratios" in rows["plain"]
    line = summarise([rows["rtrl"]])[0]
    assert line.ratio is None and "more than --memory" in (line.skipped or "")


@pytest.mark.slow
def test_runs_that_would_take_too_long_are_left_out():
    known = {"program": "plain", "mode": "offline", "n": 5, "T": 2, "milliseconds": 1e4}
    known["network"] = "leaky"
    found = [*measure(Size(5, 8), (), ("checkpointed",), Settings(batch=1, runs=1), [known])]
    assert [row["mode"] for row in found] == ["offline", "checkpointed"]
    assert "about 40 s, more than --seconds 30" in found[0]["skipped"]
    assert "ratios" in found[1]


@pytest.mark.slow
def test_several_processes(tmp_path):
    path = tmp_path / "two"
    sizes = ["--sizes", "5x2", "--batch", "1", "--runs", "3"]
    rules = ["--rules", "eprop", "--modes", "checkpointed"]
    assert main(["bench", *sizes, *rules, "--processes", "2", "--out", str(path)]) == 0
    rows = json.loads(path.with_suffix(".json").read_text())["rows"]
    assert [row["process"] for row in rows] == [0, 0, 1, 1]
    line = summarise(rows)[1]
    medians = [np.median(row["ratios"]) for row in rows if row["mode"] == "checkpointed"]
    assert (line.low, line.high) == (min(medians), max(medians))


def test_without_peers_the_table_says_how_to_install_them(monkeypatch):
    monkeypatch.setattr(_peers.Peer, "installed", False)
    assert [p.key for p in programs("leaky", BRAINTRACE, ("segment=1",))] == [("plain", "offline")]
    assert "snntorch" not in {program.name for program in programs("lif")}
    for network, install in ("leaky", '-e ".[peers]"'), ("lif", "snntorch"):
        found = notes([Line("plain", "offline", 5, 2, network)])
        assert any("install it" in note and f"pip install {install}" in note for note in found)


@pytest.mark.filterwarnings("default")
def test_peers_compute_eprop():
    pytest.importorskip("braintrace")
    settings = Settings(batch=2, runs=1)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows = [*measure(Size(8, 6), BRAINTRACE, ("segment=1",), settings)]
    assert len(rows) == 3
    for row in rows[1:]:
        assert row["difference"] < 1e-5 and row["cosine"] < 1 - 1e-5


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("peer", ("spyx", "snntorch"))
def test_peers_compute_the_exact_gradient_of_the_same_spikes(peer):
    pytest.importorskip(peer)
    size = Size(16, 60, _peers.PEERS[peer].network)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows = [*measure(size, ("eprop", peer), ("offline",), Settings(batch=4, runs=1))]
    eprop, found = (next(row for row in rows if row["program"] == name) for name in ("eprop", peer))
    assert found["loss_difference"] < 1e-5 and found["difference"] < 1e-4
    assert found["cosine"] > 1 - 1e-5 > eprop["cosine"]
    assert found["peak_megabytes"] is None or found["peak_megabytes"] > 0


# the approximate rules of each; its others are exact, and streamed all equal themselves offline
SERVED = {
    "lif": ["eprop"],
    "lif_reset": ["eprop"],
    "alif": ["eprop", "mdgl:online=1", "mdgl"],
    "gru": ["snap1"],
    "lru": [],
    "gle": ["gle"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        network if network in ("lif", "gru") else pytest.param(network, marks=pytest.mark.long)
        for network in SERVED
    ],
)
def test_networks(network):
    found = [*measure(Size(6, 5, network), None, ("offline", "segment=2"), ONE)]
    rows = {(row["program"], row["mode"]): row for row in found if row["program"] not in PEERS}
    default = NETWORKS[network]
    ours = {rule for rule in (*default.rules, *default.offline) if rule not in PEERS}
    assert ours <= {name for name, _ in rows}
    for (name, mode), row in rows.items():
        assert row["loss_difference"] < 1e-5
        if name == "forward" or (name, mode) == ("bptt", "segment=2"):
            continue
        if mode == "offline":
            assert (row["cosine"] < 1 - 1e-6) == (name in SERVED[network]), name
        if (name, mode) != ("plain", "offline") and name not in SERVED[network]:
            assert row["difference"] < 1e-4, name
        if mode == "segment=2":
            assert row["difference"] < 1e-4, name
        assert ("over_floor" in row) == (default.drives is not None)


@pytest.mark.parametrize("network", NETWORKS)
def test_rules_serve_their_networks(network):
    default = NETWORKS[network]
    assert programs(network, default.rules) and programs(network, default.offline)


@pytest.mark.slow
def test_a_batch_over_two_devices(tmp_path):
    path = tmp_path / "split"
    sizes = ["--sizes", "6x4", "--batch", "4", "--runs", "1", "--rules", "eprop"]
    split = ["--modes", "offline", "--devices", "1", "2"]
    assert main(["bench", *sizes, *split, "--out", str(path)]) == 0
    rows = _rows(path)
    for name in "plain", "eprop":
        for way in "", ", sharded":
            row = rows[name, f"offline, 2 devices{way}"]
            assert row["difference"] < 1e-5 and row["loss_difference"] < 1e-5
            assert row["same_as"] == [name, "offline"]
    assert "| eprop, 2 devices, sharded |" in path.with_suffix(".md").read_text()


def test_growth_is_what_a_run_allocates():
    _, grown = growth(lambda: np.ones(5_000_000))
    if grown is None:
        pytest.skip("another C library")
    assert 35 < grown < 90  # 40, and at most one result beside
    _, least = growth(lambda: 1)
    assert least is not None and least < 5


def test_checkpoint_segments_divide_the_sequence():
    assert [checkpoint_segment(steps) for steps in (1, 7, 100, 1000)] == [1, 1, 10, 25]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--rules epro", "unknown rule 'epro'; .*Did you mean 'eprop'"),
        ("--rules modprop:nu=1", "unknown modprop option 'nu'"),
        ("--modes online", "unknown mode 'online'; possible: offline, segment=1"),
        ("--modes segment=0", "unknown mode 'segment=0'"),
        ("--sizes 128", "size '128': write neurons x steps as in 128x1000"),
        ("--devices 3", "devices=3: a batch of 32 has to divide"),
        ("--networks leeky", "unknown network 'leeky'; .*Did you mean 'leaky'"),
        ("--networks gru --rules modprop", "ModProp.*GRUCell"),
        ("--rules snntorch", "snntorch was written for --networks lif, not leaky"),
        ("--seconds 0", "seconds must be greater than 0"),
        ("--secnds 3", "unknown option '--secnds'.*mean '--seconds'"),
    ],
)
def test_usage_errors_are_one_line(arguments, message, capsys):
    assert main(["bench", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    assert re.search(message, captured.err)
